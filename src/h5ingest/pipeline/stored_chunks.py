"""`StoredChunks`: what of a shard can be copied from a file as it is stored, and its records.

May not: know ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from h5ingest.core.layout import Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.partition import overlap, unit
from h5ingest.core.sample_table import Samples
from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.storage.compress import chunking_of, image_spec


class StoredChunks:
    """Compressed chunks that lie in the file where they are to lie in the new one."""

    def __init__(
        self,
        layout: Layout,
        open_group: Callable[[int], StoredGroup],
        extent: Callable[[int], int],
        beat: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            layout: what is written.
            open_group: returns what the file has of a group of it.
            extent: returns how many positions of a group of it are what and where they were.
            beat: called for every chunk; to look at the clock.
        """
        self._beat = beat
        self._layout, self._open_group, self._extent = layout, open_group, extent
        self._of_trees = KINDS[layout.kind].dataset_per_image
        self._opened: tuple[int, StoredGroup] | None = None
        self._form_of_image = functools.lru_cache(64)(lambda *kind: chunking_of(image_spec(*kind)))

    def _group(self, number: int) -> StoredGroup:
        if self._opened is None or self._opened[0] != number:
            self._opened = None  # before the next one maps the file
            self._opened = number, self._open_group(number)
        return self._opened[1]

    def span(self, shard: Shard) -> range:
        """Return the part of a shard's span that may be copied; it may be empty.

        Raises:
            OutputError: the file cannot be read.
        """
        pixels, extent = self._layout.groups[shard.group].pixels, self._extent(shard.group)
        nothing = range(shard.span.start, shard.span.start)
        if not (pixels.filters and extent):
            return nothing
        if not self._of_trees:
            step = unit(pixels)
            if extent < pixels.shape[0]:
                extent -= extent % step
            first = self._group(shard.group).stored(0)
            if first is None or first.form != chunking_of(pixels):
                return nothing
        return overlap(shard.span, range(extent)) or nothing

    def read(self, number: int, chunk: int) -> tuple[int, bytes] | None:
        """Return filter mask and bytes of a chunk; None if it is not what was stored."""
        self._beat()
        found = self._group(number).stored(chunk)
        return None if found is None else (found.mask, found.data)

    def read_image(self, samples: Samples, k: int) -> tuple[int, bytes] | None:
        """Return an image of a tree likewise; None, too, if it is to be filtered in another way."""
        self._beat()
        found = self._group(samples.group).stored(samples.rows.start + k)
        if found is None:
            return None
        filters = self._layout.groups[samples.group].pixels.filters
        form = self._form_of_image(samples.image_shape(k), samples.image_dtype(k), filters)
        return (found.mask, found.data) if found.form == form else None

    def fill(self, samples: Samples, rows: range, records: SampleRecords) -> None:
        """Record what the file says of these rows."""
        group, first = self._group(samples.group), samples.rows.start
        here = slice(rows.start - first, rows.stop - first)
        records.checksums[here] = group.checksums[rows.start : rows.stop]
        records.status[here] = group.status[rows.start : rows.stop]
        if group.sizes is not None:
            records.sizes[here] = group.sizes[rows.start : rows.stop]
