"""`Shuffled`: an order of all samples in which each chunk is decoded once.

A plain shuffle asks for a sample of another chunk each time. Here chunks are shuffled, then the
samples within a window of so many of them. Only the bounds of the chunks are held, no list of
samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

WINDOW_BLOCKS: Final = 32


class Shuffled:
    """One order of the samples; the same for the same arguments."""

    def __init__(
        self, bounds: NDArray[np.int64], *, window: int = WINDOW_BLOCKS, seed: int, epoch: int
    ) -> None:
        """Shuffle the chunks.

        Args:
            bounds: (B + 1,) of runs of samples that are best read together.
            window: chunks among which samples are shuffled.
            seed: whatever is at least 0.
            epoch: likewise.
        """
        self._bounds, self._window, self._key = bounds, window, (seed, epoch)
        self._order = np.random.default_rng(self._key).permutation(len(bounds) - 1)

    def between(self, begin: int, end: int) -> Iterator[NDArray[np.int64]]:
        """Yield the samples at positions begin to end of the order, a window at a time."""
        position = 0
        for first in range(0, len(self._order), self._window):
            blocks = self._order[first : first + self._window]
            n_here = int((self._bounds[blocks + 1] - self._bounds[blocks]).sum())
            low, high = max(begin - position, 0), min(end - position, n_here)
            if low < high:
                yield self._in_window(first, blocks)[low:high]
            position += n_here

    def _in_window(self, first: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of these blocks, shuffled."""
        runs = [np.arange(self._bounds[block], self._bounds[block + 1]) for block in blocks]
        samples = np.concatenate(runs)
        np.random.default_rng((*self._key, first)).shuffle(samples)
        return samples

    def batches(self, size: int, n_samples: int) -> Iterator[NDArray[np.int64]]:
        """Yield (size,) samples at a time of the first `n_samples`; the last may be fewer."""
        held = np.zeros(0, np.int64)
        for some in self.between(0, n_samples):
            held = np.concatenate([held, some])
            n_whole = len(held) // size * size
            yield from held[:n_whole].reshape(-1, size)
            held = held[n_whole:]
        if len(held):
            yield held
