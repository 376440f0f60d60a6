"""A least-recently-used cache of decoded chunks, in memory that is allocated once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.reading.forksafe_file import ForkSafeFile


class ChunkCache:
    """Chunks by number; a new one takes the place of the one used least recently.

    One array for all of them: fresh memory costs a page fault each 4 KiB, which takes as long as
    decoding, while a large array gets huge pages and is used again. So a chunk must not be replaced
    while it is read from: `hold` returns with the lock taken, and the caller releases it.
    """

    def __init__(
        self, handle: ForkSafeFile, n_chunks: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Allocate no memory yet.

        Args:
            handle: whose `cache_lock` is used, as it is never left locked by a fork.
            n_chunks: the most that are kept.
            shape: of a chunk.
            dtype: of its values.
        """
        self.lock = handle.cache_lock
        self._shape, self._dtype = shape, dtype
        self._memory: NDArray[Any] | None = None
        self._free = list(range(n_chunks))[::-1]
        self._kept: dict[int, int] = {}
        """Chunk -> place in memory, the least recently used first."""
        self._latest: tuple[int, NDArray[Any]] = (-1, np.empty(0, dtype))
        """The last of them and its values."""

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._kept

    def hold(self, chunk: int, decode: Callable[[int, NDArray[Any]], None]) -> NDArray[Any]:
        """Return the values of a chunk, with the lock held: the caller has to release it.

        Args:
            chunk: its number.
            decode: fills an array with the values of a chunk; called without the lock.
        """
        self.lock.acquire()
        if self._latest[0] == chunk:
            return self._latest[1]
        place = self._kept.pop(chunk, None)
        if place is None:
            place = self._free_place()
            memory = self._memory if place is not None else None
            self.lock.release()
            values = np.empty(self._shape, self._dtype) if memory is None else memory[place]
            try:
                decode(chunk, values)
            except BaseException:
                with self.lock:
                    self._give_back(place)
                raise
            self.lock.acquire()
            if place is None:
                return values
            self._give_back(self._kept.pop(chunk, None))  # another thread was as quick
        assert self._memory is not None
        self._kept[chunk] = place  # now the one used last
        found: NDArray[Any] = self._memory[place]
        self._latest = (chunk, found)
        return found

    def _free_place(self) -> int | None:
        """Return a place that nobody uses; None: other threads are filling all of them."""
        if self._memory is None:
            self._memory = np.empty((len(self._free), *self._shape), self._dtype)
        if self._free:
            return self._free.pop()
        if not self._kept:
            return None
        chunk = next(iter(self._kept))
        if chunk == self._latest[0]:
            self._latest = (-1, self._latest[1])
        return self._kept.pop(chunk)

    def _give_back(self, place: int | None) -> None:
        if place is not None:
            self._free.append(place)
