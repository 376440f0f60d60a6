"""The datasets of a tree: names that nothing can escape or take twice, and viewers' marks."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from h5ingest.core.errors import OutputError
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.layout import DatasetSpec, Group
from h5ingest.core.schema import FEWEST_FILTERED, IN_TREES
from h5ingest.storage.datasets import create, create_group
from h5ingest.storage.writer import Image


class TreeDatasets:
    """The datasets of all images, on rank 0. Not collective."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """Begin with the groups of the layout."""
        prefixes = [group.prefix for group in groups]
        self._prefixes = prefixes
        self._filters = [group.pixels.filters for group in groups]
        self._taken = {f"{prefix}/{name}" for prefix in prefixes for name in IN_TREES}
        self._taken |= {*prefixes}  # of further images
        self._folders: dict[str, str] = {}
        """Path wanted -> path given."""
        self._numbers: dict[str, int] = {}
        """Path wanted -> last number that was added to it."""
        self.names: dict[int, list[tuple[str, str]]] = {i: [] for i in range(len(prefixes))}
        """group -> (HDF5 path, shape and type) of each row's dataset."""

    def add(self, file: Any, image: Image) -> Any:
        """Create the dataset of one image and return it.

        Raises:
            OutputError: the name that is given is that of something else.
        """
        name = self._given(file, image) if image.name else self._chosen(file, image)
        self._taken.add(name)
        self.names[image.group].append((name, f"{image.dtype}{image.shape}"))
        # No chunk holds nothing; a few values do not get smaller, and szip refuses them.
        filters = self._filters[image.group]
        if math.prod(image.shape) < FEWEST_FILTERED:
            filters = ()
        spec = DatasetSpec(
            name=name,
            shape=image.shape,
            dtype=image.dtype,
            chunk_rows=image.shape[0] if filters else None,
            filters=filters,
        )
        dataset = create(file, spec)
        _mark(dataset, image.shape)
        return dataset

    def _chosen(self, file: Any, image: Image) -> str:
        """Return the name of the image's file, without its ending.

        If it is taken it gets `_1`, `_2` … in the order of the manifest.
        """
        folder = self._prefixes[image.group]
        if image.folder:
            folder = self._folder(file, folder, os.fsdecode(image.folder))
        wanted = folder + group_prefix(os.fsdecode(image.stem))
        name = wanted
        while name in self._taken:
            number = self._numbers[wanted] = self._numbers.get(wanted, 0) + 1
            name = f"{wanted}_{number}"
        return name

    def _given(self, file: Any, image: Image) -> str:
        """Return the name that is given, and create the HDF5 group in which it is.

        Raises:
            OutputError: something else has one of the names.
        """
        name = os.fsdecode(image.name)
        folder = name.rpartition("/")[0]
        new = folder != self._prefixes[image.group] and folder not in self._folders
        for taken in {name, folder} if new else {name}:
            if taken in self._taken:
                raise OutputError(f"expected names of one image each, found {taken} twice")
        if new:
            self._folders[folder] = folder
            self._taken.add(folder)
            create_group(file, folder)
        return name

    def _folder(self, file: Any, prefix: str, name: str) -> str:
        wanted = folder = prefix + group_prefix(name)
        if wanted in self._folders:
            return self._folders[wanted]
        while folder in self._taken:
            folder += "_1"
        self._taken.add(folder)
        self._folders[wanted] = folder
        create_group(file, folder)
        return folder


def _mark(dataset: Any, shape: tuple[int, ...]) -> None:
    """Say that it is an image, as the HDF5 Image specification 1.2 has it, so that viewers know."""
    marks: dict[bytes, bytes | int] = {b"CLASS": b"IMAGE", b"IMAGE_VERSION": b"1.2"}
    if len(shape) == 2:
        marks |= {b"IMAGE_SUBCLASS": b"IMAGE_GRAYSCALE", b"IMAGE_WHITE_IS_ZERO": 0}
    elif shape[2] == 3:
        marks |= {b"IMAGE_SUBCLASS": b"IMAGE_TRUECOLOR", b"INTERLACE_MODE": b"INTERLACE_PIXEL"}
    for name, mark in marks.items():  # (h5py's own `attrs` take several times as long)
        value, kind, space = _attribute(mark)
        h5py.h5a.create(dataset, name, kind, space).write(value)


@functools.cache
def _attribute(mark: bytes | int) -> tuple[Any, Any, Any]:
    """Return the value of an attribute, its HDF5 type and its dataspace."""
    value = np.array(mark, np.uint8 if isinstance(mark, int) else None)
    return value, h5py.h5t.py_create(value.dtype), h5py.h5s.create(h5py.h5s.SCALAR)
