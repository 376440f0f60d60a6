"""`Batches`: a store as a stream of shuffled batches, for whoever trains without PyTorch.

May not: write, import mpi4py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import UsageError
from h5ingest.reading.group_statistics import GroupStatistics
from h5ingest.reading.images import Batch
from h5ingest.reading.selection import Selection
from h5ingest.reading.shuffling import WINDOW_BLOCKS, Shuffled

if TYPE_CHECKING:
    from h5ingest.reading.contents import Contents

Labelled = tuple[Batch, NDArray[np.int64] | None]

_AHEAD: Final = 2
"""Batches that are read before they are asked for."""


class Batches(ABC):
    """What a store offers beside single samples; a base class of `ImageStore`."""

    _selection: Selection
    """The samples; of none until the group is open."""

    @property
    @abstractmethod
    def _contents(self) -> Contents:
        """What the group holds."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any: ...

    @property
    def stats(self) -> GroupStatistics:
        """Mean and deviation of the pixels, classes, copies: over all good images of the group.

        Of several images a row they are those of the first; `ImageStore(..., image=NAME)` has those
        of another one.
        """
        return self._contents.statistics

    @property
    def rows(self) -> NDArray[np.intp]:
        """(n,) row of each sample in the file: its line in the manifest (of its group).

        Rows of several files are counted on from one to the next.
        """
        n_samples, rows = len(self), self._selection.rows
        return np.arange(n_samples) if rows is None else rows

    @property
    def blocks(self) -> NDArray[np.int64]:
        """(B + 1,) bounds of runs of samples that are best read together: one chunk each."""
        bounds = self._contents.bounds  # opens the file, which may change the selection
        return self._selection.blocks(bounds)

    def batches(
        self,
        size: int,
        *,
        shuffle: int | None = None,
        epoch: int = 0,
        window: int = WINDOW_BLOCKS,
        drop_last: bool = False,
    ) -> Iterator[Labelled]:
        """Yield (images, labels) of `size` samples, each sample once; the next are read meanwhile.

            for epoch in range(10):
                for images, labels in store.batches(64, shuffle=0, epoch=epoch):
                    ...                 # (64, H, W) or (64, H, W, C), (64,)

        A thread reads two batches ahead; it ends with the iterator. An error of it is raised here.

        Args:
            size: samples in a batch.
            shuffle: a seed; None: in the order of the file.
            epoch: another one has another order, the same for the same seed.
            window: chunks among which samples are shuffled; see `h5ingest.torch.ChunkSampler`.
            drop_last: whether what is left for the last batch is left out, if it is not `size`.

        Raises:
            UsageError: an argument that cannot be.
            OutputError: the file is damaged, or was replaced.
        """
        if size < 1 or epoch < 0 or window < 1 or (shuffle is not None and shuffle < 0):
            raise UsageError(
                f"expected size >= 1, window >= 1, epoch >= 0, and for shuffle a seed >= 0 or "
                f"None; got {size}, {window}, {epoch} and {shuffle}"
            )
        n_samples = len(self)
        if drop_last:
            n_samples -= n_samples % size
        starts = range(0, n_samples, size)
        if shuffle is None:
            wanted: Iterator[Any] = (slice(k, min(k + size, n_samples)) for k in starts)
        else:
            order = Shuffled(self.blocks, window=window, seed=shuffle, epoch=epoch)
            wanted = order.batches(size, n_samples)
        return _ahead(map(self.__getitem__, wanted))


def _ahead(made: Iterator[Labelled]) -> Iterator[Labelled]:
    """Yield what a thread takes from an iterator, a few items ahead."""
    pool = ThreadPoolExecutor(1, "h5ingest batches")
    try:
        waiting = deque(pool.submit(next, made, None) for _ in range(1 + _AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, made, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
