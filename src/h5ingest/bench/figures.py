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
    "png": "#4d4d4d", "lmdb-raw": "#0072b2", "lmdb-files": "#56b4e9", "hdf5-loop": "#d55e00",
    "hdf5-stack": "#e69f00", "h5ingest-raw": "#009e73", "h5ingest-zstd": "#cc79a7",
    "png-fast": "#999999", "h5ingest-file": "#009e73", "h5ingest-zstd-small": "#e8b8d3",
    "h5ingest-file-small": "#7fd1ba", "loader-store": "#004d38", "loader-png": "#4d4d4d",
    "memmap": "#bdbdbd",
}  # fmt: skip
"""One colour for a backend or reader in all pictures: of Okabe and Ito's, which people who do not
see red or green tell apart; marks differ, too."""
_OTHER: Final = "#f0e442"
_MARKERS: Final = "oDdsvP*Xh"
_TEXT: Final = 11
"""Points: it can be read at half size, too."""


def figure(width: float, height: float, title: str) -> Any:
    """Return a figure with no axes yet, of so many inches."""
    made = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    made.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=_TEXT + 2)
    return made


def heading(axes: Any, text: str) -> None:
    """Write what a panel shows above it."""
    axes.set_title(text, loc="left", fontsize=_TEXT + 1)


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
    """Draw times against numbers of images, with the range of all runs at each point.

    Args:
        axes: the panel.
        curves: (key, name, numbers of images, seconds).
        scale: `linear` or `log`, of both axes.
    """
    for place, (key, name, counts, spreads) in enumerate(curves):
        ours = key.startswith("h5ingest")
        lows, highs = [s.low for s in spreads], [s.high for s in spreads]
        axes.vlines(counts, lows, highs, color=colour(key), linewidth=1)
        axes.plot(
            counts, [s.median for s in spreads], color=colour(key), label=name,
            marker=_MARKERS[place % len(_MARKERS)], markersize=6, linewidth=2.4 if ours else 1.5,
            zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xscale=scale, yscale=scale, xlabel="images")
    if scale == "linear":
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda x, _: amount(x))
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


def amount(value: float) -> str:
    """Return a number for an axis, short enough that it never meets its neighbour.

    >>> amount(0.0), amount(20.0), amount(100_000.0), amount(2_500_000.0)
    ('0', '20', '100k', '2.5M')
    """
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def legend(figure: Any, axes: Any) -> None:
    """Name the lines below all panels."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(3, len(names)), frameon=False,
        fontsize=_TEXT,
    )  # fmt: skip


def panels_of_dots(
    figure: Any,
    measured: Sequence[Description],
    panels: Sequence[tuple[str, Sequence[Spread | None]]],
    words: Callable[[float], str],
    ticks: Callable[[float], str],
) -> None:
    """Draw medians as dots on one logarithmic axis, in panels that share it and the names.

    Dots and no bars: a logarithmic axis has no place where bars would begin.

    Args:
        figure: with no axes yet.
        measured: who has a dot in each panel.
        panels: (heading, one spread for each that was measured, None where there is none).
        words: from a median to the text at its dot.
        ticks: from a value to its text on the axis.
    """
    all_axes = figure.subplots(1, len(panels), sharex=True)
    for i, (axes, (text, spreads)) in enumerate(zip(all_axes, panels, strict=True)):
        values = [
            (one.key, one.name, s.median if s else 0.0, words(s.median) if s else "")
            for one, s in zip(measured, spreads, strict=True)
        ]
        dots(axes, values, spreads=spreads, names=i == 0)
        heading(axes, text)
        axes.xaxis.set_major_formatter(lambda x, _: ticks(x))
    found = [spread for _, spreads in panels for spread in spreads if spread]
    low, high = min(s.low for s in found), max(s.high for s in found)
    all_axes[0].set_xlim(low / 2, high * max(6.0, (high / low) ** 0.5))  # with room for the words


def dots(
    axes: Any,
    values: Sequence[tuple[str, str, float, str]],
    *,
    spreads: Sequence[Spread | None],
    names: bool,
) -> None:
    """Draw values on a logarithmic axis, from the top down, each with its words and its range.

    Args:
        axes: the panel.
        values: (key, name, value, words); nothing is drawn for 0.
        spreads: what the values are medians of, drawn as thin lines; None where there is nothing.
        names: whether they are named on the left.
    """
    axes.set_xscale("log")
    for place, ((key, _, value, words), spread) in enumerate(zip(values, spreads, strict=True)):
        if not value:
            continue
        low, high = (spread.low, spread.high) if spread else (value, value)
        axes.plot([low, high], [place, place], color="#111827", linewidth=1, zorder=2)
        axes.plot(
            [value], [place], color=colour(key), marker=_MARKERS[place % len(_MARKERS)],
            markersize=9, linestyle="", zorder=3,
        )  # fmt: skip
        _words(axes, words, high, place)
    _rows(axes, values, names=names)


def bars(axes: Any, values: Sequence[tuple[str, str, float, str]]) -> None:
    """Draw horizontal bars from the top down, from 0 on, each with its value in words.

    Args:
        axes: the panel.
        values: (key, name, length, words).
    """
    lengths = [length for _, _, length, _ in values]
    places, colours = range(len(values)), [colour(key) for key, *_ in values]
    axes.barh(places, lengths, color=colours, height=0.72, zorder=2)
    axes.set_xlim(0, max(lengths) * 1.35)  # with room on the right for the words
    for place, (_, _, length, words) in enumerate(values):
        _words(axes, words, length, place)
    _rows(axes, values, names=True)


def _words(axes: Any, words: str, x: float, place: int) -> None:
    """Write what a mark or bar stands for on its right, on white, so that no line goes through."""
    axes.annotate(
        words, (x, place), xytext=(9, 0), textcoords="offset points", va="center",
        fontsize=_TEXT - 1, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _rows(axes: Any, values: Sequence[tuple[str, str, float, str]], *, names: bool) -> None:
    """Name the rows of a panel, the first one above."""
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.set_yticks(
        range(len(values)), [name for _, name, *_ in values] if names else [""] * len(values)
    )
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    tidy(axes)
    axes.grid(visible=False, axis="y")


def tidy(axes: Any) -> None:
    """Give axes the looks of all pictures."""
    axes.tick_params(labelsize=_TEXT)
    for axis in (axes.xaxis, axes.yaxis):  # a log axis of less than a decade would name them all
        axis.set_minor_formatter(NullFormatter())
        axis.label.set_fontsize(_TEXT)
    axes.grid(color="0.92", which="major", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
