"""`RowLoop`: images of one size, each a row of its group's dataset."""

from __future__ import annotations

from typing import Final

from h5ingest.core.partition import batches, unit
from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.write_loop import WriteLoop

_FEWEST: Final = 16
_LEAST_BYTES: Final = 512 * 1024
"""Batches of a shard without filters, at least, unless they would be smaller than that: a rank with
little to store pays more for memory that it touches for the first time than for further writes."""


class RowLoop(WriteLoop):
    """Decodes each batch into the writer's array."""

    def store(self, shard: Shard) -> None:
        group, samples = self._layout.groups[shard.group], shard.samples
        spec = group.pixels
        records = SampleRecords.of(samples)
        given = self._loader.read(samples)
        batch_bytes = self._batch_bytes
        if not spec.filters:
            shard_bytes = len(shard.span) * spec.row_bytes
            batch_bytes = min(batch_bytes, max(_LEAST_BYTES, shard_bytes // _FEWEST))
        for batch in batches(shard.span, unit(spec), batch_bytes // spec.row_bytes):
            images = self._get_buffer(spec.name, batch)
            with self._decoding():
                first = batch.start - samples.rows.start
                self._loader.load_all(samples, first, given, images, records)
            self._write(spec.name, batch, images)
            self._write_records(group, samples, batch, records)
            self._mark(shard, batch, batch, records)
