"""What `bench read` found, as a value; the table of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from h5ingest.bench.measure import Spread, digits, plain
from h5ingest.bench.readers import KINDS
from h5ingest.bench.storage_report import WayUsed

SCHEMA: Final = "h5ingest bench read 1"
_STORES: Final = ("h5ingest-raw", "h5ingest-zstd", "h5ingest-file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One way to read, one kind of access."""

    way: str
    """Its key."""
    kind: str
    """One of `KINDS`."""
    images_per_s: Spread
    """Images a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """All of it."""

    source: str
    """Name of the manifest or the file."""
    n_images: int
    """In it."""
    n_used: int
    """Images measured."""
    images: str
    """What they are, in words."""
    pixel_bytes: int
    """Of their pixels."""
    n_runs: int
    """Of each."""
    machine: dict[str, str]
    """What it ran on."""
    load: tuple[float, float]
    """Processes that wanted to run, before and after."""
    ways: tuple[WayUsed, ...]
    """In the order measured."""
    rates: tuple[Rate, ...]
    """By kind, then by way."""
    n_compared: int
    """Images of which every pixel was compared."""

    def of(self, way: str, kind: str) -> Spread | None:
        """Return the images a second; None if this way has no such access."""
        found = (r.images_per_s for r in self.rates if (r.way, r.kind) == (way, kind))
        return next(found, None)

    def ratios(self) -> list[dict[str, Any]]:
        """Return how many times as many images a second `ImageStore` gives than the others."""
        ratios = []
        for kind in KINDS:
            for store in _STORES:
                ours = self.of(store, kind)
                for way in self.ways:
                    other = self.of(way.key, kind)
                    if ours is not None and other is not None and way.key != store:
                        ratio = ours.median / other.median
                        ratios.append({"kind": kind, "of": store, "over": way.key, "ratio": ratio})
        return ratios

    def notes(self) -> list[str]:
        """Return what somebody must know who reads the numbers."""
        used = f"{self.n_used:,} of {self.n_images:,} images ({self.images})"
        notes = [
            f"{used}, everything in the system's cache; image and label as arrays in memory. One "
            f"process; ImageStore decodes the chunks of a batch in as many threads as there are "
            f"processors. DataLoaders were started before.",
            "In order: opened, read from the first image on, closed. At random: open already, and "
            "compressed chunks in ImageStore's cache as far as they fit.",
            f"All pixels and labels were compared before ({self.n_compared:,} images).",
            f"Medians of {self.n_runs} runs, with lowest and highest; they took turns. Load of the "
            f"machine: {self.load[0]:.1f} before, {self.load[1]:.1f} after.",
        ]
        if all(way.key != "loader-store" for way in self.ways):
            notes.append(
                "No DataLoader on the file: PyTorch (extra 'torch') or labels are missing."
            )
        return notes

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values."""
        return {
            "schema": SCHEMA, **plain(self), "kinds": KINDS, "ratios": self.ratios(),
            "all_pixels_compared": True, "notes": self.notes(),
        }  # fmt: skip


def print_table(report: ReadReport) -> None:
    """Print images a second, and what must be known with them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("images/s", no_wrap=True)
    for words in KINDS.values():
        table.add_column(words, justify="right")
    for way in report.ways:
        cells = [_words(report.of(way.key, kind)) for kind in KINDS]
        table.add_row(way.name, *cells, style="bold" if way.key in _STORES else None)
    console = Console(width=200, highlight=False, markup=False)
    console.print(table)
    console.print()
    for note in report.notes():
        console.print(note, soft_wrap=True)


def _words(rates: Spread | None) -> str:
    if rates is None:
        return "-"
    return f"{digits(rates.median)}\n{digits(rates.low)}..{digits(rates.high)}"
