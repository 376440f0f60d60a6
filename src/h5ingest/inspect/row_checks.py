"""Rows of a group, each judged: is its image what its checksum, its shape and its source say?"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.schema import CHECKSUMS, PATHS, STATUS, STATUS_FAILED, STATUS_MISSING, FileHeader
from h5ingest.inspect.chunk_checks import chunk_problems
from h5ingest.inspect.findings import Checked, Sign, Unread
from h5ingest.inspect.readable import Readable
from h5ingest.inspect.stored_images import Stored, images, shapes

if TYPE_CHECKING:
    from h5ingest.inspect.sources import Sources

_OF_A_SOURCE: Final = 20
"""Bytes that are decoded and converted for one of an image with a source, at most."""


def check_rows(
    readable: Readable,
    header: FileHeader,
    prefix: str,
    rows: range,
    sources: Sources | None,
    sign: Sign,
) -> Checked:
    """Judge consecutive rows of a group, and the compressed chunks that begin in them.

    The rows are whole chunks. Without `sources`, these are not looked at.
    """
    layout = header.layout
    status = readable.column(STATUS.at(prefix), rows)
    checksums = readable.column(CHECKSUMS.at(prefix), rows)
    # Without sources, those of bad rows alone.
    paths = readable.column(PATHS.at(prefix), rows) if sources is not None else None
    sums = np.zeros(len(rows), np.uint64)
    bad: list[tuple[int, str, str]] = []
    n_failed = n_bytes = 0
    chunks: list[tuple[int, str]] = []
    of_rows = zip(
        chunk_problems(readable, header, prefix, rows),  # first, as decoding reads them once more
        images(readable, prefix, layout, rows, sign),
        shapes(readable, prefix, layout, rows),
        strict=False,
    )
    for k, (of_chunks, image, shape) in enumerate(of_rows):
        chunks += [(rows[k], problem) for problem in of_chunks]
        if not isinstance(image, Unread):
            sums[k] = xxh3_64_intdigest(np.ascontiguousarray(image).data)
            n_bytes += image.nbytes
        reason = _reason(layout, status[k], image, shape, int(sums[k]), checksums[k])
        if reason is None and status[k] == STATUS_FAILED:
            n_failed += 1
        elif reason is None and sources is not None and paths is not None:
            assert not isinstance(image, Unread), "there would be a reason"
            sign.allow(_OF_A_SOURCE * image.nbytes)
            reason = _compare(sources, prefix, paths[k], image, shape)
        if reason is not None:
            bad.append((rows[k], path_of(readable, prefix, rows[k]), reason))
        sign.beat(k + 1, n_bytes, len(bad))
    return Checked(
        bad=bad,
        chunks=chunks,
        sums=sums,
        n_failed=n_failed,
        n_bytes=n_bytes,
        n_sources=0 if sources is None else sources.n_done,
        n_other=0 if sources is None else sources.n_other,
        seen=Counter() if sources is None else sources.expected.seen,
    )


def path_of(readable: Readable, prefix: str, row: int) -> str:
    """Return the path of a row's source for messages."""
    (path,) = readable.column(PATHS.at(prefix), range(row, row + 1))
    return os.fsdecode(path) if isinstance(path, bytes) else "?"


def _reason(
    layout: str, status: Any, image: Stored, shape: Any, found: int, expected: Any
) -> str | None:
    """Return what is wrong with a row by what the file itself says of it, if anything."""
    if isinstance(status, Unread):
        return f"its status cannot be read: {status.reason}"
    if status == STATUS_MISSING:
        return "it was never stored (status 0)"
    if isinstance(image, Unread):
        return f"cannot be read: {image.reason}"
    if isinstance(expected, Unread):
        return f"its checksum cannot be read: {expected.reason}"
    if found != expected:
        return f"expected checksum {expected:016x}, found {found:016x}"
    if isinstance(shape, Unread):
        return f"its shape cannot be read: {shape.reason}"
    if image.ndim == 1 and not KINDS[layout].keeps_files:
        return f"expected pixels of the shape {shape}, found {image.size}"
    return None


def _compare(
    sources: Sources, prefix: str, path: Any, image: NDArray[Any], shape: Any
) -> str | None:
    if isinstance(path, Unread):
        return f"the path of its source cannot be read: {path.reason}"
    try:
        return sources.compare(prefix, path, image, shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # `options` are damaged
        return f"cannot be compared with its source: {type(error).__name__}: {error}"
