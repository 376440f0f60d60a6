"""The picture of `bench read`."""

from __future__ import annotations

from h5ingest.bench import figures
from h5ingest.bench.measure import digits
from h5ingest.bench.readers import KINDS
from h5ingest.bench.reading_report import ReadReport


def draw(report: ReadReport) -> bytes:
    """Return a PNG."""
    figure = figures.figure(
        12, 1.4 + 0.36 * len(report.readers),
        f"Images a second: {report.n_used:,} of {report.images}, from the cache (logarithmic)",
    )  # fmt: skip
    panels = [
        (words, [report.of(reader.key, kind) for reader in report.readers])
        for kind, words in KINDS.items()
    ]
    figures.panels_of_dots(figure, report.readers, panels, digits, figures.amount)
    return figures.to_png(figure)
