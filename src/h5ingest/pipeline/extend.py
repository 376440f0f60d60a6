"""`extend`: images added to a finished file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from h5ingest.core.errors import NothingNewError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.job import ProgressListener
from h5ingest.pipeline.more_images import MoreImages
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import run_job
from h5ingest.reading.open_file import open_checked


def extend(
    manifest_path: Path,
    out: Path,
    options: IngestOptions | None = None,
    comm: Comm | None = None,
    *,
    again: bool = False,
    watch: ProgressListener | None = None,
    interrupt: Interrupt | None = None,
    command: str = "",
) -> IngestReport:
    """Add the images of a manifest, a folder or archives to a file of h5ingest. Collective.

    A new file is made beside it, of its rows and the new images behind them, and takes its name
    when it is complete: until then the file is what it was. Rows are not decoded where chunks can
    be copied, and compared with their checksums in any case. What is made has the content digest of
    an ingest of both manifests together, unless there are new classes whose names sort before those
    of the file: these keep their numbers, new ones come behind. Images whose paths are in the file
    are left out; rows of several images are known by the path of the first.

    Args:
        manifest_path: whatever `ingest` takes. A folder is scanned as that which the file was made
            of. In a shard or container the samples that have no names are called by it, too.
        out: the file.
        options: of how it runs; those that decide what is in the file are the file's.
        comm: all ranks; None for this process alone.
        again: let images whose paths are in the file take the place of those: behind all others.
        watch: sees the progress.
        interrupt: asks to stop.
        command: what the user typed, for the file's attributes.

    Raises:
        IngestError: see `core.errors` for its kinds.
    """
    comm, source = comm or SerialComm(), MoreImages(manifest_path, out, again=again)
    options = replace(options or IngestOptions(), overwrite=True)
    with abort_on_crash(comm), agreeing(comm):
        if comm.rank == 0:
            open_checked(out)[0].close()  # otherwise the message would be about --overwrite
    try:
        return run_job(
            source, out, options, comm, watch=watch, interrupt=interrupt, command=command
        )
    except NothingNewError:
        return IngestReport(
            out=str(out),
            n_samples=source.added.n_before,
            image=f"images, and none is added: all of {manifest_path} are in it already",
            n_ranks=comm.size,
            writer="nothing is written",
            bytes_in=source.n_bytes,
            bytes_out=source.n_bytes,
            added=source.added,
            content_digest=source.content_digest,
            dry_run=options.dry_run,
            phases={},
        )
