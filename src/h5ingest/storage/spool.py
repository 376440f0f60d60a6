"""The spool: images as `--recode` made them, until it is known where in the output they belong.

A file for each rank and run, in the folder OUT.recoded. A line of JSON says what it is of; then
comes, for each image, an entry with a checksum, and the image's new bytes, with theirs in the
entry: none if it keeps its own. What was torn off by a kill or a crash is found by that, and made
again. A later run takes what is there, of whatever number of ranks, for images whose source is the
same. A folder of their own: whether there are any shows without listing that of the output, which
may have millions of files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import OutputError
from h5ingest.core.outfiles import FOLDER, what_is
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.direct_io import write_all
from h5ingest.storage.job_files import JobPaths

_FORMAT: Final = "h5ingest recoded images 1"
_BODY: Final = struct.Struct("<q16sqQI")
_ENTRY_BYTES: Final = _BODY.size + 4
_NAME: Final = re.compile(r"[0-9a-f]{16}\.\d+")
"""Of a spool: of the run, and of the rank."""
KNOWN: Final = np.dtype(
    [("sample", "<i8"), ("source", "V16"), ("length", "<i8"), ("checksum", "<u8"), ("notes", "<u4"),
     ("file", "<i4"), ("at", "<i8")]
)  # fmt: skip
"""`Entry`, the number of the spool that it is in, and where the bytes begin."""


class Entry(NamedTuple):
    """What a spool has of an image."""

    sample: int
    """Its global index."""
    source: bytes
    """xxh3-128 of the source file."""
    length: int
    """New bytes; 0: it keeps its own."""
    checksum: int
    """xxh3-64 of them."""
    notes: int
    """A bit for each of `core.notes.RECODING`."""


def spools_of(paths: JobPaths) -> list[Path]:
    """Return all spools of an output, in order. Rank 0 only.

    Raises:
        OutputError: the folder cannot be read, or is none.
    """
    with output_errors(f"{paths.recoded}: cannot be read"):
        found = what_is(paths.recoded)
        if found not in ("", FOLDER):
            raise OutputError(f"{paths.recoded}: expected a folder or nothing, found {found}")
        names = os.listdir(paths.recoded) if found else []
    return [paths.recoded / name for name in sorted(names) if _NAME.fullmatch(name)]


def new_spools(paths: JobPaths, n_ranks: int) -> list[Path]:
    """Return the spool of each rank, under a name that no other run has."""
    token = os.urandom(8).hex()
    return [paths.recoded / f"{token}.{rank}" for rank in range(n_ranks)]


def discard_spools(paths: JobPaths) -> None:
    """Remove all spools of an output, and their folder if nothing else is in it. Rank 0 only.

    Raises:
        OutputError: the file system refuses.
    """
    with output_errors(f"{paths.recoded}: cannot be removed"):
        if what_is(paths.recoded) != FOLDER:
            return
        for path in spools_of(paths):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            paths.recoded.rmdir()


class Spool:
    """The spool that this rank writes. The file is made when something is to be in it."""

    def __init__(self, path: Path, about: Mapping[str, object]) -> None:
        """Begin; `about` is all that must be the same for the new bytes to be of use."""
        self._path = path
        self._about = about
        self._fd = -1
        self._end = 0

    def add(self, entry: Entry, data: bytes) -> int:
        """Append an image; return where its new bytes begin.

        Raises:
            OutputError: the system refuses.
        """
        with output_errors(f"{self._path}: cannot be written"):
            if self._fd < 0:
                self._path.parent.mkdir(exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o666)
                self._append([_line(self._about)])
            body = _BODY.pack(*entry)
            self._append([body, zlib.crc32(body).to_bytes(4, "little"), data])
        return self._end - len(data)

    def _append(self, parts: Sequence[bytes]) -> None:
        write_all(self._fd, parts, self._end)
        self._end += sum(map(len, parts))

    def close(self, *, sync: bool) -> None:
        """End it; `sync`: so that other hosts see all of it.

        Raises:
            OutputError: it may not have reached the disk.
        """
        if self._fd >= 0:
            with output_errors(f"{self._path}: cannot be brought to the disk"):
                if sync:
                    os.fsync(self._fd)
                os.close(self._fd)
                self._fd = -1


def known_in(
    path: Path, number: int, about: Mapping[str, object], beat: Callable[[], None]
) -> NDArray[np.void]:
    """Return (n,) `KNOWN`, what the spool of this number has; nothing if it is of something else.

    Raises:
        OutputError: the system refuses to read it.
    """
    line, found = _line(about), []
    with output_errors(f"{path}: cannot be read"):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.pread(fd, len(line), 0) != line:
                return np.zeros(0, KNOWN)
            at = len(line)
            while len(head := os.pread(fd, _ENTRY_BYTES, at)) == _ENTRY_BYTES:
                body, crc = head[: _BODY.size], head[_BODY.size :]
                if zlib.crc32(body).to_bytes(4, "little") != crc:
                    break
                entry = Entry(*_BODY.unpack(body))
                at += _ENTRY_BYTES
                found.append((*entry, number, at))
                at += entry.length
                beat()
        finally:
            os.close(fd)
    return np.array(found, KNOWN)


class SpoolReader:
    """Reads the new bytes of images from all spools, one spool open at a time."""

    def __init__(self, spools: Sequence[Path]) -> None:
        """Take them, in the order of their numbers."""
        self._spools = spools
        self._open = -1, -1

    def read(self, number: int, at: int, length: int, checksum: int) -> bytes | None:
        """Return the new bytes of an image; None if they are not what they were.

        Raises:
            OutputError: the system refuses to read them.
        """
        path = self._spools[number]
        with output_errors(f"{path}: cannot be read"):
            if self._open[0] != number:
                self.close()
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._open = number, os.open(path, flags)
            data = os.pread(self._open[1], length, at)
            while len(data) < length:  # beyond the 2 GiB of one call
                if not (more := os.pread(self._open[1], length - len(data), at + len(data))):
                    return None
                data += more
        return data if xxh3_64_intdigest(data) == checksum else None

    def close(self) -> None:
        """Close the spool that is open."""
        if self._open[0] >= 0:
            os.close(self._open[1])
            self._open = -1, -1


def _line(about: Mapping[str, object]) -> bytes:
    return json.dumps({"format": _FORMAT, **about}, sort_keys=True).encode() + b"\n"
