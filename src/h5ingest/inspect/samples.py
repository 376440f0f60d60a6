"""Which images of a group `show --page` shows, and what it works out of their sizes and pixels.

A sample that a seed decides, so that a million images are looked at in seconds. May not: draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.lists import Lists
from h5ingest.core.schema import STATUS_OK
from h5ingest.reading.selection import flat
from h5ingest.reading.store import ImageStore

MOST_CLASSES: Final = 20
"""Classes that have a line in the gallery, and a mean image."""
IN_A_CLASS: Final = 8
"""Images of a class in the gallery."""
_OF_A_CLASS: Final = 50
"""Images of a class whose mean is shown, and whose values are counted."""
_OF_ALL: Final = 400
"""The same, where there are no classes."""
EXTREMES: Final = 8
"""Of the largest, and of the smallest images."""
_BINS: Final = 64
"""Of a histogram of values; of one of sizes, at most:"""
_SIZE_BINS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSample:
    """Some images of a class, or of all."""

    name: str
    """Of the class; empty where there are none."""
    n_images: int
    """Good ones in the file."""
    rows: NDArray[np.intp]
    """(k,) in order, `IN_A_CLASS` at most: what the gallery shows."""
    mean: NDArray[np.float64] | None
    """(H, W) or (H, W, C) mean of `n_mean` of them; None where their shapes differ."""
    n_mean: int
    """Images that were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is shown of a group."""

    classes: tuple[ClassSample, ...]
    n_classes: int
    """That there are."""
    values: dict[str, NDArray[np.int64]]
    """Type -> (channels, 64) how often values are in each 64th of its range."""
    n_read: int
    """Images whose values were counted."""


def look(store: ImageStore, seed: int) -> Sample:
    """Choose and read the images; the seed decides which.

    The store is opened with `failed="include"`: a sample is a row.

    Raises:
        OutputError: the file is damaged.
    """
    rng = np.random.default_rng(seed)
    good = np.flatnonzero(store.status == STATUS_OK)
    values: dict[str, NDArray[np.int64]] = {}
    classes = []
    for name, rows in _classes(store, good):
        most = _OF_A_CLASS if store.labels is not None else _OF_ALL
        read = np.sort(rng.choice(rows, min(most, len(rows)), replace=False))
        shown = np.sort(rng.choice(read, min(IN_A_CLASS, len(read)), replace=False))
        images = [store[row][0] for row in read.tolist()]
        for image in images:
            _count(values, image)
        alike = len({image.shape for image in images}) == 1
        mean = np.add.reduce(images, axis=0, dtype=np.float64) / len(images) if alike else None
        classes.append(
            ClassSample(name=name, n_images=len(rows), rows=shown, mean=mean, n_mean=len(read))
        )
    return Sample(
        classes=tuple(classes),
        n_classes=0 if store.labels is None else len(np.unique(flat(store.labels[good]))),
        values=values,
        n_read=sum(each.n_mean for each in classes),
    )


def _classes(store: ImageStore, good: NDArray[np.intp]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Yield the name of each of the first classes, and its good rows."""
    if not len(good):
        return
    if store.labels is None:
        yield "", good
        return
    labels, names = store.labels[good], store.label_names
    for label in np.unique(flat(labels))[:MOST_CLASSES].tolist():
        of_class = labels.having(label) if isinstance(labels, Lists) else labels == label
        yield names[label] if names else str(label), good[of_class]


def _count(values: dict[str, NDArray[np.int64]], image: NDArray[Any]) -> None:
    """Count the values of each channel; of images with fewer channels than others, their own."""
    pixels = image.reshape(-1, image.shape[2] if image.ndim == 3 else 1)
    found = values.setdefault(image.dtype.name, np.zeros((4, _BINS), np.int64))
    shift = image.dtype.itemsize * 8 - 6
    for channel in range(pixels.shape[1]):
        found[channel] += np.bincount(pixels[:, channel] >> shift, minlength=_BINS)


def extremes(store: ImageStore) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the rows of the largest and of the smallest good images; None: all are alike."""
    if store.sizes is None:
        return None
    good = np.flatnonzero(store.status == STATUS_OK)
    areas = store.sizes[good].astype(np.int64).prod(axis=1)
    order = np.argsort(areas, kind="stable")
    if not len(good) or areas[order[0]] == areas[order[-1]]:
        return None
    return good[order[::-1][:EXTREMES]], good[order[:EXTREMES]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A histogram."""

    title: str
    low: str
    high: str
    """What is at its ends."""
    heights: tuple[float, ...]
    """Of its bars, 0 to 100."""

    @classmethod
    def of(cls, title: str, counts: NDArray[Any], low: int, high: int) -> Chart:
        """Return the histogram of so many values each, from `low` to `high`."""
        heights = 100 * counts / max(1, counts.max())
        return cls(title=title, low=f"{low:,}", high=f"{high:,}", heights=tuple(heights.tolist()))


def charts(store: ImageStore, sample: Sample) -> list[Chart]:
    """Return histograms of the sizes of all good images, where they differ, and of each channel."""
    found = []
    if store.sizes is not None:
        for axis, title in enumerate(("Heights", "Widths")):
            lengths = store.sizes[store.status == STATUS_OK, axis]
            if len(lengths):
                low, high = int(lengths.min()), int(lengths.max())
                n_bins = min(_SIZE_BINS, high - low + 1)
                counts, _ = np.histogram(lengths, n_bins, (low, high + 1))
                found.append(Chart.of(f"{title} in pixels", counts, low, high))
    for dtype, channels in sample.values.items():
        most = np.iinfo(np.dtype(dtype)).max
        for channel, counts in enumerate(channels):
            if counts.any():
                title = f"Values of channel {channel}, {dtype}"
                found.append(Chart.of(title, counts, 0, most))
    return found
