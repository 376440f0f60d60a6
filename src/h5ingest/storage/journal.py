"""The journal next to a file that is being made: what a job that was killed can build on.

A line of JSON that says what it belongs to, then records of 32 bytes with a checksum each; whatever
follows the last whole, intact one never happened. There are five kinds:

- `Run`: a run begins, and when: what follows is of it;
- `Begins`: where an unfiltered dataset lies, to be compared when the file is made again;
- `Placement`: space taken for a chunk, in the order in which it was taken. Taking it again in this
  order on a new file gives the same offsets (`ChunkPlacer.replay`);
- `Done`: pixels, checksums and status that are on the disk. Only these are not made again;
- `Undone`: what turned out to be wrong with what was done before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.storage.datasets import output_errors

FORMAT: Final = "h5ingest journal 2"
_BODY: Final = struct.Struct("<IIQQI")
_RECORD: Final = np.dtype(
    [("kind", "<u4"), ("small", "<u4"), ("first", "<u8"), ("second", "<u8"), ("last", "<u4"),
     ("crc", "<u4")]
)  # fmt: skip
_BLOCK: Final = 4096
"""Records that are looked at together."""
IMAGES: Final = 2**32 - 4
"""In place of a dataset's position: all images of a tree, and a hash for an offset."""
_RUN: Final = 2**32 - 5
_UNDONE: Final = 2**32 - 3
_BEGINS: Final = 2**32 - 2
_DONE: Final = 2**32 - 1
"""In place of a dataset's position: kinds of records."""


BEGINS_INSIDE: Final = 1
"""Of a span that is done: the image in which it begins was decoded once more for it."""
ENDS_INSIDE: Final = 2
"""Of a span that is done: another run, or rank, decodes the image in which it ends once more."""


class Run(NamedTuple):
    """A run begins."""

    time_ns: int
    """Nanoseconds since 1970, before it read any image."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_RUN, 0, self.time_ns, 0, 0)


class Placement(NamedTuple):
    """Where one chunk lies."""

    dataset: int
    """Position of the dataset in `Layout.datasets`; images of a tree follow those."""
    chunk: int
    """Position of the chunk on axis 0, in chunks."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int
    """Bytes in the file."""
    filter_mask: int
    """Bit k set: filter k of the pipeline declined this chunk."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(self.dataset, self.filter_mask, self.chunk, self.offset, self.n_bytes)


class Begins(NamedTuple):
    """Where an unfiltered dataset lies."""

    dataset: int
    """As in `Placement`; `IMAGES`: all of a tree."""
    offset: int
    """Bytes from the start of the file; a hash of them."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_BEGINS, self.dataset, 0, self.offset, 0)


class Done(NamedTuple):
    """What is on the disk."""

    group: int
    """Position of the group in `Layout.groups`."""
    start: int
    """First position on axis 0 of the group's `pixels`."""
    stop: int
    """Behind the last."""
    joints: int = 0
    """`BEGINS_INSIDE` an image, `ENDS_INSIDE` one, both, or 0."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_DONE, self.group, self.start, self.stop, self.joints)


class Undone(NamedTuple):
    """What is to be made again."""

    group: int
    """Position of the group in `Layout.groups`."""
    start: int
    """First position on axis 0 of the group's `pixels`; whole chunks."""
    stop: int
    """Behind the last."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_UNDONE, self.group, self.start, self.stop, 0)


Record = Run | Placement | Begins | Done | Undone


def _pack(kind: int, small: int, first: int, second: int, last: int) -> bytes:
    body = _BODY.pack(kind, small, first, second, last)
    return body + zlib.crc32(body).to_bytes(4, "little")


class Records(Sequence[Record]):
    """What a journal says: 32 bytes a record, each made an object only when it is looked at."""

    def __init__(self, packed: NDArray[np.void]) -> None:
        """Take (n,) packed records."""
        self._packed = packed

    @classmethod
    def none(cls) -> Records:
        """Return those of a new journal."""
        return cls(np.zeros(0, _RECORD))

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._packed[index])
        return _unpack(*self._packed[index].item())

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), _BLOCK):
            yield from starmap(_unpack, self._packed[start : start + _BLOCK].tolist())

    def spans(self) -> Records:
        """Return those that say what is done, and undone, and by which run."""
        return Records(self._packed[np.isin(self._packed["kind"], (_RUN, _DONE, _UNDONE))])

    def joints(self) -> list[tuple[int, int]]:
        """Return (group, element) where parts of an image meet that were decoded each for itself.

        Of a span that is done: with what lies before it, and behind it.
        """
        done = self._packed[self._packed["kind"] == _DONE]
        found: list[tuple[int, int]] = []
        for which, at in ((BEGINS_INSIDE, "first"), (ENDS_INSIDE, "second")):
            some = done[(done["last"] & which) != 0]
            found += zip(some["small"].tolist(), some[at].tolist(), strict=True)
        return found


def _unpack(kind: int, small: int, first: int, second: int, last: int, crc: int) -> Record:
    if kind == _DONE:
        return Done(small, first, second, last)
    if kind == _UNDONE:
        return Undone(small, first, second)
    if kind == _BEGINS:
        return Begins(small, second)
    if kind == _RUN:
        return Run(first)
    return Placement(kind, first, second, last, small)


class Journal:
    """An append-only file of records. Rank 0 only; not collective."""

    def __init__(self, path: Path, about: dict[str, object] | None, keep: int = 0) -> None:
        """Begin a new journal, or go on with one.

        Args:
            path: the file.
            about: what a new journal belongs to; None to go on.
            keep: bytes of the old one that are intact (`read`); the rest is cut off.

        Raises:
            OutputError: it cannot be written.
        """
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_NONBLOCK  # or a FIFO that lies there would wait for ever
        with output_errors(f"{path}: cannot be created"):
            self._fd = os.open(path, flags, 0o666)
            os.ftruncate(self._fd, keep)
        if about is not None:
            self.append(json.dumps({"format": FORMAT, **about}).encode() + b"\n")

    def append(self, records: bytes) -> None:
        """Add packed records and bring the journal to the disk.

        Raises:
            OutputError: it cannot be written.
        """
        with output_errors(f"{self._path}: cannot be written"):
            view = memoryview(records)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)


def read(path: Path) -> tuple[dict[str, object], Records, int]:
    """Return what a journal belongs to, its intact records, and how many bytes those are.

    Raises:
        OutputError: it is not a journal of this format.
    """
    with output_errors(f"{path}: cannot be read"), _opened(path) as file:
        data = file.read()
    start = data.find(b"\n") + 1  # 0: the line has no end, so it was never written whole
    about = _about(data[:start])
    if about is None:
        raise OutputError(
            f"{path}: expected a journal ({FORMAT}), found something else: what is beside it "
            f"cannot be resumed. --restart discards both."
        )
    packed = np.frombuffer(data, _RECORD, (len(data) - start) // _RECORD.itemsize, start)
    packed = packed[: _n_intact(packed)]
    return about, Records(packed), start + packed.nbytes


def read_about(path: Path) -> dict[str, object] | None:
    """Return what a journal belongs to; None: it is no journal of this format.

    Raises:
        OutputError: it cannot be read.
    """
    with output_errors(f"{path}: cannot be read"), _opened(path) as file:
        return _about(file.readline())


def _about(line: bytes) -> dict[str, object] | None:
    try:
        about = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_journal = isinstance(about, dict) and about.pop("format", None) == FORMAT
    return about if is_journal else None


def _n_intact(packed: NDArray[np.void]) -> int:
    """Return how many of the first records have the right checksum."""
    size = _RECORD.itemsize
    for start in range(0, len(packed), _BLOCK):
        block = packed[start : start + _BLOCK]
        data = memoryview(block.tobytes())
        for i, crc in enumerate(block["crc"].tolist()):
            if zlib.crc32(data[i * size : i * size + _BODY.size]) != crc:
                return start + i
    return len(packed)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OutputError(f"{path}: expected a file, found something else")
        yield file


def pack(records: Iterable[Record]) -> bytes:
    """Return the records, 32 bytes each."""
    return b"".join(record.pack() for record in records)
