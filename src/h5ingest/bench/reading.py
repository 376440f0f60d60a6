"""`h5ingest bench read`: images a second, at random and in order, of each way to read them.

All from the system's cache: the files were written or read just before. The contenders take turns.

May not: print, draw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import h5py

from h5ingest.bench import machine
from h5ingest.bench.lineup import from_file, from_manifest, line_up
from h5ingest.bench.measure import Spread, timed
from h5ingest.bench.readers import KINDS, Contender
from h5ingest.bench.reading_report import Rate, ReadReport
from h5ingest.bench.storage_report import WayUsed
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
    """Measure every contender in every kind of access.

    Args:
        source: a manifest, or a file of h5ingest.
        options: for a manifest's `root`, `delimiter` and `max_pixels`.
        folder: on whose file system files are made, in a folder that is taken away again.
        n_wanted: images; fewer if there are fewer.
        n_runs: how often.
        group: of a file that has groups.
        seconds: that each run should take, about.
        tell: told what goes on.

    Raises:
        IngestError: as an ingest, or `ImageStore`.
        AssertionError: somebody gave back other pixels.
    """
    tell("reading the images")
    load_before = machine.load()
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory(prefix="h5ingest-bench-", dir=folder) as temporary:
        work = Path(temporary)
        if h5py.is_hdf5(source):
            corpus, n_images, stores = from_file(source, group, n_wanted, work)
        else:
            corpus, n_images, stores = from_manifest(source, options, n_wanted, work)
        n_compared = 0
        try:
            for contender in line_up(corpus, stores, group, work):
                contenders.append(contender)
                tell(f"comparing all pixels: {contender.name}")
                n_compared += contender.check(corpus)
            rates = tuple(
                Rate(way=contender.key, kind=kind, images_per_s=Spread(tuple(runs)))
                for kind in KINDS
                for contender, runs in _turns(contenders, kind, n_runs, seconds, tell)
            )
        finally:
            for contender in contenders:
                contender.close()
    torch = any(contender.key == "loader-store" for contender in contenders)
    return ReadReport(
        source=source.name,
        n_images=n_images,
        n_used=len(corpus),
        images=corpus.kinds,
        pixel_bytes=corpus.pixel_bytes,
        n_runs=n_runs,
        machine=machine.describe(folder, (*LIBRARIES, *(["torch"] * torch))),
        load=(load_before, machine.load()),
        ways=tuple(WayUsed(key=c.key, name=c.name, how=c.how) for c in contenders),
        rates=rates,
        n_compared=n_compared,
    )


def _turns(
    contenders: list[Contender], kind: str, n_runs: int, seconds: float, tell: Callable[[str], None]
) -> list[tuple[Contender, list[float]]]:
    """Return images a second, for each run of each contender."""
    able = [contender for contender in contenders if kind in contender.kinds]
    n_units = []
    for contender in able:
        tell(f"{KINDS[kind]}: how much {contender.name} does")
        n_units.append(_calibrate(contender, kind, seconds))
    found: list[tuple[Contender, list[float]]] = [(contender, []) for contender in able]
    for run in range(n_runs):
        for (contender, runs), n in zip(found, n_units, strict=True):
            tell(f"{KINDS[kind]}, run {run + 1} of {n_runs}: {contender.name}")
            n_read, seconds_ = timed(lambda: contender.run(kind, n))  # noqa: B023 - called here
            runs.append(n_read / seconds_)
    return found


def _calibrate(contender: Contender, kind: str, seconds: float) -> int:
    """Return how many images or batches take so many seconds, about."""
    contender.run(kind, 1)  # imports, starts processes
    n = 1
    while True:
        _, taken = timed(lambda: contender.run(kind, n))  # noqa: B023 - called here
        if taken >= seconds / 4:
            return max(1, round(n * seconds / taken))
        n = max(n + 1, min(n * 16, round(n * seconds / 2 / max(taken, 1e-9))))
