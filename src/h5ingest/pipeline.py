"""The work loop of one rank: read, decode, checksum, write, a batch at a time.

One buffer serves the whole run. A sample that cannot be read becomes zeros, a status and a
`Failure`; the loop goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest import source
from h5ingest.decode import decode_into
from h5ingest.errors import Failure, SampleError
from h5ingest.layout import STATUS_FAILED, STATUS_OK, Layout
from h5ingest.packed import PackedStrings
from h5ingest.storage.writer import Writer


@dataclass(slots=True)
class Work:
    """What one rank has done so far."""

    n_done: int = 0
    """Images stored, failed ones included."""
    n_read_bytes: int = 0
    """Bytes of the files decoded."""
    n_written_bytes: int = 0
    """Bytes of pixels written."""
    failures: list[Failure] = field(default_factory=list)
    """Images that could not be stored."""
    decode_s: float = 0.0
    """Seconds in reading, decoding and checksums."""
    write_s: float = 0.0
    """Seconds in writing."""


def store(
    paths: PackedStrings,
    rows: range,
    batches: Sequence[range],
    *,
    root: bytes,
    cache: dict[int, bytes],
    layout: Layout,
    writer: Writer,
    beat: Callable[[Work], None],
) -> Work:
    """Store the images of `rows`, their checksums and status. Not collective.

    Args:
        paths: one per row.
        rows: global rows of this rank.
        batches: those rows again, in order, cut into whole chunks.
        root: folder that relative paths are relative to.
        cache: bytes of files that have been read already, by global row; emptied.
        layout: the datasets.
        writer: takes the batches.
        beat: called now and then.
    """
    work = Work()
    # buffer: (rows of the longest batch, H, W[, C])
    longest = max(map(len, batches), default=0)
    buffer = np.empty((longest, *layout.image.shape), layout.image.dtype)
    checksums = np.zeros(len(rows), np.uint64)
    status = np.full(len(rows), STATUS_OK, np.uint8)
    path = iter(paths)
    for batch in batches:
        started_s = time.perf_counter()
        for index, image in zip(batch, buffer, strict=False):
            name = next(path)
            try:
                data = cache.pop(index, None)
                if data is None:
                    data, _ = source.read(os.path.join(root, name))
                decode_into(data, image)
                work.n_read_bytes += len(data)
            except SampleError as error:
                image[...] = 0
                status[index - rows.start] = STATUS_FAILED
                work.failures.append(error.at(index, name))
            checksums[index - rows.start] = xxh3_64_intdigest(image)
            work.n_done += 1
            if not index & 15:
                beat(work)
        decoded_s = time.perf_counter()
        pixels = buffer[: len(batch)]
        writer.write(layout.images.name, batch, pixels)
        work.n_written_bytes += pixels.nbytes
        work.decode_s += decoded_s - started_s
        work.write_s += time.perf_counter() - decoded_s
    writer.write(layout.checksums.name, rows, checksums)
    writer.write(layout.status.name, rows, status)
    return work
