"""Compressing chunks on the rank that has them, by HDF5 itself, without the output file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.layout import DatasetSpec, Filter
from h5ingest.images import htj2k
from h5ingest.storage.datasets import create, file_access

_NOT_APPLIED: Final = 1
"""Filter mask: the first filter was not applied."""
_MOST_COMPRESSORS: Final = 64
"""Shapes of images for which a rank keeps a compressor."""


class Compressor:
    """The filter pipeline of one dataset, applied to one chunk at a time.

    A private file in memory holds a dataset of exactly one chunk with the same filters. What HDF5
    stores there is what it would store in the output, for every filter that it knows, those that
    decline a chunk included.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        """Prepare for the chunks of a filtered dataset. Not collective."""
        assert spec.chunk_rows, "filters need chunks"
        self._shape = (spec.chunk_rows, *spec.shape[1:])
        access = file_access()
        access.set_fapl_core(2**20, False)  # grow by 1 MiB, no file
        # HDF5 takes files in memory for the same if their names are, and looks for one on the disk.
        name = f"/dev/null/h5ingest-{id(self):#x}".encode()
        self._file = h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fapl=access)
        self._dataset = create(self._file, replace(spec, name="/chunk", shape=self._shape))
        self.creation: Final = self._dataset.get_create_plist()
        """Properties of its creation."""
        self._space = h5py.h5s.create_simple(self._shape)
        self._origin = (0,) * len(self._shape)
        self._padded: NDArray[Any] | None = None

    def compress(self, rows: NDArray[Any]) -> tuple[int, bytes]:
        """Return (filter mask, bytes) of a chunk.

        Args:
            rows: (n, …), n up to the rows of a chunk, C-contiguous; the rest becomes zeros.
        """
        if len(rows) < self._shape[0]:  # the ragged last chunk: HDF5 stores whole ones
            if self._padded is None:
                self._padded = np.zeros(self._shape, rows.dtype)
            self._padded[: len(rows)] = rows
            self._padded[len(rows) :] = 0
            rows = self._padded
        self._dataset.write(self._space, self._space, rows)
        mask, data = self._dataset.read_direct_chunk(self._origin)
        return mask, data


def chunking_of(spec: DatasetSpec) -> str:
    """Return how a filtered dataset is cut and filtered once it is made: see `schema.chunking`."""
    return schema.chunking(Compressor(spec).creation)


def code(image: NDArray[Any]) -> tuple[int, bytes]:
    """Return (filter mask, bytes) of a chunk whose filter codes images: HDF5 does not see it.

    Pixels that it would not make smaller, or not give back, are stored as they are.

    Args:
        image: (H, W) or (H, W, 3), C-contiguous.
    """
    data = htj2k.encode(image)
    return (0, data) if data is not None else (_NOT_APPLIED, image.tobytes())


def compressor(spec: DatasetSpec) -> Callable[[NDArray[Any]], tuple[int, bytes]]:
    """Return what makes (filter mask, bytes) of the rows of one chunk of a filtered dataset."""
    if any(each.codes_images for each in spec.filters):
        return lambda rows: code(rows[0])
    return Compressor(spec).compress


def image_spec(shape: tuple[int, ...], dtype: str, filters: tuple[Filter, ...]) -> DatasetSpec:
    """Return an image of a tree as a dataset of one chunk."""
    return DatasetSpec(
        name="/image", shape=shape, dtype=dtype, chunk_rows=shape[0], filters=filters
    )


class ImageCompressor:
    """The filters of a tree's images, each of which is one chunk of its own shape."""

    def __init__(self, filters: tuple[Filter, ...]) -> None:
        """Prepare. Not collective."""
        self._filters = filters
        self._codes = any(each.codes_images for each in filters)
        self._compressors: dict[tuple[tuple[int, ...], str], Compressor] = {}

    def compress(self, image: NDArray[Any]) -> tuple[int, bytes]:
        """Return (filter mask, bytes) of an image, (H, W) or (H, W, C), C-contiguous."""
        if self._codes:
            return code(image)
        key = (image.shape, image.dtype.name)
        compressor = self._compressors.get(key)
        if compressor is None:
            if len(self._compressors) >= _MOST_COMPRESSORS:
                self._compressors.clear()
            spec = image_spec(*key, self._filters)
            compressor = self._compressors[key] = Compressor(spec)
        return compressor.compress(image)
