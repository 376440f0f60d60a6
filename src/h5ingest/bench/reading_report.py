"""What `bench read` found, as a value and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from h5ingest.bench.measure import Spread, digits, plain
from h5ingest.bench.readers import KINDS
from h5ingest.bench.report import Description, new_table, print_report, turns

SCHEMA: Final = "h5ingest bench read 1"
_STORES: Final = ("h5ingest-raw", "h5ingest-zstd", "h5ingest-file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One reader, one kind of access."""

    reader: str
    """Its key."""
    kind: str
    """One of `KINDS`."""
    images_per_s: Spread
    """Images a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """Everything that was found."""

    source: str
    """Name of the manifest or the file."""
    n_images: int
    """In it."""
    n_used: int
    """Images measured."""
    images: str
    """Their sizes and types, in words."""
    pixel_bytes: int
    """Total size of the pixels."""
    n_runs: int
    """How often each was measured."""
    machine: dict[str, str]
    """Processor, memory, versions."""
    load: tuple[float, float]
    """Processes that wanted to run, before and after."""
    readers: tuple[Description, ...]
    """In the order measured."""
    rates: tuple[Rate, ...]
    """By kind, then by reader."""
    n_compared: int
    """Images of which every pixel was compared."""

    def of(self, reader: str, kind: str) -> Spread | None:
        """Return the images a second; None if this reader has no such access."""
        found = (r.images_per_s for r in self.rates if (r.reader, r.kind) == (reader, kind))
        return next(found, None)

    def ratios(self) -> list[dict[str, Any]]:
        """Return how many times as many images a second `ImageStore` gives as the others."""
        ratios = []
        for kind in KINDS:
            for store in _STORES:
                ours = self.of(store, kind)
                for key in (reader.key for reader in self.readers if reader.key != store):
                    other = self.of(key, kind)
                    if ours is not None and other is not None:
                        ratio = ours.median / other.median
                        ratios.append({"kind": kind, "of": store, "over": key, "ratio": ratio})
        return ratios

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know."""
        used = f"{self.n_used:,} of {self.n_images:,} images ({self.images})"
        notes = [
            f"{used}, everything in the system's cache; image and label as arrays in memory. One "
            f"process; ImageStore decodes the chunks of a batch in as many threads as there are "
            f"processors. DataLoaders were started before.",
            "In order: all images once, by a reader that has read nothing yet. At random: "
            "compressed chunks are in ImageStore's cache as far as they fit. To open files is not "
            "timed.",
            f"All pixels and labels were compared before ({self.n_compared:,} images).",
            turns(self.n_runs, self.load),
        ]
        if all(reader.key != "loader-store" for reader in self.readers):
            notes.append(
                "No DataLoader on the file: PyTorch (extra 'torch') or labels are missing."
            )
        return notes

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values, under the names of schema 1."""
        return {
            "schema": SCHEMA, **plain(self, readers="ways", reader="way"), "kinds": KINDS,
            "ratios": self.ratios(), "all_pixels_compared": True, "notes": self.notes(),
        }  # fmt: skip


def print_table(report: ReadReport) -> None:
    """Print images a second, and what a reader must know with them."""
    table = new_table("images/s", *KINDS.values(), left="images/s")
    for reader in report.readers:
        found = [report.of(reader.key, kind) for kind in KINDS]
        cells = [spread.in_words(digits) if spread else "-" for spread in found]
        table.add_row(reader.name, *cells, style="bold" if reader.key in _STORES else None)
    print_report([("", table)], report.notes())
