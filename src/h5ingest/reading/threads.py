"""Threads that decode, in a process that need not share the processors with its siblings."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

_WORTH_BYTES: Final = 1024**2
"""Of decoded data, for which it is worth to start a thread."""
_MOST: Final = 16


@dataclass(frozen=True, slots=True)
class Threads:
    """Does independent things, several at a time if that pays.

    No thread outlives a call: a process with idle threads should not be forked.
    """

    _wanted: int | None
    """How many, at most; None: one for each processor in a main process, else one: where there are
    several processes (a DataLoader's), they keep the processors busy."""

    def each(self, do: Callable[[int], None], numbers: Sequence[int], n_bytes: int) -> None:
        """Call `do` with each number, in any order, and return when all are done.

        Args:
            do: does not depend on the other calls.
            numbers: what to call it with.
            n_bytes: about what all of it decodes.
        """
        most = min(len(numbers), n_bytes // _WORTH_BYTES)
        n_threads = min(most, self._allowed()) if most > 1 else 1
        if n_threads == 1:
            for number in numbers:
                do(number)
            return

        def share(first: int) -> None:
            for number in numbers[first::n_threads]:
                do(number)

        with ThreadPoolExecutor(n_threads, thread_name_prefix="h5ingest-decode") as pool:
            list(pool.map(share, range(n_threads)))

    def _allowed(self) -> int:
        if self._wanted is not None:
            return self._wanted
        if multiprocessing.parent_process() is not None:
            return 1
        return min(_MOST, len(os.sched_getaffinity(0)))
