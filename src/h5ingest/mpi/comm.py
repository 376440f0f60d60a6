"""`Comm`: the protocol of a communicator, its form for one process, and how ranks agree on errors.

The implementation with MPI is in `mpi4py_comm`.

May not: know images, files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import EXIT_INTERNAL, IngestError, agreed, from_plain, to_plain
from h5ingest.mpi.watchdog import Watchdog, exit_now

T = TypeVar("T")

_FIRST_NAP_S: Final = 20e-6
_NAP_GROWTH: Final = 1.25
"""Each nap is about a fifth of the time waited so far, which bounds the time it can waste."""


class Request(Protocol):
    """A non-blocking operation under way."""

    def test(self) -> bool:
        """Return whether it is complete. Not collective."""


class Comm(Protocol):
    """The operations of a communicator that this program uses."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    n_hosts: int
    """Number of hosts they run on."""
    hosts: Sequence[str]
    """The name of each rank's host."""
    library: str
    """Name and version of the MPI library; empty without one."""
    watch: Watchdog
    """Ends this process if it waits for other ranks too long."""

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:
        """Return an MPI_Comm and an MPI_Info, for ctypes. Not collective; only with MPI."""

    def create(self, path: Path, hints: Mapping[str, str]) -> None:
        """Create an empty file, through MPI-IO where there is MPI. Not collective.

        Raises:
            OSError: it exists, or cannot be created.
        """

    def bcast(self, value: T | None) -> T:
        """Return rank 0's value. Collective."""

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks in order on rank 0, None elsewhere. Collective."""

    def allgather(self, value: T) -> list[T]:
        """Return the values of all ranks in order. Collective."""

    def exchange(self, parts: Sequence[T]) -> list[T]:
        """Send part r to rank r; return what each rank sent here, in order. Collective."""

    def final_barrier(self) -> None:
        """Wait, without a time limit, until every rank has called this.

        Collective, and the last operation: some MPI libraries hang if another one follows.
        """

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:
        """Begin to add up `local` over all ranks into `total`. Collective, does not wait.

        Both arrays must stay untouched until the request is complete.
        """

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:
        """Begin to send values to another rank. Not collective."""

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:
        """Return (sender, values) of a message that is here; never waits. Not collective.

        The values come as (n,) whatever their shape was.
        """

    def abort(self, code: int, last_words: str = "") -> None:
        """End every rank, now, with this exit code; this one has ended within some seconds.

        Not collective; does not return.

        Args:
            code: the exit code.
            last_words: printed before, on standard error.
        """


class SerialComm:
    """One process, no MPI."""

    rank = 0
    size = 1
    n_hosts = 1
    library = ""

    def __init__(self) -> None:
        self.hosts: Sequence[str] = (os.uname().nodename,)
        self.watch = Watchdog(self.rank)

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:  # noqa: D102 - see Comm
        raise AssertionError("there is no MPI")

    def create(self, path: Path, hints: Mapping[str, str]) -> None:  # noqa: D102
        path.touch(exist_ok=False)

    def bcast(self, value: T | None) -> T:  # noqa: D102 - see Comm
        return value  # type: ignore[return-value]  # rank 0's value is not None

    def gather(self, value: T) -> list[T] | None:  # noqa: D102
        return [value]

    def allgather(self, value: T) -> list[T]:  # noqa: D102
        return [value]

    def exchange(self, parts: Sequence[T]) -> list[T]:  # noqa: D102
        return list(parts)

    def final_barrier(self) -> None:  # noqa: D102
        pass

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:  # noqa: D102
        total[:] = local
        return _Complete()

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:  # noqa: D102
        raise AssertionError("there is no other rank")

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:  # noqa: D102
        return None

    def abort(self, code: int, last_words: str = "") -> None:  # noqa: D102
        print(last_words, end="", file=sys.__stderr__)
        exit_now(code)


class _Complete:
    def test(self) -> bool:
        return True


def sleep_until(done: Callable[[], bool], longest_nap_s: float) -> None:
    """Poll until `done` returns true, and sleep in between. Not collective."""
    nap_s = _FIRST_NAP_S
    while not done():
        time.sleep(nap_s)
        nap_s = min(nap_s * _NAP_GROWTH, longest_nap_s)


@contextlib.contextmanager
def waiting(comm: Comm) -> Iterator[None]:
    """Run a block that waits for other ranks, under the watchdog. Not collective."""
    comm.watch.begin()
    try:
        yield
    finally:
        comm.watch.end()


def first_line(version: str) -> str:
    """Return the first line of what `MPI.Get_library_version` says."""
    return " ".join(version.partition("\n")[0].rstrip("\0").split())  # Open MPI adds a NUL


def agree(comm: Comm, error: IngestError | None) -> None:
    """Raise on all ranks the error of the first rank that has one. Collective."""
    told = comm.allgather(to_plain(error) if error else None)
    for rank, plain in enumerate(told):
        if plain is not None:
            # This rank raises its own error, which has more than class and message.
            raise agreed(error) if rank == comm.rank and error else from_plain(plain)


@contextlib.contextmanager
def agreeing(comm: Comm) -> Iterator[None]:
    """Run a block that may fail on some ranks only, then `agree`. Collective at its end.

    The block itself must not be collective: a rank that left it would leave the others waiting.
    """
    failed: IngestError | None = None
    try:
        yield
    except IngestError as error:
        failed = error
    agree(comm, failed)


@contextlib.contextmanager
def abort_on_crash(comm: Comm) -> Iterator[None]:
    """Abort all ranks if this one leaves the block by anything but an agreed error.

    Not collective. A rank that unwinds its stack alone would close parallel files, which is
    collective, and wait for the others for ever: so it aborts first.
    """
    try:
        yield
    except BaseException as error:
        if comm.size == 1 or (isinstance(error, IngestError) and error.agreed):
            raise
        where = f"[rank {comm.rank} of {comm.size}] "
        if isinstance(error, IngestError):
            code, text = error.exit_code, f"h5ingest: error: {error}\n"
        else:
            code, text = EXIT_INTERNAL, traceback.format_exc()
        text += "This rank failed alone: ending all ranks.\n"
        comm.abort(code, textwrap.indent(text, where))
