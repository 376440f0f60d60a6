"""What rank 0 prints and writes when the work is done, and checks of where it is to write."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from h5ingest.core.errors import OutputError, SamplesFailedError, UsageError
from h5ingest.core.outfiles import RESULTS, Kind, check, write
from h5ingest.core.units import size
from h5ingest.pipeline.report import IngestReport

if TYPE_CHECKING:
    from h5ingest.cli.requests import IngestRequest, VerifyRequest
    from h5ingest.inspect.verify import VerifyReport

_MOST_SHOWN: Final = 20
"""Bad rows that are printed; the report has all."""
_MOST_CONVERSIONS: Final = 10
"""Kinds of conversions that are printed; the report has all."""


def check_target(option: str, file: Path | None, kind: Kind) -> None:
    """Check that a file of this kind may be written there, before any work is done.

    Raises:
        UsageError: there is no such folder, or a file of another kind has the name.
    """
    if file is None:
        return
    if not os.path.isdir(file.parent):
        raise UsageError(f"{option}: expected an existing folder {file.parent}")
    try:
        check(file, kind)
    except OutputError as error:
        raise UsageError(f"{option} {error}") from None


class Status:
    """A line on the terminal that says what is being done, and disappears in the end."""

    def __enter__(self) -> Status:
        from rich.console import Console

        self._status = Console(stderr=True).status("")
        if sys.stderr.isatty():
            self._status.start()
        return self

    def __call__(self, text: str) -> None:
        """Say what is being done."""
        self._status.update(text)

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def tell(
    report: IngestReport, request: IngestRequest, beat: Callable[[], None] = lambda: None
) -> None:
    """Write the report and the metadata where asked, and print the report as a short table.

    The HDF5 file is complete, so the job has succeeded: a report that cannot be written only makes
    a warning.

    Args:
        report: what was done.
        request: what was asked for.
        beat: called now and then, while the file is read for its metadata.

    Raises:
        OutputError: on a dry run, the JSON file cannot be written.
    """
    if request.report is not None:
        with _warning_only(report):
            write_report(request.report, report)
    if request.croissant is not None and not report.dry_run:
        from h5ingest.inspect import croissant

        with _warning_only(report):
            croissant.write(request.croissant, request.out, beat)
    if not request.quiet:
        _print_report(report, verbose=request.verbose)


@contextlib.contextmanager
def _warning_only(report: IngestReport) -> Iterator[None]:
    """Print an `OutputError` of the block as a warning, unless it was a dry run."""
    try:
        yield
    except OutputError as error:
        if report.dry_run:
            raise
        warn(f"{error}. {report.out} is complete.")


def warn(text: str) -> None:
    """Print a warning."""
    print(f"h5ingest: warning: {text}", file=sys.stderr, flush=True)


def tell_verification(report: VerifyReport, request: VerifyRequest) -> None:
    """Print what a verification found, and write it as JSON where asked.

    Raises:
        OutputError: the JSON file cannot be written.
    """
    for problem in report.problems:
        print(f"h5ingest: error: {report.path}: {problem}", file=sys.stderr)
    for bad in report.bad[:_MOST_SHOWN]:
        where = f"{bad.dataset}, row {bad.row}"
        print(f"h5ingest: error: {where} ({bad.path}): {bad.reason}", file=sys.stderr)
    if len(report.bad) > _MOST_SHOWN:
        print(
            f"h5ingest: error: … and {len(report.bad) - _MOST_SHOWN:,} rows more", file=sys.stderr
        )
    if not request.quiet:
        failed = f", {report.n_failed:,} of them failed when it was made" * bool(report.n_failed)
        print(f"{report.path}: {report.n_samples:,} images checked{failed}")
        if request.sources:
            print(
                f"sources: {report.n_sources:,} decoded again, {report.n_other:,} of them by "
                f"another decoder"
            )
        n_wrong = len(report.bad) + len(report.problems)
        print("all is well" if report.ok else f"{n_wrong:,} differences")
    if request.report is not None:
        write_json("--report", request.report, {"ok": report.ok, **asdict(report)})


def write_report(path: Path, result: IngestReport | SamplesFailedError) -> None:
    """Write what a run did, or which images made it fail, as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    if isinstance(result, IngestReport):
        content = {"status": "complete", **result.to_json()}
    else:
        failures = [asdict(failure) for failure in result.failures]
        content = {"status": "failed", "n_failed": len(failures), "failures": failures}
    write_json("--report", path, content)


def write_json(option: str, path: Path, content: dict[str, object]) -> None:
    """Write a JSON file of h5ingest, completely or not at all; `option` is where it was named.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        write(path, (json.dumps(content, indent=2) + "\n").encode(), RESULTS)
    except OutputError as error:
        raise OutputError(f"{option} {error}") from None


def _print_report(report: IngestReport, *, verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_header=False, box=None, pad_edge=False)
    verb = "would hold" if report.dry_run else "holds"
    table.add_row(f"{report.out}", f"{verb} {report.n_samples:,} {report.image}")
    if report.n_resumed:
        table.add_row("resumed", f"{report.n_resumed:,} of them were stored by an earlier run")
    if report.n_changed:
        table.add_row(
            "changed",
            f"{report.n_changed:,} of the files of these were changed since then: stored may be "
            f"what they were; h5ingest verify --sources compares, --restart reads all anew",
        )
    of_files = "" if report.recompressed else " of image files"
    table.add_row("size", f"{size(report.bytes_out)} from {size(report.bytes_in)}{of_files}")
    if report.auto is not None:
        table.add_row("compression", f"auto: {report.auto}")
    if not report.recompressed:
        table.add_row("files", f"1 instead of {report.n_samples * report.n_each:,} (inodes)")
    for text in report.warnings:
        table.add_row("warning", text)
    for text in report.conversions[:_MOST_CONVERSIONS]:
        table.add_row("converted", text)
    if (n_more := len(report.conversions) - _MOST_CONVERSIONS) > 0:
        table.add_row("converted", f"… and {n_more:,} kinds more (--report has all)")
    for text in report.losses:
        table.add_row("dropped", text)
    for note in report.notes:
        table.add_row("note", str(note))
    if report.notes and report.n_resumed:
        table.add_row("note", f"not looked at: the {report.n_resumed:,} images stored earlier")
    if report.failures:
        table.add_row("failed", f"{len(report.failures):,}, stored as zeros with status 2")
    ranks = f"{report.n_ranks} rank{'s' * (report.n_ranks > 1)}"
    table.add_row("time", f"{report.seconds:.2f} s on {ranks}: {report.images_per_s:,.0f} images/s")
    for number, (phase, spread) in enumerate(report.phases.items()):
        table.add_row(
            f"  {phase}",
            f"{spread.min:.2f} / {spread.median:.2f} / {spread.max:.2f} s"
            + (" (min / median / max over ranks)" if number == 0 else ""),
        )
    if verbose:
        table.add_row("writer", report.writer)
    if report.content_digest:
        table.add_row("content", f"sha256 {report.content_digest}")
    # Not the terminal's width: a digest or a path that is cut is of no use, in a log even less.
    Console(width=200, highlight=False, markup=False).print(table)
