"""`Heartbeat`: what a rank does now and then while it works, so that all work together.

May not: know an image, a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.rank_stats import RankStats

_BEAT_S: Final = 0.02
"""Seconds between two beats, at most, if images allow it: their files may be slow to open."""


class Heartbeat:
    """The beats of one rank in one phase of the job."""

    def __init__(
        self,
        job: Job,
        phase: str,
        n_images: int,
        stats: RankStats,
        advance: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin a phase that all ranks watch together. Not collective.

        Args:
            job: the run.
            phase: its name, for the progress.
            n_images: over all ranks.
            stats: what this rank has done so far; read at each beat.
            advance: called at each beat: moves on what is under way, returns whether nothing is.
        """
        job.watch.phase(phase, n_images)
        self._job = job
        self._stats = stats
        self._advance = advance
        self._sum = AsyncSum(job.comm, 5, on_sum=job.on_sum)
        self._next_s = 0.0

    def beat(self) -> None:
        """Move on what is under way, take part in the sums, and see whether to stop.

        Not collective, never waits.

        Raises:
            StopRequested: some rank was asked to stop, or has met an image of another kind.
        """
        self._advance()
        self._sum.beat(*self._counters())
        if self._job.stop_requested or self._job.n_misfits:
            raise StopRequested
        self._next_s = time.monotonic() + _BEAT_S

    def beat_if_due(self) -> None:
        """Beat, unless the last one was a moment ago."""
        if time.monotonic() >= self._next_s:
            self.beat()

    def finish(self) -> None:
        """Wait until every rank has finished the phase. Collective."""
        self._sum.finish(self._counters, meanwhile=self._advance)

    def _counters(self) -> tuple[int, int, int, int, int]:
        stats = self._stats
        requested = self._job.interrupt.requested
        return stats.n_done, stats.n_read_bytes, len(stats.failures), requested, stats.n_misfits
