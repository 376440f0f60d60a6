"""Compressed chunks as they are stored, each against its checksum.

It finds what no row shows: bytes that a filter does not look at, and checksums that were changed,
which readers go by (`reading.checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, repeat
from typing import Any

import h5py
from xxhash import xxh3_64_intdigest

from h5ingest.core import schema
from h5ingest.core.schema import FileHeader
from h5ingest.inspect.findings import Unread
from h5ingest.inspect.readable import Readable, attempt
from h5ingest.reading.checks import chunking_of, fit_chunks, fit_image


def chunk_problems(
    readable: Readable, header: FileHeader, prefix: str, rows: range
) -> Iterator[list[str]]:
    """Yield for each row which of the chunks that begin in it are not as they were stored.

    Row 0 also has what is wrong with the checksums as a whole. Whoever reads an image after its
    chunks were asked for finds their bytes in memory.
    """
    found = attempt(lambda: _of_rows(readable, header, prefix, rows))
    if isinstance(found, Unread):
        found = f"{schema.CHUNK_CHECKSUMS.at(prefix)}: cannot be compared: {found.reason}"
    if isinstance(found, str):
        return iter([[found] if row == 0 else [] for row in rows])
    return repeat([], len(rows)) if found is None else found


def _of_rows(
    readable: Readable, header: FileHeader, prefix: str, rows: range
) -> Iterator[list[str]] | str | None:
    """Return what is wrong for each row, or on the whole; None: there is nothing to compare."""
    name = schema.CHUNK_CHECKSUMS.at(prefix)
    sums = readable.dataset(name)
    if header.version == 1 or isinstance(sums, Unread):
        return None  # which has been said
    pixels = schema.PIXELS.get(header.layout)
    bounds: list[Any] = [*rows, rows.stop]
    if pixels is None:
        filters = None if sums is None else chunking_of(sums)
        if filters is None:
            return None
        sum_of = _of_tree(readable, schema.TREE_NAMES.at(prefix), filters, rows)
        return _compared(readable, name, sum_of, bounds, 1)
    images = readable.open(pixels.at(prefix))
    if sums is None:
        return f"expected a dataset {name}, found none" if images.filters else None
    if not fit_chunks(sums, images):
        return None
    if len(pixels.dims) == 1:
        offsets = readable.column(schema.OFFSETS.at(prefix), range(rows.start, rows.stop + 1))
        wrong = Unread("an offset that cannot be")
        bounds = [at if at in range(len(images) + 1) else wrong for at in offsets]
    return _compared(readable, name, _of_dataset(images), bounds, images.chunks[0])


def _compared(
    readable: Readable,
    name: str,
    sum_of: Callable[[int], int | None],
    bounds: list[int | Unread],
    each: int,
) -> Iterator[list[str]]:
    """Yield for each row which of the chunks that begin in it have another checksum.

    Args:
        readable: the file.
        name: of the dataset of checksums.
        sum_of: returns the checksum of a chunk as it is stored; None: it has none.
        bounds: (rows + 1,) where rows begin on the axis that the chunks divide.
        each: how much of that axis a chunk has.
    """
    first = [None if isinstance(at, Unread) else -(-at // each) for at in bounds]
    known = [chunk for chunk in first if chunk is not None]
    chunks = range(min(known, default=0), max(known, default=0))
    expected = readable.column(name, chunks) if chunks else []
    for start, stop in pairwise(first):
        problems = []
        for chunk in range(0) if start is None or stop is None else range(start, stop):
            wanted, found = expected[chunk - chunks.start], attempt(partial(sum_of, chunk))
            if isinstance(wanted, Unread) or isinstance(found, Unread) or found is None:
                continue  # rows say it
            if found != wanted:
                problems.append(
                    f"{name}: chunk {chunk}: expected checksum {wanted:016x}, found {found:016x}"
                )
        yield problems


def _of_dataset(images: h5py.Dataset) -> Callable[[int], int]:
    rows, beyond = images.chunks[0], (0,) * (images.ndim - 1)
    return lambda chunk: _sum(images, (chunk * rows, *beyond))


def _of_tree(
    readable: Readable, names: str, filters: str, rows: range
) -> Callable[[int], int | None]:
    of_rows = readable.column(names, rows)

    def found(row: int) -> int | None:
        name = of_rows[row - rows.start]
        if not (isinstance(name, bytes) and name):
            return None
        image = readable.open(name)
        if image.chunks is None and image.size < schema.FEWEST_FILTERED:
            return xxh3_64_intdigest(image[()].tobytes())
        return _sum(image, (0,) * image.ndim) if fit_image(filters, image) else None

    return found


def _sum(dataset: Any, at: tuple[int, ...]) -> int:
    return xxh3_64_intdigest(dataset.id.read_direct_chunk(at)[1])
