"""The end of a job: split images whose parts differ, failures, the rank-0 pass, publishing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from h5ingest.core.errors import (
    Failure,
    IngestError,
    OutputError,
    SampleError,
    SamplesFailedError,
    describe_failures,
)
from h5ingest.core.layout import Layout
from h5ingest.core.moments import ByKind, joined_if_known
from h5ingest.core.notes import Note
from h5ingest.core.options import IngestOptions
from h5ingest.images.conversion import Losses
from h5ingest.mpi.comm import Comm, agree, agreeing
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.output_checks import discard_made
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.report import write_failures
from h5ingest.pipeline.seen_everywhere import unseen
from h5ingest.pipeline.source import Plan, Source
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.earlier_runs import sums_before
from h5ingest.storage.job_files import discard
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Record
from h5ingest.storage.shared_blocks import forget_cached
from h5ingest.storage.writer import Writer

if TYPE_CHECKING:
    from h5ingest.storage.split_images import TornImage


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutcome:
    """The result of storing the images."""

    failures: tuple[Failure, ...] = ()
    losses: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    n_resumed: int = 0
    warnings: tuple[str, ...] = ()
    n_changed: int = 0
    digest: str = ""
    bytes_out: int = 0


def describe_losses(losses: Losses, n_resumed: int, options: IngestOptions) -> tuple[str, ...]:
    """Return a line for each kind of loss, and one for what has not been counted.

    An image is counted by the run that stores it: a job that is killed cannot tell.
    """
    lines = losses.describe()
    if n_resumed and (options.channels in ("gray", "rgb") or options.reduce_depth):
        lines += (f"not counted: the {n_resumed:,} images that an earlier run stored",)
    return lines


def join(
    job: Job,
    source: Source,
    layout: Layout,
    shards: Sequence[Shard],
    stats: RankStats,
    before: Iterable[tuple[int, int]],
    journal: Journal | None,
    writer: Writer,
) -> tuple[list[Failure], set[int]]:
    """Return, on rank 0, all failures: those met on the way, and split images whose parts differ.

    Where samples have several images, a failure is that of a row. Collective.

    Returns:
        Failures; on rank 0, the groups of which images may have become blank.

    Args:
        job: the run.
        source: of the images.
        layout: the datasets.
        shards: what this rank would have done, had nothing been done before.
        stats: what it has done.
        before: on rank 0, (group, element) of joints in earlier runs.
        journal: on rank 0.
        writer: closed; knows the datasets of a tree.
    """
    comm = job.comm
    torn: list[TornImage] = []
    joints = comm.gather(stats.joints)
    if comm.rank == 0 and comm.n_hosts > 1:
        forget_cached(job.paths.partial)
    with agreeing(comm):
        if joints is not None and journal is not None:
            from h5ingest.storage.split_images import blank, find_torn, undo  # on rank 0 only

            every = {*before, *(joint for told in joints for joint in told)}
            torn = find_torn(job.paths.partial, layout, every) if every else []
            if torn:
                job.check_lock()
                journal.append(undo(layout, torn))
                if job.options.on_error == "blank":
                    blank(job.paths.partial, layout, torn)
    found = {(each.index, each.path): each for each in stats.failures}
    for group, row, *_ in comm.bcast(torn):
        for shard in shards:
            if shard.group == group and row in shard.owned:
                k = row - shard.samples.rows.start
                index, path = shard.samples.sample(k), shard.samples.paths[k]
                reason = "the file changed, or could be read only once, while it was stored"
                failure = SampleError("changed", reason).at(index, path)
                found.setdefault((index, failure.path), failure)
    blanked = {image.group for image in torn}
    if len(layout.images) > 1:
        from h5ingest.pipeline.image_rows import fail_rows  # few jobs have them

        mine = [*found.values()]
        failures = fail_rows(job, layout, shards, mine, source.refused, journal, writer.names())
        if failures:
            blanked = {*range(len(layout.groups))}
    else:
        failures = [*chain.from_iterable(comm.gather([*found.values()]) or [])]
    if journal is not None:
        journal.close()
    return failures, blanked


def all_moments(
    comm: Comm, stats: RankStats, before: Sequence[Record], blanked: Collection[int]
) -> dict[int, ByKind]:
    """Return, on rank 0, the sums of the pixels of each group, where they are known. Collective.

    `before`, on rank 0, is what the journal says of earlier runs. Groups are left out that are in
    `blanked`: their pixels may have been replaced after they had been summed up.
    """
    told = comm.gather(stats.moments)
    if told is None:
        return {}
    found = [sums_before(before), *told]
    groups = {group for moments in found for group in moments} - {*blanked}
    sums = {group: joined_if_known(each.get(group, {}) for each in found) for group in groups}
    return {group: of_group for group, of_group in sums.items() if of_group is not None}


def finish(
    job: Job,
    source: Source,
    plan: Plan,
    writer: Writer,
    done: StoreOutcome,
    moments: Mapping[int, ByKind],
) -> StoreOutcome:
    """Let rank 0 end the file and give it its name, while the others wait asleep. Collective.

    It ends when every host sees the file.
    """
    final_sum = job.final_sum()
    error: IngestError | None = None
    if job.comm.rank == 0:
        from h5ingest.pipeline.provenance import provenance  # needed on one rank, opened on one
        from h5ingest.storage.rank0_pass import finalize, publish

        try:
            job.check_lock()
            refuse_failures(job, source, plan.layout.n_samples, done.failures)
            of_source = source.attributes(job, any_failed=bool(done.failures))
            n_failed = plan.n_failed + len(done.failures)
            attributes = provenance(
                plan.layout, of_source, job.options, job.comm, job.command, n_failed=n_failed
            )
            digest, copies = finalize(
                job.paths.partial,
                plan.layout,
                source.columns(),
                attributes,
                moments=moments,
                names=writer.names(),
                palettes=plan.palettes,
                beat=lambda: job.final_beat(final_sum),
            )
            source.check(digest, done.failures)
            job.check_lock()
            with output_errors(f"{job.paths.partial}: cannot be looked at"):
                done = replace(done, digest=digest, bytes_out=job.paths.partial.stat().st_size)
            options = job.options
            notice = publish(
                job.paths.partial,
                job.paths.out,
                overwrite=options.overwrite,
                foreign=options.overwrite_foreign,
            )
            done = replace(done, warnings=tuple(filter(None, (copies, notice, _tidy(job)))))
        except IngestError as caught:
            error = caught
    final_sum.finish(lambda: (job.interrupt.requested,))
    agree(job.comm, error)
    done = job.comm.bcast(done)
    warnings = unseen(job.paths.out, job.comm, job.options.peer_timeout_s)
    return replace(done, warnings=done.warnings + warnings)


def _tidy(job: Job) -> str:
    """Remove the files of the unfinished job; return what went wrong, if anything. Rank 0 only.

    Another job may have begun under this name, and left images that it had recoded. Once OUT has
    its name, the job has succeeded: an error here can only be reported.
    """
    try:
        discard(job.paths)
        discard_made(job.paths)
    except OutputError as error:
        return f"{job.paths.out} is complete, what was beside it stays: {error}"
    return ""


def refuse_failures(job: Job, source: Source, n_samples: int, failures: Sequence[Failure]) -> None:
    """Write the table of failed images; raise if `on_error` lets none fail. Rank 0 only."""
    write_failures(job.paths.failed, failures)
    if failures and job.options.on_error == "fail":
        raise SamplesFailedError(
            f"{len(failures):,} of {n_samples:,} images failed, nothing is published: "
            f"{describe_failures(failures, source.lines_of)}\n{source.remedy} Then start the same "
            f"command again: only what is missing is done.",
            failures,
        )
