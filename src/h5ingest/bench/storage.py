"""`h5ingest bench storage`: the classic experiment. Store and read, one image and many, each way.

The ways take turns, so that a machine that slows down slows all of them. After every reading that
was timed, every pixel and label is compared with what is in the image files.

May not: print, draw.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from h5ingest.bench import machine
from h5ingest.bench.backends import LmdbFiles, LmdbRaw, PngFolder, Way, fast
from h5ingest.bench.corpus import Corpus, gather
from h5ingest.bench.hdf5 import DatasetPerImage, Ingested, Stacked
from h5ingest.bench.measure import Spread, evict, flush, resident, timed, usage
from h5ingest.bench.storage_report import Reference, Result, StorageReport, WayUsed
from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions, size

LIBRARIES: Final = ("numpy", "h5py", "lmdb", "imageio", "pillow", "imagecodecs", "hdf5plugin")
_SPARE: Final = 4
"""Times the pixels that must be free on the disk: only one way's copy is there at a time."""


def measure(
    manifest_path: Path,
    options: IngestOptions,
    folder: Path,
    *,
    cutoffs: Sequence[int],
    n_runs: int,
    tell: Callable[[str], None] = lambda _: None,
) -> StorageReport:
    """Measure every way at every number of images.

    Args:
        manifest_path: as for an ingest.
        options: for its `root`, `delimiter` and `max_pixels`.
        folder: on whose file system the images are stored, in a folder that is taken away again.
        cutoffs: numbers of images; 1 is always measured.
        n_runs: how often.
        tell: told what goes on.

    Raises:
        IngestError: as an ingest does; no space.
        AssertionError: a way gave back other pixels.
    """
    tell("reading the images")
    corpus, n_images = gather(
        manifest_path, options, lambda n: max((c for c in fitting(cutoffs, n)), default=1)
    )
    counts = fitting(cutoffs, n_images)
    _check_space(folder, corpus)
    load_before = machine.load()
    experiment = _Experiment(corpus.uniform)
    with tempfile.TemporaryDirectory(prefix="h5ingest-bench-", dir=folder) as work:
        experiment.warm_up(corpus.take(1), Path(work))
        for n in counts:
            taken = corpus.take(n)
            for run in range(n_runs):
                for way in experiment.ways:
                    tell(f"{n:,} images, run {run + 1} of {n_runs}: {way.name}")
                    experiment.measure(way, taken, Path(work), run)
    tell("decoding alone")
    decode = [_decode_alone(corpus) for _ in range(n_runs)]
    return StorageReport(
        manifest=manifest_path.name,
        n_images=n_images,
        images=corpus.kinds,
        counts=counts,
        dropped=tuple(sorted({c for c in cutoffs if c > n_images})),
        n_runs=n_runs,
        machine=machine.describe(folder, LIBRARIES),
        load=(load_before, machine.load()),
        ways=tuple(WayUsed(key=w.key, name=w.name, how=w.how) for w in experiment.ways),
        left_out=experiment.left_out,
        results=tuple(experiment.result(way, n) for n in counts for way in experiment.ways),
        references=tuple(_reference(corpus.take(n)) for n in counts),
        decode_imageio=Spread(tuple(by_imageio for by_imageio, _ in decode)),
        decode_fast=Spread(tuple(by_fast for _, by_fast in decode)),
        n_compared=experiment.n_compared,
    )


def fitting(cutoffs: Sequence[int], n_images: int) -> tuple[int, ...]:
    """Return the numbers of images to measure, in order: 1, and all images for what is more.

    >>> fitting([10, 100, 1000], 60)
    (1, 10, 60)
    """
    return tuple(sorted({1, *(min(cutoff, n_images) for cutoff in cutoffs)}))


def _check_space(folder: Path, corpus: Corpus) -> None:
    """Raise if what is to be stored might not fit."""
    needed = _SPARE * (corpus.pixel_bytes + 8192 * len(corpus))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(f"{folder}: {size(free)} free, {size(needed)} might be needed")


@dataclass(slots=True)
class _Times:
    """What was measured of one way at one number of images: a list for each, a run at a time."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    n_bytes: int = 0
    n_inodes: int = 0
    resident: float = 0.0

    def add(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)


class _Experiment:
    """The ways, and what was measured of them."""

    def __init__(self, uniform: bool) -> None:
        ways: list[Way] = [PngFolder(), LmdbRaw(), LmdbFiles(), DatasetPerImage()]
        if uniform:
            ways.append(Stacked())
        ways += [Ingested(codec, uniform=uniform) for codec in (None, "zstd:3")]
        self.ways = ways
        self.left_out = () if uniform else (f"{Stacked.name}: the images have several sizes",)
        self.n_compared = 0
        self._times: dict[tuple[str, int], _Times] = {}

    def warm_up(self, corpus: Corpus, work: Path) -> None:
        """Let each way import what it needs; nothing of it counts."""
        for way in self.ways:
            self.measure(way, corpus, work, 0)
        self._times.clear()

    def measure(self, way: Way, corpus: Corpus, work: Path, run: int) -> None:
        """Store, then read: all and one, from disk and from memory."""
        n = len(corpus)
        times = self._times.setdefault((way.key, n), _Times())
        place = work / f"{way.key}-{n}{'.h5' if 'lmdb' not in way.key else ''}"
        flush(work)  # what others have written is not to be waited for below
        _, store_s = timed(lambda: way.store(corpus, place))
        _, flush_s = timed(lambda: flush(work))
        times.add("store", store_s)
        times.add("store_durable", store_s + flush_s)
        used = usage(place)
        times.n_bytes, times.n_inodes = used.n_bytes, used.n_inodes
        for cache in ("cold", "warm"):
            self._forget(place, cache, times)
            (images, labels), seconds = timed(lambda: _read_all(way, place, n))
            times.add(f"read_{cache}", seconds)
            self.n_compared += corpus.check(images, labels, way.name)
            del images
        row = int(np.random.default_rng((n, run)).integers(n))
        for cache in ("cold", "warm"):
            self._forget(place, cache, times)
            (image, label), seconds = timed(lambda: _read_one(way, place, row))
            times.add(f"one_{cache}", seconds)
            corpus.check_one(row, image, label, way.name)
            self.n_compared += 1
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    def _forget(self, place: Path, cache: str, times: _Times) -> None:
        if cache == "cold":
            evict(place)
            times.resident = max(times.resident, resident(place))

    def result(self, way: Way, n: int) -> Result:
        """Return what was measured."""
        times = self._times[way.key, n]
        return Result(
            way=way.key,
            n=n,
            n_bytes=times.n_bytes,
            n_inodes=times.n_inodes,
            resident_when_cold=times.resident,
            **{what: Spread(tuple(runs)) for what, runs in times.seconds.items()},
        )


def _read_all(way: Way, place: Path, n: int) -> Any:
    reader = way.open(place)
    try:
        return reader.span(0, n)
    finally:
        reader.close()


def _read_one(way: Way, place: Path, row: int) -> Any:
    reader = way.open(place)
    try:
        return reader.one(row)
    finally:
        reader.close()


def _reference(corpus: Corpus) -> Reference:
    return Reference(n=len(corpus), pixel_bytes=corpus.pixel_bytes, file_bytes=corpus.file_bytes)


def _decode_alone(corpus: Corpus) -> tuple[float, float]:
    """Return the seconds of reading and decoding all files, by imageio and by `fast`."""
    _, by_imageio = timed(lambda: [None for _ in corpus.images()])
    _, by_fast = timed(lambda: [fast(file.read_bytes()) is None for file in corpus.files])
    return by_imageio, by_fast
