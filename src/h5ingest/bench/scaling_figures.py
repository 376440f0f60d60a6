"""The picture of `bench scaling`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from h5ingest.bench import figures
from h5ingest.bench.scaling_report import SCALINGS, Result, ScalingReport

_COLOURS: Final = ("#009e73", "#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#4d4d4d")
_STYLES: Final = ("-", "--", ":", "-.")
"""A colour for each set of images, a style for each number of readers."""


def draw(report: ScalingReport) -> bytes:
    """Return a PNG."""
    scalings = [s for s in SCALINGS if any(s in result.scalings for result in report.results)]
    ranks = sorted({result.ranks for result in report.results})
    title = "h5ingest on more ranks: the work, without start-up"
    figure = figures.figure(4.2 * (len(scalings) + 1), 4.2, title)
    *panels, last = figure.subplots(1, len(scalings) + 1)
    ideal = [n / ranks[0] for n in ranks]
    for axes, scaling in zip(panels, scalings, strict=True):
        axes.plot(ranks, ideal, color="#9ca3af", linewidth=1)
        axes.annotate("ideal", (ranks[-1], ideal[-1]), ha="right", va="bottom", fontsize=8)
        for look, points in _curves(report, scaling):
            speed_ups = [report.speed_up(point, scaling) for point in points]
            axes.plot([p.ranks for p in points], speed_ups, **look)
        axes.set(xscale="log", yscale="log")
        figures.heading(axes, f"speed-up, {scaling} scaling")
        axes.set_yticks(ideal, [f"{n:g}" for n in ideal])
    for look, points in _curves(report, scalings[0]):
        relative = [p.cpu_per_image / points[0].cpu_per_image for p in points]
        last.plot([p.ranks for p in points], relative, **look)
    last.set(xscale="log")
    last.set_ylim(bottom=0)
    figures.heading(last, f"CPU time of an image, to that on {ranks[0]}")
    for axes in (*panels, last):
        figures.tidy(axes)
        axes.set_xlabel("ranks")
        axes.set_xticks(ranks, [str(n) for n in ranks])
    figures.legend(figure, last)
    return figures.to_png(figure)


def _curves(report: ScalingReport, scaling: str) -> Iterator[tuple[dict[str, Any], list[Result]]]:
    """Yield how a line looks, and its points."""
    for place, images in enumerate(report.images):
        every = report.of(scaling, images.name)
        for style, readers in enumerate(report.readers):
            name = images.name + (f", {readers} readers" if readers is not None else "")
            look = {
                "color": _COLOURS[place % len(_COLOURS)], "marker": "o", "markersize": 5,
                "linestyle": _STYLES[style % len(_STYLES)], "label": name,
            }  # fmt: skip
            yield look, [point for point in every if point.readers == readers]
