"""`AsyncSum`: sums of a few counters over all ranks, while they work and without making them wait.

Each rank takes part in one non-blocking sum at a time and looks at it in passing. Every rank sees
every sum, so all of them learn in the same round that everyone is done: `finish` is therefore also
a barrier, and one in which a waiting rank sleeps instead of spinning. (After mpiFileUtils'
`mfu_progress`, which needs a broadcast as well since its sums reach root only.)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request, agreeing, sleep_until

_LONGEST_NAP_S = 0.002


class AsyncSum:
    """Counters of all ranks, summed again and again."""

    def __init__(
        self,
        comm: Comm,
        n_counters: int,
        *,
        interval_s: float = 0.25,
        on_sum: Callable[[NDArray[np.int64]], None] = lambda _: None,
    ) -> None:
        """Begin. Not collective.

        Args:
            comm: the ranks.
            n_counters: counters.
            interval_s: seconds between two sums, at least.
            on_sum: called with each new sum, (n_counters,) int64, on this rank.
        """
        self._comm = comm
        self._interval_s = interval_s
        self._on_sum = on_sum
        self._local = np.zeros(n_counters + 1, np.int64)  # the last one: ranks that are done
        self._total = np.zeros_like(self._local)
        self._request: Request | None = None
        self._next_s = time.monotonic() + interval_s

    def beat(self, *counters: int) -> None:
        """Take part in the sums if it is time. Not collective, never waits.

        Args:
            counters: what this rank has counted so far.
        """
        if time.monotonic() >= self._next_s:
            self._advance(counters, done=False)

    def finish(
        self, count: Callable[[], tuple[int, ...]], meanwhile: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait until every rank is here; the last sum is then complete. Collective.

        Args:
            count: returns what this rank has counted; asked for each sum, since a signal may come
                while it waits.
            meanwhile: called again and again; returns whether this rank has nothing left to do.
        """
        self._next_s = 0.0
        sleep_until(lambda: self._advance(count(), done=meanwhile()), _LONGEST_NAP_S)

    def _advance(self, counters: tuple[int, ...], *, done: bool) -> bool:
        """Look at the sum under way and begin the next one; return whether all ranks are done."""
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
            self._next_s = time.monotonic() + self._interval_s
        return False


@contextlib.contextmanager
def while_root_works(comm: Comm) -> Iterator[Callable[[], None]]:
    """Run a block in which only root has something to do, for long maybe; then `agree`.

    The others wait asleep. What the block gets is for root to call now and then, so that nobody
    takes it for dead. Collective at its end, and the block itself must not be (see `agreeing`).
    """
    pulse = AsyncSum(comm, 0)
    with agreeing(comm):
        try:
            yield pulse.beat
        finally:
            pulse.finish(lambda: ())
