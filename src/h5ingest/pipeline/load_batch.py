"""From files to pixels: each sample of a shard, its checksum and its status.

A sample that cannot be read becomes zeros, a status and a `Failure`; the loop goes on. May not:
know a writer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.options import IngestOptions
from h5ingest.core.sample_table import Samples, files_of
from h5ingest.core.schema import STATUS_OK
from h5ingest.images.conversion import Losses, convert_into, holds
from h5ingest.images.decode import decode_into
from h5ingest.images.prefetch import FileCache, Prefetcher, Read
from h5ingest.pipeline.loader import Images, Loader, few_at_a_time
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords
from h5ingest.pipeline.seen_kinds import SeenKinds
from h5ingest.pipeline.ways import ways_of

_MOST_IMAGES: Final = 64
_MOST_BYTES: Final = 256 * 1024
"""Images decoded in one go, at most, and their pixels, if it is more than one."""


class FileLoader(Loader[bytes | SampleError]):
    """Decodes image files: what is given is a sample's file, or why it cannot be read."""

    def __init__(
        self,
        options: IngestOptions,
        files: Prefetcher,
        cache: FileCache,
        stats: RankStats,
        seen: SeenKinds | None,
        beat: Callable[[], None],
        recoded: Callable[[np.void, int], bytes | SampleError] | None = None,
    ) -> None:
        """Prepare.

        Args:
            options: how samples are read and converted.
            files: the samples' files.
            cache: files that have been read already; they are taken out of it.
            stats: counts what is loaded.
            seen: counts the kinds of images, where not all headers have been read.
            beat: called after every sample and every file that is read; to look at the clock.
            recoded: reads an image that is recoded; see `Recoder.read`.
        """
        super().__init__(stats, beat)
        self._files = files
        self._cache = cache
        self._seen = seen
        self._recoded = recoded
        self._ways = ways_of(options)
        self._way = self._ways[0]
        """How the images of this shard are read."""

    @property
    def wait_s(self) -> float:
        """Seconds in which files have been waited for."""
        return self._files.seconds

    def read(self, samples: Samples) -> Iterator[bytes | SampleError]:
        """See `Loader.read`. Files that are not in the cache are read ahead.

        In place of a file that is recoded come its new bytes.
        """
        self._way = self._ways[samples.group % len(self._ways)]
        lacking = self._cache.lacks(samples.indices)
        recoded = np.zeros(len(lacking), np.bool_)
        if self._recoded is not None:
            recoded = samples.places["spool"] >= 0
        wanted = lacking & ~recoded
        paths = files_of(samples.paths, samples.members)
        some = self._files.read_some(paths if wanted.all() else compress(paths, wanted.data))
        read = chain.from_iterable(map(self._contents, some))
        if wanted.all():
            return read
        return chain.from_iterable(self._joined(samples, read, wanted, recoded))

    def _joined(
        self,
        samples: Samples,
        read: Iterator[bytes | SampleError],
        wanted: NDArray[np.bool_],
        recoded: NDArray[np.bool_],
    ) -> Iterator[Iterable[bytes | SampleError]]:
        """Yield what is given of samples that follow each other: read, recoded, or in the cache."""
        ends = np.flatnonzero(np.diff(wanted + 2 * recoded)) + 1
        for start, stop in pairwise([0, *ends.tolist(), len(wanted)]):
            if wanted[start]:
                yield islice(read, stop - start)
            elif recoded[start]:
                yield (self._read_recoded(samples, k) for k in range(start, stop))
            else:
                yield map(self._cache.take, samples.indices[start:stop].tolist())

    def _read_recoded(self, samples: Samples, k: int) -> bytes | SampleError:
        assert self._recoded is not None, "the sample has a place"
        self._beat()
        return self._recoded(samples.places[k], int(samples.lengths[k]))

    def _contents(self, files: Sequence[Read]) -> list[bytes | SampleError]:
        """Return the bytes of files that have just been read, or why they cannot be read."""
        self._beat()
        return [file if isinstance(file, SampleError) else file[0] for file in files]

    def load_all(
        self,
        samples: Samples,
        first: int,
        given: Iterator[bytes | SampleError],
        images: Images,
        records: SampleRecords,
    ) -> None:
        """See `Loader.load_all`.

        Small images are decoded up to `_MOST_IMAGES` at a time, whose files are in memory at once.
        All are summed up together, which leaves the processor's cache to the decoders meanwhile.
        """
        k = first
        for some in few_at_a_time(images, _MOST_BYTES, _MOST_IMAGES):
            files = list(islice(given, len(some)))
            self._load_some(samples, k, files, some, records)
            k += len(some)
        self._sum_up(images, first, records)

    def _load_some(
        self,
        samples: Samples,
        first: int,
        files: Sequence[bytes | SampleError],
        images: Images,
        records: SampleRecords,
    ) -> None:
        """Do what `load_all` does, for a few whose files are given."""
        read = [data if isinstance(data, bytes) else b"" for data in files]
        is_done = self._decode_together(read, images)
        if done := [*compress(range(len(files)), is_done)]:
            self._note(samples, first, images, done, records)
            self._stats.n_read_bytes += sum(map(len, compress(read, is_done)))
            self._stats.n_done += len(done)
        if len(done) < len(files):
            for k, (data, image) in enumerate(zip(files, images, strict=True)):
                if not is_done[k]:
                    size = self.load(samples, first + k, data, image, records)
                    if image.ndim > 1:
                        records.sizes[first + k] = size or image.shape[:2]
        self._beat()

    def _decode_together(self, files: Sequence[bytes], images: Images) -> Sequence[bool]:
        """Decode several files in one go; return for each image whether it holds its pixels."""
        if len(files) == 1 or images[0].ndim == 1 or self._way.fit.scale:
            return [False] * len(files)
        probe = self._way.probe
        if isinstance(images, np.ndarray) and probe.decode_alike(files, images):
            return [True] * len(files)
        return probe.decode_mixed(files, list(images))

    def _note(
        self,
        samples: Samples,
        first: int,
        images: Images,
        done: Sequence[int],
        records: SampleRecords,
    ) -> None:
        """Record the images at these positions, which hold the pixels of their files."""
        alike = isinstance(images, np.ndarray)
        rows: slice | list[int] = slice(first, first + len(images))
        if len(done) < len(images):
            rows, images = [first + k for k in done], [images[k] for k in done]
        records.status[rows] = STATUS_OK
        records.checksums[rows] = [
            xxh3_64_intdigest(image)  # type: ignore[arg-type]  # it is a buffer
            for image in images
        ]
        records.sizes[rows] = images[0].shape[:2] if alike else [each.shape[:2] for each in images]
        if self._seen is not None:
            n = len(done) if alike else 1
            indices = samples.indices[rows].tolist()
            for index, image in zip(indices[::n], images[::n], strict=True):
                spec = ImageSpec.of(image.shape, image.dtype)
                self._seen.add(samples.group, spec, index, n)

    def load(
        self,
        samples: Samples,
        k: int,
        given: bytes | SampleError,
        image: NDArray[Any],
        records: SampleRecords,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        """See `Loader.load`."""
        stats = self._stats
        size = None
        try:
            if isinstance(given, SampleError):
                raise given
            size, notes = self._decode(samples, k, given, image, counts)
            records.status[k] = STATUS_OK
            if counts:
                stats.n_read_bytes += len(given)
                for kind in notes:
                    path = os.fsdecode(samples.paths[k])
                    stats.notes.add(kind, samples.sample(k), path)
        except SampleError as error:
            self._fail(samples, k, error, image, records, counts=counts)
        records.checksums[k] = xxh3_64_intdigest(image)  # type: ignore[arg-type]  # it is a buffer
        stats.n_done += counts
        self._beat()
        return size

    def _look(self, data: bytes) -> None:
        """Raise if this is no image; where it was to be recoded, if it cannot be decoded."""
        spec = self._way.probe(data)
        if self._recoded is not None and spec is not None:
            decode_into(data, np.empty(spec.shape, spec.dtype), spec=spec)

    def _decode(
        self, samples: Samples, k: int, data: bytes, image: NDArray[Any], counts: bool
    ) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
        """Fill `image`; return the size of what is in it, and kinds of notes on it."""
        way, options = self._way, self._way.options
        if image.ndim == 1:
            if not len(image) or len(data) != len(image):
                self._look(data)  # may know a better reason
                raise SampleError("changed", f"expected {len(image)} bytes, found {len(data)}")
            if self._seen is not None and (spec := way.probe(data)):
                self._compare(self._seen, samples, k, spec, image, counts)
            way.probe.check_intact(data)
            image[...] = np.frombuffer(data, np.uint8)
            return None, ()
        spec = way.probe(data)
        assert spec is not None, "the whole file tells"
        if self._seen is not None:
            self._compare(self._seen, samples, k, spec, image, counts)
        size = spec.height, spec.width
        is_same = spec.shape == image.shape and spec.dtype == image.dtype
        if is_same and way.fit.scale.of(size) == size:
            notes = way.decode_into(data, image, spec)
            return size, notes
        channels = image.shape[2] if image.ndim == 3 else 1
        lossy = spec.dtype == "uint16" and image.dtype == np.uint8 and not options.reduce_depth
        if (
            lossy
            or (options.channels == "auto" and not holds(channels, spec))
            or (options.dtype == "auto" and spec.dtype != image.dtype)
        ):  # what the header said when it was probed did fit
            raise SampleError("changed", f"expected {image.shape} {image.dtype}, found {spec}")
        pixels = np.empty(spec.shape, spec.dtype)
        notes = way.decode_into(data, pixels, spec)
        losses = Losses()
        size = convert_into(pixels, image, way.fit, losses)
        if counts:
            self._stats.losses.add(losses)
        return size, notes

    def _compare(
        self,
        seen: SeenKinds,
        samples: Samples,
        k: int,
        spec: ImageSpec,
        image: NDArray[Any],
        counts: bool,
    ) -> None:
        """Raise if an image is not what was expected before its header was read."""
        fits = seen.add(samples.group, spec, int(samples.indices[k]), int(counts))
        self._stats.n_misfits += not fits
        becomes = seen.becomes(samples.group, spec)
        expected: tuple[tuple[int, ...], str] = image.shape, image.dtype.name
        if len(samples.shapes):
            expected = samples.image_shape(k), samples.image_dtype(k)
        if not fits or (becomes.shape, becomes.dtype) != expected:
            raise SampleError("changed", f"expected {expected[0]} {expected[1]}, found {spec}")
