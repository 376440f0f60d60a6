"""The drawing that the pictures of all benchmarks share. The only module here with matplotlib.

May not: measure.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from h5ingest.bench.measure import Spread
from h5ingest.bench.report import Description
from h5ingest.inspect.canvas import signed

COLOURS: Final = {
    "png": "#6b7280", "lmdb-raw": "#1d4ed8", "lmdb-files": "#60a5fa", "hdf5-loop": "#b45309",
    "hdf5-stack": "#f59e0b", "h5ingest-raw": "#047857", "h5ingest-zstd": "#34d399",
    "png-fast": "#9ca3af", "h5ingest-file": "#047857", "h5ingest-zstd-small": "#a7f3d0",
    "h5ingest-file-small": "#a7f3d0", "loader-store": "#065f46", "loader-png": "#6b7280",
    "memmap": "#d1d5db",
}  # fmt: skip
"""One colour for a backend or reader in all pictures; what is h5ingest's is green."""
_OTHER: Final = "#fcd34d"
_MARKERS: Final = "oDdsvP*Xh"


def figure(width: float, height: float, title: str) -> Any:
    """Return a figure with no axes yet, of so many inches."""
    made = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    made.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return made


def heading(axes: Any, text: str) -> None:
    """Write what a panel shows above it."""
    axes.set_title(text, loc="left", fontsize=10)


def to_png(figure: Any) -> bytes:
    """Return the figure as the bytes of a PNG, of 256 colours: a third of the size."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256).save(packed, "PNG", optimize=True, pnginfo=signed())
    return packed.getvalue()


def colour(key: str) -> str:
    """Return the colour of a backend or reader."""
    return COLOURS.get(key, _OTHER)


def lines(
    axes: Any, curves: Sequence[tuple[str, str, list[int], list[Spread]]], *, scale: str
) -> None:
    """Draw times against numbers of images, with the range of all runs behind each line.

    Args:
        axes: the panel.
        curves: (key, name, numbers of images, seconds).
        scale: `linear` or `log`, of both axes.
    """
    for place, (key, name, counts, spreads) in enumerate(curves):
        ours = key.startswith("h5ingest")
        axes.fill_between(
            counts, [s.low for s in spreads], [s.high for s in spreads],
            color=colour(key), alpha=0.18, linewidth=0,
        )  # fmt: skip
        axes.plot(
            counts, [s.median for s in spreads], color=colour(key), label=name,
            marker=_MARKERS[place % len(_MARKERS)], markersize=5, linewidth=2.4 if ours else 1.5,
            zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xscale=scale, yscale=scale, xlabel="images")
    if scale == "linear":
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda y, _: tick(y))
    tidy(axes)


def tick(value: float) -> str:
    """Return a time for an axis.

    >>> tick(0.2), tick(0.01), tick(30.0), tick(0.0)
    ('0.2 s', '10 ms', '30 s', '0')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= (0.0999 if unit == "s" else 0.999):
            return f"{value * factor:.4g} {unit}"
    return "0" if not value else f"{value:.3g} s"


def legend(figure: Any, axes: Any) -> None:
    """Name the lines below all panels."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False,
        fontsize=9,
    )  # fmt: skip


def panels_of_bars(
    figure: Any,
    measured: Sequence[Description],
    panels: Sequence[tuple[str, Sequence[Spread | None]]],
    words: Callable[[float], str],
    ticks: Callable[[float], str],
) -> None:
    """Draw medians as bars, in panels from left to right that share the names of the bars.

    Args:
        figure: with no axes yet.
        measured: who has a bar in each panel.
        panels: (heading, one spread for each that was measured, None where there is none).
        words: from a median to the text at its bar.
        ticks: from a value to its text on the axis.
    """
    all_axes = figure.subplots(1, len(panels))
    for i, (axes, (text, spreads)) in enumerate(zip(all_axes, panels, strict=True)):
        values = [
            (one.key, one.name, s.median if s else 0.0, words(s.median) if s else "")
            for one, s in zip(measured, spreads, strict=True)
        ]
        bars(axes, values, spreads=spreads, names=i == 0)
        heading(axes, text)
        axes.xaxis.set_major_formatter(lambda x, _: ticks(x))


def bars(
    axes: Any,
    values: Sequence[tuple[str, str, float, str]],
    *,
    spreads: Sequence[Spread | None] | None = None,
    names: bool = True,
    scale: str = "log",
) -> None:
    """Draw horizontal bars from the top down, each with its value in words.

    Args:
        axes: the panel.
        values: (key, name, length, words).
        spreads: what the lengths are medians of, drawn as thin lines; None where there is nothing.
        names: whether the bars are named on the left.
        scale: `linear` or `log`.
    """
    lengths = [length for _, _, length, _ in values]
    ranges = [
        (spread.low, spread.high) if spread else (length, length)
        for length, spread in zip(lengths, spreads or [None] * len(lengths), strict=True)
    ]
    places, colours = range(len(values)), [colour(key) for key, *_ in values]
    axes.barh(places, lengths, color=colours, height=0.72, zorder=2)
    for place, ends in enumerate(ranges):
        axes.plot(ends, [place, place], color="#111827", linewidth=ends[0] < ends[1], zorder=3)
    low, high = min(low for low, _ in ranges if low), max(high for _, high in ranges)
    axes.set_xscale(scale)  # with room on the right for the words
    if scale == "log":
        axes.set_xlim(low / 2, high * max(4.0, (high / low) ** 0.45))
    else:
        axes.set_xlim(0, high * 1.25)
    for place, (_, _, _, words) in enumerate(values):
        axes.annotate(
            words, (ranges[place][1] or low, place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(
        range(len(values)), [name for _, name, *_ in values] if names else [""] * len(values)
    )
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    tidy(axes)
    axes.grid(visible=False, axis="y")


def tidy(axes: Any) -> None:
    """Give axes the looks of all pictures."""
    for axis in (axes.xaxis, axes.yaxis):  # a log axis of less than a decade would name them all
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.92", which="major", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
