"""The `h5ingest` command: from the arguments to one collective call to the exit code.

Only rank 0 imports the command-line library and reads the arguments (`cli.app`). It broadcasts what
is to be done, or the exit code. So help and errors are printed once, whatever the launcher, and
those imports are paid once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from h5ingest.cli import streams
from h5ingest.cli.requests import (
    DoctorRequest,
    ExportRequest,
    IngestRequest,
    ManifestRequest,
    Request,
    VerifyRequest,
)
from h5ingest.core.errors import EXIT_OK, IngestError, OutputError, SamplesFailedError, SetupError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.launcher import launcher_rank
from h5ingest.mpi.signals import Interrupt, end_at_once, end_soon
from h5ingest.mpi.watchdog import exit_within

if TYPE_CHECKING:
    from h5ingest.mpi.comm import Comm
    from h5ingest.pipeline.job import ProgressListener

_ERROR_GRACE_S: Final = 2.0


def main() -> None:
    """Run the `h5ingest` command. Collective; does not return."""
    if "_H5INGEST_COMPLETE" in os.environ:  # the shell asks what may be typed: no MPI for that
        sys.exit(cast("int", _parse([], 1)))
    streams.keep()
    code = run(sys.argv[1:])
    from h5ingest.mpi.world import leave

    leave(code)


def run(arguments: list[str]) -> int:
    """Do what the arguments say and return the exit code, the same on all ranks. Collective."""
    end_at_once()
    # Else NumPy starts a thread for each core on each rank, for linear algebra that nobody needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from h5ingest.mpi.comm import abort_on_crash
    from h5ingest.mpi.world import world  # takes most of the time until here (numpy)

    try:
        comm = world()
    except SetupError as error:
        if not launcher_rank():
            _print_error(error)
        # Without MPI, the ranks cannot wait for each other, and they come here one by one. As soon
        # as one has exited, srun ends the others: rank 0 must have printed the error before.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(_ERROR_GRACE_S)
        return error.exit_code
    with abort_on_crash(comm):
        timeout_s = IngestOptions().peer_timeout_s  # until --peer-timeout is known
        if comm.size > 1:
            comm.watch.start(timeout_s)
        parsed = _parse(arguments, comm.size) if comm.rank == 0 else None
        request = cast("Request | int", comm.bcast(parsed))
        code = _carry_out(request, comm)
        if comm.size > 1:
            end_soon(code)
            exit_within(timeout_s, code)
        comm.final_barrier()
        return code


def _parse(arguments: list[str], n_ranks: int) -> Request | int:
    """Return what the arguments ask for, or the exit code of a verb that is done. Rank 0 only."""
    from h5ingest.cli.app import parse

    try:
        request = parse(arguments, n_ranks)
        if request == EXIT_OK:
            streams.check_output()
    except IngestError as error:  # of a verb that runs on one rank
        _print_error(error)
        return error.exit_code
    return request


def _carry_out(request: Request | int, comm: Comm) -> int:
    """Do what the arguments ask for, unless it is done, and return the exit code. Collective."""
    if isinstance(request, int):
        return request
    try:
        if isinstance(request, VerifyRequest):
            return _verify(request, comm)
        if isinstance(request, ManifestRequest):
            return _manifest(request, comm)
        if isinstance(request, DoctorRequest):
            return _doctor(request, comm)
        if isinstance(request, ExportRequest):
            return _export(request, comm)
        return _ingest(request, comm)
    except IngestError as error:
        if not error.agreed and comm.size > 1:
            raise
        if comm.rank == 0:
            _print_error(error)
        writes_hdf5 = not isinstance(request, (ManifestRequest, ExportRequest))
        if comm.size == 1 and writes_hdf5 and isinstance(error, OutputError):
            comm.abort(error.exit_code)  # to close a file that it could not write may crash HDF5
        return error.exit_code


def _ingest(request: IngestRequest, comm: Comm) -> int:
    """Ingest, recompress or extend; rank 0 shows the progress and the report. Collective."""
    interrupt = Interrupt()
    interrupt.install()
    from h5ingest.mpi.async_sum import while_rank_0_works

    # What has been imported stays for good. The garbage collector would search it again each time
    # that some ten thousand small objects have been made, for 10 ms.
    gc.freeze()
    if comm.rank == 0 and not request.quiet:
        from h5ingest.diagnostics.preflight import told_before

        print(
            told_before(request.out, request.options, comm, verbose=request.verbose),
            end="", file=sys.stderr, flush=True,
        )  # fmt: skip
    with _job(request, comm) as watch:
        report = request.work()(
            request.source,
            request.out,
            request.options,
            comm,
            watch=watch,
            interrupt=interrupt,
            command=request.command,
        )
    with while_rank_0_works(comm) as beat:
        if comm.rank == 0:
            from h5ingest.cli.messages import tell

            tell(report, request, beat)
    return EXIT_OK


def _verify(request: VerifyRequest, comm: Comm) -> int:
    """Verify; rank 0 shows the progress and what was found. Collective."""
    from h5ingest.inspect.verify import verify

    with _shown(request, comm) as watch:
        report = verify(request.out, comm, sources=request.sources, root=request.root, watch=watch)
    if comm.rank == 0:
        from h5ingest.cli.messages import tell_verification

        tell_verification(report, request)
    return EXIT_OK if report.ok else SamplesFailedError.exit_code


def _manifest(request: ManifestRequest, comm: Comm) -> int:
    """Write a manifest; rank 0 says what was found. Collective."""
    interrupt = Interrupt()
    interrupt.install()
    from h5ingest.images.scan_summary import describe
    from h5ingest.pipeline.scan_folder import write_manifest

    to_stdout = str(request.out) == "-"
    # Never closed: to close it would write once more to a pipe whose reader has gone.
    file = open(1, "wb", closefd=False) if to_stdout else request.out  # noqa: SIM115
    tally = write_manifest(request.folders, file, request.options, comm, interrupt)
    if comm.rank == 0 and not request.quiet:
        name = "standard output" if to_stdout else request.out
        print(f"{name}: {describe(tally)}", file=sys.stderr)
    return EXIT_OK


def _export(request: ExportRequest, comm: Comm) -> int:
    """Export; rank 0 shows the progress and what was written. Collective."""
    from h5ingest.exports.run import export
    from h5ingest.mpi.async_sum import while_rank_0_works

    if request.row is not None or request.url is not None:
        with while_rank_0_works(comm):
            if comm.rank == 0:
                from h5ingest.cli.export_command import export_one

                export_one(request)
        return EXIT_OK
    interrupt = Interrupt()
    interrupt.install()
    with _job(request, comm) as watch:
        report = export(
            request.file, request.out, request.options, comm, watch=watch, interrupt=interrupt
        )
    if comm.rank == 0:
        from h5ingest.cli.export_command import tell_export

        tell_export(report, request)
    return EXIT_OK


def _doctor(request: DoctorRequest, comm: Comm) -> int:
    """Say what this machine is, and what two hosts see of each other's files. Collective."""
    from h5ingest.mpi.comm import agreeing

    interrupt, hopeless = Interrupt(), False
    with agreeing(comm):
        if comm.rank == 0:
            from h5ingest.diagnostics.doctor import print_facts

            hopeless = print_facts(request.out, comm)
            streams.check_output()
    if request.out is not None and comm.size > 1:
        from h5ingest.diagnostics.host_trial import try_hosts

        interrupt.install()
        folder = request.out if os.path.isdir(request.out) else request.out.parent
        trial = try_hosts(folder, comm, interrupt)
        if comm.rank == 0:
            from h5ingest.diagnostics.trial_report import print_trial

            hopeless = print_trial(trial) or hopeless
    return SetupError.exit_code if comm.bcast(hopeless) else EXIT_OK


@contextlib.contextmanager
def _job(request: IngestRequest | ExportRequest, comm: Comm) -> Iterator[ProgressListener | None]:
    """Show the progress of the block, in which ranks are waited for; report failed images."""
    if comm.size > 1:
        comm.watch.start(request.options.peer_timeout_s)
    try:
        with _shown(request, comm) as watch:
            yield watch
    except SamplesFailedError as error:
        if comm.rank == 0 and request.report is not None:
            from h5ingest.cli.messages import warn, write_report

            try:
                write_report(request.report, error)
            except OutputError as also:  # which images failed matters more
                warn(str(also))
        raise


@contextlib.contextmanager
def _shown(
    request: IngestRequest | VerifyRequest | ExportRequest, comm: Comm
) -> Iterator[ProgressListener | None]:
    """Show the progress of the block, on rank 0."""
    watch = None
    if comm.rank == 0 and not request.quiet:
        from h5ingest.cli import progress

        watch = progress.start(request.progress, sys.stderr)
    try:
        yield watch
    finally:
        if watch is not None:
            watch.close()


def _print_error(error: IngestError) -> None:
    print(f"h5ingest: error: {error}", file=sys.stderr, flush=True)
