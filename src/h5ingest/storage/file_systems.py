"""The file system that a path is on: whether ranks may share a file there, and what is free.

May not: know MPI, HDF5.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
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
}
"""Type in mountinfo -> name, of those on which processes of several hosts may write one file."""
_NFS: Final = ("nfs", "nfs4")
_MEMORY: Final = ("tmpfs", "ramfs")
_LOCAL: Final = (
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "jfs",
    "reiserfs",
    "bcachefs",
)
_KNOWN_DISKS: Final = ("ext4", "xfs")
_COMMAND_LIMIT_S: Final = 10


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

    @property
    def kind(self) -> str:
        """`shared`, `nfs`, `memory`, `overlay`, `local` or `other`.

        >>> Mount(point="/", type="nfs4", source="server:/", options=frozenset()).kind
        'nfs'
        """
        for kind, types in {
            "shared": tuple(_SHARED), "nfs": _NFS, "memory": _MEMORY, "local": _LOCAL,
            "overlay": ("overlay", "fuse.fuse-overlayfs"),
        }.items():  # fmt: skip
            if self.type in types:
                return kind
        return "other"

    @property
    def name(self) -> str:
        """The name that people use."""
        return _SHARED.get(self.type, {"nfs4": "NFS 4", "nfs": "NFS"}.get(self.type, self.type))

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
    """Return where a file is, or would be.

    Args:
        path: the file, or its folder.
        with_stripes: start `lfs` if it is on Lustre.

    Raises:
        OSError: its folder cannot be looked at.
    """
    folder = Path(os.path.realpath(path if path.is_dir() else path.parent))
    try:
        mount = find(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"), folder)
    except FileNotFoundError:  # not Linux
        mount = None
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
