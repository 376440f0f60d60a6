"""The picture of `bench read`."""

from __future__ import annotations

from h5ingest.bench import figures
from h5ingest.bench.measure import digits
from h5ingest.bench.readers import KINDS
from h5ingest.bench.reading_report import ReadReport


def draw(report: ReadReport) -> bytes:
    """Return a PNG."""
    figure = figures.figure(
        11.5, 1.3 + 0.3 * len(report.readers),
        f"Images a second: {report.n_used:,} of {report.images}, from the cache (logarithmic)",
    )  # fmt: skip
    panels = [
        (words, [report.of(reader.key, kind) for reader in report.readers])
        for kind, words in KINDS.items()
    ]
    figures.panels_of_bars(figure, report.readers, panels, digits, _tick)
    return figures.to_png(figure)


def _tick(value: float) -> str:
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
