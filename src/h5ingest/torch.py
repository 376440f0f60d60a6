"""A file of h5ingest as a PyTorch dataset, and a sampler that shuffles without reading in vain.

    from h5ingest.torch import ChunkSampler, ImageDataset

    dataset = ImageDataset("out.h5", group="train")
    loader = DataLoader(dataset, batch_size=64, sampler=ChunkSampler(dataset), num_workers=2)

May not: write, import mpi4py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from h5ingest.core.errors import UsageError
from h5ingest.reading.checks import Verify
from h5ingest.reading.open_files import Paths
from h5ingest.reading.selection import Failed, is_integer
from h5ingest.reading.store import ImageStore
from h5ingest.reading.text import Column
from h5ingest.torch_sampler import ChunkSampler

__all__ = ["ChunkSampler", "ImageDataset", "collate_any_size", "to_tensor"]

Transform = Callable[[Any], Any]


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
        len(self.store)  # where a group must be chosen, says which there are
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.store)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Name of each label; None if labels are numbers only, or there are none."""
        return self.store.label_names

    @property
    def columns(self) -> Mapping[str, Column]:
        """The further columns of the manifest, a value for each sample; see `ImageStore`."""
        return self.store.columns

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


def collate_any_size(samples: Sequence[Any]) -> Any:
    """Return a batch of samples whose images differ in size: images as a list.

        loader = DataLoader(dataset, batch_size=8, collate_fn=collate_any_size)

    Args:
        samples: (image, label) each, or images alone, as `ImageDataset` gives them.

    Returns:
        A list of images, and of labels a tensor (n,), or a list where they are no numbers.
    """
    if not samples or not isinstance(samples[0], tuple):
        return list(samples)
    images, labels = ([*each] for each in zip(*samples, strict=True))
    return images, torch.tensor(labels) if isinstance(labels[0], int) else labels


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
