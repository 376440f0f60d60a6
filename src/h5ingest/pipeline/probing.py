"""The images' headers, read by all ranks: of all images, or of those that are looked at first.

Nothing has been written yet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import count, merge, numbers_of
from h5ingest.core.errors import Failure, SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import IngestOptions
from h5ingest.core.sample_table import files_of, no_places
from h5ingest.images.decode import HEAD_BYTES
from h5ingest.images.png_chunks import palette
from h5ingest.images.prefetch import FileCache, Prefetcher, Read
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.ways import ways_of

if TYPE_CHECKING:
    from h5ingest.pipeline.recoding import Recoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProbe:
    """What one rank found in the headers of its images."""

    kinds: NDArray[np.void]
    """(k,) `census.KIND`, of images that can be read, and of those that the file has already."""
    shapes: NDArray[np.int32]
    """(n, 4) height, width, channels, bytes of a value; zeros for what cannot be read. (0, 4) where
    the images of a group become uniform."""
    file_sizes: NDArray[np.int64]
    """(n,) bytes, recoded ones where there are; (0,) where the images of a group become uniform."""
    failures: tuple[Failure, ...]
    """Images that cannot be read."""
    n_bytes: int
    """Size of the files."""
    palettes: tuple[frozenset[bytes], ...]
    """Of each column of images, different palettes seen, two at most: RGB entries."""
    places: NDArray[np.void]
    """(n,) `PLACE` of recoded images; (0,) without `--recode`."""


def probe_images(
    local: LocalSamples,
    which: Sequence[int],
    known: NDArray[np.void] | None,
    files: Prefetcher,
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
        files: reads them; with or without limit.
        options: how headers are read, and for which layout.
        cache: takes the files that are read whole; what is in it is not read again.
        stats: counts the images probed, and those that cannot be read.
        heartbeat: beats in between.
        recoder: codes the images anew, where they are to be.

    Raises:
        OutputError: what is recoded cannot be written.
        StopRequested: some rank was asked to stop.
    """
    ways, n_each = ways_of(options), local.n_each
    palettes: list[set[bytes]] = [set() for _ in ways]
    for colours, held in zip(palettes, local.held.palettes, strict=False):
        colours.update(filter(None, (held,)))
    shapes, file_sizes = _of_all(known, len(local.paths))
    stored_sizes = file_sizes if recoder is None else file_sizes.copy()
    first = local.indices.start
    files.limit = HEAD_BYTES if cache.full and recoder is None else None

    def look_at(i: int, file: Read) -> None:
        """Note what one file is, and keep it if it is stored as it is."""
        way, known_palettes = ways[i % n_each], palettes[i % n_each]
        try:
            if isinstance(file, SampleError):
                raise file
            data, size = file
            spec = way.probe(data, whole=len(data) == size)
            if spec is None:
                data, size = files.read_whole(local.file(i))
                spec = way.probe(data)
                assert spec is not None, "the whole file tells"
            stored = size if recoder is None else recoder(i, data, spec)
        except SampleError as error:
            stats.failures.append(error.at(local.sample(i), local.paths[i]))
            return
        shapes[i], file_sizes[i] = _shape(spec), size
        stored_sizes[i] = stored
        if way.raw and len(known_palettes) < 2 and (found := palette(data)) is not None:
            known_palettes.add(found)
        if stored == size:
            cache.keep([first + i], [(data, size)])

    for at, some in _read(files, cache, local, which):
        heartbeat.beat_if_due()
        found = [file for file in some if not isinstance(file, SampleError)]
        alike: ImageSpec | None = None
        if len(found) == len(some) and recoder is None and n_each == 1 and not ways[0].raw:
            alike = ways[0].probe.alike([data for data, _ in found])
        if alike is not None:
            shapes[at], file_sizes[at] = _shape(alike), [size for _, size in found]
            cache.keep((first + at).tolist(), found)
            stats.n_done += len(some)
        else:
            for i, file in zip(at.tolist(), some, strict=True):
                heartbeat.beat_if_due()
                stats.n_done += 1
                look_at(i, file)
        if cache.full and recoder is None:
            files.limit = HEAD_BYTES
    cache.slow = files.slow
    if n_each > 1:
        from h5ingest.pipeline.image_rows import refuse_rows, unequal_rows  # few jobs have them

        stats.failures += unequal_rows(local, shapes, options)
        refuse_rows(local, stats.failures, shapes, stored_sizes)
    kinds = merge([count(local.groups, shapes, first), local.held.kinds])
    n_bytes = int(file_sizes.sum())
    if KINDS[options.layout].uniform:
        shapes, stored_sizes = shapes[:0].copy(), stored_sizes[:0].copy()
    return LocalProbe(
        kinds=kinds,
        shapes=shapes,
        file_sizes=stored_sizes,
        failures=tuple(stats.failures),
        n_bytes=n_bytes,
        palettes=tuple(map(frozenset, palettes)),
        places=no_places() if recoder is None else recoder.places,
    )


def _of_all(known: NDArray[np.void] | None, n: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return shapes and sizes of all n samples as they are known before they are looked at."""
    shapes, sizes = np.zeros((n, 4), np.int32), np.zeros(n, np.int64)
    if known is not None:
        for column, name in enumerate(("height", "width", "channels", "bytes")):
            shapes[:, column] = known[name]
        sizes[:] = known["size"]
    return shapes, sizes


def _read(
    files: Prefetcher, cache: FileCache, local: LocalSamples, which: Sequence[int]
) -> Iterator[tuple[NDArray[np.intp], list[Read]]]:
    """Yield positions and the results for their files, a few at a time: first those in the cache.

    The others are read in order.
    """
    at = np.array(which, np.intp)
    indices = local.indices.start + at
    lacking = cache.lacks(indices)
    if not lacking.all():
        data = [cache.get(index) for index in indices[~lacking].tolist()]
        yield at[~lacking], [(each, len(each)) for each in data]
    unread = at[lacking]
    wanted = np.zeros(len(local.paths), np.bool_)
    wanted[unread] = True
    for some in files.read_some(compress(files_of(local.paths, local.members), wanted.data)):
        yield unread[: len(some)], some
        unread = unread[len(some) :]


@functools.lru_cache(maxsize=1024)
def _shape(spec: ImageSpec) -> NDArray[np.int32]:
    """Return (4,) height, width, channels, bytes of a value."""
    return np.array(numbers_of(spec), np.int32)
