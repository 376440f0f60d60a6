"""The picture of `bench read`."""

from __future__ import annotations

from h5ingest.bench import figures
from h5ingest.bench.measure import digits
from h5ingest.bench.readers import KINDS
from h5ingest.bench.reading_report import ReadReport


def draw(report: ReadReport) -> dict[str, bytes]:
    """Return name -> PNG."""
    figure = figures.figure(11.5, 1.3 + 0.3 * len(report.ways))
    for place, (axes, kind) in enumerate(zip(figure.subplots(1, 3), KINDS, strict=True)):
        spreads = [report.of(way.key, kind) for way in report.ways]
        values = [
            (way.key, way.name, s.median if s else 0.0, digits(s.median) if s else "")
            for way, s in zip(report.ways, spreads, strict=True)
        ]
        figures.bars(axes, values, spreads=spreads, names=place == 0)
        axes.set_title(KINDS[kind], loc="left", fontsize=10)
        axes.xaxis.set_major_formatter(lambda x, _: _tick(x))
    figure.suptitle(
        f"Images a second: {report.n_used:,} of {report.images}, from the cache (logarithmic)",
        x=0.01, ha="left", fontweight="bold",
    )  # fmt: skip
    return {"read": figures.to_png(figure)}


def _tick(value: float) -> str:
    return (
        f"{value / 1e6:g}M"
        if value >= 1e6
        else f"{value / 1e3:g}k"
        if value >= 1e3
        else f"{value:g}"
    )
