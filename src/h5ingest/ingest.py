"""The main job: the order of its steps and the points where the ranks agree, nothing clever.

manifest ─▶ probe ─▶ layout, plan ─▶ create, store, close ─▶ rank-0 pass ─▶ rename
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from h5ingest import __version__
from h5ingest.arrange import arrange
from h5ingest.comm import Comm, SerialComm, abort_on_crash, agree, agreeing
from h5ingest.convert import Losses
from h5ingest.division import Portion, divide
from h5ingest.errors import (
    Failure,
    IngestError,
    OutputError,
    SampleError,
    SamplesFailedError,
    describe_failures,
)
from h5ingest.interrupt import Interrupt, StopRequested
from h5ingest.job import Job, Nobody, Watch
from h5ingest.layout import Layout
from h5ingest.manifest import Manifest
from h5ingest.options import IngestOptions
from h5ingest.pipeline import Pipeline, Work, images_of
from h5ingest.provenance import provenance
from h5ingest.report import IngestReport, write_failures
from h5ingest.samples import Samples
from h5ingest.storage.choice import choose, open_writer
from h5ingest.storage.datasets import hdf5_version
from h5ingest.storage.filters import pipeline
from h5ingest.storage.final import finalize, publish, sync
from h5ingest.storage.joints import Torn, blank, find_torn, undo
from h5ingest.storage.journal import Done, Journal, Record, Undone
from h5ingest.storage.ledger import Ledger
from h5ingest.storage.state import Beside, begin, discard, done_spans
from h5ingest.storage.writer import Writer
from h5ingest.survey import REMEDY, Findings, agree_on_images, probe_images, read_manifest


def ingest(
    manifest_path: Path,
    out: Path,
    options: IngestOptions | None = None,
    comm: Comm | None = None,
    *,
    watch: Watch | None = None,
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
        beside=Beside(out),
        options=options or IngestOptions(),
        comm=comm,
        watch=watch or Nobody(),
        interrupt=interrupt or Interrupt(),
        command=command,
    )
    with abort_on_crash(comm):
        with agreeing(comm):
            if comm.rank == 0:
                _check_output(job)
        if job.options.dry_run:
            return _ingest(job)
        with job.locked():
            with agreeing(comm):
                if comm.rank == 0:
                    _check_left(job)
            return _ingest(job)


def _ingest(job: Job) -> IngestReport:
    comm, options = job.comm, job.options
    with agreeing(comm):
        filters = pipeline(options.compression, shuffle=options.shuffle)
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
        try:
            findings = agree_on_images(probed, manifest, job.root, options, comm)
        except SamplesFailedError as error:
            kinds = {failure.kind for failure in error.failures}
            wrong_root = kinds == {"missing"} and len(error.failures) == manifest.n_rows
            if kinds and not wrong_root and not options.dry_run:  # root only: others know none
                with contextlib.suppress(OutputError):  # what the images lack matters more
                    write_failures(job.beside.failed, error.failures)
            raise
    layout, runs = arrange(held, probed, manifest, findings, filters, options, comm)
    done = _Done(bytes_out=layout.stored_bytes)
    if not options.dry_run:
        about = _about(job, manifest, layout, runs)
        portions = divide(comm, layout, runs)
        del held, runs
        with job.explaining_space(0 if layout.filters else layout.stored_bytes):
            done = _make(job, layout, portions, manifest, findings, probed.cache, about)
    return IngestReport(
        out=str(job.beside.out),
        n_samples=manifest.n_rows,
        n_resumed=done.n_resumed,
        image=layout.description,
        conversions=findings.conversions,
        losses=done.losses,
        warnings=layout.warnings,
        n_ranks=comm.size,
        writer=choose(layout, comm)[1],
        bytes_in=findings.n_bytes,
        bytes_out=done.bytes_out,
        dry_run=options.dry_run,
        failures=done.failures,
        content_digest=done.digest,
        seconds=time.perf_counter() - job.started_s,
        phases=job.spreads(),
    )


def _about(
    job: Job, manifest: Manifest, layout: Layout, runs: Sequence[Samples]
) -> dict[str, object]:
    """Return what must be the same for the work of a job to be of use to another. Collective."""
    fingerprints = job.comm.allgather(sum(run.fingerprint() for run in runs))
    options = job.options.content()
    del options["on_error"]  # a policy for the end: what is stored until then is the same
    return {
        "manifest": manifest.sha256,
        "root": os.fsdecode(job.root),
        "options": {**options, "size": list(job.options.size or []) or None},
        "images": layout.description,
        "samples": manifest.n_rows,
        "sizes and places of the images": f"{sum(fingerprints) % 2**64:016x}",
        "versions": {"h5ingest": __version__, "HDF5": hdf5_version()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What came of storing the images."""

    failures: tuple[Failure, ...] = ()
    losses: tuple[str, ...] = ()
    n_resumed: int = 0
    digest: str = ""
    bytes_out: int = 0


def _make(
    job: Job,
    layout: Layout,
    portions: Sequence[Portion],
    manifest: Manifest,
    findings: Findings,
    cache: dict[int, bytes],
    about: dict[str, object],
) -> _Done:
    """Create the file or take it up, store all images, end it, give it its name. Collective."""
    comm = job.comm
    with job.phase("create"):
        journal, known = _begin(job, layout, about)
        checkpoint_s = job.options.checkpoint_s
        ledger = Ledger(comm, job.beside.partial, journal, job.fence, checkpoint_s)
        writer = open_writer(job.beside.partial, layout, comm, ledger, known)
        if layout.kind == "tree":
            writer.create_images([image for portion in portions for image in images_of(portion)])
        done = done_spans(known, len(layout.groups))
        left = [part for whole in portions for part in whole.without(done[whole.group])]
    work = _store(job, layout, left, manifest, cache, writer)
    with job.phase("close"):
        writer.close()
        sync(job.beside.partial)
    job.stop_if_asked(work.n_kept)
    with job.phase("finalize"):
        before = [
            (done.group, done.start) for done in known if isinstance(done, Done) and done.joint
        ]
        failures = _join(job, layout, portions, work, before, journal)
        losses = Losses(*map(sum, zip(*comm.allgather(work.losses.to_plain()), strict=True)))
        finished = _Done(
            failures=tuple(failures),
            losses=losses.describe(),
            n_resumed=max(0, manifest.n_rows - sum(comm.allgather(work.n_done))),
        )
        return _finish(job, layout, manifest, findings, writer, finished)


def _begin(
    job: Job, layout: Layout, about: dict[str, object]
) -> tuple[Journal | None, Sequence[Record]]:
    """Return the journal, on root, and what it knows: all on root, what is done elsewhere.

    Collective.
    """
    journal: Journal | None = None
    known: Sequence[Record] = ()
    with agreeing(job.comm):
        if job.comm.rank == 0:
            if not layout.filters:  # else the size shows only in the end
                job.check_space(layout.stored_bytes)
            journal, known = begin(job.beside, about, restart=job.options.restart)
    # Placements are for root, which has the file; there may be millions of them.
    done = job.comm.bcast([record for record in known if isinstance(record, Done | Undone)])
    return journal, known or done


def _store(
    job: Job,
    layout: Layout,
    portions: Sequence[Portion],
    manifest: Manifest,
    cache: dict[int, bytes],
    writer: Writer,
) -> Work:
    """Store what is left to be stored; return this rank's work when all have ended. Collective."""
    pulse = job.pulse("store", manifest.n_rows)

    def beat(work: Work) -> None:
        writer.advance()
        job.beat(pulse, work.n_done, work.n_read_bytes, len(work.failures))

    pipeline_ = Pipeline(layout, job.options, writer, job.root, cache, beat)
    work = pipeline_.work
    try:
        for portion in portions:
            pipeline_.store(portion)
    except StopRequested:
        pass  # what has been written is kept; all ranks say so in the end
    job.seconds.update(decode=work.decode_s, write=work.write_s)
    with job.phase("wait"):
        job.finish(
            pulse, work.n_done, work.n_read_bytes, len(work.failures), meanwhile=writer.advance
        )
    return work


def _join(
    job: Job,
    layout: Layout,
    portions: Sequence[Portion],
    work: Work,
    before: Sequence[tuple[int, int]],
    journal: Journal | None,
) -> list[Failure]:
    """Return, on root, all failures: those met on the way, and images that are torn. Collective.

    Args:
        job: the run.
        layout: the datasets.
        portions: what this rank would have done, had nothing been done before.
        work: what it has done.
        before: on root, (group, element) of joints in earlier runs.
        journal: on root.
    """
    comm = job.comm
    torn: list[Torn] = []
    joints = comm.gather(work.joints)
    with agreeing(comm):
        if joints is not None and journal is not None:
            every = {*before, *(joint for told in joints for joint in told)}
            torn = find_torn(job.beside.partial, layout, every) if every else []
            if torn:
                job.check_lock()
                journal.append(undo(layout, torn))
                if job.options.on_error == "blank":
                    blank(job.beside.partial, layout, torn)
            journal.close()
    found = {failure.index: failure.to_plain() for failure in work.failures}
    for group, row, *_ in comm.bcast(torn):
        for portion in portions:
            if portion.group == group and row in portion.owned:
                k = row - portion.samples.rows.start
                index, path = int(portion.samples.indices[k]), portion.samples.paths[k]
                reason = "the file changed, or could be read only once, while it was stored"
                failure = SampleError("changed", reason).at(index, path)
                found.setdefault(index, failure.to_plain())
    told = comm.gather(list(found.values()))
    return [Failure.from_plain(plain) for plains in told or [] for plain in plains]


def _finish(
    job: Job,
    layout: Layout,
    manifest: Manifest,
    findings: Findings,
    writer: Writer,
    done: _Done,
) -> _Done:
    """Let root end the file and give it its name, while the others wait asleep. Collective."""
    pulse = job.final_pulse()
    error: IngestError | None = None
    if job.comm.rank == 0:
        try:
            job.check_lock()
            _refuse_failures(job, manifest, done.failures)
            attributes = provenance(
                layout, manifest, job.options, job.comm, job.command, n_failed=len(done.failures)
            )
            digest = finalize(
                job.beside.partial,
                layout,
                manifest,
                attributes,
                names=writer.names(),
                palette=findings.palette,
                beat=lambda: job.final_beat(pulse),
            )
            job.check_lock()
            publish(job.beside.partial, job.beside.out)
            discard(job.beside)
            done = replace(done, digest=digest, bytes_out=job.beside.out.stat().st_size)
        except IngestError as caught:
            error = caught
    pulse.finish(lambda: (job.interrupt.requested,))
    agree(job.comm, error)
    return job.comm.bcast(done)


def _refuse_failures(job: Job, manifest: Manifest, failures: Sequence[Failure]) -> None:
    """Write down which images failed, and raise if none may. Root only."""
    write_failures(job.beside.failed, failures)
    if failures and job.options.on_error == "fail":
        raise SamplesFailedError(
            f"{len(failures):,} of {manifest.n_rows:,} images failed, nothing is "
            f"published: {describe_failures(failures)}\n{REMEDY} Then start the same command "
            f"again: only what is missing is done.",
            failures,
        )


def _check_output(job: Job) -> None:
    """Raise if the output cannot be made, before any work is done. Root only."""
    out = job.beside.out
    folder = out.parent
    if not folder.is_dir():
        raise OutputError(f"{out}: expected an existing folder {folder}; make it first")
    if out.is_dir():
        raise OutputError(f"{out}: expected the name of a file to make, found a folder")
    if job.options.dry_run or not any(map(os.path.lexists, (job.beside.journal, job.beside.lock))):
        _refuse_existing(job)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: no permission to create files in {folder}")


def _check_left(job: Job) -> None:
    """Take away what a job left that was killed right after it had published. Root only.

    Not before the lock is ours: for a moment, that of a living job looks the same.
    """
    beside = job.beside
    if beside.out.exists() and not os.path.lexists(beside.partial):
        discard(beside)
    _refuse_existing(job)


def _refuse_existing(job: Job) -> None:
    if job.beside.out.exists() and not job.options.overwrite:
        raise OutputError(
            f"{job.beside.out}: exists already; --overwrite replaces it once the new one is whole"
        )
