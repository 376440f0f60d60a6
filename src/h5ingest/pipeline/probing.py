"""The images' headers, read by all ranks: of all images, or of those that are looked at first.

Nothing has been written yet.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import count
from h5ingest.core.errors import Failure, SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import IngestOptions
from h5ingest.core.sample_table import no_places
from h5ingest.images import source_files
from h5ingest.images.decode import HEAD_BYTES, Prober
from h5ingest.images.png_chunks import END, palette
from h5ingest.images.prefetch import FileCache, Prefetcher, Read
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples

if TYPE_CHECKING:
    from h5ingest.pipeline.recoding import Recoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProbe:
    """What one rank found in the headers of its images."""

    kinds: NDArray[np.void]
    """(k,) `census.KIND`, of the images that can be read."""
    shapes: NDArray[np.int32]
    """(n, 4) height, width, channels, bytes of a value; zeros for what cannot be read. (0, 4) where
    the images of a group become uniform."""
    file_sizes: NDArray[np.int64]
    """(n,) bytes, recoded ones where there are; (0,) where the images of a group become uniform."""
    failures: tuple[Failure, ...]
    """Images that cannot be read."""
    n_bytes: int
    """Size of the files."""
    palettes: frozenset[bytes]
    """Different palettes seen, two at most: RGB entries."""
    places: NDArray[np.void]
    """(n,) `PLACE` of recoded images; (0,) without `--recode`."""


def probe_images(
    local: LocalSamples,
    which: Sequence[int],
    known: NDArray[np.void] | None,
    folder: bytes,
    options: IngestOptions,
    cache: FileCache,
    stats: RankStats,
    heartbeat: Heartbeat,
    recoder: Recoder | None = None,
) -> LocalProbe:
    """Read the headers of this rank's images. Not collective.

    Args:
        local: the samples.
        which: positions among them of those to look at, in order.
        known: (n,) `header_index.SEEN`, what is known of the others; None: nothing, and they are
            not counted.
        folder: that relative paths are relative to.
        options: how headers are read, and for which layout.
        cache: takes the files that are read whole; what is in it is not read again.
        stats: counts the images probed, and those that cannot be read.
        heartbeat: beats in between.
        recoder: codes the images anew, where they are to be.

    Raises:
        OutputError: what is recoded cannot be written.
        StopRequested: some rank was asked to stop.
    """
    palettes: set[bytes] = set()
    raw = options.samples == "raw"
    probe = Prober(options.max_pixels, raw=raw, any_palette=options.any_palette)
    n = len(which)
    shapes, file_sizes = np.zeros((n, 4), np.int32), np.zeros(n, np.int64)
    stored_sizes = file_sizes.copy()
    first = local.indices.start
    spec_of_run: ImageSpec | None = None
    begin = 0  # of the run of images that have this spec
    files = Prefetcher(
        folder, options.readers, end=END, waiting=heartbeat.beat,
        limit=HEAD_BYTES if cache.full and recoder is None else None,
    )  # fmt: skip
    with files:
        for i, (at, file) in enumerate(zip(which, _read(files, cache, local, which), strict=True)):
            stats.n_done = i
            heartbeat.beat_if_due()
            try:
                if isinstance(file, SampleError):
                    raise file
                data, size = file
                spec = probe(data, whole=len(data) == size)
                if spec is None:
                    data, size = source_files.read(os.path.join(folder, local.paths[at]))
                    spec = probe(data)
                    assert spec is not None, "the whole file tells"
                stored = size if recoder is None else recoder(at, data, spec)
            except SampleError as error:
                stats.failures.append(error.at(local.indices[at], local.paths[at]))
                spec, size = None, 0
            if spec is not spec_of_run:
                shapes[begin:i] = _shape(spec_of_run)
                spec_of_run, begin = spec, i
            if spec is None:
                continue
            file_sizes[i], stored_sizes[i] = size, stored
            if raw and len(palettes) < 2 and (colours := palette(data)) is not None:
                palettes.add(colours)
            if len(data) == size == stored:
                cache.keep(first + at, data)
                if cache.full and recoder is None:
                    files.limit = HEAD_BYTES
    shapes[begin:] = _shape(spec_of_run)
    stats.n_done = n
    if len(which) < len(local.paths):
        shapes, file_sizes = _among_all(which, shapes, file_sizes, known, len(local.paths))
    kinds = count(local.groups, shapes, first)
    n_bytes = int(file_sizes.sum())
    if recoder is not None:  # which looks at all
        file_sizes = stored_sizes
    if KINDS[options.layout].uniform:
        shapes, file_sizes = shapes[:0].copy(), file_sizes[:0].copy()
    return LocalProbe(
        kinds=kinds,
        shapes=shapes,
        file_sizes=file_sizes,
        failures=tuple(stats.failures),
        n_bytes=n_bytes,
        palettes=frozenset(palettes),
        places=no_places() if recoder is None else recoder.places,
    )


def _among_all(
    which: Sequence[int],
    shapes: NDArray[np.int32],
    file_sizes: NDArray[np.int64],
    known: NDArray[np.void] | None,
    n: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return shapes and sizes of all n samples, from those looked at and those known before."""
    every, sizes = np.zeros((n, 4), np.int32), np.zeros(n, np.int64)
    if known is not None:
        for column, name in enumerate(("height", "width", "channels", "bytes")):
            every[:, column] = known[name]
        sizes[:] = known["size"]
    every[which], sizes[which] = shapes, file_sizes
    return every, sizes


def _read(
    files: Prefetcher, cache: FileCache, local: LocalSamples, which: Sequence[int]
) -> Iterator[Read]:
    """Yield the result for each file, in order: from the cache, or read."""
    first = local.indices.start
    unread = np.zeros(len(local.paths), np.bool_)
    unread[which] = [first + i not in cache for i in which]
    read = files.read(compress(local.paths, unread))
    for i in which:
        data = cache.get(first + i)
        yield next(read) if data is None else (data, len(data))


@functools.lru_cache(maxsize=1024)
def _shape(spec: ImageSpec | None) -> NDArray[np.int32]:
    """Return (4,) height, width, channels, bytes of a value; zeros for what cannot be read."""
    if spec is None:
        return np.zeros(4, np.int32)
    return np.array([*(*spec.shape, 1)[:3], np.dtype(spec.dtype).itemsize], np.int32)
