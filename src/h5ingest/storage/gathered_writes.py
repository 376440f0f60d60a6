"""Many small writes to one file, joined into few large ones.

HDF5 writes its metadata by the object, before and between what others write: a tree of 10,000 small
images makes 20,000 writes. A local disk hardly notices; a network file system makes a round trip
for each. Where no other process writes a part of a block (`shared_blocks`), what lies between two
pieces can be written once more, and they become one.

What lies there is remembered, never read: GlusterFS (10.3, dispersed) told a client that had just
written behind the end of a file that it still ended before, so what was read was cut off there, and
zeros were written over what had been stored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from h5ingest.core.intervals import merged
from h5ingest.storage.shared_blocks import BLOCK, Bytes

_MOST_BYTES: Final = 512 * 1024
"""That are held back."""
_LARGE: Final = 256 * 1024
"""Bytes that are written at once, without a copy."""
_MOST_BLOCKS: Final = 16 * 1024
"""That are remembered: 64 MiB of the file, in 77 MiB."""


class WrittenBlocks:
    """What this process has written of blocks that no other one writes. Not collective."""

    def __init__(self, *, fresh: bool) -> None:
        """Begin; if the file is `fresh`, what has not been written means nothing."""
        self._fresh = fresh
        self._blocks: OrderedDict[int, tuple[bytearray, int]] = OrderedDict()
        """Number -> content, and a bit for each byte that was written; last used at the end."""
        self._forgotten: set[int] = set()

    def note(self, offset: int, data: Bytes) -> None:
        """Remember bytes that are written."""
        view = memoryview(data)
        for number in _pages(offset, len(data)):
            content, written = self._blocks.get(number) or (bytearray(BLOCK), 0)
            at = offset - number * BLOCK
            part = view[max(0, -at) : BLOCK - at]
            at = max(0, at)
            content[at : at + len(part)] = part
            self._blocks[number] = content, written | _bits(at, at + len(part))
            self._blocks.move_to_end(number)
            if len(self._blocks) > _MOST_BLOCKS:
                self._forgotten.add(self._blocks.popitem(last=False)[0])

    def get(self, start: int, stop: int, *, all_written: bool = False) -> bytes | None:
        """Return these bytes of the file; None if they may not be what is remembered.

        Args:
            start: the first.
            stop: behind the last.
            all_written: whether each has to have been written here: else they may be of a block
                that another process fills. What lies within blocks of ours need not, in a new file.
        """
        is_fresh = self._fresh and not all_written
        parts = []
        for number in _pages(start, stop - start):
            first = number * BLOCK
            cut = slice(max(start - first, 0), min(stop - first, BLOCK))
            there = self._blocks.get(number)
            if number in self._forgotten:
                return None
            if there is None:
                if not is_fresh:
                    return None
                parts.append(bytes(cut.stop - cut.start))
            else:
                wanted = _bits(cut.start, cut.stop)
                if not is_fresh and there[1] & wanted != wanted:
                    return None
                parts.append(bytes(there[0][cut]))
        return b"".join(parts)


class GatheredWrites:
    """What is to be written, later bytes over earlier ones. Not collective."""

    def __init__(
        self, write: Callable[[int, Bytes], None], written: WrittenBlocks | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            write: writes bytes at an offset; may raise whatever it likes, after which what was
                held back is lost.
            written: remembers what is written, by all who write parts of blocks; None if another
                process may write between two pieces that are less than a block apart.
        """
        self._write_to_file = write
        self._written = written
        self._pieces: list[tuple[int, bytes]] = []
        """(offset, bytes), in the order in which they came."""
        self._touched: set[int] = set()
        """Numbers of the blocks of the file that they touch."""
        self._n_bytes = 0

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes, which may be reused at once; write all that is held back if it is much."""
        if len(data) >= _LARGE:
            self.flush()
            self._write(offset, data)
            return
        self._pieces.append((offset, bytes(data)))
        self._touched.update(_pages(offset, len(data)))
        self._n_bytes += len(data)
        if self._n_bytes >= _MOST_BYTES:
            self.flush()

    def holds(self, offset: int, n_bytes: int) -> bool:
        """Return whether some of these bytes of the file may be held back."""
        return not self._touched.isdisjoint(_pages(offset, n_bytes))

    def drop(self) -> None:
        """Forget what is held back."""
        self._pieces, self._touched, self._n_bytes = [], set(), 0

    def flush(self) -> None:
        """Write what is held back, neighbouring pieces in one call."""
        pieces = self._pieces
        self.drop()
        runs = merged(range(offset, offset + len(data)) for offset, data in pieces)
        starts = [run.start for run in runs]
        joined = [bytearray(len(run)) for run in runs]
        for offset, data in pieces:
            k = bisect_right(starts, offset) - 1
            at = offset - starts[k]
            joined[k][at : at + len(data)] = data
        held: tuple[int, bytearray] | None = None
        for start, run in zip(starts, joined, strict=True):
            if held is not None:
                between = self._between(held[0] + len(held[1]), start)
                if between is not None:
                    held[1].extend(between + run)
                    continue
                self._write(*held)
            held = start, run
        if held is not None:
            self._write(*held)

    def _between(self, start: int, stop: int) -> bytes | None:
        """Return what lies between two runs if it is better written once more."""
        if self._written is None or stop - start >= BLOCK:  # maybe a block of another process
            return None
        return self._written.get(start, stop)

    def _write(self, offset: int, data: Bytes) -> None:
        self._write_to_file(offset, data)
        if self._written is not None:
            self._written.note(offset, data)


def _bits(start: int, stop: int) -> int:
    """Return a number whose bits from `start` to `stop` are set."""
    return (1 << stop) - (1 << start)


def _pages(offset: int, n_bytes: int) -> range:
    """Return the numbers of the blocks that bytes touch."""
    return range(offset // BLOCK, -(-(offset + n_bytes) // BLOCK))
