"""Compressed chunks as they are stored, each against its checksum.

It finds what no row shows: bytes that a filter does not look at, and checksums that were changed,
which readers go by (`reading.checks`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import h5py
from xxhash import xxh3_64_intdigest

from h5ingest.core import schema
from h5ingest.core.schema import FileHeader
from h5ingest.inspect.findings import Unread
from h5ingest.inspect.readable import Readable, attempt
from h5ingest.reading.checks import chunking_of, filter_ids, fit_chunks, fit_image


def chunk_problems(
    readable: Readable,
    header: FileHeader,
    prefix: str,
    share: tuple[int, int],
    beat: Callable[[], None],
) -> list[str]:
    """Return which chunks of a group's images are not as they were stored.

    Args:
        readable: the file.
        header: of the file.
        prefix: of the group.
        share: (k, n): the k-th of n parts of the chunks.
        beat: called now and then.
    """
    if header.version == 1:
        return []
    name = schema.CHUNK_CHECKSUMS.at(prefix)
    sums = readable.dataset(name)
    if isinstance(sums, Unread):
        return []  # which has been said
    pixels = schema.PIXELS.get(header.layout)
    if pixels is None:
        chunks = _of_tree(readable, schema.TREE_NAMES.at(prefix), sums)
    else:
        images = readable.open(pixels.at(prefix))
        if sums is None:
            missing = filter_ids(images) and share[0] == 0
            return [f"expected a dataset {name}, found none"] if missing else []
        chunks = _of_dataset(images) if fit_chunks(sums, images) else None
    if sums is None or chunks is None:
        return []
    n_chunks = len(sums)
    first, last = (n_chunks * k // share[1] for k in (share[0], share[0] + 1))
    expected = readable.column(name, range(first, last))
    problems = []
    for number, wanted in zip(range(first, last), expected, strict=True):
        beat()
        found = attempt(partial(chunks, number))
        if isinstance(wanted, Unread) or isinstance(found, Unread) or found is None:
            continue  # rows say it
        if found != wanted:
            problems.append(
                f"{name}: chunk {number}: expected checksum {wanted:016x}, found {found:016x}"
            )
    return problems


def _of_dataset(images: h5py.Dataset) -> Callable[[int], int | None]:
    rows, beyond = images.chunks[0], (0,) * (images.ndim - 1)
    return lambda number: _sum(images, (number * rows, *beyond))


def _of_tree(
    readable: Readable, names: str, sums: h5py.Dataset | None
) -> Callable[[int], int | None] | None:
    chunking = None if sums is None else chunking_of(sums)
    if chunking is None:
        return None

    def found(row: int) -> int | None:
        (name,) = readable.column(names, range(row, row + 1))
        if not (isinstance(name, bytes) and name):
            return None
        image = readable.open(name)
        return _sum(image, (0,) * image.ndim) if fit_image(chunking, image) else None

    return found


def _sum(dataset: Any, at: tuple[int, ...]) -> int:
    return xxh3_64_intdigest(dataset.id.read_direct_chunk(at)[1])
