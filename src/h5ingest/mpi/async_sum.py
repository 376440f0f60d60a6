"""`AsyncSum`: sums of a few counters over all ranks, while they work and without making them wait.

Each rank takes part in one non-blocking sum (MPI_Iallreduce) at a time, on a communicator that has
no other use, and tests it now and then. Every rank gets every sum, so all of them learn in the same
round that all are done: `finish` is therefore also a barrier, in which a waiting rank sleeps
instead of spinning. (After mpiFileUtils' `mfu_progress`, which needs a broadcast as well, since its
sums reach rank 0 only.)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import StoppedError
from h5ingest.mpi.comm import Comm, Request, agreeing, sleep_until
from h5ingest.mpi.signals import Interrupt

_LONGEST_NAP_S: Final = 0.002
_INTERVAL_S: Final = 0.25
"""Seconds between two sums, at least."""


class AsyncSum:
    """Counters of all ranks, summed repeatedly."""

    def __init__(
        self,
        comm: Comm,
        n_counters: int,
        on_sum: Callable[[NDArray[np.int64]], None] = lambda _: None,
    ) -> None:
        """Start with no sum under way. Not collective.

        Args:
            comm: the ranks.
            n_counters: how many counters each rank has.
            on_sum: called with each new sum, (n_counters,) int64, on this rank.
        """
        self._comm = comm
        self._on_sum = on_sum
        self._local = np.zeros(n_counters + 1, np.int64)  # the last one counts ranks that are done
        self._total = np.zeros_like(self._local)
        self._request: Request | None = None
        self._next_s = time.monotonic() + _INTERVAL_S

    def beat(self, *counters: int) -> None:
        """Take part with this rank's counts so far, if it is time. Not collective, never waits."""
        if time.monotonic() >= self._next_s:
            self._advance(counters, done=False)

    def finish(
        self, count: Callable[[], tuple[int, ...]], meanwhile: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait until every rank has called this; the last sum is then complete. Collective.

        Args:
            count: returns this rank's counts; called for each sum, since a signal may arrive while
                it waits.
            meanwhile: called repeatedly; returns whether this rank has nothing left to do.
        """
        self._next_s = 0.0
        sleep_until(lambda: self._advance(count(), done=meanwhile()), _LONGEST_NAP_S)

    def _advance(self, counters: tuple[int, ...], *, done: bool) -> bool:
        """Test the sum under way and start the next one; return whether all ranks are done."""
        if self._request is not None:
            if not self._request.test():
                return False
            self._request = None
            self._comm.watch.end()
            self._on_sum(self._total[:-1])
            if self._total[-1] == self._comm.size:
                return True
        self._local[:-1] = counters
        self._local[-1] = done
        self._request = self._comm.start_sum(self._local, self._total)
        self._comm.watch.begin()
        if not done:
            self._next_s = time.monotonic() + _INTERVAL_S
        return False


@contextlib.contextmanager
def while_rank_0_works(
    comm: Comm, interrupt: Interrupt | None = None
) -> Iterator[Callable[[], None]]:
    """Run a block in which only rank 0 has something to do, perhaps for long; then `agree`.

    The other ranks sleep meanwhile. The block gets a function that rank 0 must call now and then,
    or the others' watchdogs take it for dead. Collective at its end; the block itself must not be
    (see `agreeing`).

    Raises:
        StoppedError: the function was called where `interrupt` asks to stop.
    """
    progress = AsyncSum(comm, 0)

    def beat() -> None:
        progress.beat()
        if interrupt is not None and interrupt.requested:
            raise StoppedError("stopped as asked: start the same command again")

    with agreeing(comm):
        try:
            yield beat
        finally:
            progress.finish(lambda: ())
