"""The pictures of `bench storage`."""

from __future__ import annotations

from typing import Any, Final

from h5ingest.bench import figures
from h5ingest.bench.measure import Spread, seconds, volume
from h5ingest.bench.storage_report import StorageReport

CAPTIONS: Final = {
    "store": "Seconds to store so many images, from the image files. Linear and logarithmic axes; "
    "bands are the range of all runs.",
    "read": "Seconds to read all of them back: from the system's cache (above), from the disk "
    "(below).",
    "one": "One image: to store it alone, and to find and read it among all others; opening and "
    "closing included. Logarithmic axes; thin lines are the range of all runs.",
    "disk": "What it takes of the disk, in whole blocks, and how many files and folders (inodes; "
    "logarithmic axis). Dotted: the pixels, dashed: the bytes of the image files.",
}
"""Name of a picture -> what it shows."""


def draw(report: StorageReport) -> dict[str, bytes]:
    """Return name -> PNG."""
    pictures = {
        "store": _store(report), "read": _read(report), "one": _one(report), "disk": _disk(report),
    }  # fmt: skip
    return {name: figures.to_png(figure) for name, figure in pictures.items()}


def _store(report: StorageReport) -> Any:
    figure = figures.figure(10, 4.4)
    panels = figure.subplots(1, 2)
    for axes, scale in zip(panels, ("linear", "log"), strict=True):
        figures.lines(axes, _curves(report, "store"), scale=scale)
    figure.suptitle(f"Store {_what(report)}", x=0.01, ha="left", fontweight="bold")
    figures.legend(figure, panels[0])
    return figure


def _read(report: StorageReport) -> Any:
    figure = figures.figure(10, 7.4)
    panels = figure.subplots(2, 2)
    for row, cache, title in ((0, "warm", "from the cache"), (1, "cold", "from the disk")):
        for axes, scale in zip(panels[row], ("linear", "log"), strict=True):
            figures.lines(axes, _curves(report, f"read_{cache}"), scale=scale)
            axes.set_title(title, loc="left", fontsize=10)
    figure.suptitle(f"Read {_what(report)}", x=0.01, ha="left", fontweight="bold")
    figures.legend(figure, panels[0, 0])
    return figure


def _one(report: StorageReport) -> Any:
    figure = figures.figure(10, 3.2)
    panels = figure.subplots(1, 3)
    for place, (axes, field, n, title) in enumerate(
        zip(
            panels,
            ("store", "one_warm", "one_cold"),
            (1, report.largest, report.largest),
            ("store one", "read one, from the cache", "read one, from the disk"),
            strict=True,
        )
    ):
        spreads: list[Spread] = [getattr(report.of(way.key, n), field) for way in report.ways]
        values = [
            (way.key, way.name, spread.median, seconds(spread.median))
            for way, spread in zip(report.ways, spreads, strict=True)
        ]
        figures.bars(axes, values, spreads=spreads, names=place == 0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.xaxis.set_major_formatter(lambda x, _: figures.tick(x))
    figure.suptitle(
        f"One image, of {report.largest:,}: {report.images}", x=0.01, ha="left", fontweight="bold"
    )
    return figure


def _disk(report: StorageReport) -> Any:
    n = report.largest
    results = [report.of(way.key, n) for way in report.ways]
    reference = report.reference(n)
    figure = figures.figure(10, 3.2)
    left, right = figure.subplots(1, 2)
    bytes_ = [
        (way.key, way.name, result.n_bytes, volume(result.n_bytes))
        for way, result in zip(report.ways, results, strict=True)
    ]
    figures.bars(left, bytes_, scale="linear")
    for value, style in ((reference.pixel_bytes, ":"), (reference.file_bytes, "--")):
        left.axvline(value, color="#111827", linewidth=1, linestyle=style, zorder=4)
    left.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:,.4g}")
    left.set_xlabel("MB")
    left.set_title("on the disk", loc="left", fontsize=10)
    inodes = [
        (way.key, way.name, result.n_inodes, f"{result.n_inodes:,}")
        for way, result in zip(report.ways, results, strict=True)
    ]
    figures.bars(right, inodes, names=False)
    right.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    right.set_xlabel("inodes")
    right.set_title("files and folders", loc="left", fontsize=10)
    figure.suptitle(f"Disk and inodes of {_what(report)}", x=0.01, ha="left", fontweight="bold")
    return figure


def _curves(report: StorageReport, field: str) -> list[tuple[str, str, list[int], list[Spread]]]:
    counts = list(report.counts)
    return [
        (way.key, way.name, counts, [getattr(report.of(way.key, n), field) for n in counts])
        for way in report.ways
    ]


def _what(report: StorageReport) -> str:
    return f"{report.largest:,} images ({report.images})"
