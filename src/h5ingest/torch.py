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
from h5ingest.core.lists import Lists
from h5ingest.reading.checks import Verify
from h5ingest.reading.open_files import Paths
from h5ingest.reading.selection import Failed, Labels, is_integer
from h5ingest.reading.store import ImageStore
from h5ingest.reading.text import Column, LazyStrings
from h5ingest.torch_sampler import ChunkSampler

__all__ = ["ChunkSampler", "ImageDataset", "to_tensor"]

Transform = Callable[[Any], Any]


class ImageDataset(Dataset[Any]):
    """A map-style dataset of (image, label), or of images alone where the file has no labels.

    An image is a tensor (C, H, W) of the stored type, uint8 or uint16; with a `transform`, what
    that makes of the array (H, W) or (H, W, C) that is stored. A label is an int; or, where images
    have any number of classes, (classes,) float32 of 0 and 1, as BCEWithLogitsLoss takes it; or
    what `target_transform` makes of that.

    With `columns`, a sample ends with a dict of these columns of the manifest: numbers, strings,
    and of lists (boxes, keypoints) a tensor (k, ...). `DataLoader(dataset, collate_fn=
    dataset.collate)` then makes lists of what has another length in each sample.

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
        columns: Sequence[str] = (),
    ) -> None:
        """Open the file.

        Args:
            store: path of the file, or of several (see `ImageStore`), or a store, which decides on
                group, failed rows and checksums itself.
            group: name of the group, for a file that has groups.
            failed: what becomes of failed rows. Not shown to the model by default: they are black.
            verify: when what is read is compared with its checksum, see `ImageStore`.
            transform: from array (H, W) or (H, W, C) to whatever is wanted.
            target_transform: from int, or (classes,) float32, to whatever is wanted.
            columns: of the manifest, that go with each sample.

        Raises:
            IngestError: as `ImageStore` does.
            UsageError: there is no such column.
        """
        if isinstance(store, ImageStore):
            if group is not None:
                raise UsageError("group: expected none, as the store has its own")
            self.store = store
        else:
            self.store = ImageStore(store, group=group, failed=failed, verify=verify)
        len(self.store)  # where a group must be chosen, says which there are
        self.transform, self.target_transform = transform, target_transform
        self._chosen = tuple(columns)
        for name in self._chosen:
            if name not in self.store.columns:
                known = ", ".join(self.store.columns) or "none"
                raise UsageError(f"columns: expected columns of the file, {known}; got {name!r}")
        self._cells: dict[str, Column] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which reads columns for itself."""
        return self.__dict__ | {"_cells": None}

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
        one = is_integer(index)
        found = self._sample(images, labels) if one else self._batch(images, labels)
        if not self._chosen:
            return found
        cells = self._row(index) if one else self._rows(np.arange(len(self))[index])
        return (found, cells) if labels is None else (*found, cells)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return the samples of a batch, read together; what DataLoader's fetcher asks for."""
        images, labels = self.store[indices]
        shown = self._shown(images)
        if isinstance(shown, dict):
            shown = _row_by_row(shown)
        parts = [shown] if labels is None else [shown, self._targets(labels)]
        if self._chosen:
            parts.append(map(self._row, indices))
        return list(zip(*parts, strict=True)) if len(parts) > 1 else list(shown)

    def collate(self, samples: Sequence[Any]) -> Any:
        """Return a batch of samples: tensors of what has one shape in all of them, else lists.

        Images are a tensor if the file is a stack, or `transform` makes them alike; lists of the
        manifest never are. For DataLoader's `collate_fn`.
        """
        if self._chosen or self.store.labels is not None:
            images, *others = map(list, zip(*samples, strict=True))
        else:
            images, others = list(samples), []
        alike = self.store.layout == "stack" or self.transform is not None
        found = [default_collate(images) if alike else images]
        if self.store.labels is not None:
            found.append(default_collate(others[0]))
        if self._chosen:
            rows = others[-1]
            found.append({name: self._together([r[name] for r in rows], name) for name in rows[0]})
        return tuple(found) if len(found) > 1 else found[0]

    def _together(self, cells: list[Any], name: str) -> Any:
        return cells if isinstance(self._column(name), Lists) else default_collate(cells)

    def _column(self, name: str) -> Column:
        if self._cells is None:
            self._cells = {each: self.store.columns[each] for each in self._chosen}
        return self._cells[name]

    def _row(self, index: int) -> dict[str, Any]:
        """Return the columns of one sample."""
        found = {name: self._column(name)[index] for name in self._chosen}
        return {name: _plain(cell) for name, cell in found.items()}

    def _rows(self, places: NDArray[np.intp]) -> dict[str, Any]:
        """Return the columns of a batch: a tensor of numbers, else a list."""
        found: dict[str, Any] = {}
        for name in self._chosen:
            column = self._column(name)
            if isinstance(column, LazyStrings):
                found[name] = column.many(places)
            elif isinstance(column, Lists):
                found[name] = [_plain(column[place]) for place in places.tolist()]
            else:
                found[name] = torch.from_numpy(column[places])
        return found

    def _sample(self, image: Any, label: Any) -> Any:
        shown = _tensors(image) if self.transform is None else self.transform(image)
        if label is None:
            return shown
        if not isinstance(label, np.ndarray):
            return shown, *self._targets(np.array([label]))
        return shown, *self._targets(Lists(label, np.array([0, len(label)])))

    def _batch(self, images: Any, labels: Labels | None) -> Any:
        """Return a tensor where the file has images of one shape, else a list; or a dict."""
        shown = self._shown(images)
        parts = images.values() if isinstance(images, dict) else (images,)
        of_one_shape = all(isinstance(each, np.ndarray) for each in parts)
        if of_one_shape and isinstance(shown, list) and shown:
            shown = default_collate(shown) if isinstance(shown[0], (torch.Tensor, dict)) else shown
        if labels is None:
            return shown
        if self.target_transform is not None:
            return shown, self._targets(labels)
        if isinstance(labels, Lists):
            return shown, self._multi_hot(labels)
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

    def _targets(self, labels: Labels) -> list[Any]:
        each: list[Any]
        each = list(self._multi_hot(labels)) if isinstance(labels, Lists) else labels.tolist()
        if self.target_transform is None:
            return each
        return [self.target_transform(label) for label in each]

    def _multi_hot(self, labels: Lists) -> torch.Tensor:
        """Return (n, classes) float32."""
        n_classes = len(self.store.label_names or ())
        return torch.from_numpy(labels.multi_hot(n_classes)).float()


def to_tensor(image: NDArray[Any], *, batch: bool = False) -> torch.Tensor:
    """Return (C, H, W), or (n, C, H, W) of a batch, of the type of the array; nothing is scaled.

    Args:
        image: (H, W) or (H, W, C); of a batch, with n in front.
        batch: whether it is one.
    """
    if image.ndim == 2 + batch:
        image = image[..., np.newaxis]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, -3)))


def _plain(cell: Any) -> Any:
    """Return a cell of a column: a tensor of a list, else a Python number or a string."""
    if isinstance(cell, np.ndarray):
        return torch.from_numpy(cell.copy())
    return cell.item() if isinstance(cell, np.generic) else cell


def _tensors(image: Any) -> Any:
    """Return the tensor of an image, or of each in a dict."""
    if isinstance(image, dict):
        return {name: to_tensor(each) for name, each in image.items()}
    return to_tensor(image)


def _row_by_row(batches: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a dict for each row, from a dict of batches."""
    return [dict(zip(batches, row, strict=True)) for row in zip(*batches.values(), strict=True)]
