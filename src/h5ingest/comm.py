"""`Comm`: what ranks need of each other, with MPI behind it (`mpi`) or, for one process, nothing.

mpi4py is imported only here, and only where a launcher started this process: on a laptop, one rank
needs no MPI library at all.

May not: know images, files.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.errors import (
    EXIT_INTERNAL,
    IngestError,
    SetupError,
    agreed,
    from_plain,
    to_plain,
)
from h5ingest.interrupt import end_at_once, ignore_all
from h5ingest.launcher import launcher_rank, launcher_size
from h5ingest.watchdog import Watchdog, exit_now, exit_within

T = TypeVar("T")

_FIRST_NAP_S: Final = 20e-6
_NAP_GROWTH: Final = 1.25
"""Each nap is about a fifth of the time waited so far: so little is the most that it can waste."""
_LONGEST_END_S: Final = 30.0
"""For MPI_Finalize, in which nobody works any more."""


class Request(Protocol):
    """A non-blocking operation under way."""

    def test(self) -> bool:
        """Return whether it is complete. Not collective."""


class Comm(Protocol):
    """What the program needs of a communicator."""

    rank: int
    """Of this process."""
    size: int
    """Processes."""
    n_hosts: int
    """Hosts that they are on."""
    library: str
    """Name and version of the MPI library; empty without one."""
    watch: Watchdog
    """Is told when this rank waits for others."""

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:
        """Return an MPI_Comm and an MPI_Info, for ctypes. Not collective; only with MPI."""

    def create(self, path: Path, hints: Mapping[str, str]) -> None:
        """Create an empty file, through MPI-IO where there is MPI. Not collective.

        Raises:
            OSError: it exists, or cannot be created.
        """

    def bcast(self, value: T | None) -> T:
        """Return root's value. Collective."""

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks in order on root, None elsewhere. Collective."""

    def allgather(self, value: T) -> list[T]:
        """Return the values of all ranks in order. Collective."""

    def exchange(self, parts: Sequence[T]) -> list[T]:
        """Send part r to rank r; return what each rank sent here, in order. Collective."""

    def rest(self) -> None:
        """Wait until every rank is here, however long that takes one of them, to end then.

        Collective, and the last call: some MPI libraries cannot bear another one.
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

    def abort(self, code: int) -> None:
        """End every rank, now, with this exit code. Not collective; does not return."""


class SerialComm:
    """One process, no MPI."""

    rank = 0
    size = 1
    n_hosts = 1
    library = ""

    def __init__(self) -> None:
        self.watch = Watchdog(self.rank)

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:  # noqa: D102 - see Comm
        raise AssertionError("there is no MPI")

    def create(self, path: Path, hints: Mapping[str, str]) -> None:  # noqa: D102
        path.touch(exist_ok=False)

    def bcast(self, value: T | None) -> T:  # noqa: D102 - see Comm
        return value  # type: ignore[return-value]  # root's value is not None

    def gather(self, value: T) -> list[T] | None:  # noqa: D102
        return [value]

    def allgather(self, value: T) -> list[T]:  # noqa: D102
        return [value]

    def exchange(self, parts: Sequence[T]) -> list[T]:  # noqa: D102
        return list(parts)

    def rest(self) -> None:  # noqa: D102
        pass

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:  # noqa: D102
        total[:] = local
        return _Complete()

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:  # noqa: D102
        raise AssertionError("there is no other rank")

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:  # noqa: D102
        return None

    def abort(self, code: int) -> None:  # noqa: D102
        exit_now(code)


class _Complete:
    def test(self) -> bool:
        return True


def sleep_until(done: Callable[[], bool], longest_nap_s: float) -> None:
    """Ask again and again, and sleep in between: MPI's own waits would spin. Not collective."""
    nap_s = _FIRST_NAP_S
    while not done():
        time.sleep(nap_s)
        nap_s = min(nap_s * _NAP_GROWTH, longest_nap_s)


def world() -> Comm:
    """Return the communicator of all processes of this job. Collective.

    Raises:
        SetupError: the launcher started several processes and MPI does not see them as one world,
            each of which would write the same file; or MPI cannot be loaded or started.
    """
    if launcher_rank() is None:
        return SerialComm()
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # MpiComm starts it, `leave` ends it
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise SetupError(
            f"a launcher started this process, but MPI cannot be loaded: {error}\n"
            f"Install an MPI library that mpi4py finds (for example: pip install mpich), "
            f"or run without mpirun or srun."
        ) from None
    from h5ingest.mpi import MpiComm

    comm = MpiComm(MPI)
    started = launcher_size()
    if started is not None and started != comm.size:
        raise SetupError(
            f"the launcher started {started} processes, but MPI sees a world of {comm.size}: "
            f"each of them would write the same file. The launcher and the MPI library of mpi4py "
            f"({comm.library}) do not belong together. Use the mpirun of that library; "
            f"under SLURM try srun --mpi=pmi2 for MPICH and srun --mpi=pmix for Open MPI "
            f"(srun --mpi=list shows what there is)."
        )
    return comm


def leave(code: int) -> NoReturn:
    """End this process with an exit code, and MPI before, if it was started. Collective then.

    Whatever becomes of the other ranks: MPI_Finalize has been seen to wait for them for ever.
    """
    end_at_once()
    sys.stdout.flush()  # as long as its reader likes
    sys.stderr.flush()
    ignore_all()  # srun --kill-on-bad-exit sends TERM as soon as the first rank has ended
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        from h5ingest.mpi import c_library

        exit_within(_LONGEST_END_S, code)
        c_library(mpi).MPI_Finalize()
    exit_now(code)


@contextlib.contextmanager
def waiting(comm: Comm) -> Iterator[None]:
    """Let the watchdog see a block that waits for other ranks. Not collective itself."""
    comm.watch.begin()
    try:
        yield
    finally:
        comm.watch.end()


def library_unstarted() -> str:
    """Return name and version of the MPI library that mpi4py finds, without starting MPI.

    Not collective; for a process that will not use MPI.

    Raises:
        ImportError, RuntimeError: MPI cannot be loaded.
    """
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return first_line(MPI.Get_library_version())


def first_line(version: str) -> str:
    """Return the first line of what `MPI.Get_library_version` says."""
    return " ".join(version.partition("\n")[0].rstrip("\0").split())  # Open MPI counts its NUL


def agree(comm: Comm, error: IngestError | None) -> None:
    """Raise on all ranks the error of the first rank that has one. Collective."""
    told = comm.allgather(to_plain(error) if error else None)
    for rank, plain in enumerate(told):
        if plain is not None:
            # The rank that speaks raises its own, with all that it knows beside the message.
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
    """End the whole job if this rank leaves the block by anything but an agreed error.

    Not collective. One rank that unwinds alone would close parallel files, which is collective,
    and leave the others waiting for ever: so the abort comes first.
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
        try:
            print(textwrap.indent(text, where), end="", file=sys.__stderr__, flush=True)
        finally:
            comm.abort(code)
