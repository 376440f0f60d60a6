"""Work that rank 0 leads: it alone decides, and what takes long it deals out to all ranks.

For work whose order only rank 0 knows. What is dealt out comes back in order, so the result is that
of one rank.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import Any, Final

from h5ingest.core.errors import IngestError, StoppedError
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.mpi.signals import Interrupt

_TURN_S: Final = 1.0
"""Seconds that a turn is to take: between two, ranks learn of a signal, and nobody seems dead."""
_FIRST: Final = 64
_MOST: Final = 2**16
_MOST_GROWTH: Final = 8
"""Items for a rank in the first turn, and at least; at most; by how much more in the next one."""
_MOST_BYTES: Final = 2**30
"""Bytes that rank 0 receives at once: some MPI libraries count no further than 2^31."""

Deal = Callable[[str, Iterable[Any]], Iterator[Any]]
"""Deals work out to all ranks: see `_Team.deal`."""


def led_by_rank_0(
    comm: Comm, tasks: object, lead: Callable[[Deal], None], interrupt: Interrupt
) -> None:
    """Call `lead` on rank 0, and do on all ranks what it deals out; then `agree`. Collective.

    Args:
        comm: all ranks.
        tasks: its methods do the work, on each rank; they raise no `IngestError`.
        lead: what rank 0 does; it may raise `IngestError`.
        interrupt: whether this rank is asked to stop.

    Raises:
        IngestError: what `lead` has raised.
    """
    team = _Team(comm, tasks, interrupt)
    with agreeing(comm):
        if comm.rank:
            team.follow()
            return
        try:
            lead(team.deal)
        except IngestError:
            team.end()
            raise
        team.end()


class _Team:
    """All ranks, as one of them sees them."""

    def __init__(self, comm: Comm, tasks: object, interrupt: Interrupt) -> None:
        self._comm = comm
        self._tasks = tasks
        self._interrupt = interrupt
        self._each: dict[str, int] = {}
        """Task -> items for each rank in the next turn."""

    def deal(self, task: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yield what each rank makes of its part of some items, in order, until there are no more.

        Rank 0 only, while the others follow.

        Args:
            task: name of the method of what `led_by_rank_0` is given; it takes a list of items.
            items: as many as take a second are taken in a turn; to find them, more may be dealt
                out.

        Raises:
            StoppedError: a rank is asked to stop.
        """
        size, left = self._comm.size, iter(items)
        while some := list(islice(left, size * self._each.setdefault(task, _FIRST))):
            started_s = time.perf_counter()
            if len(some) == 1 or size == 1:  # one is not worth the messages
                found, asked = [self._do(task, some)], self._interrupt.requested
            else:
                ends = [len(some) * r // size for r in range(size + 1)]
                parts = [(task, some[start:stop]) for start, stop in pairwise(ends)]
                told = self._gather(self._do(*self._comm.exchange(parts)[0]))
                found, asked = [part for part, _ in told], any(stop for _, stop in told)
            if asked:
                raise StoppedError("stopped as asked: start the same command again")
            each = -(-len(some) // size)
            factor = min(_MOST_GROWTH, _TURN_S / (time.perf_counter() - started_s))
            self._each[task] = max(_FIRST, min(_MOST, round(each * factor)))
            yield from found

    def end(self) -> None:
        """Release the other ranks. Collective."""
        self._comm.exchange([("", [])] * self._comm.size)

    def follow(self) -> None:
        """Do what rank 0 deals out, until it has nothing more. Collective; not rank 0."""
        nothing: list[tuple[str, list[Any]]] = [("", [])] * self._comm.size
        while (told := self._comm.exchange(nothing)[0])[0]:
            self._gather(self._do(*told))

    def _do(self, task: str, items: list[Any]) -> Any:
        return getattr(self._tasks, task)(items)

    def _gather(self, found: Any) -> list[tuple[Any, bool]]:
        """Return what each rank has found, and whether it is asked to stop; on rank 0. Collective.

        In blocks: all of it may be more than MPI takes at once.
        """
        comm, mine = self._comm, (found, self._interrupt.requested)
        data = pickle.dumps(mine, pickle.HIGHEST_PROTOCOL) if comm.rank else b""
        step = _MOST_BYTES // comm.size
        longest = max(comm.allgather(len(data)))
        blocks = [comm.gather(data[at : at + step]) for at in range(0, longest, step)]
        if comm.rank:
            return []
        told = [b"".join(each) for each in zip(*filter(None, blocks), strict=True)]
        return [mine, *map(pickle.loads, told[1:])]
