"""What `bench storage` found as a table on the terminal, and as one page that needs nothing else.

May not: measure.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from h5ingest.bench.measure import digits, seconds
from h5ingest.bench.report import new_table, print_report
from h5ingest.bench.storage_figures import CAPTIONS
from h5ingest.bench.storage_report import Result, StorageReport
from h5ingest.core.units import size

_TIMES: Final = {
    "store": "store", "store_durable": "safe", "read_cold": "read, cold", "read_warm": "read, warm",
    "one_cold": "one, cold", "one_warm": "one, warm",
}  # fmt: skip
"""Field of a result -> heading."""
BASE: Final = "h5ingest-raw"
"""What the others are compared with."""


def print_table(report: StorageReport) -> None:
    """Print all results and what a reader must know with them."""
    table = new_table("images", "", *_TIMES.values(), "on disk", "inodes", left="")
    for n in report.counts:
        for i, backend in enumerate(report.backends):
            result = report.of(backend.key, n)
            times = [getattr(result, field).in_words(seconds) for field in _TIMES]
            table.add_row(
                f"{n:,}" if i == 0 else "", backend.name, *times, size(result.n_bytes),
                f"{result.n_inodes:,}", style="bold" if backend.key == BASE else None,
            )  # fmt: skip
        if n != report.largest:
            table.add_row()
    print_report([("", table)], report.notes())


def page(report: StorageReport, pictures: dict[str, bytes]) -> str:
    """Return HTML with everything in it: no other file, no address, no script.

    The pictures are those of `storage_figures.draw`.
    """
    environment = Environment(
        loader=PackageLoader("h5ingest.bench"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "count": "{:,}".format, "digits": digits, "seconds": seconds, "size": size,
    }  # fmt: skip
    base = report.of(BASE, report.largest)
    return environment.get_template("storage.html").render(
        # `core.outfiles` recognizes a page by these words.
        title=f"{report.largest:,} images, stored and read in {len(report.backends)} ways",
        report=report,
        times=_TIMES,
        ratios=lambda backend: ratios(report.of(backend.key, report.largest), base),
        captions=CAPTIONS,
        pictures={name: b64encode(png).decode("ascii") for name, png in pictures.items()},
    )


def ratios(result: Result, base: Result) -> list[float]:
    """Return what a result takes relative to another: the times, bytes, inodes."""
    times = [getattr(result, f).median / getattr(base, f).median for f in _TIMES]
    return [*times, result.n_bytes / base.n_bytes, result.n_inodes / base.n_inodes]
