"""What rank 0 prints and writes when the work is done, and checks of where it is to write."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from h5ingest.core.errors import OutputError, SamplesFailedError, UsageError
from h5ingest.core.outfiles import RESULTS, Kind, check, write
from h5ingest.core.units import counted
from h5ingest.pipeline.report import IngestReport

if TYPE_CHECKING:
    from h5ingest.cli.requests import IngestRequest, VerifyRequest
    from h5ingest.inspect.verify import VerifyReport

_MOST_SHOWN: Final = 20
"""Bad rows that are printed; the report has all."""
_GONE: Final = "its source cannot be read now: no such file"


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
    """Says what is being done: in a line on the terminal that disappears in the end.

    Without a terminal it prints a line now and then, as long as the work goes on.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        """Print a line so often, if there is no terminal."""
        self._every_s, self._text = every_s, ""
        self._ended = threading.Event()

    def __enter__(self) -> Status:
        from rich.console import Console

        self._status = Console(stderr=True).status("")
        if sys.stderr.isatty():
            self._status.start()
        else:
            threading.Thread(target=self._print, daemon=True).start()
        return self

    def __call__(self, text: str) -> None:
        """Say what is being done."""
        self._text = text
        self._status.update(text)

    def _print(self) -> None:
        started_s = time.monotonic()
        while not self._ended.wait(self._every_s):
            seconds = time.monotonic() - started_s
            print(f"h5ingest: {self._text} ({seconds:,.0f} s)", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._status.stop()


def tell(
    report: IngestReport, request: IngestRequest, beat: Callable[[], None] = lambda: None
) -> None:
    """Write the report and the metadata where asked, and print a summary.

    The HDF5 file is complete, so the job has succeeded: a report that cannot be written only makes
    a warning. `beat` is called now and then, while the file is read for its metadata.

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
        from h5ingest.cli.summary import summary
        from h5ingest.inspect.compression_hint import compression_hint

        hint = compression_hint(report, request.options)
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        text = summary(report, verbose=request.verbose, hint=hint, columns=columns)
        print(text, flush=True)


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
    """Print what a verification found, and write it as JSON where asked; or raise `OutputError`."""
    for problem in report.problems:
        print(f"h5ingest: error: {report.path}: {problem}", file=sys.stderr)
    gone = not report.n_sources and all(_GONE in bad.reason for bad in report.bad)
    n_shown = 1 if gone else _MOST_SHOWN  # of rows that differ for one reason, one says it all
    for bad in report.bad[:n_shown]:
        where = f"{bad.dataset}, row {bad.row}"
        print(f"h5ingest: error: {where} ({bad.path}): {bad.reason}", file=sys.stderr)
    if (n_more := len(report.bad) - n_shown) > 0:
        print(f"h5ingest: error: … and {counted(n_more, 'rows')} more", file=sys.stderr)
    if report.bad and gone:
        folder = os.path.abspath(request.root or request.out.parent)
        print(
            f"h5ingest: error: no source was found: paths are relative to {folder} unless --root "
            "DIR says otherwise; for a file made from a folder, DIR is that folder",
            file=sys.stderr,
        )
    if not request.quiet:
        failed = f", {report.n_failed:,} of them failed when it was made" * bool(report.n_failed)
        print(f"{report.path}: {counted(report.n_samples, 'images')} checked{failed}")
        if request.sources:
            print(
                f"sources: {report.n_sources:,} decoded again, {report.n_other:,} of them by "
                f"another decoder"
            )
        n_wrong = len(report.bad) + len(report.problems)
        print("all is well" if report.ok else counted(n_wrong, "differences"))
    if request.report is not None:
        write_json("--report", request.report, {"ok": report.ok, **asdict(report)})


def write_report(path: Path, result: IngestReport | SamplesFailedError) -> None:
    """Write what a run did, or which images made it fail, as JSON; or raise `OutputError`."""
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
