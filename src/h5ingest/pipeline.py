"""The work loop of one rank: read, decode, convert, checksum, write, a batch at a time.

One buffer serves the whole run. A sample that cannot be read becomes zeros, a status and a
`Failure`; the loop goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.ahead import Files
from h5ingest.convert import Fit, Losses, convert_into, holds
from h5ingest.decode import Prober, check_intact, decode_into
from h5ingest.division import Portion
from h5ingest.errors import SampleError
from h5ingest.layout import STATUS_FAILED, STATUS_OK, Group, Layout
from h5ingest.options import IngestOptions
from h5ingest.plan import batches, element_batches, overlap, unit
from h5ingest.samples import Samples
from h5ingest.storage.writer import Image, Writer
from h5ingest.work import Book, Work

_ALIKE_IMAGES: Final = 64
_ALIKE_BYTES: Final = 256 * 1024
"""Images decoded in one go, at most, and their pixels, if it is more than one."""
_BEAT_S: Final = 0.02
"""Seconds between two beats, at most, if images allow it: their files may be slow to open."""


class Pipeline:
    """The loop, for all portions of one rank."""

    def __init__(
        self,
        layout: Layout,
        options: IngestOptions,
        writer: Writer,
        files: Files,
        cache: dict[int, bytes],
        beat: Callable[[Work], None],
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
        self._options = options
        self._writer = writer
        self._files = files
        self._cache = cache
        self._on_beat = beat
        self._raw = options.samples == "raw"
        self._probe = Prober(options.max_pixels, raw=self._raw)
        resample = options.resample or ("nearest" if self._raw else "bicubic")
        self._fit = Fit(
            how=options.fit, pad_value=options.pad_value, resample=resample, raw=self._raw
        )
        self._buffer = np.empty(0, np.uint8)
        self._next_beat_s = 0.0
        self.work = Work()

    def store(self, portion: Portion) -> None:
        """Store the samples of one portion, their checksums and status. Not collective."""
        kind = self._layout.kind
        if kind == "stack":
            self._store_rows(portion)
        elif kind == "tree":
            self._store_images(portion)
        else:
            self._store_elements(portion)

    def _store_rows(self, portion: Portion) -> None:
        """Store rows of a stack."""
        group = self._layout.groups[portion.group]
        spec, samples = group.pixels, portion.samples
        steps = batches(portion.span, unit(spec), self._options.batch_bytes // spec.row_bytes)
        buffer = self._array((len(steps[0]), *spec.shape[1:]), spec.dtype)
        book = Book.of(samples)
        feed = self._feed(samples)
        n_alike = max(1, min(_ALIKE_IMAGES, _ALIKE_BYTES // spec.row_bytes))
        for batch in steps:
            with self._decoding():
                first = batch.start - samples.rows.start
                for start in range(0, len(batch), n_alike):
                    images = buffer[start : min(start + n_alike, len(batch))]
                    files = list(islice(feed, len(images)))
                    self._load_some(samples, first + start, files, images, book)
            self._write(spec.name, batch, buffer[: len(batch)])
            self._write_book(group, samples, batch, book)
            self._mark(portion, batch, book)

    def _store_elements(self, portion: Portion) -> None:
        """Store images of any size, or files, one after the other.

        With chunks, an image may begin in one batch and end in the next, or on the next rank, which
        then decodes it again.
        """
        group = self._layout.groups[portion.group]
        spec, samples = group.pixels, portion.samples
        book = Book.of(samples)
        steps = self._element_batches(portion, spec.row_bytes, unit(spec))
        feed = enumerate(self._feed(samples))
        buffer = self._array((max(len(span) for span, *_ in steps),), spec.dtype)
        encoded = self._layout.kind == "encoded"
        carried: tuple[int, NDArray[Any]] | None = None
        for span, rows, begun in steps:
            values = buffer[: len(span)]
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
                        self._load(
                            samples,
                            k,
                            data,
                            image if encoded else image.reshape(_shape(samples.shapes[k])),
                            book,
                            counts=row in portion.owned,
                        )
                        carried = None if whole else (row, image)
                        if start < portion.span.start:
                            self.work.joints.append((portion.group, portion.span.start))
                    if not whole:
                        part = slice(inside.start - start, inside.stop - start)
                        values[inside.start - span.start : inside.stop - span.start] = image[part]
            self._write(spec.name, span, values)
            self._write_book(group, samples, begun, book)
            self._mark(portion, span, book, rows)

    def _store_images(self, portion: Portion) -> None:
        """Store images that have a dataset each."""
        group, samples = self._layout.groups[portion.group], portion.samples
        book = Book.of(samples)
        feed = self._feed(samples)
        for span, rows, _ in self._element_batches(portion, 1, 1):
            for row in rows:
                k = row - samples.rows.start
                shape = samples.shapes[k]
                with self._decoding():
                    image = self._array(_shape(shape), "uint16" if shape[3] == 2 else "uint8")
                    self._load(samples, k, next(feed), image, book)
                with self._writing():
                    self._writer.write_image(portion.group, row, image)
                    self.work.n_written_bytes += image.nbytes
            self._write_book(group, samples, rows, book)
            self._mark(portion, span, book, rows)

    def _mark(self, portion: Portion, span: range, book: Book, rows: range | None = None) -> None:
        """Note a span as done, unless an image in it failed: a later run shall try it again."""
        self.work.n_kept = self.work.n_done
        rows = span if rows is None else rows
        first = portion.samples.rows.start
        if span and (book.status[rows.start - first : rows.stop - first] == STATUS_OK).all():
            joint = (portion.group, span.start) in self.work.joints[-1:]
            self._writer.mark(portion.group, span, joint=joint)

    def _feed(self, samples: Samples) -> Iterator[bytes | SampleError]:
        """Yield each sample's file, in order, or why it cannot be read.

        Files that are not in the cache are read ahead.
        """
        cache = self._cache
        cached = np.isin(samples.indices, np.fromiter(cache, np.int64, len(cache)))
        read = self._files.read(compress(samples.paths, ~cached))
        for index in samples.indices.data:
            data = cache.pop(index, None)
            if data is None:
                file = next(read)
                yield file if isinstance(file, SampleError) else file[0]
                self._beat_in_time()
            else:
                yield data

    def _load_some(
        self,
        samples: Samples,
        first: int,
        files: Sequence[bytes | SampleError],
        images: NDArray[Any],
        book: Book,
    ) -> None:
        """Fill `images`, (n, H, W) or (n, H, W, C), with samples, and enter them in the book.

        Args:
            samples: of the portion.
            first: position in them of the first.
            files: theirs.
            images: the samples are theirs to fill.
            book: of the portion.
        """
        rows = slice(first, first + len(images))
        intact = [data for data in files if isinstance(data, bytes)]
        if len(intact) == len(files) and self._probe.decode_alike(intact, images):
            book.status[rows] = STATUS_OK
            book.sizes[rows] = images.shape[1:3]
            book.checksums[rows] = [xxh3_64_intdigest(image) for image in images]
            self.work.n_read_bytes += sum(map(len, intact))
            self.work.n_done += len(images)
        else:
            for k, (data, image) in enumerate(zip(files, images, strict=True), first):
                size = self._load(samples, k, data, image, book)
                book.sizes[k] = size or image.shape[:2]
        self._beat_in_time()

    def _load(
        self,
        samples: Samples,
        k: int,
        data: bytes | SampleError,
        image: NDArray[Any],
        book: Book,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        """Fill `image` with a sample, or with zeros, and enter it in the book.

        Args:
            samples: of the portion.
            k: position in them.
            data: its file, or why it cannot be read.
            image: (H, W) or (H, W, C), or (n,) for a file as it is.
            book: of the portion.
            counts: whether the sample is this rank's to count and to report.

        Returns:
            The size within a padded image; None if there is no image.
        """
        work = self.work
        size = None
        try:
            if isinstance(data, SampleError):
                raise data
            size = self._decode(data, image, counts)
            book.status[k] = STATUS_OK
            if counts:
                work.n_read_bytes += len(data)
        except SampleError as error:
            image[...] = 0
            book.status[k] = STATUS_FAILED
            if counts:
                work.failures.append(error.at(int(samples.indices[k]), samples.paths[k]))
        book.checksums[k] = xxh3_64_intdigest(image)  # type: ignore[arg-type]  # it is a buffer
        work.n_done += counts
        self._beat_in_time()
        return size

    def _beat_in_time(self) -> None:
        if time.monotonic() >= self._next_beat_s:
            self.beat()

    def beat(self) -> None:
        """Take part in what all ranks do together."""
        self._on_beat(self.work)
        self._next_beat_s = time.monotonic() + _BEAT_S

    def _decode(self, data: bytes, image: NDArray[Any], counts: bool) -> tuple[int, int] | None:
        """Fill `image`; return the size of what is in it."""
        options = self._options
        if image.ndim == 1:
            if not len(image) or len(data) != len(image):
                self._probe(data)  # may know a better reason
                raise SampleError("changed", f"expected {len(image)} bytes, found {len(data)}")
            check_intact(data)
            image[...] = np.frombuffer(data, np.uint8)
            return None
        spec = self._probe(data)
        assert spec is not None, "the whole file tells"
        if spec.shape == image.shape and spec.dtype == image.dtype:
            decode_into(data, image, raw=self._raw, spec=spec)
            return spec.height, spec.width
        channels = image.shape[2] if image.ndim == 3 else 1
        lossy = spec.dtype == "uint16" and image.dtype == np.uint8 and not options.reduce_depth
        if (
            lossy
            or (options.channels == "auto" and not holds(channels, spec))
            or (options.dtype == "auto" and spec.dtype != image.dtype)
        ):  # what the header said when it was probed did fit
            raise SampleError("changed", f"expected {image.shape} {image.dtype}, found {spec}")
        pixels = np.empty(spec.shape, spec.dtype)
        decode_into(data, pixels, raw=self._raw, spec=spec)
        losses = Losses()
        size = convert_into(pixels, image, self._fit, losses)
        if counts:
            self.work.losses.add(losses)
        return size

    def _array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return an array in the one buffer, its content undefined."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if n_bytes > len(self._buffer):
            self._buffer = np.empty(n_bytes, np.uint8)
        return self._buffer[:n_bytes].view(dtype).reshape(shape)

    def _write(self, name: str, span: range, values: NDArray[Any]) -> None:
        with self._writing():
            self._writer.write(name, span, values)
            self.work.n_written_bytes += values.nbytes

    def _write_book(self, group: Group, samples: Samples, rows: range, book: Book) -> None:
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
        self, portion: Portion, element_bytes: int, step: int
    ) -> list[tuple[range, range, range]]:
        samples = portion.samples
        return element_batches(
            portion.span,
            portion.owned,
            samples.rows.start,
            samples.starts,
            samples.lengths,
            step,
            max(1, self._options.batch_bytes // element_bytes),
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


def images_of(portion: Portion) -> Iterator[Image]:
    """Yield the datasets that the images of a tree need."""
    samples = portion.samples
    folders = samples.folders if len(samples.folders) else [b""] * len(samples.rows)
    for row, path, folder, shape in zip(
        samples.rows, samples.paths, folders, samples.shapes, strict=True
    ):
        stem = os.path.splitext(os.path.basename(path))[0]
        dtype = "uint16" if shape[3] == 2 else "uint8"
        yield Image(portion.group, row, folder, stem, _shape(shape), dtype)
