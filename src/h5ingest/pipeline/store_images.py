"""The longest step of a job: each rank stores its shards, with the loop that fits the layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from h5ingest.core.layout import Layout
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.source import Source
from h5ingest.pipeline.write_datasets import DatasetLoop
from h5ingest.pipeline.write_elements import ElementLoop
from h5ingest.pipeline.write_loop import WriteLoop
from h5ingest.pipeline.write_rows import RowLoop
from h5ingest.storage.earlier_runs import Earlier
from h5ingest.storage.writer import Writer

if TYPE_CHECKING:
    from h5ingest.pipeline.stored_chunks import StoredChunks

LOOPS: Final[dict[str, type[WriteLoop]]] = {
    "stack": RowLoop, "ragged": ElementLoop, "encoded": ElementLoop, "tree": DatasetLoop,
}  # fmt: skip
"""Name of a layout kind -> the loop that writes it."""


def store_images(
    job: Job,
    layout: Layout,
    shards: Sequence[Shard],
    done: Sequence[Sequence[range]],
    earlier: Sequence[Earlier],
    source: Source,
    writer: Writer,
) -> RankStats:
    """Store what is left to be stored; return what this rank did when all have ended. Collective.

    Args:
        job: the run.
        layout: the datasets.
        shards: what this rank would store, had there been no other run.
        done: spans of each group that other runs have stored.
        earlier: the same by run.
        source: of the images.
        writer: takes the images.
    """
    left = [part for whole in shards for part in whole.without(done[whole.group])]
    n_left = sum(job.comm.allgather(sum(len(shard.owned) for shard in left)))
    stats = RankStats()
    heartbeat = Heartbeat(job, "store", n_left, stats, writer.advance)
    with source.loading(job, stats, heartbeat) as loader:
        chunks = source.chunks(layout, heartbeat.beat_if_due)
        loop = LOOPS[layout.kind](layout, job.options.batch_bytes, loader, writer, stats)
        try:
            for shard in left:
                _store(loop, shard, chunks)
            if earlier:
                stats.n_changed = source.count_changed(shards, earlier, heartbeat.beat)
        except StopRequested:
            pass  # what has been written is kept; all ranks say so in the end
    job.seconds.update(read=stats.read_s, decode=stats.decode_s, write=stats.write_s)
    with job.phase("wait"):
        heartbeat.finish()
    return stats


def _store(loop: WriteLoop, shard: Shard, chunks: StoredChunks | None) -> None:
    """Store a shard: what can be copied as it is stored already, and the rest."""
    span = range(0) if chunks is None else chunks.span(shard)
    if not span or chunks is None:
        loop.store(shard)
        return
    copied = shard.part(span)
    loop.copy(copied, chunks)
    for rest in shard.without([span]):
        if rest.span or rest.owned.start not in copied.owned:  # an image without pixels
            loop.store(rest)
