"""`DatasetLoop`: images that have a dataset each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.write_loop import WriteLoop
from h5ingest.storage.writer import Image, TreeWriter, Writer

if TYPE_CHECKING:
    from h5ingest.pipeline.stored_chunks import StoredChunks


class DatasetLoop(WriteLoop):
    """Decodes a batch into an array for each image, and writes them one after the other."""

    @staticmethod
    def create_datasets(writer: Writer, shards: Sequence[Shard]) -> None:
        assert isinstance(writer, TreeWriter)
        writer.create_images([image for shard in shards for image in _images(shard)])

    def store(self, shard: Shard) -> None:
        group, samples = self._layout.groups[shard.group], shard.samples
        records = SampleRecords.of(samples)
        given = self._loader.read(samples)
        writer = self._writer
        assert isinstance(writer, TreeWriter)
        for span, rows, _ in self._element_batches(shard, 1, 1):
            cut = slice(rows.start - samples.rows.start, rows.stop - samples.rows.start)
            with self._decoding():
                images = [
                    np.empty(samples.image_shape(k), samples.image_dtype(k))
                    for k in range(cut.start, cut.stop)
                ]
                self._loader.load_all(samples, cut.start, given, images, records)
            with self._writing():
                records.chunk_checksums[cut] = [
                    writer.write_image(shard.group, row, image)
                    for row, image in zip(rows, images, strict=True)
                ]
                self._stats.n_written_bytes += len(span)
            self._write_records(group, samples, rows, records)
            if rows and group.chunk_checksums is not None:
                with self._writing():
                    sums = records.chunk_checksums[cut]
                    writer.write(group.chunk_checksums.name, rows, sums)
            self._mark(shard, span, rows, records)

    def copy(self, shard: Shard, chunks: StoredChunks) -> None:
        group, samples, writer = self._layout.groups[shard.group], shard.samples, self._writer
        assert isinstance(writer, TreeWriter)
        assert group.chunk_checksums is not None, "images are filtered"
        for span, rows, _ in self._element_batches(shard, 1, 1):
            part = replace(shard, span=span, owned=rows, samples=samples.slice(rows))
            with self._decoding():
                found = [chunks.read_image(part.samples, k) for k in range(len(rows))]
            whole = [chunk for chunk in found if chunk is not None]
            if len(whole) < len(found):
                self.store(part)
                continue
            records = SampleRecords.of(part.samples)
            chunks.fill(part.samples, rows, records)
            with self._writing():
                sums = [
                    writer.write_image_chunk(shard.group, row, *chunk)
                    for row, chunk in zip(rows, whole, strict=True)
                ]
                writer.write(group.chunk_checksums.name, rows, np.array(sums, np.uint64))
            self._count_copied(len(rows), whole)
            self._write_records(group, part.samples, rows, records)
            self._mark(part, span, rows, records)


def _images(shard: Shard) -> Iterator[Image]:
    """Yield the datasets that the images of a shard need."""
    samples = shard.samples
    none = [b""] * len(samples.rows)
    of_rows = zip(
        samples.rows, samples.paths, samples.folders or none, samples.names or none, strict=True
    )
    for k, (row, path, folder, name) in enumerate(of_rows):
        stem = os.path.splitext(os.path.basename(path))[0]
        shape, dtype = samples.image_shape(k), samples.image_dtype(k)
        yield Image(shard.group, row, folder, stem, shape, dtype, name)
