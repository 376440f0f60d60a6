"""Writing a file under a name that the user chose: to a temporary file, synced, checked, renamed.

Every command writes its files through this module, so that no file of the user is lost: an existing
file is replaced only if h5ingest wrote it and it is of the same kind (`Kind`), or if it is empty.
Symbolic links are neither followed nor replaced.

May not: know HDF5, ranks; print.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from h5ingest.core.errors import OutputError, UsageError

_HEAD_BYTES: Final = 4096
_HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
HDF5: Final = "an HDF5 file"
HDF5_SUFFIXES: Final = (".h5", ".hdf5")
EMPTY: Final = "an empty file"
FOLDER: Final = "a folder"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file that h5ingest writes."""

    name: str
    """For messages."""
    begins: re.Pattern[bytes]
    """Matches the first bytes of such files, and of few others."""


def _kind(name: str, begins: bytes) -> Kind:
    return Kind(name, re.compile(begins, re.DOTALL))


RESULTS: Final = _kind("JSON of h5ingest", rb'\{\n  "(status|ok|schema|manifest)": ')
CROISSANT: Final = _kind("Croissant metadata", rb'\s*\{.*"conformsTo"')
FAILURES: Final = _kind("a table of failed images", rb"index\tpath\tkind\treason\n")
MANIFEST: Final = _kind("a manifest that begins with the heading 'path'", rb"path\b")
INDEX: Final = _kind("the index of a manifest", rb'\{"format": "h5ingest index ')
PLACES: Final = _kind("the places of a job's samples", rb'\{"format": "h5ingest places ')
JOURNAL: Final = _kind("the journal of an unfinished job", rb'\{"format": "h5ingest journal ')
EXPORT: Final = _kind("the mark of an unfinished export", rb'\{"format": "h5ingest export ')
LOCK: Final = _kind("the lock of a job that is gone", rb'\{"token": ')
PICTURE: Final = _kind("a picture of h5ingest", rb"\x89PNG\r\n\x1a\n.{,2000}tEXtSoftware\0h5ingest")
TAR: Final = _kind("a tar file", rb".{257}ustar")
PARQUET: Final = _kind("a Parquet file", rb"PAR1")
LMDB: Final = _kind("an LMDB", rb".{16}\xde\xc0\xef\xbe")
KERCHUNK: Final = _kind("kerchunk references of h5ingest", rb'\{"version": 1, "templates": \{"u": ')
ZIP: Final = _kind("a zip file", rb"PK[\x03\x05]")
PAGE: Final = _kind(
    "a page of h5ingest bench", rb"<!DOCTYPE html>.{,400}stored and read in \d+ ways<"
)
LOOK: Final = _kind("a page of h5ingest show", rb"<!DOCTYPE html>.{,400}seen by h5ingest<")

PNG_TEXT: Final = {"Software": "h5ingest"}
"""Text chunk of every picture, right after its header, by which it is recognized as a `PICTURE`."""


def what_is(path: Path) -> str:
    """Return in words what exists under this name; empty if nothing does. Follows no link.

    Raises:
        OSError: the system refuses to tell.
    """
    return _look(path)[0]


def check(path: Path, kind: Kind) -> None:
    """Check that a file of this kind may be written under this name.

    Raises:
        OutputError: something else exists there, or the system refuses to tell.
    """
    try:
        found, head = _look(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from None
    if found not in ("", EMPTY) and not kind.begins.match(head):
        raise OutputError(
            f"{path}: expected {kind.name} to replace, or nothing, found {found}: remove it or "
            "name another file"
        )


def write(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    kind: Kind,
    *,
    replace: bool = True,
) -> None:
    """Write a file completely or not at all.

    Args:
        path: the file.
        content: the bytes, or a function that writes them.
        kind: of the file, and of the files that it may replace.
        replace: whether an existing file may be replaced.

    Raises:
        OutputError: it cannot be written, or something exists there that must not be replaced.
    """
    check(path, kind)
    temporary = path.with_name(f".h5ingest-{os.urandom(8).hex()}")  # nobody can guess it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(temporary, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            check(path, kind)
        give_name(temporary, path, replace=replace)
        with contextlib.suppress(OSError):  # some file systems refuse it for a folder
            sync(path.parent)
    except OutputError:
        raise
    except FileExistsError:
        raise OutputError(f"{path}: exists") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def give_name(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file its name.

    Without `replace`, a hard link is made, which fails if the name exists, and then the temporary
    name is removed. Where there are no hard links (FAT, some of FUSE), the name is looked up before
    the rename: a file that appears in the microseconds between would be lost.

    Args:
        temporary: the file, in the same folder.
        path: its name from now on.
        replace: whether an existing file of that name is replaced.

    Raises:
        FileExistsError: the name exists, and `replace` is not set.
        OSError: the file system refuses.
    """
    if replace:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except OSError as error:
        if is_same(temporary, path):
            pass  # the link exists: NFS lost the first answer and repeated the request
        elif os.path.lexists(path):
            raise FileExistsError(f"{path}: exists") from error
        else:
            temporary.rename(path)
            return
    with contextlib.suppress(OSError):  # the file has its name; the temporary one is only litter
        temporary.unlink()


def give_folder_name(temporary: Path, path: Path) -> None:
    """Give a finished folder its name: one that is free, or that of an empty folder.

    Raises:
        FileExistsError: something else has the name.
        OSError: the file system refuses.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise FileExistsError(errno.EEXIST, "exists", os.fspath(path))
    try:
        temporary.rename(path)  # in one step; the system refuses it for a folder with something in
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "exists", os.fspath(path)) from error
        raise


def sync(path: Path) -> None:
    """Wait until what this host has written to the file or folder is on the disk (fsync).

    Raises:
        OSError: data may not have reached the disk.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_distinct(*named: tuple[str, Path | None]) -> None:
    """Check that the paths of a command are different files, however they are spelled.

    Args:
        named: name for messages, and path; paths with the same name may be the same file.

    Raises:
        UsageError: two of them lead to the same file.
    """
    seen: dict[tuple[object, ...], tuple[str, Path]] = {}
    for name, path in named:
        if path is None:
            continue
        other, other_path = seen.setdefault(_identity(path), (name, path))
        if other != name:
            raise UsageError(f"{name} {path}: is the same file as {other} ({other_path})")


def _identity(path: Path) -> tuple[object, ...]:
    """Return a value that is equal for paths to the same file, even if that does not exist yet."""
    real = Path(os.path.realpath(path))
    for place, name in ((real, ""), (real.parent, real.name)):
        with contextlib.suppress(OSError):
            found = place.stat()
            return found.st_dev, found.st_ino, name
    return (str(real),)


def is_same(one: str | bytes | Path, other: Path) -> bool:
    """Return whether two names are of one file; links are not followed."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(one), os.lstat(other))
    return False


def _look(path: Path) -> tuple[str, bytes]:
    """Return what exists under the name, in words, and the first bytes of a regular file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "", b""
    if stat.S_ISLNK(mode):
        gone = "" if path.exists() else ", which does not exist"
        return f"a symbolic link to {os.readlink(path)}{gone}", b""
    if not stat.S_ISREG(mode):
        return _KINDS.get(stat.S_IFMT(mode), "no regular file"), b""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags)
    try:
        head = os.read(fd, _HEAD_BYTES)
    finally:
        os.close(fd)
    return _in_words(head), head


def _in_words(head: bytes) -> str:
    from h5ingest.core.signatures import format_of  # rarely needed

    if not head:
        return EMPTY
    if head.startswith(_HDF5_SIGNATURE):
        return HDF5
    if image := format_of(head):
        return f"an image ({image})"
    return "a file of another kind" if b"\0" in head else "a text file"


_KINDS: Final = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
