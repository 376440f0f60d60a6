"""The content digest of a finished file, worked out from what it says of its images.

May not: know ranks, look at a pixel: images enter by their checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from h5ingest.core import schema
from h5ingest.core.digest import ContentDigest, content_text
from h5ingest.core.errors import OutputError
from h5ingest.core.image_columns import columns_in, image_group
from h5ingest.core.lists import Lists, offsets_of, values_of
from h5ingest.core.sample_columns import INDEX, target
from h5ingest.pipeline.stored_columns import StoredColumns
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.stored_group import StoredGroup

_BLOCK_ROWS: Final = 16 * 1024


def stored_digest(columns: StoredColumns, beat: Callable[[], None]) -> str:
    """Return what the content digest should be of the file that has these columns.

    `beat` is called now and then.

    Raises:
        OutputError: the file cannot be read.
    """
    header = columns.header
    digest = ContentDigest(content_text(header.layout, header.n_samples))
    for number, prefix in enumerate(header.prefixes):
        _add_group(digest, prefix, columns.handle, columns.open_group(number), beat)
        if columns.class_names is not None and prefix in header.group_prefixes:
            digest.add_strings(schema.LABEL_NAMES.at(prefix), columns.class_names)
    images = columns_in(header)
    ends: dict[str, int] = {}
    for codes, block in columns.blocks():
        beat()
        prefix = header.group_prefixes[int(codes[0])]
        for name, cells in block.items():
            full = target(prefix, name)
            if name in images:
                full = schema.PATHS.at(prefix + image_group(name))
            if isinstance(cells, Lists):
                if full not in ends:
                    digest.add_numbers(offsets_of(full), np.zeros(1, np.int64))
                end = ends.get(full, 0)
                digest.add_numbers(offsets_of(full), cells.offsets[1:] + end)
                if len(cells.values):
                    digest.add_numbers(values_of(full), cells.values)
                ends[full] = end + len(cells.values)
            elif cells.dtype == object:
                digest.add_strings(full, cells)
            elif name != INDEX or header.groups:
                digest.add_numbers(full, cells)
    return digest.hexdigest()


def check_digest(columns: StoredColumns, beat: Callable[[], None]) -> None:
    """Check that the content digest of a file is what `stored_digest` returns.

    Raises:
        OutputError: it is not; or the file cannot be read.
    """
    header = columns.header
    expected, found = header.content_digest, stored_digest(columns, beat)
    if found != expected:
        raise OutputError(
            f"{header.path}: expected the content digest {expected}, found {found}: it was changed "
            f"since it was made, and nothing is made of it. `h5ingest verify {header.path}` tells "
            f"which part."
        )


def _add_group(
    digest: ContentDigest,
    prefix: str,
    handle: ForkSafeFile,
    group: StoredGroup,
    beat: Callable[[], None],
) -> None:
    """Add the datasets of a group that have to do with its images."""
    numbers = {
        schema.STATUS: group.status, schema.CHECKSUMS: group.checksums,
        schema.OFFSETS: group.offsets, schema.SHAPES: group.shapes, schema.SIZES: group.sizes,
    }  # fmt: skip
    for standard, values in numbers.items():
        if values is not None:
            beat()
            digest.add_numbers(standard.at(prefix), values)
    pixels = schema.PIXELS.get(group.layout)
    if pixels is not None:
        if group.row_shape is not None:
            shape = group.n_rows, *group.row_shape
        else:
            assert group.offsets is not None, "images of any size"
            shape = (int(group.offsets[-1]),)
        digest.add_pixels(pixels.at(prefix), [f"{pixels.dtype or group.dtype}{shape}"])
        return
    for start in range(0, group.n_rows, _BLOCK_ROWS):
        beat()
        rows = range(start, min(start + _BLOCK_ROWS, group.n_rows))
        names = group.names(rows)
        with handle:
            shapes = group.kinds(rows, names)
        digest.add_strings(schema.TREE_NAMES.at(prefix), names)
        digest.add_pixels(schema.TREE_NAMES.at(prefix), map(_kind, shapes))


def _kind(numbers: np.ndarray[tuple[int], np.dtype[np.int32]]) -> str:
    """Return type and shape of an image of a tree, of height, width, channels, bytes of a value."""
    height, width, channels, n_bytes = numbers.tolist()
    shape = (height, width) if channels <= 1 else (height, width, channels)
    return f"{'uint16' if n_bytes == 2 else 'uint8'}{shape}"
