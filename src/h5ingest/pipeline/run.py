"""The main job: the order of its steps and the points where the ranks agree, nothing clever.

manifest ─▶ probe ─▶ layout, plan ─▶ create, store, close ─▶ rank-0 pass ─▶ rename
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from h5ingest.core.errors import (
    OutputError,
    SamplesFailedError,
)
from h5ingest.core.layout import Layout
from h5ingest.core.manifest import Manifest
from h5ingest.core.notes import Notes
from h5ingest.core.options import IngestOptions
from h5ingest.diagnostics.preflight import advising
from h5ingest.images.conversion import Losses
from h5ingest.images.png_chunks import END
from h5ingest.images.prefetch import Prefetcher
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.mpi.signals import Interrupt, StopRequested
from h5ingest.pipeline.build_layout import build_layout
from h5ingest.pipeline.changed_sources import count_changed
from h5ingest.pipeline.finalize import StoreOutcome, describe_losses, finish, join
from h5ingest.pipeline.job import Job, NullProgress, ProgressListener
from h5ingest.pipeline.output_checks import (
    about_job,
    begin_file,
    check_left,
    check_output,
    keep_freed_memory,
    mpi_hints,
    refuse_sources,
)
from h5ingest.pipeline.probing import ProbeResult, agree_on_images, probe_images
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.pipeline.redistribute import Shard, redistribute
from h5ingest.pipeline.report import IngestReport, write_failures
from h5ingest.pipeline.write_loop import WriteLoop, images_of
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import sync
from h5ingest.storage.filters import filter_pipeline
from h5ingest.storage.job_files import JobPaths
from h5ingest.storage.journal import Run
from h5ingest.storage.writer import TreeWriter, Writer
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

    `out` appears only when it is complete. A job that did not end is gone on with, on any number of
    ranks. On an error that all ranks agree on, every rank raises it; anything that goes wrong on
    one rank alone ends all ranks.

    Args:
        manifest_path: see `lines` for its format.
        out: the file to make.
        options: None for the defaults.
        comm: all ranks; None for this process alone.
        watch: sees the progress.
        interrupt: asks to stop.
        command: what the user typed, for the file's attributes.

    Raises:
        IngestError: see `errors` for its kinds.
    """
    comm = comm or SerialComm()
    job = Job(
        manifest_path=manifest_path,
        paths=JobPaths(out),
        options=options or IngestOptions(),
        comm=comm,
        watch=watch or NullProgress(),
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
            return _ingest(job)


def _ingest(job: Job) -> IngestReport:
    comm, options = job.comm, job.options
    with agreeing(comm):
        filters = filter_pipeline(options.compression, shuffle=options.shuffle)
    with job.phase("manifest"):
        manifest, held = read_manifest(job.manifest_path, options, comm)
    with job.phase("probe"):
        pulse = job.pulse("probe", manifest.n_rows)
        try:
            probed = probe_images(held, job.root, options, lambda n: job.beat(pulse, n, 0, 0))
        except StopRequested:
            probed = None
        if probed is not None:
            job.finish(pulse, len(held.paths), 0, len(probed.failures))
        else:
            job.finish(pulse, 0, 0, 0)
        job.stop_if_asked()
        assert probed is not None, "who stops early says so"
        refuse_sources(job, probed.failures)
        try:
            findings = agree_on_images(probed, held, manifest, job.root, options, comm)
        except SamplesFailedError as error:
            kinds = {failure.kind for failure in error.failures}
            wrong_root = kinds == {"missing"} and len(error.failures) == manifest.n_rows
            if kinds and not wrong_root and not options.dry_run:  # root only: others know none
                with contextlib.suppress(OutputError):  # what the images lack matters more
                    write_failures(job.paths.failed, error.failures)
            raise
    with job.phase("layout"):
        layout, runs = build_layout(held, probed, manifest, findings, filters, options, comm)
        choice = choose_writer(layout, comm, job.paths.out, options)
    done = StoreOutcome(bytes_out=layout.stored_bytes)
    if not options.dry_run:
        with job.phase("divide"):
            about = about_job(job, manifest, layout, runs)
            shards = redistribute(comm, layout, runs)
        del held, runs
        with job.explaining_space(0 if layout.filters else layout.stored_bytes):
            done = _make(job, choice, layout, shards, manifest, findings, probed.cache, about)
    return IngestReport(
        out=str(job.paths.out),
        n_samples=manifest.n_rows,
        n_resumed=done.n_resumed,
        n_changed=done.n_changed,
        image=layout.description,
        conversions=findings.conversions,
        losses=done.losses,
        notes=done.notes,
        warnings=layout.warnings + done.warnings,
        n_ranks=comm.size,
        writer=choice.why,
        bytes_in=findings.n_bytes,
        bytes_out=done.bytes_out,
        bytes_images=layout.image_bytes,
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
    findings: ProbeResult,
    cache: dict[int, bytes],
    about: dict[str, object],
) -> StoreOutcome:
    """Create the file or take it up, store all images, end it, give it its name. Collective."""
    comm = job.comm
    with job.phase("create"):
        journal, known, done, earlier = begin_file(job, layout, about)
        checkpoint_s = job.options.checkpoint_s
        checkpoints = Checkpoints(comm, job.paths.partial, journal, job.fence, checkpoint_s)
        hints = mpi_hints(job, choice)
        writer = open_writer(choice, job.paths.partial, layout, comm, checkpoints, known, hints)
        if isinstance(writer, TreeWriter):
            writer.create_images([image for shard in shards for image in images_of(shard)])
        if comm.rank == 0:
            checkpoints.enter(Run(job.started_ns).pack())
        left = [part for whole in shards for part in whole.without(done[whole.group])]

    def look(beat: Callable[[], None]) -> int:
        return count_changed(shards, earlier, job.root, beat)

    try:
        work = _store(job, layout, left, cache, writer, look)
        with job.phase("close"):
            writer.close()
            sync(job.paths.partial)
    except BaseException:
        if comm.size == 1:  # before the lock is released; several ranks are about to be ended
            writer.give_up()
        raise
    job.stop_if_asked(work.n_kept)
    with job.phase("finalize"):
        failures = join(job, layout, shards, work, known.joints(), journal)
        losses = Losses(*map(sum, zip(*comm.allgather(work.losses.to_plain()), strict=True)))
        n_resumed = max(0, manifest.n_rows - sum(comm.allgather(work.n_done)))
        finished = StoreOutcome(
            failures=tuple(failures),
            losses=describe_losses(losses, n_resumed, job.options),
            notes=Notes.of_all(comm.allgather(work.notes.to_plain())),
            n_resumed=n_resumed,
            n_changed=sum(comm.allgather(work.n_changed)),
        )
        return finish(job, layout, manifest, findings, writer, finished)


def _store(
    job: Job,
    layout: Layout,
    shards: Sequence[Shard],
    cache: dict[int, bytes],
    writer: Writer,
    look: Callable[[Callable[[], None]], int],
) -> RankStats:
    """Store what is left to be stored; return this rank's work when all have ended. Collective.

    Args:
        job: the run.
        layout: the datasets.
        shards: what is left.
        cache: see `WriteLoop`.
        writer: takes the images.
        look: counts the files that changed; is given what to call now and then.
    """
    n_left = sum(job.comm.allgather(sum(len(shard.owned) for shard in shards)))
    pulse = job.pulse("store", n_left)

    def beat(work: RankStats) -> None:
        writer.advance()
        job.beat(pulse, work.n_done, work.n_read_bytes, len(work.failures))

    with Prefetcher(job.root, job.options.readers, end=END, waiting=lambda: loop.beat()) as files:
        loop = WriteLoop(layout, job.options, writer, files, cache, beat)
        work = loop.work
        try:
            for shard in shards:
                loop.store(shard)
            work.n_changed = look(loop.beat)
        except StopRequested:
            pass  # what has been written is kept; all ranks say so in the end
    job.seconds.update(read=work.read_s, decode=work.decode_s, write=work.write_s)
    with job.phase("wait"):
        job.finish(
            pulse, work.n_done, work.n_read_bytes, len(work.failures), meanwhile=writer.advance
        )
    return work
