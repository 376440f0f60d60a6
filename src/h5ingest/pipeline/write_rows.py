"""`RowLoop`: images of one size, each a row of its group's dataset."""

from __future__ import annotations

from h5ingest.core.partition import batches, unit
from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.write_loop import WriteLoop


class RowLoop(WriteLoop):
    """Decodes each batch into the writer's array."""

    def store(self, shard: Shard) -> None:
        group, samples = self._layout.groups[shard.group], shard.samples
        spec = group.pixels
        records = SampleRecords.of(samples)
        given = self._loader.read(samples)
        for batch in batches(shard.span, unit(spec), self._batch_bytes // spec.row_bytes):
            images = self._get_buffer(spec.name, batch)
            with self._decoding():
                first = batch.start - samples.rows.start
                self._loader.load_all(samples, first, given, images, records)
            self._write(spec.name, batch, images)
            self._write_records(group, samples, batch, records)
            self._mark(shard, batch, batch, records)
