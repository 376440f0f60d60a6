"""The work loop of one rank: load samples, write them, note them, a batch at a time.

The writer has the memory for a batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import Group, Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.partition import batches, element_batches, overlap, unit
from h5ingest.core.sample_table import Samples
from h5ingest.core.schema import STATUS_OK
from h5ingest.images.prefetch import Prefetcher
from h5ingest.pipeline.load_batch import BatchLoader
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.storage.buffer import Buffer
from h5ingest.storage.journal import BEGINS_INSIDE, ENDS_INSIDE
from h5ingest.storage.writer import Image, TreeWriter, Writer

_BEAT_S: Final = 0.02
"""Seconds between two beats, at most, if images allow it: their files may be slow to open."""


class WriteLoop:
    """The loop, for all portions of one rank."""

    def __init__(
        self,
        layout: Layout,
        options: IngestOptions,
        writer: Writer,
        files: Prefetcher,
        cache: dict[int, bytes],
        beat: Callable[[RankStats], None],
    ) -> None:
        """Prepare. Not collective.

        Args:
            layout: the datasets.
            options: how samples are read and converted.
            writer: takes the batches.
            files: the samples' files; its `waiting` may call `beat` of this object.
            cache: bytes of files that have been read already, by global index; emptied.
            beat: called now and then.
        """
        self._layout = layout
        self._batch_bytes = options.batch_bytes
        self._writer = writer
        self._files = files
        self._on_beat = beat
        self._buffer = Buffer()
        self._next_beat_s = 0.0
        self.work = RankStats()
        self._loader = BatchLoader(options, files, cache, self.work, self._beat_in_time)

    def store(self, shard: Shard) -> None:
        """Store the samples of one portion, their checksums and status. Not collective."""
        kind = self._layout.kind
        if kind == "stack":
            self._store_rows(shard)
        elif kind == "tree":
            self._store_images(shard)
        else:
            self._store_elements(shard)

    def _store_rows(self, shard: Shard) -> None:
        """Store rows of a stack."""
        group = self._layout.groups[shard.group]
        spec, samples = group.pixels, shard.samples
        steps = batches(shard.span, unit(spec), self._batch_bytes // spec.row_bytes)
        book = SampleRecords.of(samples)
        feed = self._loader.feed(samples)
        for batch in steps:
            images = self._room(spec.name, batch)
            with self._decoding():
                first = batch.start - samples.rows.start
                self._loader.load_all(samples, first, feed, images, book)
            self._write(spec.name, batch, images)
            self._write_book(group, samples, batch, book)
            self._mark(shard, batch, book)

    def _store_elements(self, shard: Shard) -> None:
        """Store images of any size, or files, one after the other.

        With chunks, an image may begin in one batch and end in the next, or on the next rank, which
        then decodes it again.
        """
        group = self._layout.groups[shard.group]
        spec, samples = group.pixels, shard.samples
        book = SampleRecords.of(samples)
        steps = self._element_batches(shard, spec.row_bytes, unit(spec))
        feed = enumerate(self._loader.feed(samples))
        encoded = self._layout.kind == "encoded"
        carried: tuple[int, NDArray[Any]] | None = None
        for span, rows, begun in steps:
            values = self._room(spec.name, span)
            with self._decoding():
                for row in rows:
                    k = row - samples.rows.start
                    start, n = int(samples.starts[k]), int(samples.lengths[k])
                    inside = overlap(span, range(start, start + n))
                    whole = len(inside) == n
                    if carried is not None and carried[0] == row:
                        image = carried[1]
                    else:
                        at = start - span.start
                        image = values[at : at + n] if whole else np.empty(n, spec.dtype)
                        position, data = next(feed)
                        assert position == k, "files are asked for in order"
                        self._loader.load(
                            samples,
                            k,
                            data,
                            image if encoded else image.reshape(_shape(samples.shapes[k])),
                            book,
                            counts=row in shard.owned,
                        )
                        carried = None if whole else (row, image)
                        self._note_joints(shard, range(start, start + n))
                    if not whole:
                        part = slice(inside.start - start, inside.stop - start)
                        values[inside.start - span.start : inside.stop - span.start] = image[part]
            self._write(spec.name, span, values)
            self._write_book(group, samples, begun, book)
            self._mark(shard, span, book, rows)

    def _store_images(self, shard: Shard) -> None:
        """Store images that have a dataset each."""
        group, samples = self._layout.groups[shard.group], shard.samples
        assert isinstance(self._writer, TreeWriter)
        book = SampleRecords.of(samples)
        feed = self._loader.feed(samples)
        for span, rows, _ in self._element_batches(shard, 1, 1):
            for row in rows:
                k = row - samples.rows.start
                shape = samples.shapes[k]
                dtype = "uint16" if shape[3] == 2 else "uint8"
                with self._decoding():
                    image = self._buffer.array(_shape(shape), dtype)
                    self._loader.load(samples, k, next(feed), image, book)
                with self._writing():
                    self._writer.write_image(shard.group, row, image)
                    self.work.n_written_bytes += image.nbytes
            self._write_book(group, samples, rows, book)
            self._mark(shard, span, book, rows)

    def _mark(
        self, shard: Shard, span: range, book: SampleRecords, rows: range | None = None
    ) -> None:
        """Note a span as done, unless an image in it failed: a later run shall try it again."""
        self.work.n_kept = self.work.n_done
        rows = span if rows is None else rows
        first = shard.samples.rows.start
        if span and (book.status[rows.start - first : rows.stop - first] == STATUS_OK).all():
            joints = self.work.joints[-2:]  # no portion has more
            joint = BEGINS_INSIDE * ((shard.group, span.start) in joints)
            joint |= ENDS_INSIDE * ((shard.group, span.stop) in joints)
            self._writer.mark(shard.group, span, joints=joint)

    def _note_joints(self, shard: Shard, image: range) -> None:
        """Note where an image crosses an end of the portion.

        Its other part is another rank's, or an earlier run has stored it, or a later one will: of
        the same file, or of one that has been changed.
        """
        span = shard.span
        if image.start < span.start < image.stop:
            self.work.joints.append((shard.group, span.start))
        if image.start < span.stop < image.stop:
            self.work.joints.append((shard.group, span.stop))

    def _beat_in_time(self) -> None:
        if time.monotonic() >= self._next_beat_s:
            self.beat()

    def beat(self) -> None:
        """Take part in what all ranks do together."""
        self._on_beat(self.work)
        self._next_beat_s = time.monotonic() + _BEAT_S

    def _room(self, name: str, rows: range) -> NDArray[Any]:
        with self._writing():  # what it may have to wait for
            return self._writer.get_buffer(name, rows)

    def _write(self, name: str, span: range, values: NDArray[Any]) -> None:
        with self._writing():
            self._writer.write(name, span, values)
            self.work.n_written_bytes += values.nbytes

    def _write_book(self, group: Group, samples: Samples, rows: range, book: SampleRecords) -> None:
        """Write what is known of each row beside its pixels."""
        if not rows:
            return
        cut = slice(rows.start - samples.rows.start, rows.stop - samples.rows.start)
        with self._writing():
            self._writer.write(group.checksums.name, rows, book.checksums[cut])
            self._writer.write(group.status.name, rows, book.status[cut])
            if group.sizes is not None:
                self._writer.write(group.sizes.name, rows, book.sizes[cut])
            if group.offsets is not None and group.shapes is not None:
                after = range(rows.start + 1, rows.stop + 1)
                ends = samples.starts[cut] + samples.lengths[cut]
                self._writer.write(group.offsets.name, after, ends)
                shapes = np.ascontiguousarray(samples.shapes[cut, :3])
                self._writer.write(group.shapes.name, rows, shapes)

    def _element_batches(
        self, shard: Shard, element_bytes: int, step: int
    ) -> list[tuple[range, range, range]]:
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

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Count the seconds of the block: those in waiting for files, and the others."""
        started_s, before_s = time.perf_counter(), self._files.seconds
        yield
        read_s = self._files.seconds - before_s
        self.work.read_s += read_s
        self.work.decode_s += time.perf_counter() - started_s - read_s

    @contextmanager
    def _writing(self) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self.work.write_s += time.perf_counter() - started_s


def _shape(shape: NDArray[np.int32]) -> tuple[int, ...]:
    """Return (H, W) or (H, W, C) of (height, width, channels, ...)."""
    height, width, channels = shape[:3].tolist()
    return (height, width) if channels <= 1 else (height, width, channels)


def images_of(shard: Shard) -> Iterator[Image]:
    """Yield the datasets that the images of a tree need."""
    samples = shard.samples
    folders = samples.folders if len(samples.folders) else [b""] * len(samples.rows)
    for row, path, folder, shape in zip(
        samples.rows, samples.paths, folders, samples.shapes, strict=True
    ):
        stem = os.path.splitext(os.path.basename(path))[0]
        dtype = "uint16" if shape[3] == 2 else "uint8"
        yield Image(shard.group, row, folder, stem, _shape(shape), dtype)
