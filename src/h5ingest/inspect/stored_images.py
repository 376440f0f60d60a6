"""The images of a group as they are stored, a block of rows at a time, for `verify`.

They are read through HDF5 alone, not as `ImageStore` does: what is verified is what every program
finds in the file, and a mistake of `reading` cannot hide here. What cannot be read is a value, not
an exception: the rows after it are looked at all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any

import h5py
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.layout_kinds import KINDS
from h5ingest.inspect.findings import Sign, Unread
from h5ingest.inspect.readable import Readable, attempt, numbers

Stored = NDArray[Any] | Unread
"""An image, (H, W) or (H, W, C), or the bytes of an image file, (n,); or why it cannot be read."""


def images(
    readable: Readable, prefix: str, layout: str, rows: range, sign: Sign
) -> Iterator[Stored]:
    """Yield the images of these rows of a group."""
    kind = KINDS[layout]
    if kind.dataset_per_image:
        for name in readable.column(schema.TREE_NAMES.at(prefix), rows):
            yield name if isinstance(name, Unread) else _read(readable, name, sign)
    elif kind.uniform:
        stack = readable.open(schema.IMAGES.at(prefix))
        yield from _by_chunks(stack, rows, stack.chunks[0] if stack.chunks else 1)
    else:
        yield from _extents(readable, prefix, layout, rows, sign)


def shapes(
    readable: Readable, prefix: str, layout: str, rows: range
) -> Iterator[tuple[int, ...] | Unread | None]:
    """Yield the shape of each image that the file has apart from the pixels.

    (H, W, C) where images differ, (H, W) where they are padded, None where the dataset has it.
    """
    known = schema.known_datasets(layout)  # a tree may have an image of such a name
    for dataset in (schema.SHAPES, schema.SIZES):
        if dataset in known and isinstance(readable.dataset(dataset.at(prefix)), h5py.Dataset):
            found = readable.column(dataset.at(prefix), rows)
            return (each if isinstance(each, Unread) else tuple(each) for each in found)
    return repeat(None)


def _read(readable: Readable, name: bytes, sign: Sign) -> Stored:
    def read() -> NDArray[Any]:
        dataset = readable.open(name)
        sign.allow(dataset.nbytes)
        return numbers(dataset[()])

    return attempt(read)


def _by_chunks(stack: h5py.Dataset, rows: range, step: int) -> Iterator[Stored]:
    """Yield rows; if they cannot be read together, those of each chunk by themselves."""
    found = attempt(lambda: stack[rows.start : rows.stop])
    if not isinstance(found, Unread) or len(rows) <= step:
        yield from repeat(found, len(rows)) if isinstance(found, Unread) else found
        return
    for start in range(0, len(rows), step):
        yield from _by_chunks(stack, rows[start : start + step], step)


def _extents(
    readable: Readable, prefix: str, layout: str, rows: range, sign: Sign
) -> Iterator[Stored]:
    """Yield images of any size, or files as (n,) bytes."""
    pixels = readable.open(schema.PIXELS[layout].at(prefix))
    are_files, n_elements = KINDS[layout].keeps_files, len(pixels)

    def read(start: int, stop: int, shape: list[int] | Unread) -> NDArray[Any]:
        sign.allow((stop - start) * pixels.dtype.itemsize)
        image = numbers(pixels[start:stop])
        if are_files or isinstance(shape, Unread) or min(shape) < 0:
            return image
        fills = image.size == math.prod(shape)
        return image.reshape(shape if shape[2] > 1 else shape[:2]) if fills else image

    offsets = readable.column(schema.OFFSETS.at(prefix), range(rows.start, rows.stop + 1))
    of_rows = readable.column(schema.SHAPES.at(prefix), rows)
    for start, stop, shape in zip(offsets, offsets[1:], of_rows, strict=False):
        if isinstance(start, Unread) or isinstance(stop, Unread):
            yield start if isinstance(start, Unread) else stop
        elif not 0 <= start <= stop <= n_elements:
            yield Unread(f"expected offsets within 0 to {n_elements:,}, found {start} to {stop}")
        else:
            yield attempt(partial(read, start, stop, shape))
