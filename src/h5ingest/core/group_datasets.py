"""The datasets of one group, in each layout: their shapes, chunks and filters.

May not: know a rank, import h5py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from h5ingest.core import schema
from h5ingest.core.errors import UsageError
from h5ingest.core.layout import CODED_CHANNELS, DatasetSpec, Filter, Group, ImageSpec
from h5ingest.core.units import MIB

EXTENT_CHUNK_BYTES: Final = MIB // 2
"""Filtered pixels in a chunk of `ragged`: a reader has to decode that much to see any image."""
_LARGE_IMAGE: Final = 64 * 1024
"""Bytes from which an image of a stack gets a chunk of its own."""
_CHUNK_LIMIT: Final = 2**32 - 1
"""Bytes in an HDF5 chunk (HDF5 specification, IV.A.2.i: dataset chunk sizes are 32 bits)."""


def default_chunk_rows(image: ImageSpec, n_samples: int, filters: tuple[Filter, ...] = ()) -> int:
    """Return the images per chunk: one if it has 64 KiB or more, else about 1 MiB of them.

    Filtered chunks hold 512 KiB: a reader has to decode a whole one for any image in it, and
    smaller ones would make the chunk index, whose cost is per chunk, count. Where a filter codes
    images, a chunk is one.

    >>> default_chunk_rows(ImageSpec(height=28, width=28, channels=1, dtype="uint8"), 60_000)
    1337
    >>> default_chunk_rows(ImageSpec(height=512, width=768, channels=3, dtype="uint8"), 24)
    1
    """
    if image.n_bytes >= _LARGE_IMAGE or any(each.codes_images for each in filters):
        return 1
    wanted = MIB // 2 if filters else MIB
    return min(wanted // image.n_bytes, n_samples)


def not_coded(what: str) -> UsageError:
    """Return the error that images are not of `CODED_CHANNELS`; `what` says which, and of what."""
    return UsageError(
        f"--compression htj2k takes gray and RGB images only; {what}. --channels rgb drops an "
        f"alpha channel; zstd:9 and blosc2:zstd:9 take any"
    )


def stack_group(
    name: str,
    prefix: str,
    n_rows: int,
    image: ImageSpec,
    *,
    chunk_rows: int | None = None,
    filters: tuple[Filter, ...] = (),
    padded: bool = False,
) -> Group:
    """Return the datasets of images that all have the same spec.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    default = default_chunk_rows(image, n_rows, filters)
    rows = min(chunk_rows or default, n_rows)
    if any(each.codes_images for each in filters):
        if image.channels not in CODED_CHANNELS:
            raise not_coded(f"the images{f' of group {name}' * bool(name)} are {image.colour}")
        if rows > 1:
            raise UsageError(
                f"--chunk: expected 1, as a chunk of --compression htj2k is one image, got {rows}"
            )
    if image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(f"an image of {image} is larger than an HDF5 chunk may be (4 GiB)")
    if rows * image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(
            f"--chunk: expected at most {_CHUNK_LIMIT // image.n_bytes} images of {image} in a "
            f"chunk (HDF5 allows 4 GiB), got {rows}"
        )
    pixels = DatasetSpec(
        name=schema.IMAGES.at(prefix),
        shape=(n_rows, *image.shape),
        dtype=image.dtype,
        chunk_rows=rows,
        filters=filters,
        dims=schema.IMAGES.dims[: 1 + len(image.shape)],
    )
    sizes = _per_row(prefix, schema.SIZES, n_rows) if padded else None
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=image, pixels=pixels, sizes=sizes,
        **_records(prefix, n_rows, pixels.n_chunks, filters),
    )  # fmt: skip


def extent_group(
    kind: str,
    name: str,
    prefix: str,
    n_rows: int,
    n_elements: int,
    dtype: str,
    *,
    filters: tuple[Filter, ...] = (),
) -> Group:
    """Return the datasets of images of any size, or of files, one after the other."""
    if not n_elements:  # HDF5 has no chunk of nothing
        filters = ()
    chunk = EXTENT_CHUNK_BYTES // np.dtype(dtype).itemsize if filters else None
    pixels = DatasetSpec(
        name=schema.PIXELS[kind].at(prefix),
        shape=(n_elements,),
        dtype=dtype,
        chunk_rows=min(chunk, n_elements) if chunk else None,
        filters=filters,
        dims=schema.PIXELS[kind].dims,
    )
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=None, pixels=pixels,
        offsets=_per_row(prefix, schema.OFFSETS, n_rows),
        shapes=_per_row(prefix, schema.SHAPES, n_rows),
        **_records(prefix, n_rows, pixels.n_chunks, filters),
    )  # fmt: skip


def tree_group(
    name: str, prefix: str, n_rows: int, n_bytes: int, *, filters: tuple[Filter, ...] = ()
) -> Group:
    """Return the datasets beside images that have a dataset each."""
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=None,
        pixels=DatasetSpec(name="", shape=(n_bytes,), dtype="uint8", filters=filters),
        **_records(prefix, n_rows, n_rows, filters),
    )  # fmt: skip


def _records(
    prefix: str, n_rows: int, n_chunks: int, filters: tuple[Filter, ...]
) -> dict[str, Any]:
    chunks = _per_row(prefix, schema.CHUNK_CHECKSUMS, n_chunks)
    return {
        "chunk_checksums": chunks if filters else None,  # else those of the images say as much
        "status": replace(_per_row(prefix, schema.STATUS, n_rows), enum=schema.STATUS_NAMES),
        "checksums": _per_row(prefix, schema.CHECKSUMS, n_rows),
    }


def _per_row(prefix: str, dataset: schema.StandardDataset, n_rows: int) -> DatasetSpec:
    return DatasetSpec(
        name=dataset.at(prefix),
        shape=(n_rows + dataset.extra_rows, *dataset.row_shape),
        dtype=dataset.dtype,
        dims=dataset.dims,
    )
