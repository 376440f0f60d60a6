"""Archives: files in which other files lie, which are read from there and never unpacked.

What such a file is, one class for each format says (`Opened`): what is in it, and the bytes of one
member. The rest needs to know neither: a path goes on behind an archive as behind a folder. Names
of members are names only; none is ever looked up in the file system.

May not: know what an image is, know ranks.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from h5ingest.core.errors import ManifestError, OutputError, SampleError
from h5ingest.core.sample_table import WITHIN, Within, may_be_within
from h5ingest.images import source_files
from h5ingest.images.archive_formats import file_of, format_of, unpacking
from h5ingest.images.archive_table import NOT_THERE, Member, Opened, Table, reason_of
from h5ingest.images.unpacked import Unpacker

MOST_OPEN: Final = 64
"""Archives that a rank holds open at once."""
_MOST_NAMES: Final = 2_000_000
"""Names of members that are kept of archives, but for those of the last one: some 400 MB."""

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Finder:
    """Finds the archives on the ways of paths; asks the file system once for each."""

    def __init__(self, folder: bytes) -> None:
        """Prepare; `folder`, below which relative paths are, may be an archive, or lie in one."""
        self._folder = folder
        self._known: dict[bytes, bool] = {}
        self._last = b"\0", b""  # what the path found last begins with, and the archive
        self._within = self._find(b"", folder + b"/")

    def find(self, path: bytes) -> tuple[bytes, bytes] | None:
        """Return the archive that a file lies in, and its name there; None: it lies in none."""
        if self._within is not None:
            return self._within[0], self._within[1] + path
        start, archive = self._last
        if path.startswith(start):
            return archive, path[len(start) :]
        found = self._find(self._folder, path)
        if found is not None:
            self._last = path[: len(path) - len(found[1])], found[0]
        return found

    def _find(self, folder: bytes, path: bytes) -> tuple[bytes, bytes] | None:
        for match in WITHIN.finditer(path):
            archive = os.path.join(folder, path[: match.end() - 1])
            if archive not in self._known:
                self._known[archive] = os.path.isfile(file_of(archive))
            if self._known[archive]:
                return archive, path[match.end() :]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive when its table was made."""

    path: bytes
    """Absolute."""
    size: int
    """In bytes."""
    mtime_ns: int
    problem: str = ""
    """See `Table`."""
    inner: bytes = b""
    """What of it is meant; see `Opened`."""
    unpacked: bytes = b""
    """Path of the file that its members are read from; empty: it is not compressed."""

    @property
    def name(self) -> bytes:
        """The path, with what of it is meant."""
        return self.path + b":" + self.inner if self.inner else self.path

    def is_unchanged(self) -> bool:
        """Return whether it still is what it was, by its size and time."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(slots=True)
class Held:
    """A descriptor, closed when nobody reads from it any more."""

    fd: int
    opened: Opened
    status: os.stat_result
    """Of the file; where it is compressed, of the packed one."""

    def __del__(self) -> None:
        os.close(self.fd)


def _open(path: bytes, inner: bytes = b"", unpacked: bytes = b"") -> Held:
    """Open an archive; for the arguments see `Archive`.

    Raises:
        SampleError: it cannot be opened, or is no file.
    """
    try:
        fd = os.open(unpacked or path, _FLAGS)
    except OSError as error:
        raise source_files.explained(error) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SampleError("unreadable", "expected an archive, found no regular file")
        opened = format_of(unpacked or path)(fd, status.st_size, path, inner)
        return Held(fd, opened, os.stat(path) if unpacked else status)
    except BaseException:
        os.close(fd)
        raise


def open_new(
    path: bytes, inner: bytes, unpacker: Unpacker, beat: Callable[[], None]
) -> tuple[Archive, Held]:
    """Return an archive that has not been looked at before; unpacked if it is compressed.

    Args:
        path: absolute.
        inner: see `Opened`.
        unpacker: unpacks it.
        beat: called now and then; may raise.

    Raises:
        SampleError: it cannot be opened.
        OSError: the system refuses.
        OutputError, SetupError: see `Unpacker.unpack`.
    """
    path = file_of(path)
    status = os.stat(path)
    about = status.st_size, status.st_mtime_ns
    unpacked, problem = b"", ""
    if (how := unpacking(path, inner)) is not None:
        ending, stream = how
        unpacked, problem = unpacker.unpack(path, inner, about, ending, beat, stream)
    held = _open(path, inner, unpacked)
    archive = Archive(
        path=path, size=about[0], mtime_ns=about[1], problem=problem, inner=inner, unpacked=unpacked
    )
    return archive, held


def read_table(
    path: bytes, unpacker: Unpacker, beat: Callable[[], None] = lambda: None
) -> tuple[Archive, Table]:
    """Return an archive and what is in it; what cannot be read has a `problem`, and nothing in it.

    `path` is absolute; `beat` is called now and then, and may raise.

    Raises:
        OutputError, SetupError: see `Unpacker.unpack`.
    """
    try:
        archive, held = open_new(path, b"", unpacker, beat)
        table = held.opened.table(beat)
        table.problem = archive.problem or table.problem
        return replace(archive, problem=table.problem), table
    except (SampleError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        table = Table()
        why = error.reason if isinstance(error, SampleError) else error.strerror
        table.problem = f"cannot be read: {why}"
    return Archive(path=path, size=-1, mtime_ns=-1, problem=table.problem), table


class Archives:
    """Reads members of archives, and files that lie in none; a few archives are held open."""

    def __init__(self, archives: Sequence[Archive], folder: bytes) -> None:
        """Open nothing yet.

        Args:
            archives: by their numbers; more may come.
            folder: what relative paths of other files are relative to.
        """
        self._archives = archives
        self._folder = folder
        self.used: set[int] = set()
        """Numbers of the archives that have been opened."""
        self._held: dict[int, Held] = {}  # the one used last is the last
        self._last: tuple[int, Held] | None = None
        self._lock = threading.Lock()

    def _hold(self, number: int) -> Held:
        """Return an archive, which stays open as long as the caller has this."""
        last = self._last
        if last is not None and last[0] == number:
            return last[1]
        archive = self._archives[number]
        with self._lock:
            held = self._held.pop(number, None)
            if held is None:
                self.used.add(number)
                held = _open(archive.path, archive.inner, archive.unpacked)
                now = held.status.st_size, held.status.st_mtime_ns
                if now != (archive.size, archive.mtime_ns):
                    raise SampleError("changed", "the archive was changed while it was read")
                if len(self._held) >= MOST_OPEN:
                    del self._held[next(iter(self._held))]
            self._held[number] = held
            self._last = number, held
        return held

    def check(self) -> None:
        """Raise if an archive that has been read was changed since the beginning.

        Raises:
            ManifestError: it was.
        """
        for number in sorted(self.used):
            archive = self._archives[number]
            if not archive.is_unchanged():
                raise ManifestError(
                    f"{os.fsdecode(archive.path)}: the archive was changed while the job ran; "
                    f"which images were read before cannot be told, nothing is published. Begin "
                    f"anew with --restart."
                )

    def read(
        self, file: Within, limit: int | None = None, *, folder: int | None = None, end: bytes = b""
    ) -> tuple[bytes, int]:
        """Do what `source_files.read` does, where `file` is a path and a `MEMBER`.

        Raises:
            SampleError: see there.
        """
        path, where = file
        if where[0] < 0:
            full = path if folder is not None else os.path.join(self._folder, path)
            return source_files.read(full, limit, folder=folder, end=end)
        member = Member(*where)
        if member.how == NOT_THERE and (problem := self._archives[member.archive].problem):
            raise SampleError("damaged", f"not found in the archive, which {problem}")
        if (wrong := reason_of(member.how)) is not None:
            raise wrong
        try:
            held = self._hold(member.archive)
            return held.opened.read(member, limit)
        except OSError as error:
            raise source_files.explained(error) from None
        except (MemoryError, OverflowError):
            reason = f"no memory for a member of {member.size:,} bytes"
            raise SampleError("too large", reason) from None


class PathReader:
    """Reads files by their paths alone, one after the other: tables of archives are kept."""

    def __init__(self, folder: bytes) -> None:
        """Read nothing yet; `folder` is that of a `Finder`."""
        self._unpacker = Unpacker()
        self._folder = folder
        self._finder = Finder(folder)
        self._tables: dict[bytes, tuple[int, Table]] = {}
        self._archives: list[Archive] = []
        self._files = Archives(self._archives, folder)

    def __del__(self) -> None:
        self._unpacker.close()

    def read(self, path: bytes) -> tuple[bytes, int]:
        """Return the bytes of a file, and its size.

        Raises:
            SampleError: see `source_files.read`.
        """
        found = self._finder.find(path) if may_be_within(self._folder + b"/" + path) else None
        if found is None:
            return source_files.read(os.path.join(self._folder, path))
        archive, name = found
        if archive not in self._tables:
            about, table = read_table(archive, self._unpacker)
            while sum(len(each.rows) for _, each in self._tables.values()) > _MOST_NAMES:
                del self._tables[next(iter(self._tables))]
            self._tables[archive] = len(self._archives), table
            self._archives.append(about)
        number, table = self._tables[archive]
        return self._files.read((name, table.find([name], number)[0].item()))
