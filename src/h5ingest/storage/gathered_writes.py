"""Many small writes to one file, joined into few large ones.

HDF5 writes its metadata by the object, before and between what others write: a tree of 10,000 small
images makes 20,000 writes. A local disk hardly notices; a network file system makes a round trip
for each. Where no other process writes a part of a block (`shared_blocks`), what lies between two
pieces can be written once more, and they become one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from h5ingest.core.intervals import merged
from h5ingest.storage.shared_blocks import BLOCK, Bytes

_MOST_BYTES: Final = 512 * 1024
"""That are held back."""
_LARGE: Final = 256 * 1024
"""Bytes that are written at once, without a copy."""


class GatheredWrites:
    """What is to be written, later bytes over earlier ones. Not collective."""

    def __init__(
        self,
        write: Callable[[int, Bytes], None],
        read: Callable[[int, int], bytes] | None = None,
    ) -> None:
        """Begin with nothing.

        Args:
            write: writes bytes at an offset; may raise whatever it likes, after which what was
                held back is lost.
            read: reads so many bytes at an offset, as many as there are; None if another process
                may write between two pieces that are less than a block apart.
        """
        self._write = write
        self._read = read
        self._pieces: list[tuple[int, bytes]] = []
        """(offset, bytes), in the order in which they came."""
        self._pages: set[int] = set()
        """Of the file, that they touch."""
        self._n_bytes = 0

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes, which may be reused at once; write all that is held back if it is much."""
        if len(data) >= _LARGE:
            self.flush()
            self._write(offset, data)
            return
        self._pieces.append((offset, bytes(data)))
        self._pages.update(_pages(offset, len(data)))
        self._n_bytes += len(data)
        if self._n_bytes >= _MOST_BYTES:
            self.flush()

    def holds(self, offset: int, n_bytes: int) -> bool:
        """Return whether some of these bytes of the file may be held back."""
        return not self._pages.isdisjoint(_pages(offset, n_bytes))

    def drop(self) -> None:
        """Forget what is held back."""
        self._pieces, self._pages, self._n_bytes = [], set(), 0

    def flush(self) -> None:
        """Write what is held back, neighbouring pieces in one call."""
        pieces = self._pieces
        self.drop()
        gap = BLOCK - 1 if self._read else 0  # a block that another process fills does not fit
        runs = merged((range(offset, offset + len(data)) for offset, data in pieces), gap)
        starts = [run.start for run in runs]
        joined = [bytearray(len(run)) for run in runs]
        if self._read:
            for span, buffer in zip(runs, joined, strict=True):
                there = self._read(span.start, len(span))
                buffer[: len(there)] = there
        for offset, data in pieces:
            k = bisect_right(starts, offset) - 1
            at = offset - starts[k]
            joined[k][at : at + len(data)] = data
        for start, run in zip(starts, joined, strict=True):
            self._write(start, run)


def _pages(offset: int, n_bytes: int) -> range:
    return range(offset // BLOCK, -(-(offset + n_bytes) // BLOCK))
