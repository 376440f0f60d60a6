"""Ranks that are threads of this process: any number of them, without a launch.

Whatever the ranks tell each other goes through shared lists, so a test can draw their number at
random. The MPI-IO driver needs real ranks: here, unfiltered datasets are placed too.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import IngestError
from h5ingest.mpi.comm import Request
from h5ingest.mpi.watchdog import Watchdog
from h5ingest.storage import writer_choice

T = TypeVar("T")
_TIMEOUT_S = 60


class _World:
    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.board: list[Any] = [None] * size
        self.sums: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
        self.mail: dict[tuple[int, int], queue.SimpleQueue[tuple[int, NDArray[np.int64]]]]
        self.mail = defaultdict(queue.SimpleQueue)
        self.lock = threading.Lock()


class ThreadComm:
    """One of them."""

    n_hosts = 1
    library = "threads"

    def __init__(self, world: _World, rank: int) -> None:
        self.rank = rank
        self.watch = Watchdog(self.rank)
        self.size = world.size
        self.hosts: Sequence[str] = ["here"] * world.size
        self._world = world
        self._n_sums = 0

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:
        raise AssertionError("threads write no shared file")

    def create(self, path: Path, hints: Mapping[str, str]) -> None:
        path.touch(exist_ok=False)

    def bcast(self, value: T | None) -> T:
        return self.allgather(value)[0]  # type: ignore[return-value]  # root's is not None

    def gather(self, value: T) -> list[T] | None:
        told = self.allgather(value)
        return told if self.rank == 0 else None

    def allgather(self, value: T) -> list[T]:
        self._world.board[self.rank] = value
        self._world.barrier.wait(_TIMEOUT_S)
        told = list(self._world.board)
        self._world.barrier.wait(_TIMEOUT_S)
        return told

    def exchange(self, parts: Sequence[T]) -> list[T]:
        return [told[self.rank] for told in self.allgather(list(parts))]

    def final_barrier(self) -> None:
        self.allgather(None)

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:
        with self._world.lock:
            told = self._world.sums[self._n_sums]
            told.append(local.copy())
        self._n_sums += 1
        return _Sum(told, total, self.size)

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:
        with self._world.lock:
            self._world.mail[rank, tag].put((self.rank, values.copy().reshape(-1)))
        return _Sum([values] * self.size, np.zeros_like(values), self.size)

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:
        with self._world.lock:
            box = self._world.mail[self.rank, tag]
        try:
            return box.get_nowait()
        except queue.Empty:
            return None

    def abort(self, code: int, last_words: str = "") -> None:
        """End the others; raise here, as no rank goes on after it."""
        self._world.barrier.abort()
        raise AssertionError(f"aborted with {code}: {last_words}")


class _Sum:
    def __init__(self, told: list[NDArray[np.int64]], total: NDArray[np.int64], size: int) -> None:
        self._told, self._total, self._size = told, total, size

    def test(self) -> bool:
        if len(self._told) < self._size:
            return False
        self._total[...] = np.sum(self._told, axis=0)
        return True


def on_ranks(size: int, work: Callable[[ThreadComm], T]) -> list[T]:
    """What `work` returns on each rank; raises what the first rank raised."""
    world = _World(size)

    def on_rank(rank: int) -> T:
        comm = ThreadComm(world, rank)
        try:
            return work(comm)
        except BaseException as error:
            if not (isinstance(error, IngestError) and error.agreed):  # as `abort_on_crash`
                world.barrier.abort()
            raise

    with _placed(), ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(on_rank, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    first = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)] or errors
    if first:
        raise first[0]
    return [future.result() for future in futures]


@contextmanager
def _placed() -> Iterator[None]:
    """Make `choose_writer` see an h5py without MPI."""
    h5py = vars(writer_choice)["h5py"]
    vars(writer_choice)["h5py"] = SimpleNamespace(get_config=lambda: SimpleNamespace(mpi=False))
    try:
        yield
    finally:
        vars(writer_choice)["h5py"] = h5py
