"""Which images of a file are there more than once: in a group, and in several, which is leakage.

May not: write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from h5ingest.core import copies
from h5ingest.core.schema import STATUS_OK, read_header
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.stored_group import StoredGroup


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of them is."""

    group: str
    """Name of the HDF5 group; empty where the file has none."""
    image: str | None
    """Which of the images of a row it is, after the first; None: the first, or the only one."""
    row: int
    path: str
    """Of its source, as the manifest had it."""

    @property
    def where(self) -> str:
        """Group, image and row, for people."""
        return " ".join([*filter(None, (self.group, self.image)), f"row {self.row:,}"])


def duplicates(
    path: str | os.PathLike[str], *, group: str | None = None
) -> Iterator[tuple[Place, ...]]:
    """Yield the images that are there more than once: all places of one, in order.

    Two are the same if their checksums, shapes and types are. A failed image is none. Of several
    images a row, the first ones are compared with each other, then the second ones, and so on.
    With `group` only what is there more than once in this group.

    Raises:
        OutputError: the file cannot be read, or is not one of h5ingest.
        UsageError: there is no such group.
    """
    handle = ForkSafeFile(os.path.abspath(path))
    try:
        with handle as file:
            header = read_header(Attributes(file), path)
            names = header.groups if group is None else (group,)
            prefixes = [header.prefix(name) for name in names] or [""]
            columns = [
                [
                    StoredGroup(handle, file, header.images_of(prefix)[number], header.layout)
                    for prefix in prefixes
                ]
                for number in range(1 + len(header.images))
            ]
        for image, groups in zip((None, *header.images), columns, strict=True):
            yield from _among(handle, groups, names, image)
    finally:
        handle.close()


def _among(
    handle: ForkSafeFile, groups: list[StoredGroup], names: Sequence[str], image: str | None
) -> Iterator[tuple[Place, ...]]:
    """Yield what is there more than once among these images."""

    def place(number: int, row: int) -> Place:
        (path,) = groups[number].paths(range(row, row + 1))
        return Place(names[number] if names else "", image, row, os.fsdecode(path))

    n_images = sum(each.n_rows for each in groups)
    for part in copies.find(lambda: _keys(handle, groups), n_images):
        numbers, rows = part.groups.tolist(), part.rows.tolist()
        for start, stop in pairwise(part.starts.tolist()):
            yield tuple(map(place, numbers[start:stop], rows[start:stop]))


def _keys(handle: ForkSafeFile, groups: list[StoredGroup]) -> Iterator[copies.Keys]:
    for number, group in enumerate(groups):
        good = np.flatnonzero(group.status == STATUS_OK)
        rows = range(group.n_rows)
        if group.row_shape and group.dtype is not None:
            shapes = np.array([(*group.row_shape, 1)[:3]], np.uint64)
            n_bytes = np.array([group.dtype.itemsize], np.uint64)
            if group.sizes is not None:
                shapes = np.repeat(shapes, len(good), axis=0)
                shapes[:, :2] = group.sizes[good]
        else:
            with handle:
                kinds = group.kinds(rows, group.names(rows))[good].astype(np.uint64)
            shapes, n_bytes = kinds[:, :3], kinds[:, 3]
        if group.dtype is None and group.shapes is not None:  # image files: their bytes say it all
            n_bytes = np.ones(1, np.uint64)
        yield copies.Keys(number, good, copies.mixed(group.checksums[good], shapes, n_bytes))


def lines(path: str | os.PathLike[str], *, group: str | None = None) -> Iterator[str]:
    """Yield the lines that `show --duplicates` prints; see `duplicates`."""
    n_sets = n_images = n_leaks = 0
    for places in duplicates(path, group=group):
        n_sets, n_images = n_sets + 1, n_images + len(places)
        leaks = len({place.group for place in places}) > 1
        n_leaks += leaks
        yield f"{len(places)} copies of one image" + ", in more than one group" * leaks
        for place in places:
            yield f"  {place.where}  {place.path}"
    if not n_sets:
        yield "no image occurs more than once"
        return
    occur = "image occurs" if n_sets == 1 else "images occur"
    said = f"{n_sets:,} {occur} more than once, {n_images:,} times in all"
    yield said + f"; {n_leaks:,} of them in more than one group" * bool(n_leaks)
