"""What `bench storage` found as a table on the terminal, and as one page that needs nothing else.

May not: measure.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import Final

from h5ingest.bench.measure import Spread, digits, seconds, volume
from h5ingest.bench.storage_figures import CAPTIONS
from h5ingest.bench.storage_report import Result, StorageReport

_TIMES: Final = {
    "store": "store", "store_durable": "safe", "read_cold": "read, cold", "read_warm": "read, warm",
    "one_cold": "one, cold", "one_warm": "one, warm",
}  # fmt: skip
"""Field of a result -> heading."""
BASE: Final = "h5ingest-raw"
"""What the others are compared with."""


def print_table(report: StorageReport) -> None:
    """Print all results and what must be known with them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("images", justify="right")
    table.add_column("", no_wrap=True)
    for heading in (*_TIMES.values(), "on disk", "inodes"):
        table.add_column(heading, justify="right")
    for n in report.counts:
        for place, way in enumerate(report.ways):
            result = report.of(way.key, n)
            times = [_words(getattr(result, field)) for field in _TIMES]
            table.add_row(
                f"{n:,}" if place == 0 else "", way.name, *times, volume(result.n_bytes),
                f"{result.n_inodes:,}", end_section=place == len(report.ways) - 1,
                style="bold" if way.key == BASE else None,
            )  # fmt: skip
        if n != report.largest:
            table.add_row()
    # Not the terminal's width, as in the other reports: nothing may be cut in a log.
    console = Console(width=210, highlight=False, markup=False)
    console.print(table)
    console.print()
    for note in report.notes():
        console.print(note, soft_wrap=True)


def _words(spread: Spread) -> str:
    low, high = (seconds(value).replace(" ", "") for value in (spread.low, spread.high))
    return f"{seconds(spread.median)}\n{low}..{high}"


# --- the page ----------------------------------------------------------------------------------

_STYLE: Final = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; max-width: 1140px; margin: 2rem auto;
  padding: 0 1rem; background: #fff }
h1 { line-height: 1.2; margin-bottom: .3rem } h2 { margin-top: 2.4rem }
p.lead { color: #4b5563; margin-top: 0 }
figure { margin: 1rem 0 } figure img { width: 100%; height: auto }
figcaption, .note { color: #4b5563; font-size: 14px }
table { border-collapse: collapse; font-size: 14px; width: 100%;
  font-variant-numeric: tabular-nums }
.wide table { font-size: 13px } td small { font-size: 11px }
th, td { padding: .3rem .4rem; text-align: right; border-bottom: 1px solid #e5e7eb;
  white-space: nowrap; vertical-align: top }
th:first-child, td:first-child { text-align: left } td small { color: #6b7280; display: block }
tr.ours td { background: #ecfdf5 } #machine td, #ways td { white-space: normal; text-align: left }
#machine td:first-child, #ways td:first-child { white-space: nowrap; font-weight: 600 }
details { margin: .6rem 0 } summary { cursor: pointer; font-weight: 600 }
.wide { overflow-x: auto }
"""


def page(report: StorageReport, pictures: dict[str, bytes]) -> str:
    """Return HTML with everything in it: no other file, no address, no script.

    Args:
        report: what was found.
        pictures: name -> PNG, as `storage_figures.draw` returns them.
    """
    title = f"{report.largest:,} images, stored and read in {len(report.ways)} ways"
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1 id="title">{escape(title)}</h1>\n'
        f'<p class="lead">{escape(report.manifest)}: {escape(report.images)}, medians of '
        f"{report.n_runs} runs, made by <code>h5ingest bench storage</code>.</p>",
        _ratios(report),
        "<h2>Pictures</h2>",
        *(_picture(name, caption, pictures[name]) for name, caption in CAPTIONS.items()),
        "<h2>Numbers</h2>",
        '<p class="note">Median, and lowest to highest beneath it.</p>',
        *(_results(report, n) for n in reversed(report.counts)),
        '<h2>The ways</h2>\n<table id="ways">',
        *(f"<tr><td>{escape(w.name)}</td><td>{escape(w.how)}</td></tr>" for w in report.ways),
        '</table>\n<h2>How it was measured</h2>\n<ul id="notes">',
        *(f"<li>{escape(note)}</li>" for note in report.notes()),
        '</ul>\n<h2>The machine</h2>\n<table id="machine">',
        *(
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for name, value in report.machine.items()
        ),
        "</table>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _picture(name: str, caption: str, png: bytes) -> str:
    data = b64encode(png).decode("ascii")
    return (
        f'<figure id="plot-{name}">\n<img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{data}">\n<figcaption>{escape(caption)}</figcaption>\n'
        f"</figure>"
    )


def _results(report: StorageReport, n: int) -> str:
    """Return the table of one number of images; those of the smaller numbers are folded."""
    headings = "".join(f"<th>{text}</th>" for text in (*_TIMES.values(), "on disk", "inodes"))
    rows = []
    for way in report.ways:
        result = report.of(way.key, n)
        cells = "".join(_cell(getattr(result, field)) for field in _TIMES)
        rows.append(
            f"<tr{_class(way.key)}><td>{escape(way.name)}</td>{cells}"
            f"<td>{volume(result.n_bytes)}</td><td>{result.n_inodes:,}</td></tr>"
        )
    return (
        f"<details{' open' * (n == report.largest)}><summary>{n:,} image{'s' * (n > 1)}</summary>\n"
        f'<div class="wide"><table id="results-{n}">\n<tr><th></th>{headings}</tr>\n'
        + "\n".join(rows)
        + "\n</table></div></details>"
    )


def _cell(spread: Spread) -> str:
    return (
        f"<td>{seconds(spread.median)}<small>{seconds(spread.low)} to {seconds(spread.high)}"
        f"</small></td>"
    )


def _class(key: str) -> str:
    return ' class="ours"' if key.startswith("h5ingest") else ""


def _ratios(report: StorageReport) -> str:
    """Return the table of how many times the others take what h5ingest takes."""
    n = report.largest
    base = report.of(BASE, n)
    headings = "".join(f"<th>{text}</th>" for text in (*_TIMES.values(), "on disk", "inodes"))
    rows = []
    for way in report.ways:
        cells = "".join(
            f"<td>{digits(ratio)}</td>" for ratio in ratios(report.of(way.key, n), base)
        )
        rows.append(f"<tr{_class(way.key)}><td>{escape(way.name)}</td>{cells}</tr>")
    return (
        f"<h2>How many times what h5ingest takes</h2>\n<p>With {n:,} images, relative to "
        f"h5ingest without compression. More than 1: this way takes more time, disk or inodes. "
        f'Less than 1: it takes less.</p>\n<div class="wide"><table id="ratios">\n'
        f"<tr><th></th>{headings}</tr>\n" + "\n".join(rows) + "\n</table></div>"
    )


def ratios(result: Result, base: Result) -> list[float]:
    """Return what a result takes relative to another: the times, bytes, inodes."""
    times = [getattr(result, f).median / getattr(base, f).median for f in _TIMES]
    return [*times, result.n_bytes / base.n_bytes, result.n_inodes / base.n_inodes]
