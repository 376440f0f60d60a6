"""What is printed when a file has been made: what it is, what was changed on the way, what is next.

Twelve lines at most, before they are fitted into a terminal. All of it is printed with `-v`, with
what each phase took.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from typing import Final

from h5ingest.core.units import counted, size
from h5ingest.pipeline.report import IngestReport

MOST_LINES: Final = 12

Line = tuple[str, str]
"""A word and what is said under it."""


def summary(
    report: IngestReport, *, verbose: bool = False, hint: str = "", columns: int | None = None
) -> str:
    """Return the lines to print.

    Args:
        report: what was done.
        verbose: whether to print all of it.
        hint: which compression would help.
        columns: of the terminal; None: there is none, and no line is broken.
    """
    first, last = list(_made(report, hint)), list(_end(report))
    between = [*_on_the_way(report, verbose=verbose)]
    if verbose:
        last += _phases(report)
    room = MOST_LINES - len(first) - len(last)
    if len(between) > room and not verbose:
        n_more = len(between) - room + 1
        between = [*between[: room - 1], ("more", f"{n_more} lines more: -v prints them all")]
    lines = [*first, *between, *last]
    width = max(len(word) for word, _ in lines) + 2
    return "\n".join(
        _fitted(f"{word:<{width}}{text}".rstrip(), width, columns) for word, text in lines
    )


def _fitted(line: str, indent: int, columns: int | None) -> str:
    """Return a line, broken between words where it is longer than a terminal is wide."""
    if columns is None or len(line) <= columns or columns < 2 * indent:
        return line
    return textwrap.fill(
        line, columns, subsequent_indent=" " * indent, break_long_words=False,
        break_on_hyphens=False, drop_whitespace=True, replace_whitespace=False,
    )  # fmt: skip


def _made(report: IngestReport, hint: str) -> Iterator[Line]:
    """Yield what was made."""
    verb = "would hold" if report.dry_run else "holds"
    text = f"{report.out} {verb} {counted(report.n_samples, report.image)}"
    yield "dry run" if report.dry_run else "made", text
    text = size(report.bytes_out)
    if report.recompressed:
        text += f" instead of {size(report.bytes_in)}"
    elif report.added is None:
        text += f" from {size(report.bytes_in)} of image files"
        text += f": 1 file instead of {report.n_samples * report.n_each:,}"
    yield "size", text
    if hint:
        yield "", hint


def _on_the_way(report: IngestReport, *, verbose: bool) -> Iterator[Line]:
    """Yield what happened, the gravest first."""
    if report.failures:
        said = f"{counted(len(report.failures), 'images')}, stored as zeros with status 2"
        yield "failed", said + ": h5ingest show names them" * (not report.dry_run)
    if report.added is not None:
        n_kept = report.added.n_before - report.added.n_replaced
        n_new = report.n_samples - n_kept
        yield "added", f"{counted(n_new, 'images')} after the {n_kept:,} that were there"
        if report.added.n_skipped:
            text = f"{report.added.n_skipped:,} whose paths are in it already"
            yield "left out", f"{text} (--again stores them anew)"
        if report.added.n_replaced:
            yield "replaced", f"{counted(report.added.n_replaced, 'rows')}, by new images"
    if report.n_resumed:
        yield "resumed", f"{report.n_resumed:,} of them were stored by an earlier run"
    if report.n_changed:
        text = f"{counted(report.n_changed, 'files')} of these changed since then: h5ingest verify"
        yield "changed", f"{text} --sources names those that differ, --restart reads all again"
    for text in report.losses:
        yield "dropped", text
    for text in report.warnings:
        yield "warning", text
    for text in report.changes + report.conversions * verbose:
        yield "converted", text
    for note in report.notes:
        yield "note", str(note)
    if report.notes and report.n_resumed:
        yield "note", f"not looked at: the {report.n_resumed:,} images stored earlier"
    if report.auto is not None:
        yield "compression", f"auto: {report.auto}"


def _end(report: IngestReport) -> Iterator[Line]:
    """Yield how long it took, and what to do now."""
    ranks = counted(report.n_ranks, "ranks")
    rate = report.images_per_s
    yield "time", f"{report.seconds:.2f} s on {ranks}: {rate:,.{int(rate < 10)}f} images/s"
    if report.content_digest:
        yield "digest", report.content_digest
        out = shlex.quote(report.out)
        group = f", group={report.groups[0]!r}" if report.groups else ""
        yield "next", f"h5ingest show {out}"
        yield "", f"h5ingest verify {out}"
        yield "", f"python: h5ingest.ImageStore({report.out!r}{group})"


def _phases(report: IngestReport) -> Iterator[Line]:
    """Yield what each phase took, and who wrote."""
    yield "writer", report.writer
    yield "phases", "seconds of a rank: least, median, most"
    for phase, spread in report.phases.items():
        yield f"  {phase}", f"{spread.min:.2f}  {spread.median:.2f}  {spread.max:.2f}"
