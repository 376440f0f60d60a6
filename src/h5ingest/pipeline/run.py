"""The main job: the order of its steps and the points where the ranks agree, nothing clever.

manifest ─▶ probe ─▶ layout ─▶ redistribute ─▶ create, store, close ─▶ rank-0 pass ─▶ rename
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from h5ingest.core.errors import (
    MisfitError,
    SamplesFailedError,
    UsageError,
    agreed,
    extended,
)
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.memory import keep_freed_memory
from h5ingest.core.notes import Notes
from h5ingest.core.options import IngestOptions
from h5ingest.images.conversion import Losses
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.choose_source import choose_source
from h5ingest.pipeline.finalize import StoreOutcome, all_moments, describe_losses, finish, join
from h5ingest.pipeline.job import Job, ProgressListener
from h5ingest.pipeline.output_checks import (
    about_job,
    advising,
    begin_file,
    check_left,
    check_output,
    mpi_hints,
)
from h5ingest.pipeline.redistribute import Shard, redistribute
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.source import Plan, Source
from h5ingest.pipeline.store_images import LOOPS, store_images
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import sync
from h5ingest.storage.job_files import JobPaths
from h5ingest.storage.journal_records import Run
from h5ingest.storage.writer_choice import WriterChoice, choose_writer, open_writer

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions


def ingest(
    manifest_path: Path,
    out: Path,
    options: IngestOptions | None = None,
    comm: Comm | None = None,
    *,
    scan: ScanOptions | None = None,
    watch: ProgressListener | None = None,
    interrupt: Interrupt | None = None,
    command: str = "",
) -> IngestReport:
    """Store all images of a manifest, a folder or archives in one HDF5 file. Collective.

    `out` appears only when it is complete. An unfinished job is continued, on any number of ranks.
    An error that all ranks agree on is raised on all; what goes wrong on one rank ends all ranks.

    Args:
        manifest_path: see `core.manifest_dialect`; or a folder, or what `images.several` takes; or
            `-`, standard input.
        out: the file to make.
        options: None for the defaults.
        comm: all ranks; None for this process alone.
        scan: which files in a folder are images, and their labels; None: by default.
        watch: sees the progress.
        interrupt: asks to stop.
        command: what the user typed, for the file's attributes.

    Raises:
        IngestError: see `core.errors` for its kinds.
    """
    comm = comm or SerialComm()
    source = choose_source(manifest_path, scan, comm)
    return run_job(source, out, options, comm, watch=watch, interrupt=interrupt, command=command)


def recompress(
    path: Path,
    out: Path,
    options: IngestOptions,
    comm: Comm | None = None,
    *,
    watch: ProgressListener | None = None,
    interrupt: Interrupt | None = None,
    command: str = "",
    keep_layout: bool = True,
) -> IngestReport:
    """Store all that a file of h5ingest holds in another one, in other chunks. Collective.

    Each image is compared with its checksum before it is stored again. The new file has the content
    digest of the old one; in another layout the pixels without padding, and what goes with them.
    Everything else is as with `ingest`.

    Args:
        path: the file, which is only read.
        out: the file to make.
        options: compression, shuffle, chunk_rows; without `keep_layout` layout and recode, too.
        comm: all ranks; None for this process alone.
        watch: sees the progress.
        interrupt: asks to stop.
        command: what the user typed, for the file's attributes.
        keep_layout: whether the new file has the old one's layout; else that of `options`.

    Raises:
        IngestError: see `core.errors` for its kinds.
    """
    if options.is_auto:
        said = "--compression auto looks at image files: name a codec to recompress with"
        raise agreed(UsageError(said))  # the options are those of all ranks
    from h5ingest.pipeline.stored_file import StoredFile  # an ingest reads no file of h5ingest

    source, comm = StoredFile(path, keep_layout=keep_layout), comm or SerialComm()
    return run_job(source, out, options, comm, watch=watch, interrupt=interrupt, command=command)


def run_job(
    source: Source,
    out: Path,
    options: IngestOptions | None,
    comm: Comm,
    *,
    watch: ProgressListener | None,
    interrupt: Interrupt | None,
    command: str,
) -> IngestReport:
    """Make `out` of a source; see `ingest`. Collective."""
    job = Job(
        paths=JobPaths(out),
        options=options or IngestOptions(),
        comm=comm,
        watch=watch or ProgressListener(),
        interrupt=interrupt or Interrupt(),
        command=command,
    )
    keep_freed_memory()
    with abort_on_crash(comm), advising(out, comm), contextlib.closing(source):
        with agreeing(comm):
            if comm.rank == 0:
                check_output(job, source.argument, source.path)
        if job.options.dry_run:
            return _carry_out(job, source)
        with job.locked():
            with agreeing(comm):
                if comm.rank == 0:
                    check_left(job)
            with contextlib.suppress(MisfitError):
                return _carry_out(job, source)
            return _carry_out_anew(job, source)


def _carry_out_anew(job: Job, source: Source) -> IngestReport:
    """Do what `_carry_out` does where an image was not as expected: all headers first. Collective.

    Raises:
        SamplesFailedError: the images do not fit together; what has been stored stays.
    """
    if job.comm.rank == 0:
        job.watch.notice("not all images are like those looked at first: reading all headers")
    job.options, job.n_misfits = replace(job.options, probe="all", restart=True), 0
    try:
        return _carry_out(job, source)
    except SamplesFailedError as error:
        kept = (
            "What has been stored stays, in case these images are repaired; to go on with another "
            "option, add --restart."
        )
        raise extended(error, kept) from None


def _carry_out(job: Job, source: Source) -> IngestReport:
    """Do the whole job. Collective.

    Raises:
        MisfitError: an image is not as the source expected (on all ranks).
    """
    comm, options = job.comm, job.options
    plan = source.plan(job, () if options.is_auto else job.filters(options.compression))
    layout = plan.layout
    choice = choose_writer(layout, comm, job.paths.out, job.options)
    done = StoreOutcome(bytes_out=layout.stored_bytes)
    if not options.dry_run:
        with job.phase("divide"):
            about = about_job(job, plan.about, layout, plan.runs)
            shards = redistribute(comm, layout, plan.runs)
        plan.runs.clear()
        with job.explaining_space(0 if layout.is_filtered else layout.stored_bytes):
            done, plan = _make(job, choice, source, plan, shards, about)
    kind = KINDS[layout.kind]
    return IngestReport(
        out=str(job.paths.out),
        n_samples=layout.n_samples,
        n_each=len(layout.images),
        groups=tuple(dict.fromkeys(group.name for group in layout.groups if group.name)),
        n_resumed=done.n_resumed,
        n_changed=done.n_changed,
        image=plan.image or kind.describe(layout.groups),
        conversions=plan.conversions,
        changes=plan.changes,
        losses=done.losses,
        notes=done.notes,
        warnings=plan.warnings + kind.warnings(layout.n_images) + done.warnings,
        n_ranks=comm.size,
        writer=choice.why,
        auto=job.auto,
        bytes_in=plan.n_bytes,
        bytes_out=done.bytes_out,
        bytes_images=layout.image_bytes,
        bytes_cache=sum(comm.allgather(source.cache_bytes)),
        recompressed=source.recompresses,
        added=plan.added,
        dry_run=options.dry_run,
        failures=done.failures,
        content_digest=done.digest,
        seconds=time.perf_counter() - job.started_s,
        phases=job.spreads(),
        cpu_s=job.cpu_seconds(),
    )


def _make(
    job: Job,
    choice: WriterChoice,
    source: Source,
    plan: Plan,
    shards: Sequence[Shard],
    about: dict[str, object],
) -> tuple[StoreOutcome, Plan]:
    """Create the file or take it up, store all images, end it, give it its name. Collective.

    Returns:
        What came of it, and the plan with all that is known in the end.

    Raises:
        MisfitError: an image is not as the source expected (on all ranks).
    """
    comm, layout = job.comm, plan.layout
    with job.phase("create"):
        journal, known, done, earlier = begin_file(job, layout, about)
        checkpoint_s = job.options.checkpoint_s
        checkpoints = Checkpoints(comm, job.paths.partial, journal, job.fence, checkpoint_s)
        hints = mpi_hints(job, choice)
        writer = open_writer(choice, job.paths.partial, layout, comm, checkpoints, known, hints)
        LOOPS[layout.kind].create_datasets(writer, shards)
        if comm.rank == 0:
            checkpoints.enter(Run(job.started_ns).pack())
    try:
        stats = store_images(job, layout, shards, done, earlier, source, writer)
        with job.phase("close"):
            writer.close()
            sync(job.paths.partial)
    except BaseException:
        if comm.size == 1:  # before the lock is released; several ranks are about to be ended
            writer.give_up()
        raise
    job.stop_if_asked(stats.n_kept)
    with job.phase("finalize"):
        try:
            plan = source.confirm(job, plan, stats)
        except MisfitError:
            if journal is not None:
                journal.close()
            raise
        failures, blanked = join(
            job, source, layout, shards, stats, known.joints(), journal, writer
        )
        moments = all_moments(comm, stats, known.spans(), blanked)
        losses = Losses(*map(sum, zip(*comm.allgather(astuple(stats.losses)), strict=True)))
        n_resumed = max(0, layout.n_images - sum(comm.allgather(stats.n_done)))
        finished = StoreOutcome(
            failures=tuple(failures),
            losses=describe_losses(losses, n_resumed, job.options),
            notes=Notes.of_all(comm.allgather(stats.notes.to_plain())),
            n_resumed=n_resumed // len(layout.images),
            n_changed=sum(comm.allgather(stats.n_changed)),
        )
        return finish(job, source, plan, writer, finished, moments), plan
