"""Images that were decoded twice, on two ranks or in two runs, for a part of their pixels each.

A chunk of compressed pixels may begin inside an image. If that image's file is not the same both
times, its pixels are of two images. So what is stored of each of those few is read once more, and
compared with the checksum of whoever decoded it for its first part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.core.layout import DatasetSpec, Layout
from h5ingest.core.schema import STATUS_FAILED
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.journal_records import Undone, pack
from h5ingest.storage.raw_file import reopened


class TornImage(NamedTuple):
    """An image whose stored pixels are not those of one file, or that fails for another reason."""

    group: int
    """Position of the group in the layout."""
    row: int
    """Row within the group."""
    start: int
    """First element in `pixels`; in a stack its row."""
    stop: int
    """Behind the last."""
    name: str = ""
    """HDF5 path of its dataset, in a tree."""


def find_torn(partial: Path, layout: Layout, joints: Iterable[tuple[int, int]]) -> list[TornImage]:
    """Return which images at the given (group, element) are torn. Not collective: rank 0 only.

    Raises:
        OutputError: the file cannot be read.
    """
    found = []
    with output_errors(f"{partial}: cannot be read"), h5py.File(partial, "r") as file:
        for number, element in sorted(set(joints)):
            group = layout.groups[number]
            assert group.offsets is not None, "no other layout has images on two ranks"
            offsets = file[group.offsets.name]
            row = bisect_left(offsets, element) - 1  # it begins before that, and ends behind it
            start, stop = offsets[row : row + 2].tolist()
            pixels = file[group.pixels.name][start:stop]
            if xxh3_64_intdigest(pixels.data) != int(file[group.checksums.name][row]):
                found.append(TornImage(number, row, start, stop))
    return found


def undo(layout: Layout, torn: Iterable[TornImage]) -> bytes:
    """Return the journal's records that have the images made again if the job ends here."""
    records = []
    for group, _, start, stop, _ in torn:
        spec = layout.groups[group].pixels
        chunk = spec.chunk_rows or 1
        end = min(-(-stop // chunk) * chunk, spec.shape[0])
        records.append(Undone(group, start // chunk * chunk, end))
    return pack(records)


def blank(
    partial: Path,
    layout: Layout,
    torn: Sequence[TornImage],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Store zeros and status 2 in place of images; `beat` for each. Not collective: rank 0 only.

    Raises:
        OutputError: the file system refuses.
    """
    with reopened(partial, "the final pass") as file:
        for number, row, start, stop, name in torn:
            beat()
            group = layout.groups[number]
            pixels = file[name or group.pixels.name]
            place = slice(None) if name else slice(start, stop)
            n_rows, *row_shape = pixels.shape
            zeros = np.zeros((n_rows if name else stop - start, *row_shape), pixels.dtype)
            pixels[place] = zeros
            file[group.checksums.name][row] = xxh3_64_intdigest(zeros.data)
            file[group.status.name][row] = STATUS_FAILED
            if group.sizes is not None and group.image is not None:
                file[group.sizes.name][row] = group.image.shape[:2]
            if group.chunk_checksums is not None and not name:
                _sum_chunks(file, group.pixels, group.chunk_checksums, range(start, stop))
            elif group.chunk_checksums is not None:
                stored = zeros.tobytes()
                if pixels.chunks:
                    _, stored = pixels.id.read_direct_chunk((0,) * pixels.ndim)
                file[group.chunk_checksums.name][row] = xxh3_64_intdigest(stored)


def _sum_chunks(file: h5py.File, pixels: DatasetSpec, sums: DatasetSpec, changed: range) -> None:
    """Store the checksums of the chunks that have these elements, or rows."""
    dataset, each = file[pixels.name].id, pixels.chunk_rows or 1
    for chunk in range(changed.start // each, -(-changed.stop // each)):
        _, stored = dataset.read_direct_chunk((chunk * each, *(0 for _ in pixels.shape[1:])))
        file[sums.name][chunk] = xxh3_64_intdigest(stored)
