"""The main job: the order of its steps and the points where the ranks agree, nothing clever.

manifest ─▶ probe ─▶ layout, plan ─▶ create, store, close ─▶ rank-0 pass ─▶ rename
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from h5ingest.comm import Comm, SerialComm, abort_on_crash, agreeing, redistribute
from h5ingest.errors import Failure, OutputError, SamplesFailedError, describe_failures
from h5ingest.layout import Layout, stack
from h5ingest.manifest import Manifest
from h5ingest.options import IngestOptions
from h5ingest.packed import PackedStrings
from h5ingest.pipeline import Work, store
from h5ingest.plan import Plan
from h5ingest.provenance import provenance
from h5ingest.pulse import Pulse
from h5ingest.report import IngestReport, Spread
from h5ingest.storage.choice import choose, open_writer
from h5ingest.storage.filters import pipeline
from h5ingest.storage.final import finalize, publish, reserve, sync
from h5ingest.storage.journal import Journal
from h5ingest.survey import REMEDY, agree_on_spec, probe_images, read_manifest


class Watch(Protocol):
    """Whoever wants to see the run while it goes on; called on every rank."""

    def phase(self, name: str, n_images: int) -> None:
        """A phase begins that has to do with so many images over all ranks."""

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        """So much is done of this phase, over all ranks."""


class _Nobody:
    def phase(self, name: str, n_images: int) -> None:
        pass

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What all steps of one run share."""

    manifest_path: Path
    out: Path
    options: IngestOptions
    comm: Comm
    watch: Watch
    command: str
    started_s: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds of this rank."""

    @property
    def root(self) -> bytes:
        """The folder that relative paths are relative to."""
        return os.fsencode(os.path.abspath(self.options.root or self.manifest_path.parent))

    @property
    def partial(self) -> Path:
        """The name of the file until it is complete."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def journal_path(self) -> Path:
        """The journal beside it."""
        return self.out.with_name(self.out.name + ".journal")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the seconds that the block takes on this rank."""
        started_s = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started_s

    def pulse(self, phase: str, n_images: int) -> Pulse:
        """Begin a phase that all ranks watch together. Not collective."""
        watch = self.watch
        watch.phase(phase, n_images)
        return Pulse(self.comm, 3, on_sum=lambda total: watch.advance(*total.tolist()))

    def spreads(self) -> dict[str, Spread]:
        """Return the seconds of each phase over all ranks. Collective."""
        told = self.comm.allgather(self.seconds)
        return {name: Spread.of([seconds[name] for seconds in told]) for name in self.seconds}


def ingest(
    manifest_path: Path,
    out: Path,
    options: IngestOptions | None = None,
    comm: Comm | None = None,
    *,
    watch: Watch | None = None,
    command: str = "",
) -> IngestReport:
    """Store all images of a manifest in one HDF5 file. Collective.

    `out` appears only when it is complete. On an error that all ranks agree on, every rank raises
    it; anything that goes wrong on one rank alone ends all ranks.

    Args:
        manifest_path: see `lines` for its format.
        out: the file to make.
        options: None for the defaults.
        comm: all ranks; None for this process alone.
        watch: sees the progress.
        command: what the user typed, for the file's attributes.

    Raises:
        IngestError: see `errors` for its kinds.
    """
    comm = comm or SerialComm()
    job = _Job(
        manifest_path=manifest_path,
        out=out,
        options=options or IngestOptions(),
        comm=comm,
        watch=watch or _Nobody(),
        command=command,
    )
    with abort_on_crash(comm):
        return _ingest(job)


def _ingest(job: _Job) -> IngestReport:
    comm, options = job.comm, job.options
    with agreeing(comm):
        filters = pipeline(options.compression, shuffle=options.shuffle)
        if comm.rank == 0:
            _check_output(job.out, options)
    with job.phase("manifest"):
        manifest, paths, held = read_manifest(job.manifest_path, options, comm)
    with job.phase("probe"):
        pulse = job.pulse("probe", manifest.n_rows)
        probed = probe_images(
            paths, held[comm.rank], job.root, options, lambda n: pulse.beat(n, 0, 0)
        )
        pulse.finish(len(paths), 0, len(probed.failures))
        image, bytes_in = agree_on_spec(probed, manifest, job.root, options, comm)
    layout = stack(manifest.n_rows, image, chunk_rows=options.chunk_rows, filters=filters)
    plan = Plan.of(layout.images, size=comm.size, batch_bytes=options.batch_bytes)
    failures: list[Failure] = []
    digest, bytes_out = "", layout.stored_bytes
    if not options.dry_run:
        wanted = [plan.rows(rank) for rank in range(comm.size)]
        paths = redistribute(comm, paths, held, wanted)
        failures = _store(job, layout, plan, manifest, paths, probed.cache)
        digest, bytes_out = _finish(job, layout, manifest, failures)
    return IngestReport(
        out=str(job.out),
        n_samples=manifest.n_rows,
        image=str(image),
        n_ranks=comm.size,
        writer=choose(layout, comm)[1],
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        dry_run=options.dry_run,
        failures=tuple(failures),
        content_digest=digest,
        seconds=time.perf_counter() - job.started_s,
        phases=job.spreads(),
    )


def _store(
    job: _Job,
    layout: Layout,
    plan: Plan,
    manifest: Manifest,
    paths: PackedStrings,
    cache: dict[int, bytes],
) -> list[Failure]:
    """Create the file and store all images; return the failures, all on root. Collective."""
    comm = job.comm
    with job.phase("create"):
        journal: Journal | None = None
        with agreeing(comm):
            if comm.rank == 0:
                reserve(job.partial)
                journal = Journal(job.journal_path, {"manifest_sha256": manifest.sha256})
        writer = open_writer(job.partial, layout, comm, journal)
    pulse = job.pulse("store", plan.n_rows)

    def beat(work: Work) -> None:
        writer.advance()
        pulse.beat(work.n_done, work.n_read_bytes, len(work.failures))

    rows = plan.rows(comm.rank)
    work = store(
        paths,
        rows,
        plan.batches(comm.rank),
        root=job.root,
        cache={row: data for row, data in cache.items() if row in rows},
        layout=layout,
        writer=writer,
        beat=beat,
    )
    job.seconds.update(decode=work.decode_s, write=work.write_s)
    with job.phase("wait"):
        n_failed = len(work.failures)
        pulse.finish(work.n_done, work.n_read_bytes, n_failed, meanwhile=writer.advance)
    with job.phase("close"):
        writer.close()
        sync(job.partial)
        if journal is not None:
            journal.close()
    told = comm.gather([failure.to_plain() for failure in work.failures])
    return [Failure.from_plain(plain) for plains in told or [] for plain in plains]


def _finish(
    job: _Job, layout: Layout, manifest: Manifest, failures: list[Failure]
) -> tuple[str, int]:
    """Let root end the file and give it its name; return digest and size in bytes. Collective."""
    done: tuple[str, int] | None = None
    with job.phase("finalize"), agreeing(job.comm):
        if job.comm.rank == 0:
            if failures and job.options.on_error == "fail":
                job.partial.unlink()
                job.journal_path.unlink()
                raise SamplesFailedError(
                    f"{len(failures):,} of {manifest.n_rows:,} images failed, nothing is "
                    f"published: {describe_failures(failures)}\n{REMEDY}",
                    failures,
                )
            attributes = provenance(
                manifest, job.options, job.comm, job.command, n_failed=len(failures)
            )
            digest = finalize(job.partial, layout, manifest, attributes)
            publish(job.partial, job.out)
            job.journal_path.unlink()
            done = digest, job.out.stat().st_size
    return job.comm.bcast(done)


def _check_output(out: Path, options: IngestOptions) -> None:
    """Raise if `out` cannot be made, before any work is done."""
    folder = out.parent
    if not folder.is_dir():
        raise OutputError(f"{out}: expected an existing folder {folder}; make it first")
    if out.is_dir():
        raise OutputError(f"{out}: expected the name of a file to make, found a folder")
    if out.exists() and not options.overwrite:
        raise OutputError(
            f"{out}: exists already; --overwrite replaces it once the new one is whole"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: no permission to create files in {folder}")
