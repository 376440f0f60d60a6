"""The images of a group as they are stored, a block of rows at a time, for `verify`.

They are read through HDF5 alone, not as `ImageStore` does: what is verified is what every program
finds in the file, and a mistake of `reading` cannot hide here. What cannot be read is a value, not
an exception: the rows after it are looked at all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import one_line
from h5ingest.core.layout_kinds import KINDS
from h5ingest.mpi.comm import Comm

_BLOCK_BYTES: Final = 16 * 1024**2
_BLOCK_ROWS: Final = 256 * 1024

Stored = NDArray[Any] | str
"""An image, (H, W) or (H, W, C), or the bytes of an image file, (n,); or why it cannot be read."""


def blocks(
    file: h5py.File, prefix: str, layout: str, comm: Comm
) -> Iterator[tuple[range, Iterator[Stored]]]:
    """Yield (rows, their images) of this rank's share of a group."""
    n_rows = len(file[schema.STATUS.at(prefix)])
    kind = KINDS[layout]
    if kind.dataset_per_image:
        names = file[schema.TREE_NAMES.at(prefix)]
        for rows in _share(n_rows, 1, _BLOCK_ROWS, comm):
            yield rows, (_read(file, name, ()) for name in names[rows.start : rows.stop])
    elif kind.uniform:
        images = file[schema.IMAGES.at(prefix)]
        step = images.chunks[0] if images.chunks else 1
        row_bytes = images.dtype.itemsize * int(np.prod(images.shape[1:]))
        block = max(1, _BLOCK_BYTES // (row_bytes * step)) * step
        for rows in _share(n_rows, step, block, comm):
            yield rows, _by_chunks(images, rows, step)
    else:
        for rows in _share(n_rows, 1, _BLOCK_ROWS, comm):
            yield rows, _extents(file, prefix, layout, rows)


def stored_shapes(
    file: h5py.File, prefix: str, layout: str, cut: slice
) -> Iterator[tuple[int, ...] | None]:
    """Yield the shape of each image that the file has apart from the pixels.

    (H, W, C) where images differ, (H, W) where they are padded, None where the dataset has it.
    """
    known = schema.known_datasets(layout)  # a tree may have an image of such a name
    for dataset in (schema.SHAPES, schema.SIZES):
        if dataset in known and dataset.at(prefix) in file:
            return map(tuple, file[dataset.at(prefix)][cut].tolist())
    return repeat(None)


def _read(found: Any, *keys: Any) -> Stored:
    """Return what keys lead to, or why it cannot be read: a damaged chunk, a name of nothing."""
    try:
        for key in keys:
            found = found[key]
    except (OSError, KeyError, RuntimeError) as error:  # all that h5py makes of HDF5's errors
        return one_line(error)
    values: NDArray[Any] = found
    return values


def _by_chunks(target: h5py.Dataset, rows: range, step: int) -> Iterator[Stored]:
    """Yield rows; if they cannot be read together, those of each chunk by themselves."""
    images = _read(target, slice(rows.start, rows.stop))
    if not isinstance(images, str) or len(rows) <= step:
        yield from repeat(images, len(rows)) if isinstance(images, str) else images
        return
    for start in range(rows.start, rows.stop, step):
        yield from _by_chunks(target, range(start, min(start + step, rows.stop)), step)


def _extents(file: h5py.File, prefix: str, layout: str, rows: range) -> Iterator[Stored]:
    """Yield images of any size, or files as (n,) bytes."""
    pixels = file[schema.PIXELS[layout].at(prefix)]
    are_files = KINDS[layout].keeps_files
    offsets = file[schema.OFFSETS.at(prefix)][rows.start : rows.stop + 1].tolist()
    shapes = file[schema.SHAPES.at(prefix)][rows.start : rows.stop].tolist()
    for start, stop, shape in zip(offsets, offsets[1:], shapes, strict=False):
        image = _read(pixels, slice(start, stop))
        if not (are_files or isinstance(image, str)) and image.size == int(np.prod(shape)):
            image = image.reshape(shape if shape[2] > 1 else shape[:2])
        yield image


def _share(n_rows: int, step: int, block: int, comm: Comm) -> Iterator[range]:
    """Yield this rank's rows in blocks: whole chunks of `step` rows."""
    n_chunks = -(-n_rows // step)
    ends = (n_chunks * rank // comm.size * step for rank in (comm.rank, comm.rank + 1))
    start, stop = (min(n_rows, end) for end in ends)
    for first in range(start, stop, block):
        yield range(first, min(first + block, stop))
