"""`ChunkSampler`, of `h5ingest.torch`: shuffles without reading in vain.

May not: write, import mpi4py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from h5ingest.core.errors import UsageError
from h5ingest.reading.shuffling import WINDOW_BLOCKS, Shuffled
from h5ingest.reading.store import ImageStore


class HasStore(Protocol):
    """What reads from a store, as an `ImageDataset`."""

    store: ImageStore


class ChunkSampler(Sampler[int]):
    """Shuffles the chunks of the file, then the samples within a window of so many chunks.

    A plain shuffle asks for a sample of another chunk each time, and a compressed chunk has to be
    decoded whole. Here a process needs `window` chunks at a time, each once an epoch. Every epoch
    (`set_epoch`) has another order, the same for the same seed whatever the number of workers.

    Like `DistributedSampler`, it gives each of `num_replicas` processes its share: the samples of
    an epoch are cut into equal runs, so that a process keeps to its own chunks. What is missing for
    equal shares is filled with the first samples of the epoch, or cut off with `drop_last`.

    It holds no list of samples, only the bounds of the chunks. A training that was ended goes on in
    the middle of an epoch with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        dataset: ImageStore | HasStore,
        *,
        window: int = WINDOW_BLOCKS,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> None:
        """Look at the chunks of the file.

        Args:
            dataset: what is sampled.
            window: chunks among which samples are shuffled; more mix better and take more memory.
                All chunks of a window should fit into the `cache_bytes` of the store.
            seed: the same on all replicas.
            num_replicas: processes that share the samples; that of torch.distributed if it runs.
            rank: this one, from 0.
            drop_last: whether shares are cut to be equal, rather than filled.

        Raises:
            UsageError: an argument that cannot be.
        """
        store = dataset if isinstance(dataset, ImageStore) else dataset.store
        self.num_replicas, self.rank = _replicas(num_replicas, rank)
        if not 0 <= self.rank < self.num_replicas:
            raise UsageError(f"rank: expected 0 to {self.num_replicas - 1}, got {self.rank}")
        if window < 1 or seed < 0:
            raise UsageError(f"expected window >= 1 and seed >= 0, got {window} and {seed}")
        self._bounds = store.blocks
        self.window, self.seed, self.epoch = window, seed, 0
        n_samples = len(store)
        self._given = self._resumed = 0
        floor = n_samples // self.num_replicas
        self._share = floor if drop_last else -(-n_samples // self.num_replicas)
        self._n_samples = n_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch, on all replicas.

        That in the middle of which a loaded state is goes on there; another one begins anew.
        """
        if epoch != self.epoch:
            self._given = self._resumed = 0
        self.epoch = epoch

    def __len__(self) -> int:
        return self._share

    def __iter__(self) -> Iterator[int]:
        start, self._resumed = self._resumed, 0
        self._given = start
        for samples in self._from(start):
            for sample in samples.tolist():
                self._given += 1
                yield sample

    def _from(self, start: int) -> Iterator[NDArray[np.int64]]:
        """Yield the samples of this share, from the given one on, some at a time."""
        order = Shuffled(self._bounds, window=self.window, seed=self.seed, epoch=self.epoch)
        start, stop = self.rank * self._share + start, (self.rank + 1) * self._share
        while start < stop:  # a share may go on at the beginning of the epoch, even repeatedly
            begin = start % self._n_samples
            end = min(begin + stop - start, self._n_samples)
            yield from order.between(begin, end)
            start += end - begin

    def state_dict(self) -> dict[str, int]:
        """Return where in which epoch this sampler is, to go on from there another day.

        It is where the sampler is, not the model: a `DataLoader` with workers asks for samples
        before they are needed. `torchdata`'s `StatefulDataLoader` takes that into account; without
        it, count the batches that the model has seen, and put in their samples as `given`.
        """
        return {"epoch": self.epoch, "given": self._given, **self._about}

    @property
    def _about(self) -> dict[str, int]:
        """What decides the order."""
        return {
            "seed": self.seed, "window": self.window, "samples": self._n_samples,
            "num_replicas": self.num_replicas, "rank": self.rank,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on, in the next iteration, behind what had been given.

        Raises:
            UsageError: it is not a state of a sampler like this one.
        """
        found = {name: state.get(name) for name in self._about}
        if found != self._about:
            raise UsageError(f"state: expected that of a sampler with {self._about}, got {found}")
        epoch, given = state.get("epoch", -1), state.get("given", -1)
        if epoch < 0 or not 0 <= given <= self._share:
            raise UsageError(
                f"state: expected an epoch and 0 to {self._share:,} samples given, got "
                f"{epoch} and {given}"
            )
        self.epoch, self._resumed, self._given = epoch, given, given


def _replicas(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return how many processes share the samples, and which one this is."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    if num_replicas is None:
        num_replicas = torch.distributed.get_world_size() if running else 1
    if rank is None:
        rank = torch.distributed.get_rank() if running else 0
    if num_replicas < 1:
        raise UsageError(f"num_replicas: expected at least 1, got {num_replicas}")
    return num_replicas, rank
