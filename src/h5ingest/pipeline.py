"""The work loop of one rank: read, decode, convert, checksum, write, a batch at a time.

One buffer serves the whole run. A sample that cannot be read becomes zeros, a status and a
`Failure`; the loop goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest import source
from h5ingest.convert import Fit, Losses, convert_into, holds
from h5ingest.decode import check_intact, decode_into, probe
from h5ingest.division import Portion
from h5ingest.errors import Failure, SampleError
from h5ingest.layout import STATUS_FAILED, STATUS_OK, Group, Layout
from h5ingest.options import IngestOptions
from h5ingest.plan import batches, overlap, unit
from h5ingest.samples import Samples
from h5ingest.storage.writer import Image, Writer

_BEAT_S: Final = 0.02
"""Seconds between two beats, at most, if images allow it: their files may be slow to open."""


@dataclass(slots=True)
class Work:
    """What one rank has done so far."""

    n_done: int = 0
    """Images decoded, failed ones included."""
    n_kept: int = 0
    """Those whose batch has been written."""
    n_read_bytes: int = 0
    """Bytes of the files decoded."""
    n_written_bytes: int = 0
    """Bytes of pixels written."""
    failures: list[Failure] = field(default_factory=list)
    """Images that could not be stored."""
    joints: list[tuple[int, int]] = field(default_factory=list)
    """(group, element) where a portion began inside an image, which was decoded once more."""
    losses: Losses = field(default_factory=Losses)
    """What conversions dropped."""
    decode_s: float = 0.0
    """Seconds in reading, decoding and checksums."""
    write_s: float = 0.0
    """Seconds in writing."""


class Pipeline:
    """The loop, for all portions of one rank."""

    def __init__(
        self,
        layout: Layout,
        options: IngestOptions,
        writer: Writer,
        root: bytes,
        cache: dict[int, bytes],
        beat: Callable[[Work], None],
    ) -> None:
        """Prepare. Not collective.

        Args:
            layout: the datasets.
            options: how samples are read and converted.
            writer: takes the batches.
            root: folder that relative paths are relative to.
            cache: bytes of files that have been read already, by global index; emptied.
            beat: called now and then.
        """
        self._layout = layout
        self._options = options
        self._writer = writer
        self._root = root
        self._cache = cache
        self._beat = beat
        self._raw = options.samples == "raw"
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
        book = _Book.of(samples)
        every = enumerate(zip(samples.indices.tolist(), samples.paths, strict=True))
        for batch in steps:
            with self._timed("decode_s"):
                for image in buffer[: len(batch)]:
                    k, (index, path) = next(every)
                    size = self._load(index, path, image, book, k)
                    if group.sizes is not None:
                        book.sizes[k] = size or image.shape[:2]
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
        book = _Book.of(samples)
        steps = self._element_batches(portion, spec.row_bytes, unit(spec))
        buffer = self._array((max(len(span) for span, *_ in steps),), spec.dtype)
        encoded = self._layout.kind == "encoded"
        carried: tuple[int, NDArray[Any]] | None = None
        for span, rows, begun in steps:
            values = buffer[: len(span)]
            with self._timed("decode_s"):
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
                        self._load(
                            int(samples.indices[k]),
                            samples.paths[k],
                            image if encoded else image.reshape(_shape(samples.shapes[k])),
                            book,
                            k,
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

    def _element_batches(
        self, portion: Portion, element_bytes: int, step: int
    ) -> list[tuple[range, range, range]]:
        """Return (elements, rows with a part in them, rows that begin in them), in order.

        Chunks are kept whole where there are chunks, images where there are none. An empty image
        belongs to the batch that begins where it does.
        """
        samples, base = portion.samples, portion.samples.rows.start
        most = max(1, self._options.batch_bytes // element_bytes)
        ends = samples.starts + samples.lengths
        found: list[tuple[range, range, range]] = []
        if step > 1:
            for span in batches(portion.span, step, most):
                begin = int(np.searchsorted(samples.starts, span.start))
                first = min(begin, int(np.searchsorted(ends, span.start, side="right")))
                stop = int(np.searchsorted(samples.starts, span.stop))
                if span.stop == portion.span.stop:
                    stop = len(ends)
                begun = range(max(base + begin, portion.owned.start), base + stop)
                found.append((span, range(base + first, base + stop), begun))
            return found or [(portion.span, samples.rows, portion.owned)]
        first = 0
        while first < len(ends):
            begin = int(samples.starts[first])
            stop = max(first + 1, int(np.searchsorted(ends, begin + most, side="right")))
            rows = range(base + first, base + stop)
            found.append((range(begin, int(ends[stop - 1])), rows, rows))
            first = stop
        return found

    def _store_images(self, portion: Portion) -> None:
        """Store images that have a dataset each."""
        group, samples = self._layout.groups[portion.group], portion.samples
        book = _Book.of(samples)
        for span, rows, _ in self._element_batches(portion, 1, 1):
            for row in rows:
                k = row - samples.rows.start
                shape = samples.shapes[k]
                with self._timed("decode_s"):
                    image = self._array(_shape(shape), "uint16" if shape[3] == 2 else "uint8")
                    self._load(int(samples.indices[k]), samples.paths[k], image, book, k)
                with self._timed("write_s"):
                    self._writer.write_image(portion.group, row, image)
                    self.work.n_written_bytes += image.nbytes
            self._write_book(group, samples, rows, book)
            self._mark(portion, span, book, rows)

    def _mark(self, portion: Portion, span: range, book: _Book, rows: range | None = None) -> None:
        """Note a span as done, unless an image in it failed: a later run shall try it again."""
        self.work.n_kept = self.work.n_done
        rows = span if rows is None else rows
        first = portion.samples.rows.start
        if span and (book.status[rows.start - first : rows.stop - first] == STATUS_OK).all():
            joint = (portion.group, span.start) in self.work.joints[-1:]
            self._writer.mark(portion.group, span, joint=joint)

    def _load(
        self,
        index: int,
        path: bytes,
        image: NDArray[Any],
        book: _Book,
        k: int,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        """Fill `image` with a sample, or with zeros, and enter it in the book.

        Args:
            index: global index of the sample.
            path: its path.
            image: (H, W) or (H, W, C), or (n,) for a file as it is.
            book: of the portion.
            k: position in the book.
            counts: whether the sample is this rank's to count and to report.

        Returns:
            The size within a padded image; None if there is no image.
        """
        size = None
        losses = Losses()
        try:
            data = self._cache.pop(index, None)
            if data is None:
                data, _ = source.read(os.path.join(self._root, path))
            size = self._decode(data, image, losses)
            book.status[k] = STATUS_OK
            if counts:
                self.work.n_read_bytes += len(data)
                self.work.losses.add(losses)
        except SampleError as error:
            image[...] = 0
            book.status[k] = STATUS_FAILED
            if counts:
                self.work.failures.append(error.at(index, path))
        book.checksums[k] = xxh3_64_intdigest(image.data)
        self.work.n_done += counts
        if not index & 15 or time.monotonic() >= self._next_beat_s:
            self._beat(self.work)
            self._next_beat_s = time.monotonic() + _BEAT_S
        return size

    def _decode(self, data: bytes, image: NDArray[Any], losses: Losses) -> tuple[int, int] | None:
        """Fill `image`; return the size of what is in it."""
        options = self._options
        if image.ndim == 1:
            if not len(image) or len(data) != len(image):
                probe(data, max_pixels=options.max_pixels)  # may know a better reason
                raise SampleError("changed", f"expected {len(image)} bytes, found {len(data)}")
            check_intact(data)
            image[...] = np.frombuffer(data, np.uint8)
            return None
        spec = probe(data, max_pixels=options.max_pixels, raw=self._raw)
        assert spec is not None, "the whole file tells"
        if spec.shape == image.shape and spec.dtype == image.dtype:
            decode_into(data, image, raw=self._raw)
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
        decode_into(data, pixels, raw=self._raw)
        return convert_into(pixels, image, self._fit, losses)

    def _array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return an array in the one buffer, its content undefined."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if n_bytes > len(self._buffer):
            self._buffer = np.empty(n_bytes, np.uint8)
        return self._buffer[:n_bytes].view(dtype).reshape(shape)

    def _write(self, name: str, span: range, values: NDArray[Any]) -> None:
        with self._timed("write_s"):
            self._writer.write(name, span, values)
            self.work.n_written_bytes += values.nbytes

    def _write_book(self, group: Group, samples: Samples, rows: range, book: _Book) -> None:
        """Write what is known of each row beside its pixels."""
        if not rows:
            return
        cut = slice(rows.start - samples.rows.start, rows.stop - samples.rows.start)
        with self._timed("write_s"):
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

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        setattr(self.work, what, getattr(self.work, what) + time.perf_counter() - started_s)


@dataclass(frozen=True, slots=True)
class _Book:
    """What is known of each sample of a portion beside its pixels."""

    checksums: NDArray[np.uint64]
    """(n,)"""
    status: NDArray[np.uint8]
    """(n,)"""
    sizes: NDArray[np.uint32]
    """(n, 2) height and width without padding; (n, 2) zeros where nothing is padded."""

    @classmethod
    def of(cls, samples: Samples) -> _Book:
        """Return an empty book."""
        n = len(samples.rows)
        return cls(np.zeros(n, np.uint64), np.zeros(n, np.uint8), np.zeros((n, 2), np.uint32))


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
