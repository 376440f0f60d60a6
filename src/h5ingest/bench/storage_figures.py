"""The pictures of `bench storage`."""

from __future__ import annotations

from typing import Any, Final

from h5ingest.bench import figures
from h5ingest.bench.measure import Spread, seconds
from h5ingest.bench.storage_report import StorageReport
from h5ingest.core.units import MIB, size

CAPTIONS: Final = {
    "store": "Seconds to store so many images, from the image files. Linear and logarithmic axes; "
    "vertical lines are the range of all runs.",
    "read": "Seconds to read all of them back: from the system's cache (above), from the disk "
    "(below).",
    "one": "One image: to store it alone, and to find and read it among all others; opening and "
    "closing included. Logarithmic axes; thin lines are the range of all runs.",
    "disk": "What it takes of the disk, in whole blocks, and how many files and folders (inodes; "
    "logarithmic axis). The lines are the pixels alone, and the bytes of the image files.",
}
"""Name of a picture -> what it shows."""


def draw(report: StorageReport) -> dict[str, bytes]:
    """Return name -> PNG."""
    pictures = {
        "store": _store(report), "read": _read(report), "one": _one(report), "disk": _disk(report),
    }  # fmt: skip
    return {name: figures.to_png(figure) for name, figure in pictures.items()}


def _store(report: StorageReport) -> Any:
    figure = figures.figure(10, 4.4, f"Store {_what(report)}")
    panels = figure.subplots(1, 2)
    for axes, scale in zip(panels, ("linear", "log"), strict=True):
        figures.lines(axes, _curves(report, "store"), scale=scale)
    figures.legend(figure, panels[0])
    return figure


def _read(report: StorageReport) -> Any:
    figure = figures.figure(10, 7.4, f"Read {_what(report)}")
    panels = figure.subplots(2, 2, sharex="col", sharey="col")
    for row, cache, title in ((0, "warm", "from the cache"), (1, "cold", "from the disk")):
        for axes, scale in zip(panels[row], ("linear", "log"), strict=True):
            figures.lines(axes, _curves(report, f"read_{cache}"), scale=scale)
            figures.heading(axes, title)
    highest = max(max(r.read_warm.high, r.read_cold.high) for r in report.results)
    panels[0, 0].set_ylim(0, 1.05 * highest)  # of the panel below, too
    figures.legend(figure, panels[0, 0])
    return figure


def _one(report: StorageReport) -> Any:
    figure = figures.figure(11, 3.8, f"One image, of {report.largest:,}: {report.images}")
    panels = [
        (title, [getattr(report.of(backend.key, n), field) for backend in report.backends])
        for title, field, n in (
            ("store one", "store", 1),
            ("read one, from the cache", "one_warm", report.largest),
            ("read one, from the disk", "one_cold", report.largest),
        )
    ]
    figures.panels_of_dots(figure, report.backends, panels, seconds, figures.tick)
    return figure


def _disk(report: StorageReport) -> Any:
    results = [(b, report.of(b.key, report.largest)) for b in report.backends]
    reference = report.reference(report.largest)
    figure = figures.figure(11, 4.2, f"Disk and inodes of {_what(report)}")
    left, right = figure.subplots(1, 2)
    bytes_ = [(b.key, b.name, found.n_bytes / MIB, size(found.n_bytes)) for b, found in results]
    figures.bars(left, bytes_)
    for value, style, name in (
        (reference.pixel_bytes, ":", f"the pixels: {size(reference.pixel_bytes)}"),
        (reference.file_bytes, "--", f"the image files: {size(reference.file_bytes)}"),
    ):
        left.axvline(
            value / MIB, color="#111827", linewidth=1.5, linestyle=style, zorder=4, label=name
        )
    figures.legend(figure, left)
    left.xaxis.set_major_formatter(lambda x, _: f"{x:,.4g}")
    left.set_xlabel("MiB")
    figures.heading(left, "on the disk")
    inodes = [(b.key, b.name, found.n_inodes, f"{found.n_inodes:,}") for b, found in results]
    figures.dots(right, inodes, spreads=[None] * len(inodes), names=False)
    right.set_xlim(0.5, 40 * max(found.n_inodes for _, found in results))
    right.xaxis.set_major_formatter(lambda x, _: figures.amount(x))
    right.set_xlabel("inodes")
    figures.heading(right, "files and folders")
    return figure


def _curves(report: StorageReport, field: str) -> list[tuple[str, str, list[int], list[Spread]]]:
    counts = list(report.counts)
    return [
        (b.key, b.name, counts, [getattr(report.of(b.key, n), field) for n in counts])
        for b in report.backends
    ]


def _what(report: StorageReport) -> str:
    return f"{report.largest:,} images ({report.images})"
