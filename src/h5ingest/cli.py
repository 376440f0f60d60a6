"""argv to options to one call to an exit code; root speaks.

Only root imports the command-line library and reads the arguments (`commands`): it tells the other
ranks what to do, or what to exit with. So help and errors are printed once, whatever the launcher,
and those imports are paid once.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from h5ingest.comm import Comm, abort_on_crash, launcher_rank, world
from h5ingest.errors import EXIT_OK, IngestError, OutputError, SamplesFailedError, SetupError
from h5ingest.options import IngestOptions

_LAST_WORDS_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of `ingest`, as the command line asks for it."""

    manifest: Path
    out: Path
    options: IngestOptions
    command: str
    """What the user typed."""
    progress: str
    """`auto`, `bar`, `line` or `off`."""
    report: Path | None
    """Where the report goes as JSON."""
    croissant: Path | None
    """Where the Croissant metadata go."""
    quiet: bool
    """Whether only errors are printed."""
    verbose: bool
    """Whether to say which libraries and which writer are used."""


def main() -> None:
    """Run the `h5ingest` command. Collective; does not return."""
    code = run(sys.argv[1:])
    if code:
        # All ranks are about to exit with it, but srun --kill-on-bad-exit sends TERM to the rest as
        # soon as the first has done so, and would then report 143.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Do what the arguments say and return the exit code, the same on all ranks. Collective."""
    try:
        comm = world()
    except SetupError as error:
        if not launcher_rank():
            _print_error(error)
        if launcher_rank() is not None:
            # No rank can know of another here. They come one by one: none may exit, which ends the
            # others (see main), before root has spoken.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(_LAST_WORDS_S)
        return error.exit_code
    with abort_on_crash(comm):
        request: Request | int | None = None
        if comm.rank == 0:
            from h5ingest.commands import parse

            try:
                request = parse(arguments, comm.size)
            except IngestError as error:  # of a verb that runs on one rank
                _print_error(error)
                request = error.exit_code
        told = cast("Request | int", comm.bcast(request))
        return told if isinstance(told, int) else _carry_out(told, comm)


def _carry_out(request: Request, comm: Comm) -> int:
    """Ingest, and let root show how it goes. Collective."""
    from h5ingest.ingest import ingest  # not for --help

    watch = None
    if comm.rank == 0 and not request.quiet:
        from h5ingest import progress

        watch = progress.start(request.progress, sys.stderr)
    try:
        report = ingest(
            request.manifest,
            request.out,
            request.options,
            comm,
            watch=watch,
            command=request.command,
        )
        if watch is not None:
            watch.close()
        if comm.rank == 0:
            from h5ingest.commands import tell

            tell(report, request)
    except IngestError as error:
        if watch is not None:
            watch.close()
        if comm.rank == 0:
            _print_error(error)
            if request.report is not None and isinstance(error, SamplesFailedError):
                from h5ingest.commands import write_report

                write_report(request.report, error)
        if comm.size == 1 and isinstance(error, OutputError):
            comm.abort(error.exit_code)  # HDF5 may crash as it closes what it could not write
        return error.exit_code
    return EXIT_OK


def _print_error(error: IngestError) -> None:
    print(f"h5ingest: error: {error}", file=sys.stderr, flush=True)
