"""What `bench scaling` found, as a value and as tables.

May not: measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table

from h5ingest.bench.measure import Spread, digits, plain, seconds
from h5ingest.bench.report import new_table, print_report

SCHEMA: Final = "h5ingest bench scaling 1"
SCALINGS: Final = {
    "strong": "Strong scaling: the same images on every number of ranks",
    "weak": "Weak scaling: the same number of images for each rank",
}
"""Name -> heading."""
_TIMES: Final = (
    "A time is split by the report of h5ingest: start-up (launcher, Python, MPI; until the ranks "
    "begin with the manifest), manifest (layout and division too), probe (headers: of a large "
    "stack those of a sample, else of all files; whole files, as far as --cache-bytes allows), "
    "store (read, decode, checksum, write), finish (fsync, the pass of rank 0, rename). images/s, "
    "MB/s, speed-up and CPU are of the work: everything but start-up."
)
_RATIOS: Final = (
    "Speed-up: images/s against those of the fewest ranks. Efficiency: speed-up by the ratio of "
    "ranks. MB: 10^6 bytes of the images as they are in the file, before compression. CPU: of all "
    "ranks, user and system."
)
_CHECKED: Final = (
    "Before anything was timed, each set of images was ingested, and `verify --sources` compared "
    "every image with its file; so the files were in the system's cache, as far as it keeps them. "
    "Every file made while timed has the same content digest as that one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One set of images."""

    name: str
    """Name of the manifest, or the size of drawn images."""
    n_images: int
    """Lines of the manifest."""
    about: str
    """What they are, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One set of images, on so many ranks with so many readers."""

    images: str
    """Name of the set."""
    n_images: int
    """Images of the set that were ingested."""
    ranks: int
    readers: str | None
    """As `--readers` has it; None for h5ingest's default."""
    scalings: tuple[str, ...]
    """Of `SCALINGS`, those that this is a point of."""
    image_bytes: int
    """In the file, before compression."""
    file_bytes: int
    """Total size of the image files."""
    wall: Spread
    """Seconds from outside."""
    steps: dict[str, Spread]
    """`start-up`, `manifest`, `probe`, `store`, `finish`: seconds, which make up `wall`."""
    work: Spread
    """Seconds without the start-up."""
    cpu: Spread
    """CPU seconds of all ranks in the work."""
    cpu_start: Spread
    """CPU seconds of all ranks in the start-up."""

    @property
    def images_per_s(self) -> float:
        """Images a second, in the work."""
        return self.n_images / self.work.median

    @property
    def mb_per_s(self) -> float:
        """MB of images a second, before compression, in the work."""
        return self.image_bytes / 1e6 / self.work.median

    @property
    def cpu_per_image(self) -> float:
        """Seconds."""
        return self.cpu.median / self.n_images


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingReport:
    """Everything that was found."""

    images: tuple[Images, ...]
    """The sets."""
    launcher: str
    """Template of the command that starts ranks, without folders."""
    arguments: str
    """More options of the ingest."""
    n_runs: int
    """How often each was measured."""
    machine: dict[str, str]
    """What the benchmark itself ran on; ranks may have run elsewhere."""
    cores: int
    """Usable cores of that machine."""
    load: tuple[float, float]
    """Processes that wanted to run there, before and after."""
    results: tuple[Result, ...]
    """By set, ranks, readers and number of images."""

    def of(self, scaling: str, images: str) -> list[Result]:
        """Return the points of one kind of scaling, by readers and ranks."""
        found = [r for r in self.results if r.images == images and scaling in r.scalings]
        return sorted(found, key=lambda r: ([*self.readers].index(r.readers), r.ranks))

    @property
    def readers(self) -> tuple[str | None, ...]:
        """In the order measured."""
        return tuple(dict.fromkeys(result.readers for result in self.results))

    def base(self, result: Result, scaling: str) -> Result:
        """Return the point with the fewest ranks that a point is compared with."""
        return next(r for r in self.of(scaling, result.images) if r.readers == result.readers)

    def speed_up(self, result: Result, scaling: str) -> float:
        """Return how many times as fast a point is as that with the fewest ranks."""
        return result.images_per_s / self.base(result, scaling).images_per_s

    def efficiency(self, result: Result, scaling: str) -> float:
        """Return the speed-up by what it would be if every rank were of use; 1 is perfect."""
        return self.speed_up(result, scaling) * self.base(result, scaling).ranks / result.ranks

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values, with what follows from them."""
        results = [
            {
                **plain(result),
                "images_per_s": result.images_per_s,
                "mb_per_s": result.mb_per_s,
                "cpu_s_per_image": result.cpu_per_image,
                "speed_up": {s: self.speed_up(result, s) for s in result.scalings},
                "efficiency": {s: self.efficiency(result, s) for s in result.scalings},
            }
            for result in self.results
        ]
        return {"schema": SCHEMA, **plain(self), "results": results, "notes": self.notes()}

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know."""
        return [
            *(f"{images.name}: {images.about}." for images in self.images),
            f"Started by `{self.launcher or 'no launcher'}`"
            f"{f', with {self.arguments}' if self.arguments else ''}.",
            _TIMES,
            _RATIOS,
            _CHECKED,
            f"Medians of {self.n_runs} runs, which took turns. {self.cores} cores where the "
            f"benchmark ran; load {self.load[0]:.1f} before, {self.load[1]:.1f} after.",
        ]


def print_table(report: ScalingReport) -> None:
    """Print all results and what a reader must know with them."""
    parts = [
        (f"{images.name}. {heading}", _table(report, points, scaling))
        for images in report.images
        for scaling, heading in SCALINGS.items()
        if (points := report.of(scaling, images.name))
    ]
    print_report(parts, report.notes())


def _table(report: ScalingReport, points: Sequence[Result], scaling: str) -> Table:
    table = new_table(
        "ranks", "readers", "images", "whole", *points[0].steps, "images/s", "MB/s", "speed-up",
        "efficiency", "CPU/image",
    )  # fmt: skip
    for point in points:
        table.add_row(
            f"{point.ranks:,}",
            point.readers or "default",
            f"{point.n_images:,}",
            seconds(point.wall.median),
            *(seconds(spread.median) for spread in point.steps.values()),
            digits(point.images_per_s),
            digits(point.mb_per_s),
            f"{report.speed_up(point, scaling):.2f}",
            f"{report.efficiency(point, scaling):.0%}",
            seconds(point.cpu_per_image),
        )
    return table
