"""The one place that gives a file its name: written beside, brought to the disk, checked, renamed.

Whatever a verb writes goes through here, so that nothing of the user's is lost: what has the name
already is replaced only if it is a file of the same kind that h5ingest wrote (`Kind`), or an empty
one. Links are neither followed nor replaced.

May not: know HDF5, ranks; print.
"""

from __future__ import annotations

import contextlib
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
EMPTY: Final = "an empty file"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file that h5ingest writes."""

    name: str
    """For messages."""
    begins: re.Pattern[bytes]
    """What its first bytes look like; those of few other files do."""


def _kind(name: str, begins: bytes) -> Kind:
    return Kind(name, re.compile(begins, re.DOTALL))


RESULTS: Final = _kind("JSON of h5ingest", rb'\{\n  "(status|ok|schema|manifest)": ')
CROISSANT: Final = _kind("Croissant metadata", rb'\s*\{.*"conformsTo"')
FAILURES: Final = _kind("a table of failed images", rb"index\tpath\tkind\treason\n")
MANIFEST: Final = _kind("a manifest that begins with the heading 'path'", rb"path\b")
JOURNAL: Final = _kind("the journal of an unfinished job", rb'\{"format": "h5ingest journal ')
LOCK: Final = _kind("the lock of a job that is gone", rb'\{"token": ')
PICTURE: Final = _kind("a picture of h5ingest", rb"\x89PNG\r\n\x1a\n.{,2000}tEXtSoftware\0h5ingest")
PAGE: Final = _kind(
    "a page of h5ingest bench", rb"<!DOCTYPE html>.{,400}stored and read in \d+ ways<"
)

PNG_TEXT: Final = {"Software": "h5ingest"}
"""What a picture has to say right behind its header, to be known as a `PICTURE`."""


def what_is(path: Path) -> str:
    """Return in words what has this name; empty if nothing has. Follows no link.

    Raises:
        OSError: the system does not say.
    """
    return _look(path)[0]


def check(path: Path, kind: Kind) -> None:
    """Raise if a new file of this kind must not have this name.

    Raises:
        OutputError: something else has it, or the system does not say.
    """
    try:
        found, head = _look(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from None
    if found not in ("", EMPTY) and not kind.begins.match(head):
        raise OutputError(
            f"{path}: expected {kind.name} to write again, or nothing, found {found}: remove it or "
            f"name another file"
        )


def write(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    kind: Kind,
    *,
    replace: bool = True,
) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        content: all of it, or what writes it.
        kind: what it is, and what it may replace.
        replace: whether it may replace anything.

    Raises:
        OutputError: it cannot be written, or something has its name that must not be replaced.
    """
    check(path, kind)
    beside = path.with_name(f".h5ingest-{os.urandom(8).hex()}")  # which nobody can lie in wait at
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(beside, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            check(path, kind)
        give_name(beside, path, replace=replace)
        with contextlib.suppress(OSError):  # there are file systems that refuse it for a folder
            sync(path.parent)
    except OutputError:
        raise
    except FileExistsError:
        raise OutputError(f"{path}: exists") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def give_name(beside: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file its name.

    Args:
        beside: the file, in the same folder.
        path: its name from now on.
        replace: whether what has that name goes. If not: a hard link is made, which no file
            system makes over an existing name, however late that appears; the first name is then
            taken away. Where there are no hard links (FAT, some of FUSE) it is a look, then a
            rename: between them, microseconds, another file could be lost.

    Raises:
        FileExistsError: something has the name, and `replace` is not set.
        OSError: the file system refuses.
    """
    if replace:
        beside.replace(path)
        return
    try:
        os.link(beside, path)
    except OSError as error:
        if is_same(beside, path):
            pass  # it had been made: NFS lost the answer and asked once more
        elif os.path.lexists(path):
            raise FileExistsError(f"{path}: exists") from error
        else:
            beside.rename(path)
            return
    with contextlib.suppress(OSError):  # it has its name: the other is only left over
        beside.unlink()


def sync(path: Path) -> None:
    """Bring what this host has written to the file, or to the folder, to the disk.

    Raises:
        OSError: the system says that data did not reach it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_distinct(*named: tuple[str, Path | None]) -> None:
    """Raise if two paths of a command lead to the same file, however they are spelled.

    Args:
        named: what the user knows it by, and the path. What has one name is not compared.

    Raises:
        UsageError: they do.
    """
    seen: dict[tuple[object, ...], tuple[str, Path]] = {}
    for name, path in named:
        if path is None:
            continue
        other, other_path = seen.setdefault(_identity(path), (name, path))
        if other != name:
            raise UsageError(
                f"{name} {path}: expected a file of its own, found that of {other} ({other_path})"
            )


def _identity(path: Path) -> tuple[object, ...]:
    """Return what is the same for two paths if they lead to the same file, also to a future one."""
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
    """Return what has the name, in words, and the first bytes of it if it is a regular file."""
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
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
