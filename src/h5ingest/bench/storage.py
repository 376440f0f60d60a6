"""`h5ingest bench storage`: store and read images, one and many, by each backend.

The backends take turns, so that a machine that slows down slows all of them. After every timed
read, every pixel and label is compared with what is in the image files.

May not: print, draw.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from h5ingest.bench import machine
from h5ingest.bench.backends import Backend, LmdbFiles, LmdbRaw, PngFolder, Reader
from h5ingest.bench.corpus import Corpus, fast, gather
from h5ingest.bench.hdf5 import DatasetPerImage, Ingested, Stacked
from h5ingest.bench.measure import Spread, evict, flush, resident, timed, usage
from h5ingest.bench.report import describe
from h5ingest.bench.storage_report import Reference, Result, StorageReport
from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import size

T = TypeVar("T")

LIBRARIES: Final = ("numpy", "h5py", "lmdb", "imageio", "pillow", "imagecodecs", "hdf5plugin")
_SPARE: Final = 4
"""Times the pixels that must be free on the disk: one backend's copy exists at a time."""


def measure(
    manifest_path: Path,
    options: IngestOptions,
    folder: Path,
    *,
    cutoffs: Sequence[int],
    n_runs: int,
    tell: Callable[[str], None] = lambda _: None,
) -> StorageReport:
    """Measure every backend at every number of images.

    Args:
        manifest_path: as for an ingest.
        options: for its `root`, `delimiter` and `max_pixels`.
        folder: on whose file system the images are stored, in a folder that is removed at the end.
        cutoffs: numbers of images; 1 is always measured.
        n_runs: how often.
        tell: told what goes on.

    Raises:
        IngestError: as an ingest does; no space.
        AssertionError: a backend gave back other pixels.
    """
    tell("reading the images")
    corpus, n_images = gather(manifest_path, options, lambda n: fitting(cutoffs, n)[-1])
    counts = fitting(cutoffs, n_images)
    _check_space(folder, corpus)
    load_before = machine.load()
    experiment = _Experiment(corpus.uniform)
    with tempfile.TemporaryDirectory(prefix="h5ingest-bench-", dir=folder) as work:
        experiment.warm_up(corpus.take(1), Path(work))
        for n in counts:
            taken = corpus.take(n)
            for run in range(n_runs):
                for backend in experiment.backends:
                    tell(f"{n:,} images, run {run + 1} of {n_runs}: {backend.name}")
                    experiment.measure(backend, taken, Path(work), run)
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
        backends=describe(experiment.backends),
        left_out=experiment.left_out,
        results=tuple(experiment.result(one, n) for n in counts for one in experiment.backends),
        references=tuple(
            Reference(n=len(taken), pixel_bytes=taken.pixel_bytes, file_bytes=taken.file_bytes)
            for taken in map(corpus.take, counts)
        ),
        decode_imageio=Spread(tuple(by_imageio for by_imageio, _ in decode)),
        decode_fast=Spread(tuple(by_fast for _, by_fast in decode)),
        n_compared=experiment.n_compared,
    )


def fitting(cutoffs: Sequence[int], n_images: int) -> tuple[int, ...]:
    """Return the numbers of images to measure, ascending: 1, and no cutoff above `n_images`.

    >>> fitting([10, 100, 1000], 60)
    (1, 10, 60)
    """
    return tuple(sorted({1, *(min(cutoff, n_images) for cutoff in cutoffs)}))


def _check_space(folder: Path, corpus: Corpus) -> None:
    """Raise `OutputError` if what is to be stored might not fit."""
    needed = _SPARE * (corpus.pixel_bytes + 8192 * len(corpus))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(f"{folder}: {size(free)} free, {size(needed)} might be needed")


@dataclass(slots=True)
class _Times:
    """What was measured of one backend at one number of images; a value for each run."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    n_bytes: int = 0
    n_inodes: int = 0
    resident: float = 0.0


class _Experiment:
    """The backends, and what was measured of them."""

    def __init__(self, uniform: bool) -> None:
        self.backends: list[Backend] = [
            PngFolder(), LmdbRaw(), LmdbFiles(), DatasetPerImage(), *([Stacked()] * uniform),
            *(Ingested(codec, uniform=uniform) for codec in (None, "zstd:3")),
        ]  # fmt: skip
        self.left_out = () if uniform else (f"{Stacked.name}: the images have several sizes",)
        self.n_compared = 0
        self._times: dict[tuple[str, int], _Times] = defaultdict(_Times)

    def warm_up(self, corpus: Corpus, work: Path) -> None:
        """Let each backend import what it needs; these times are discarded."""
        for backend in self.backends:
            self.measure(backend, corpus, work, 0)
        self._times.clear()

    def measure(self, backend: Backend, corpus: Corpus, work: Path, run: int) -> None:
        """Store, then read: all and one, from disk and from memory."""
        n = len(corpus)
        times = self._times[backend.key, n]
        place = work / f"{backend.key}-{n}{'.h5' if 'lmdb' not in backend.key else ''}"
        flush(work)  # so that nobody else's writes are waited for below
        _, store_s = timed(lambda: backend.store(corpus, place))
        _, flush_s = timed(lambda: flush(work))
        times.seconds["store"].append(store_s)
        times.seconds["store_durable"].append(store_s + flush_s)
        times.n_bytes, times.n_inodes = usage(place)
        for cache in ("cold", "warm"):
            self._forget(place, cache, times)
            (images, labels), seconds = _read(backend, place, lambda reader: reader.span(0, n))
            times.seconds[f"read_{cache}"].append(seconds)
            self.n_compared += corpus.check(range(n), images, labels, backend.name)
            del images
        row = int(np.random.default_rng((n, run)).integers(n))
        for cache in ("cold", "warm"):
            self._forget(place, cache, times)
            (image, label), seconds = _read(backend, place, lambda reader: reader.one(row))
            times.seconds[f"one_{cache}"].append(seconds)
            corpus.check_one(row, image, label, backend.name)
            self.n_compared += 1
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    def _forget(self, place: Path, cache: str, times: _Times) -> None:
        if cache == "cold":
            evict(place)
            times.resident = max(times.resident, resident(place))

    def result(self, backend: Backend, n: int) -> Result:
        """Return what was measured."""
        times = self._times[backend.key, n]
        return Result(
            backend=backend.key,
            n=n,
            n_bytes=times.n_bytes,
            n_inodes=times.n_inodes,
            resident_when_cold=times.resident,
            **{what: Spread(tuple(runs)) for what, runs in times.seconds.items()},
        )


def _read(backend: Backend, place: Path, read: Callable[[Reader], T]) -> tuple[T, float]:
    """Return what `read` returns, and the seconds that opening, reading and closing took."""

    def whole() -> T:
        with closing(backend.open(place)) as reader:
            return read(reader)

    return timed(whole)


def _decode_alone(corpus: Corpus) -> tuple[float, float]:
    """Return the seconds of reading and decoding all files, by imageio and by `fast`."""
    _, by_imageio = timed(lambda: [None for _ in corpus.images()])
    _, by_fast = timed(lambda: [fast(file.read_bytes()) is None for file in corpus.files])
    return by_imageio, by_fast
