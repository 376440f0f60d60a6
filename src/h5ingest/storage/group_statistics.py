"""What the rank-0 pass finds out about the images of each group, for `core.statistics`.

May not: read pixels, but for nothing: their sums come from the ranks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.copies import Keys, counted, find, mixed
from h5ingest.core.layout import Group, Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.lists import Lists
from h5ingest.core.moments import ByKind
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.statistics import MOST_CLASSES, Statistics
from h5ingest.storage.datasets import open_dataset, rows_of

_BLOCK_ROWS: Final = 2**20

Names = Mapping[int, list[tuple[str, str]]]
"""Group -> (HDF5 path, shape and type) of each row's dataset, in a tree."""


class ClassCounts:
    """Counts the good images of each class of each group."""

    def __init__(self, file: h5py.File, layout: Layout, *, any_failed: bool) -> None:
        """Begin with none."""
        self._file, self._layout, self._any_failed = file, layout, any_failed
        self._counts: dict[int, dict[int, int] | None] = {}

    def add(self, number: int, first: int, labels: NDArray[np.int64] | Lists) -> None:
        """Add the labels of a group from this row on, one of each image or several."""
        counts = self._counts.setdefault(number, {})
        if self._any_failed:
            status = open_dataset(self._file.id, self._layout.groups[number].status.name)
            rows = range(first, first + len(labels))
            labels = labels[rows_of(status, rows) == STATUS_OK]
        if isinstance(labels, Lists):
            labels = labels.each_once()
        if counts is None or not len(labels):
            return
        if labels.min() >= 0 and labels.max() < MOST_CLASSES:
            every = np.bincount(labels)
            found = np.flatnonzero(every)
            n_found = every[found]
        else:
            found, n_found = np.unique(labels, return_counts=True)
        for label, n in zip(found.tolist(), n_found.tolist(), strict=True):
            counts[label] = counts.get(label, 0) + n
        if len(counts) > MOST_CLASSES:
            self._counts[number] = None

    def of(self, number: int) -> dict[int, int] | None:
        """Return label -> images; None: there are no labels, or too many."""
        return self._counts.get(number)


def statistics(
    file: h5py.File,
    layout: Layout,
    moments: Mapping[int, ByKind],
    classes: ClassCounts,
    names: Names | None,
    beat: Callable[[], None],
) -> list[Statistics]:
    """Return the statistics of each group. Not collective: rank 0 only.

    Args:
        file: all is in it but the attributes.
        layout: its datasets.
        moments: sums of pixels of groups; of one that is not there they are not known.
        classes: has all labels.
        names: of the images of a tree.
        beat: called now and then.
    """
    n_each = len(layout.images)
    n_good = [0] * len(layout.groups)
    copies, elsewhere = np.zeros((2, len(layout.groups)), np.int64)

    def blocks(column: int) -> Iterator[Keys]:
        for number in range(column, len(layout.groups), n_each):
            group, n_good[number] = layout.groups[number], 0
            kinds = [kind for _, kind in names[number]] if names is not None else []
            for keys in _keys(file, group, number, kinds):
                beat()
                n_good[number] += len(keys.rows)
                yield keys

    for column in range(n_each):  # an image is no copy of its own mask
        found = counted(find(partial(blocks, column), layout.n_samples), len(layout.groups))
        copies, elsewhere = copies + found[0], elsewhere + found[1]
    knows_pixels = not KINDS[layout.kind].keeps_files
    return [
        Statistics(
            n_images=n_good[number],
            pixels=moments.get(number) if knows_pixels else None,
            classes=classes.of(number),
            n_copies=int(copies[number]),
            n_elsewhere=int(elsewhere[number]),
        )
        for number in range(len(layout.groups))
    ]


def _keys(file: h5py.File, group: Group, number: int, kinds: list[str]) -> Iterator[Keys]:
    """Yield the good images of a group, many at a time."""
    status, checksums = (
        open_dataset(file.id, spec.name) for spec in (group.status, group.checksums)
    )
    own = group.sizes or group.shapes
    sizes = None if own is None else open_dataset(file.id, own.name)
    n_bytes = np.dtype(group.pixels.dtype).itemsize
    for start in range(0, group.n_rows, _BLOCK_ROWS):
        rows = range(start, min(start + _BLOCK_ROWS, group.n_rows))
        good = np.flatnonzero(rows_of(status, rows) == STATUS_OK)
        alike = sizes is None and not kinds
        shapes = np.ones((1 if alike else len(good), 3), np.uint64)
        if group.image is not None:
            shapes[:] = group.image.height, group.image.width, group.image.channels
        elif kinds:
            words = [zlib.crc32(kind.encode()) for kind in kinds[rows.start : rows.stop]]
            shapes[:, 0] = np.array(words, np.uint64)[good]
        if sizes is not None:
            found = rows_of(sizes, rows)[good]
            shapes[:, : found.shape[1]] = found
        yield Keys(number, good + start, mixed(rows_of(checksums, rows)[good], shapes, n_bytes))


def summary(found: list[Statistics], layout: Layout) -> str:
    """Return what the user should know of images that are there more than once; or nothing.

    Of several images a row of the first ones: masks are often alike.
    """
    n_each = len(layout.images)
    copies = sum(one.n_copies for one in found[::n_each])
    shared = [
        f"{one.n_elsewhere:,} of {group.name}"
        for one, group in zip(found[::n_each], layout.groups[::n_each], strict=True)
        if one.n_elsewhere
    ]
    said = []
    if copies:
        are = "is an exact copy of another" if copies == 1 else "are exact copies of others"
        where = " in the same group" * (len(layout.groups) > n_each)
        said.append(f"{copies:,} image{'s' * (copies > 1)} {are}{where}")
    if shared:
        more = f" and {len(shared) - 3:,} groups more" * (len(shared) > 3)
        said.append(f"some images are in more than one group ({', '.join(shared[:3])}{more})")
    if not said:
        return ""
    return f"{'; '.join(said)}: h5ingest show --duplicates lists them"
