"""The beginning of a job: whether OUT can be made, and what an earlier job left of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from h5ingest import __version__
from h5ingest.core.errors import Failure, OutputError, StorageError, extended
from h5ingest.core.layout import Layout
from h5ingest.core.outfiles import FAILURES, JOURNAL, check, check_distinct, is_same
from h5ingest.core.sample_table import Samples
from h5ingest.images.png import decoder_version
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.job import Job
from h5ingest.storage.datasets import hdf5_version, output_errors
from h5ingest.storage.earlier_runs import Earlier, done_spans, spans_by_run
from h5ingest.storage.job_files import JobPaths, about_left, begin, discard, refuse_other
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Records
from h5ingest.storage.lock import LONGEST_ENDING
from h5ingest.storage.writer_choice import WriterChoice

_OF_LAYOUT: Final = {"images", "schema", "the datasets", "sizes and places of the images"}
"""What `about_job` says besides `about_input`."""


def is_listed(path: Path) -> bool:
    """See `several.is_listed`. Rank 0 only."""
    if path.suffix.lower() in (".csv", ".tsv", ".txt") and os.path.isfile(path):
        return False  # mostly
    from h5ingest.images import several  # opened on one rank

    return several.is_listed(path)


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


def check_output(job: Job, argument: str, source: Path) -> None:
    """Raise if the output cannot be made, before any work is done. Rank 0 only.

    Args:
        job: the run.
        argument: what the command line calls the file that names or holds the samples.
        source: this file.
    """
    from h5ingest.pipeline.provenance import source_date  # opened on one rank

    out = job.paths.out
    folder = out.parent
    check_distinct((argument, source), *(("OUT", path) for path in job.paths.all))
    source_date()
    if not os.path.isdir(folder):
        raise OutputError(f"{out}: expected an existing folder {folder}; make it first")
    most = os.pathconf(folder, "PC_NAME_MAX") - LONGEST_ENDING
    if len(os.fsencode(out.name)) > most:
        raise OutputError(
            f"{out}: expected a name of at most {most} bytes, found {len(os.fsencode(out.name))}: "
            f"names beside it are made of it, up to {LONGEST_ENDING} bytes longer"
        )
    if os.path.isdir(out):
        raise OutputError(f"{out}: expected the name of a file to make, found a folder")
    if job.options.dry_run or not any(map(os.path.lexists, (job.paths.journal, job.paths.lock))):
        _refuse_existing(job)
    check(job.paths.failed, FAILURES)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: no permission to create files in {folder}")


def check_left(job: Job) -> None:
    """Remove what a job left that was killed while or after it published OUT. Rank 0 only.

    To be called with the lock held: the files of a job that is just publishing look the same.
    """
    paths = job.paths
    if not job.options.restart and not os.path.lexists(paths.partial):
        check(paths.journal, JOURNAL)  # a new one is about to take its place
    unfinished = os.path.lexists(paths.partial) and not is_same(paths.partial, paths.out)
    if os.path.lexists(paths.out) and not unfinished:
        discard(paths)
        if not job.options.overwrite:  # else they may be of a job that was ended while it recoded
            discard_made(paths)
    _refuse_existing(job)
    if job.options.restart:
        discard_made(paths)


def discard_made(paths: JobPaths) -> None:
    """Remove what a job has made of its sources, recoded or unpacked. Rank 0 only.

    Raises:
        OutputError: the file system refuses.
    """
    if os.path.lexists(paths.recoded):
        from h5ingest.storage.spool import discard_spools  # few jobs need it

        discard_spools(paths)
    if os.path.lexists(paths.unpacked):
        from h5ingest.images.unpacked import discard_unpacked  # few jobs need it

        with output_errors(f"{paths.unpacked}: cannot be removed"):
            discard_unpacked(os.fsencode(paths.unpacked))


def _refuse_existing(job: Job) -> None:
    from h5ingest.storage.existing_output import refuse_existing  # on rank 0 only

    options = job.options
    refuse_existing(job.paths.out, overwrite=options.overwrite, foreign=options.overwrite_foreign)


def refuse_sources(job: Job, folder: bytes, failures: Sequence[Failure]) -> None:
    """Raise if OUT, which is to be replaced, is one of the manifest's own files. Collective.

    An HDF5 file is no image: so if it is listed, it is among the failures of some rank.
    """
    with agreeing(job.comm):
        for failure in failures:
            path = os.path.join(folder, os.fsencode(failure.path))
            if failure.kind != "missing" and is_same(os.path.realpath(path), job.paths.out):
                raise OutputError(
                    f"{job.paths.out}: is a file of the manifest (sample {failure.index}: "
                    f"{failure.path}) and is not replaced: name another OUT"
                )


def is_left_by_another_look(
    job: Job, about: Mapping[str, object], layout: Layout, runs: Sequence[Samples]
) -> bool:
    """Return whether this job is here unfinished, but with other datasets. Collective.

    It has found an image that was not like those looked at first, and begun anew.
    """
    left: dict[str, object] = {}
    with agreeing(job.comm):
        if job.comm.rank == 0 and not job.options.restart:
            left = about_left(job.paths)
    if not job.comm.bcast(bool(left)):
        return False
    now = about_job(job, about, layout, runs)  # empty elsewhere than on rank 0
    differing = {key for key, value in now.items() if left.get(key) != value}
    return job.comm.bcast(bool(differing) and differing <= _OF_LAYOUT)


def about_job(
    job: Job, of_source: Mapping[str, object], layout: Layout, runs: Sequence[Samples]
) -> dict[str, object]:
    """Return, on rank 0, what must be the same for the work of a job to be of use to another.

    All that decides which bytes lie where, and which pixels they are. Collective.
    """
    fingerprints = job.comm.gather(sum(run.fingerprint() for run in runs))
    if fingerprints is None:
        return {}
    return about_input(job, of_source, layout.n_samples) | {
        "images": {
            group.pixels.name or group.prefix or "/": str(group.pixels) for group in layout.groups
        },
        "schema": layout.schema,
        "the datasets": layout.digest,
        "sizes and places of the images": f"{sum(fingerprints) % 2**64:016x}",
    }


def about_input(job: Job, of_source: Mapping[str, object], n_samples: int) -> dict[str, object]:
    """Return what of `about_job` is known before any image is looked at. Rank 0 only."""
    from h5ingest.pipeline.provenance import encoder, package_version  # opened on one rank

    options = job.content()
    del options["on_error"]  # a policy for the end: what is stored until then is the same
    return {
        **of_source,
        "options": options,
        "samples": n_samples,
        "alignment": job.options.alignment,
        "versions": {
            "h5ingest": __version__,
            "HDF5": hdf5_version(),
            "decoders": f"{decoder_version()}, Pillow {package_version('pillow')}",
            "encoder": encoder(job.options.recode),
        },
    }


def refuse_another(job: Job, of_source: Mapping[str, object], n_samples: int) -> None:
    """Raise if an unfinished job is here that is another: now, not after hours. Collective.

    Raises:
        OutputError: there is.
    """
    with agreeing(job.comm):
        if job.comm.rank == 0 and not job.options.restart:
            refuse_other(job.paths, about_input(job, of_source, n_samples))


def begin_file(
    job: Job, layout: Layout, about: dict[str, object]
) -> tuple[Journal | None, Records, list[list[range]], list[Earlier]]:
    """Return the journal, its records (both on rank 0), what of each group is done, by which run.

    Collective.
    """
    journal: Journal | None = None
    known = Records.none()
    done: list[list[range]] = []
    earlier: list[Earlier] = []
    with while_rank_0_works(job.comm) as beat:
        if job.comm.rank == 0:
            from h5ingest.storage.lustre_stripes import create_empty  # not on the others

            if not layout.is_filtered:  # else the size shows only in the end
                job.check_space(layout.stored_bytes)
            options = job.options

            def copying() -> None:
                beat()
                job.check_lock()

            def create(path: Path) -> None:
                wanted = options.stripe_count, options.stripe_size
                if notice := create_empty(path, job.comm, layout.stored_bytes, *wanted):
                    job.watch.notice(notice)

            journal, known = begin(
                job.paths, about, restart=options.restart, create=create, beat=copying
            )
            job.file_number = job.paths.partial.stat().st_ino
            spans = known.spans()
            done = done_spans(spans, len(layout.groups))
            earlier = spans_by_run(spans, len(layout.groups))
    return journal, known, *job.comm.bcast((done, earlier))


def mpi_hints(job: Job, choice: WriterChoice) -> dict[str, str]:
    """Return the hints for MPI-IO, and say it if they go nowhere. Not collective."""
    options = job.options
    if options.hints and (choice.kind != "mpio" or job.comm.size == 1):
        job.watch.notice(f"--hint does nothing here, MPI-IO is not used: {choice.why}")
    given = dict(options.hints)
    if options.stripe_count is None and options.stripe_size is None:
        return given
    from h5ingest.storage.lustre_stripes import hints

    return hints(options.stripe_count, options.stripe_size) | given
