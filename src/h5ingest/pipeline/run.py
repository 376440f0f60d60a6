"""The main job: the order of its steps and the points where the ranks agree, nothing clever.

manifest ─▶ probe ─▶ layout ─▶ redistribute ─▶ create, store, close ─▶ rank-0 pass ─▶ rename
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

from h5ingest.core.errors import SamplesFailedError, StorageError, extended
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import Manifest
from h5ingest.core.notes import Notes
from h5ingest.core.options import IngestOptions
from h5ingest.images.conversion import Losses
from h5ingest.images.prefetch import FileCache
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.agree_on_images import ProbeResult
from h5ingest.pipeline.build_layout import build_layout
from h5ingest.pipeline.cache_share import cache_share
from h5ingest.pipeline.finalize import StoreOutcome, describe_losses, finish, join
from h5ingest.pipeline.first_look import FirstLook, MisfitError
from h5ingest.pipeline.job import Job, ProgressListener
from h5ingest.pipeline.look_at_images import look_at_images
from h5ingest.pipeline.output_checks import (
    about_job,
    begin_file,
    check_left,
    check_output,
    keep_freed_memory,
    mpi_hints,
    refuse_sources,
)
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.pipeline.redistribute import Shard, redistribute
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.seen_kinds import SeenKinds
from h5ingest.pipeline.store_images import LOOPS, store_images
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import sync
from h5ingest.storage.job_files import JobPaths
from h5ingest.storage.journal import Run
from h5ingest.storage.writer_choice import WriterChoice, choose_writer, open_writer


def ingest(
    manifest_path: Path,
    out: Path,
    options: IngestOptions | None = None,
    comm: Comm | None = None,
    *,
    watch: ProgressListener | None = None,
    interrupt: Interrupt | None = None,
    command: str = "",
) -> IngestReport:
    """Store all images of a manifest in one HDF5 file. Collective.

    `out` appears only when it is complete. An unfinished job is continued, on any number of ranks.
    On an error that all ranks agree on, every rank raises it; anything that goes wrong on one rank
    alone ends all ranks.

    Args:
        manifest_path: see `core.manifest_dialect` for its format.
        out: the file to make.
        options: None for the defaults.
        comm: all ranks; None for this process alone.
        watch: sees the progress.
        interrupt: asks to stop.
        command: what the user typed, for the file's attributes.

    Raises:
        IngestError: see `core.errors` for its kinds.
    """
    comm = comm or SerialComm()
    job = Job(
        manifest_path=manifest_path,
        paths=JobPaths(out),
        options=options or IngestOptions(),
        comm=comm,
        watch=watch or ProgressListener(),
        interrupt=interrupt or Interrupt(),
        command=command,
    )
    keep_freed_memory()
    with abort_on_crash(comm), advising(out, comm):
        with agreeing(comm):
            if comm.rank == 0:
                check_output(job)
        if job.options.dry_run:
            return _ingest(job)
        with job.locked():
            with agreeing(comm):
                if comm.rank == 0:
                    check_left(job)
            try:
                return _ingest(job)
            except MisfitError:
                pass
            return _ingest_anew(job)


@contextlib.contextmanager
def advising(out: Path, comm: Comm) -> Iterator[None]:
    """Add known problems of this place to an error of the system or of HDF5. Not collective.

    Raises:
        StorageError: what the block raised, with the advice appended.
    """
    try:
        yield
    except StorageError as error:
        from h5ingest.diagnostics.preflight import after_error  # rarely needed

        lines = after_error(out, comm)
        if not lines:
            raise
        raise extended(error, "\n".join(lines)) from None


def _ingest_anew(job: Job) -> IngestReport:
    """Do what `_ingest` does where an image was not as expected: all headers first. Collective."""
    if job.comm.rank == 0:
        job.watch.notice("not all images are like those looked at first: reading all headers")
    job.options, job.n_misfits = replace(job.options, probe="all", restart=True), 0
    try:
        return _ingest(job)
    except SamplesFailedError as error:
        kept = (
            "What has been stored stays, for the case that these images are mended; to go on with "
            "another option, add --restart."
        )
        raise extended(error, kept) from None


def _ingest(job: Job) -> IngestReport:
    """Do the whole job. Collective.

    Raises:
        MisfitError: see `_make`.
    """
    comm, options = job.comm, job.options
    filters: tuple[Filter, ...] = ()
    if options.compression is not None or options.shuffle:
        from h5ingest.storage.filters import filter_pipeline  # not for plain files

        with agreeing(comm):
            filters = filter_pipeline(options.compression, shuffle=options.shuffle)
    cache = FileCache(cache_share(comm) if options.cache_bytes is None else options.cache_bytes)
    with job.phase("manifest"):
        manifest, local = read_manifest(job.manifest_path, options, comm)
    with job.phase("probe"):
        probed, known = look_at_images(job, local, manifest, cache)
    with job.phase("layout"):
        layout, runs = build_layout(local, probed, manifest, known.outputs, filters, options, comm)
        choice = choose_writer(layout, comm, job.paths.out, options)
    del local, probed
    if options.dry_run:
        assert isinstance(known, ProbeResult), "a dry run looks at all"
        done, findings = StoreOutcome(bytes_out=layout.stored_bytes), known
    else:
        with job.phase("divide"):
            about = about_job(job, manifest, layout, runs)
            shards = redistribute(comm, layout, runs)
        del runs
        with job.explaining_space(0 if layout.filters else layout.stored_bytes):
            done, findings = _make(job, choice, layout, shards, manifest, known, cache, about)
    kind = KINDS[layout.kind]
    return IngestReport(
        out=str(job.paths.out),
        n_samples=manifest.n_rows,
        n_resumed=done.n_resumed,
        n_changed=done.n_changed,
        image=kind.describe(layout.groups),
        conversions=findings.conversions,
        losses=done.losses,
        notes=done.notes,
        warnings=kind.warnings(layout.n_samples) + done.warnings,
        n_ranks=comm.size,
        writer=choice.why,
        bytes_in=findings.n_bytes,
        bytes_out=done.bytes_out,
        bytes_images=layout.image_bytes,
        bytes_cache=sum(comm.allgather(cache.n_bytes)),
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
    layout: Layout,
    shards: Sequence[Shard],
    manifest: Manifest,
    images: ProbeResult | FirstLook,
    cache: FileCache,
    about: dict[str, object],
) -> tuple[StoreOutcome, ProbeResult]:
    """Create the file or take it up, store all images, end it, give it its name. Collective.

    Raises:
        MisfitError: an image is not as the first look at some of them has it (on all ranks).
    """
    comm = job.comm
    seen = None
    if isinstance(images, FirstLook):
        seen = SeenKinds(images.kinds, images.outputs, job.options)
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
        stats = store_images(job, layout, shards, done, earlier, cache, writer, seen)
        with job.phase("close"):
            writer.close()
            sync(job.paths.partial)
    except BaseException:
        if comm.size == 1:  # before the lock is released; several ranks are about to be ended
            writer.give_up()
        raise
    job.stop_if_asked(stats.n_kept)
    with job.phase("finalize"):
        refuse_sources(job, stats.failures)
        if isinstance(images, FirstLook) and seen is not None:
            try:
                images = images.confirm(seen, stats.n_read_bytes, job.options, comm)
            except MisfitError:
                if journal is not None:
                    journal.close()
                raise
        assert isinstance(images, ProbeResult), "confirmed"
        failures = join(job, layout, shards, stats, known.joints(), journal)
        losses = Losses(*map(sum, zip(*comm.allgather(astuple(stats.losses)), strict=True)))
        n_resumed = max(0, manifest.n_rows - sum(comm.allgather(stats.n_done)))
        finished = StoreOutcome(
            failures=tuple(failures),
            losses=describe_losses(losses, n_resumed, job.options),
            notes=Notes.of_all(comm.allgather(stats.notes.to_plain())),
            n_resumed=n_resumed,
            n_changed=sum(comm.allgather(stats.n_changed)),
        )
        return finish(job, layout, manifest, images, writer, finished), images
