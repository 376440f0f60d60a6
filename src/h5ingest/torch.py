"""A file of h5ingest as a PyTorch dataset, and a sampler that shuffles without reading in vain.

    from h5ingest.torch import ChunkSampler, ImageDataset

    dataset = ImageDataset("out.h5", group="train")
    loader = DataLoader(dataset, batch_size=64, sampler=ChunkSampler(dataset), num_workers=2)

May not: write, import mpi4py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, default_collate

from h5ingest.core.errors import UsageError
from h5ingest.reading.checks import Verify
from h5ingest.reading.open_files import Paths
from h5ingest.reading.selection import Failed, is_integer
from h5ingest.reading.store import ImageStore

Transform = Callable[[Any], Any]

WINDOW_BLOCKS: Final = 32


class ImageDataset(Dataset[Any]):
    """A map-style dataset of (image, label), or of images alone where the file has no labels.

    An image is a tensor (C, H, W) of the stored type, uint8 or uint16; with a `transform`, what
    that makes of the array (H, W) or (H, W, C) that is stored. A label is an int, or what
    `target_transform` makes of it.

    Where a row has several images, an image is a dict of tensors, and `transform` is given the dict
    of arrays: so it can cut image and mask alike.

    Indexed with a list it returns a whole batch, (n, C, H, W) and (n,), without the detour over
    single samples. That is the fastest way to feed a model, for images of one shape:

        batches = BatchSampler(ChunkSampler(dataset), batch_size=64, drop_last=False)
        loader = DataLoader(dataset, sampler=batches, batch_size=None)

    It may be forked and pickled after it was read from, see `ImageStore`.
    """

    def __init__(
        self,
        store: ImageStore | Paths,
        *,
        group: str | None = None,
        failed: Failed = "skip",
        verify: Verify = "auto",
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ) -> None:
        """Open the file.

        Args:
            store: path of the file, or of several (see `ImageStore`), or a store, which decides on
                group, failed rows and checksums itself.
            group: name of the group, for a file that has groups.
            failed: what becomes of failed rows. Not shown to the model by default: they are black.
            verify: when what is read is compared with its checksum, see `ImageStore`.
            transform: from array (H, W) or (H, W, C) to whatever is wanted.
            target_transform: from int to whatever is wanted.

        Raises:
            IngestError: as `ImageStore` does.
        """
        if isinstance(store, ImageStore):
            if group is not None:
                raise UsageError("group: expected none, as the store has its own")
            self.store = store
        else:
            self.store = ImageStore(store, group=group, failed=failed, verify=verify)
        len(self.store)  # if a group has to be chosen, that is said now
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: Any) -> Any:
        """Return a sample for an integer; for a list, an array or a slice, a batch."""
        images, labels = self.store[index]
        return self._sample(images, labels) if is_integer(index) else self._batch(images, labels)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return the samples of a batch, read together; what DataLoader's fetcher asks for."""
        images, labels = self.store[indices]
        shown = self._shown(images)
        if isinstance(shown, dict):
            shown = _row_by_row(shown)
        if labels is None:
            return list(shown)
        return list(zip(shown, self._targets(labels.tolist()), strict=True))

    def _sample(self, image: Any, label: int | None) -> Any:
        shown = _tensors(image) if self.transform is None else self.transform(image)
        return shown if label is None else (shown, *self._targets([label]))

    def _batch(self, images: Any, labels: NDArray[np.int64] | None) -> Any:
        """Return a tensor where the file has images of one shape, else a list; or a dict."""
        shown = self._shown(images)
        parts = images.values() if isinstance(images, dict) else (images,)
        of_one_shape = all(isinstance(each, np.ndarray) for each in parts)
        if of_one_shape and isinstance(shown, list) and shown:
            shown = default_collate(shown) if isinstance(shown[0], (torch.Tensor, dict)) else shown
        if labels is None:
            return shown
        if self.target_transform is not None:
            return shown, self._targets(labels.tolist())
        return shown, torch.from_numpy(labels)

    def _shown(self, images: Any) -> Any:
        """Return what the model is to see of each image: a list, or a tensor (n, C, H, W)."""
        if self.transform is not None:
            rows = _row_by_row(images) if isinstance(images, dict) else images
            return [self.transform(image) for image in rows]
        if isinstance(images, dict):
            return {name: self._shown(each) for name, each in images.items()}
        if isinstance(images, np.ndarray):
            return to_tensor(images, batch=True)
        return [to_tensor(image) for image in images]

    def _targets(self, labels: list[int]) -> list[Any]:
        if self.target_transform is None:
            return labels
        return [self.target_transform(label) for label in labels]


class ChunkSampler(Sampler[int]):
    """Shuffles the chunks of the file, then the samples within a window of so many chunks.

    A plain shuffle asks for a sample of another chunk each time, and a compressed chunk has to be
    decoded whole. Here a process needs `window` chunks at a time, each once an epoch. Every epoch
    (`set_epoch`) has another order, the same for the same seed whatever the number of workers.

    Like `DistributedSampler`, it gives each of `num_replicas` processes its share: the samples of
    an epoch are cut into equal runs, so that a process keeps to its own chunks. What is missing for
    equal shares is filled with the first samples of the epoch, or cut off with `drop_last`.

    It holds no list of samples, only the bounds of the chunks.
    """

    def __init__(
        self,
        dataset: ImageDataset | ImageStore,
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
        store = dataset.store if isinstance(dataset, ImageDataset) else dataset
        self.num_replicas, self.rank = _replicas(num_replicas, rank)
        if not 0 <= self.rank < self.num_replicas:
            raise UsageError(f"rank: expected 0 to {self.num_replicas - 1}, got {self.rank}")
        if window < 1 or seed < 0:
            raise UsageError(f"expected window >= 1 and seed >= 0, got {window} and {seed}")
        self._bounds = store.blocks
        self.window, self.seed, self.epoch = window, seed, 0
        n_samples = len(store)
        floor = n_samples // self.num_replicas
        self._share = floor if drop_last else -(-n_samples // self.num_replicas)
        self._n_samples = n_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch, on all replicas."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._share

    def __iter__(self) -> Iterator[int]:
        start = self.rank * self._share
        stop = start + self._share
        while start < stop:  # a share may go on at the beginning of the epoch, even repeatedly
            begin = start % self._n_samples
            end = min(begin + stop - start, self._n_samples)
            yield from self._between(begin, end)
            start += end - begin

    def _between(self, begin: int, end: int) -> Iterator[int]:
        """Yield the samples at positions begin to end of the shuffled epoch."""
        n_blocks = len(self._bounds) - 1
        order = np.random.default_rng((self.seed, self.epoch)).permutation(n_blocks)
        position = 0
        for first in range(0, n_blocks, self.window):
            blocks = order[first : first + self.window]
            n_here = int((self._bounds[blocks + 1] - self._bounds[blocks]).sum())
            low, high = max(begin - position, 0), min(end - position, n_here)
            if low < high:
                yield from self._window(first, blocks)[low:high].tolist()
            position += n_here

    def _window(self, first: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of these blocks, shuffled; the same on every replica."""
        runs = [np.arange(self._bounds[block], self._bounds[block + 1]) for block in blocks]
        samples = np.concatenate(runs)
        np.random.default_rng((self.seed, self.epoch, first)).shuffle(samples)
        return samples


def to_tensor(image: NDArray[Any], *, batch: bool = False) -> torch.Tensor:
    """Return (C, H, W), or (n, C, H, W) of a batch, of the type of the array; nothing is scaled.

    Args:
        image: (H, W) or (H, W, C); of a batch, with n in front.
        batch: whether it is one.
    """
    if image.ndim == 2 + batch:
        image = image[..., np.newaxis]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, -3)))


def _tensors(image: Any) -> Any:
    """Return the tensor of an image, or of each in a dict."""
    if isinstance(image, dict):
        return {name: to_tensor(each) for name, each in image.items()}
    return to_tensor(image)


def _row_by_row(batches: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a dict for each row, from a dict of batches."""
    return [dict(zip(batches, row, strict=True)) for row in zip(*batches.values(), strict=True)]


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
