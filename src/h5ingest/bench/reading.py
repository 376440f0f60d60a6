"""`h5ingest bench read`: images a second, at random and in order, by each reader.

All from the system's cache: the files were written or read just before. The readers take turns.

May not: print, draw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import h5py

from h5ingest.bench import machine
from h5ingest.bench.lineup import from_file, from_manifest, lineup
from h5ingest.bench.measure import Spread, timed
from h5ingest.bench.readers import KINDS, MeasuredReader
from h5ingest.bench.reading_report import Rate, ReadReport
from h5ingest.bench.report import describe
from h5ingest.core.options import IngestOptions

LIBRARIES: Final = ("numpy", "h5py", "lmdb", "pillow", "imagecodecs", "hdf5plugin")
SECONDS: Final = 0.3


def measure(
    source: Path,
    options: IngestOptions,
    folder: Path,
    *,
    n_wanted: int,
    n_runs: int,
    group: str | None = None,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> ReadReport:
    """Measure every reader in every kind of access.

    Args:
        source: a manifest, or a file of h5ingest.
        options: for a manifest's `root`, `delimiter` and `max_pixels`.
        folder: on whose file system files are made, in a folder that is removed at the end.
        n_wanted: images; fewer if there are fewer.
        n_runs: how often.
        group: of a file that has groups.
        seconds: that each run should take, about.
        tell: told what goes on.

    Raises:
        IngestError: as an ingest, or `ImageStore`.
        AssertionError: a reader gave back other pixels.
    """
    tell("reading the images")
    load_before = machine.load()
    readers: list[MeasuredReader] = []
    with tempfile.TemporaryDirectory(prefix="h5ingest-bench-", dir=folder) as temporary:
        work = Path(temporary)
        if h5py.is_hdf5(source):
            corpus, n_images, stores = from_file(source, group, n_wanted, work)
        else:
            corpus, n_images, stores = from_manifest(source, options, n_wanted, work)
        n_compared = 0
        try:
            for reader in lineup(corpus, stores, group, work):
                readers.append(reader)
                tell(f"comparing all pixels: {reader.name}")
                n_compared += reader.check(corpus)
            rates = tuple(
                Rate(reader=reader.key, kind=kind, images_per_s=Spread(tuple(runs)))
                for kind in KINDS
                for reader, runs in _turns(readers, kind, n_runs, seconds, tell)
            )
        finally:
            for reader in readers:
                reader.close()
    torch = any(reader.key == "loader-store" for reader in readers)
    return ReadReport(
        source=source.name,
        n_images=n_images,
        n_used=len(corpus),
        images=corpus.kinds,
        pixel_bytes=corpus.pixel_bytes,
        n_runs=n_runs,
        machine=machine.describe(folder, (*LIBRARIES, *(["torch"] * torch))),
        load=(load_before, machine.load()),
        readers=describe(readers),
        rates=rates,
        n_compared=n_compared,
    )


def _turns(
    readers: list[MeasuredReader],
    kind: str,
    n_runs: int,
    seconds: float,
    tell: Callable[[str], None],
) -> list[tuple[MeasuredReader, list[float]]]:
    """Return images a second, for each run of each reader."""
    able = [reader for reader in readers if kind in reader.kinds]
    n_units = []
    for reader in able:
        tell(f"{KINDS[kind]}: how much {reader.name} does")
        n_units.append(_calibrate(reader, kind, seconds))
    found: list[tuple[MeasuredReader, list[float]]] = [(reader, []) for reader in able]
    for run in range(n_runs):
        for (reader, runs), n in zip(found, n_units, strict=True):
            tell(f"{KINDS[kind]}, run {run + 1} of {n_runs}: {reader.name}")
            n_read, seconds_ = _run(reader, kind, n)
            runs.append(n_read / seconds_)
    return found


def _calibrate(reader: MeasuredReader, kind: str, seconds: float) -> int:
    """Return how many images or batches take so many seconds, about, with the opening of files."""
    _run(reader, kind, 1)  # imports, starts processes
    n = 1
    while True:
        _, taken = timed(lambda: _run(reader, kind, n))  # noqa: B023 - called here
        if taken >= seconds / 4:
            return max(1, round(n * seconds / taken))
        n = max(n + 1, min(n * 16, round(n * seconds / 2 / max(taken, 1e-9))))


def _run(reader: MeasuredReader, kind: str, n_units: int) -> tuple[int, float]:
    """Return how many images were read, and the seconds that it took, without opening files."""
    told = [timed(work) for work in reader.work(kind, n_units)]
    return sum(n for n, _ in told), sum(seconds for _, seconds in told)
