"""The file system that a path is on: whether ranks may share a file there, and what is free.

May not: know MPI, HDF5.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

_SHARED: Final = {
    "lustre": "Lustre",
    "gpfs": "GPFS (Spectrum Scale)",
    "beegfs": "BeeGFS",
    "ceph": "CephFS",
    "fuse.ceph": "CephFS",
    "fuse.ceph-fuse": "CephFS",
    "wekafs": "WekaFS",
    "panfs": "PanFS",
    "pvfs2": "OrangeFS",
    "dvs": "Cray DVS",
    "fuse.glusterfs": "GlusterFS",
    "fuse.mfs": "MooseFS",
}
"""Type in mountinfo -> name, of those on which processes of several hosts may write one file."""
_KINDS: Final = {
    "shared": {*_SHARED},
    "nfs": {"nfs", "nfs4"},
    "memory": {"tmpfs", "ramfs"},
    "overlay": {"overlay", "fuse.fuse-overlayfs"},
    "local": {
        "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs",
    },
}  # fmt: skip
"""Kind -> types in mountinfo."""
_KNOWN_DISKS: Final = ("ext4", "xfs")
_COMMAND_LIMIT_S: Final = 10
_DAEMONS: Final = ("glusterfs", "ceph-fuse", "sshfs")
"""Programs that serve a FUSE mount, and show its options, which mountinfo does not have."""
_CACHE_WORDS: Final = re.compile(
    r"\b((?:attribute|attr|entry|negative)[-_]timeout|kernel-writeback-cache|ac(?:reg|dir)(?:min|max)"
    r"|actimeo)=([\w.]+)|\b(noac|writeback_cache)\b"
)
_ATTRIBUTES: Final = ("attribute-timeout", "attr_timeout", "acregmax", "actimeo")
_DEFAULT_CACHE_S: Final = {"GlusterFS": 1.0, "MooseFS": 1.0, "NFS": 60.0, "NFS 4": 60.0}
"""Seconds for which attributes are cached where no option says so: their manuals."""

# Of statx(2).
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_STATX_FORCE_SYNC: Final = 0x2000
_STATX_MTIME: Final = 0x40
_STATX_MTIME_AT: Final = 112
"""Bytes before stx_mtime in struct statx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    point: str
    """Where it is mounted."""
    type: str
    """As the kernel calls it."""
    source: str
    """Device, server or pool."""
    options: frozenset[str]
    """Those of the mount and those of the file system."""
    daemon: str = ""
    """The command line of the process that serves it, if it is one of FUSE and that is known."""

    @property
    def kind(self) -> str:
        """`shared`, `nfs`, `memory`, `overlay`, `local` or `other`.

        >>> Mount(point="/", type="nfs4", source="server:/", options=frozenset()).kind
        'nfs'
        """
        if self.is_moosefs:
            return "shared"
        return next((kind for kind, types in _KINDS.items() if self.type in types), "other")

    @property
    def name(self) -> str:
        """The name that people use."""
        if self.is_moosefs:
            return "MooseFS"
        return _SHARED.get(self.type, {"nfs4": "NFS 4", "nfs": "NFS"}.get(self.type, self.type))

    @property
    def is_moosefs(self) -> bool:
        """Whether it is MooseFS, whose type in mountinfo may be `fuse` alone."""
        return self.type == "fuse.mfs" or (
            self.type == "fuse" and self.source.startswith(("mfs#", "mfsmaster:"))
        )

    @property
    def own_caches(self) -> bool:
        """Whether a host may go on reading its own copy of what another has written meanwhile."""
        return self.kind == "nfs" or self.type == "fuse.glusterfs"

    @property
    def of_one_kernel(self) -> bool:
        """Whether all that use it run under this kernel, so that it has one cache and one clock."""
        return self.kind in ("local", "memory", "overlay")

    @property
    def cache_options(self) -> dict[str, str]:
        """The options of the mount, or of its daemon, that say what is cached.

        >>> nfs = Mount(point="/", type="nfs", source="s:/", options=frozenset(["acregmax=9"]))
        >>> nfs.cache_options, nfs.attribute_cache_s
        ({'acregmax': '9'}, 9.0)
        """
        text = " ".join([*sorted(self.options), self.daemon])
        return {name or flag: value for name, value, flag in _CACHE_WORDS.findall(text)}

    @property
    def attribute_cache_s(self) -> float:
        """Seconds for which this host may show size and times of a file as they were; 0 if none."""
        found = self.cache_options
        if "noac" in found:
            return 0.0
        for name in _ATTRIBUTES:
            with contextlib.suppress(KeyError, ValueError):
                return float(found[name])
        return _DEFAULT_CACHE_S.get(self.name, 0.0)

    @property
    def known_disk(self) -> bool:
        """Whether it is on a local disk where these were measured to pay (docs/performance.md).

        To give a file its space before it is written (fallocate; tmpfs would write zeros), and to
        write around the system's cache.
        """
        return self.type in _KNOWN_DISKS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """Where a file is, or would be."""

    folder: str
    """The folder that was looked at, with all symbolic links resolved."""
    mount: Mount | None
    """None where the system does not say."""
    free_bytes: int
    """For this user."""
    free_inodes: int | None
    """Files that can still be made; None where the file system has no limit of its own."""
    stripes: str = ""
    """What `lfs getstripe` says of the folder; empty if there is no Lustre, or it was not asked."""


def look(path: Path, *, with_stripes: bool = True) -> FileSystem:
    """Return where a file, or its folder, is or would be; `with_stripes`: ask `lfs` on Lustre.

    Raises:
        OSError: its folder cannot be looked at.
    """
    folder = Path(os.path.realpath(path if os.path.isdir(path) else path.parent))
    try:
        mount = find(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"), folder)
    except FileNotFoundError:  # not Linux
        mount = None
    if mount is not None and mount.type.startswith("fuse"):
        mount = replace(mount, daemon=_daemon(mount.point))
    told = os.statvfs(folder)
    return FileSystem(
        folder=str(folder),
        mount=mount,
        free_bytes=told.f_bavail * told.f_frsize,
        free_inodes=told.f_favail if told.f_files else None,
        stripes=_stripes(folder) if with_stripes and mount and mount.type == "lustre" else "",
    )


def find(mountinfo: str, folder: Path) -> Mount | None:
    """Return the mount that an absolute folder without symbolic links is on.

    Args:
        mountinfo: see proc(5): 36 35 98:0 /root /point rw,... [tag:value ...] - type source options
        folder: the folder.
    """
    best: Mount | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, ends = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(ends) < 3:
            continue
        point = _unescape(fields[4])
        above = folder == Path(point) or Path(point) in folder.parents
        # What was mounted later on the same point hides what was there.
        if above and (best is None or len(point) >= len(best.point)):
            best = Mount(
                point=point,
                type=ends[0],
                source=_unescape(ends[1]),
                options=frozenset([*fields[5].split(","), *ends[2].split(",")]),
            )
    return best


def _unescape(text: str) -> str:
    r"""Return the text with the kernel's octal escapes undone.

    >>> _unescape(r"/my\040data")
    '/my data'
    """
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _daemon(point: str) -> str:
    """Return the command line of the process that serves a FUSE mount; empty if none is found."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if os.path.basename(words[0]) in _DAEMONS and point in words:
                return " ".join(words).strip()
    return ""


def fresh_mtime_s(path: Path) -> float:
    """Return when a file was last written or touched, as its file system says now.

    Not as this host's cache of attributes has it, which may be a minute old. Follows no link.

    Raises:
        OSError: the system does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)
    try:
        refused = libc.statx(
            _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW | _AT_STATX_FORCE_SYNC,
            _STATX_MTIME, answer,
        )  # fmt: skip
    except AttributeError:  # glibc before 2.28
        return path.lstat().st_mtime
    if refused:
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):  # an old kernel; a sandbox
            return path.lstat().st_mtime
        raise OSError(number, os.strerror(number), str(path))
    seconds, nanoseconds = struct.unpack_from("=qI", answer.raw, _STATX_MTIME_AT)
    return float(seconds + nanoseconds * 1e-9)


def _stripes(folder: Path) -> str:
    import shutil
    import subprocess

    lfs = shutil.which("lfs")
    if lfs is None:
        return "unknown: no lfs command here"
    try:
        told = subprocess.run(
            [lfs, "getstripe", "-d", str(folder)],
            capture_output=True, text=True, errors="replace", timeout=_COMMAND_LIMIT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return " ".join((told.stdout if told.returncode == 0 else told.stderr).split())
