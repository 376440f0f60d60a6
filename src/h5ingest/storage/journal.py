"""The journal next to a file that is being made: what a job that was killed can build on.

A line of JSON that says what it belongs to, then records of 32 bytes with a checksum each; whatever
follows the last whole, intact one never happened. There are six kinds:

- `Run`: a run begins, and when: what follows is of it;
- `Begins`: where an unfiltered dataset lies, to be compared when the file is made again;
- `Placement`: space taken for a chunk, in the order in which it was taken. Taking it again in this
  order on a new file gives the same offsets (`ChunkPlacer.replay`);
- `Sums`: of the pixels of the images that begin in the span of the next `Done` of the group;
- `Done`: pixels, checksums and status that are on the disk. Only these are not made again;
- `Undone`: what turned out to be wrong with what was done before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.journal_records import BLOCK, BODY, RECORD, Records

FORMAT: Final = "h5ingest journal 3"


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
    packed = np.frombuffer(data, RECORD, (len(data) - start) // RECORD.itemsize, start)
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
    size = RECORD.itemsize
    for start in range(0, len(packed), BLOCK):
        block = packed[start : start + BLOCK]
        data = memoryview(block.tobytes())
        for i, crc in enumerate(block["crc"].tolist()):
            if zlib.crc32(data[i * size : i * size + BODY.size]) != crc:
                return start + i
    return len(packed)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OutputError(f"{path}: expected a file, found something else")
        yield file
