"""What the write loops of all layouts have in common: to load samples, write and note them.

A loop goes through a shard a batch at a time. The array for a batch is the writer's, so that it can
be written without a copy. May not: know a job, a communicator.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import Group, Layout
from h5ingest.core.moments import joined_if_known
from h5ingest.core.partition import batches, element_batches, unit
from h5ingest.core.sample_table import Samples
from h5ingest.core.schema import STATUS_MISSING
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.storage.journal_records import BEGINS_INSIDE, ENDS_INSIDE
from h5ingest.storage.writer import Writer

if TYPE_CHECKING:
    from h5ingest.pipeline.stored_chunks import StoredChunks  # few jobs have one


@dataclass(slots=True, eq=False)
class WriteLoop(ABC):
    """The loop, for all shards of one rank."""

    _layout: Layout
    _batch_bytes: int
    """Pixels in a batch, about."""
    _loader: Loader[Any]
    """Loads the samples."""
    _writer: Writer
    """Takes the batches."""
    _stats: RankStats
    """Counts what is done."""

    @staticmethod  # noqa: B027 - most layouts leave nothing open
    def create_datasets(writer: Writer, shards: Sequence[Shard]) -> None:
        """Create what the layout leaves open, for this rank's shards. Collective.

        Raises:
            OutputError: HDF5 cannot (on all ranks).
        """

    @abstractmethod
    def store(self, shard: Shard) -> None:
        """Store the samples of one shard, their checksums and status. Not collective.

        Raises:
            OutputError: a batch cannot be written.
        """

    def copy(self, shard: Shard, chunks: StoredChunks) -> None:
        """Store the samples of a shard as they are stored already. Not collective.

        Args:
            shard: a part that may be copied.
            chunks: of the file that has them.

        Raises:
            OutputError: a batch cannot be written.
        """
        group = self._layout.groups[shard.group]
        spec, step = group.pixels, unit(group.pixels)
        for span in batches(shard.span, step, self._batch_bytes // spec.row_bytes):
            part, first = shard.part(span), span.start // step
            with self._decoding():
                found = [
                    chunks.read(shard.group, chunk) for chunk in range(first, -(-span.stop // step))
                ]
            whole = [chunk for chunk in found if chunk is not None]
            if len(whole) < len(found):
                self.store(part)  # says which images are damaged
                continue
            with self._writing():
                self._writer.write_chunks(spec.name, first, whole)
            records = SampleRecords.of(part.samples)
            chunks.fill(part.samples, part.owned, records)
            self._count_copied(len(part.owned), whole)
            self._write_records(group, part.samples, part.owned, records)
            self._mark(part, span, part.owned, records)

    def _count_copied(self, n_images: int, chunks: Sequence[tuple[int, bytes]]) -> None:
        n_bytes = sum(len(data) for _, data in chunks)
        self._stats.sums.miss()
        self._stats.n_done += n_images
        self._stats.n_read_bytes += n_bytes
        self._stats.n_written_bytes += n_bytes

    def _element_batches(
        self, shard: Shard, element_bytes: int, step: int
    ) -> list[tuple[range, range, range]]:
        """See `partition.element_batches`."""
        samples = shard.samples
        return element_batches(
            shard.span,
            shard.owned,
            samples.rows.start,
            samples.starts,
            samples.lengths,
            step,
            max(1, self._batch_bytes // element_bytes),
        )

    def _get_buffer(self, name: str, rows: range) -> NDArray[Any]:
        with self._writing():  # it may wait for the disk
            return self._writer.get_buffer(name, rows)

    def _write(self, name: str, span: range, values: NDArray[Any]) -> None:
        with self._writing():
            self._writer.write(name, span, values)
            self._stats.n_written_bytes += values.nbytes

    def _write_records(
        self, group: Group, samples: Samples, rows: range, records: SampleRecords
    ) -> None:
        """Write the datasets of a group that have a value for each row, except the pixels."""
        if not rows:
            return
        cut = slice(rows.start - samples.rows.start, rows.stop - samples.rows.start)
        with self._writing():
            self._writer.write(group.checksums.name, rows, records.checksums[cut])
            self._writer.write(group.status.name, rows, records.status[cut])
            if group.sizes is not None:
                self._writer.write(group.sizes.name, rows, records.sizes[cut])
            if group.offsets is not None and group.shapes is not None:
                after = range(rows.start + 1, rows.stop + 1)
                ends = samples.starts[cut] + samples.lengths[cut]
                self._writer.write(group.offsets.name, after, ends)
                shapes = np.ascontiguousarray(samples.shapes[cut, :3])
                self._writer.write(group.shapes.name, rows, shapes)

    def _mark(self, shard: Shard, span: range, rows: range, records: SampleRecords) -> None:
        """Note a span as done, unless an image in it failed: a later run shall try it again.

        Rows that had failed in a stored file count as done.
        """
        self._stats.n_kept = self._stats.n_done
        sums = self._stats.sums.take()
        self._stats.moments[shard.group] = joined_if_known(
            [self._stats.moments.get(shard.group, {}), sums]
        )
        first = shard.samples.rows.start
        cut = slice(rows.start - first, rows.stop - first)
        all_loaded = (records.status[cut] != STATUS_MISSING).all()
        if span and all_loaded and not records.again[cut].any():
            joints = self._stats.joints[-2:]  # no shard has more
            joint = BEGINS_INSIDE * ((shard.group, span.start) in joints)
            joint |= ENDS_INSIDE * ((shard.group, span.stop) in joints)
            self._writer.mark(shard.group, span, joints=joint, sums=sums)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Count the seconds of the block: those in waiting for files, and the others."""
        started_s, before_s = time.perf_counter(), self._loader.wait_s
        yield
        read_s = self._loader.wait_s - before_s
        self._stats.read_s += read_s
        self._stats.decode_s += time.perf_counter() - started_s - read_s

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Count the seconds of the block."""
        started_s = time.perf_counter()
        yield
        self._stats.write_s += time.perf_counter() - started_s
