"""The one adapter to MPI: `Comm`, with MPI behind it or, for a single process, nothing.

mpi4py is imported only here, and only where a launcher started this process: on a laptop, one rank
needs no MPI library at all.

May not: know images, files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.errors import (
    EXIT_INTERNAL,
    EXIT_STOPPED,
    IngestError,
    SetupError,
    agreed,
    from_plain,
    to_plain,
)

T = TypeVar("T")

_RANK_VARIABLES: Final = (
    "OMPI_COMM_WORLD_RANK",  # Open MPI's mpirun
    "PMI_RANK",  # MPICH, Intel MPI, MVAPICH; srun --mpi=pmi2
    "PMIX_RANK",  # srun --mpi=pmix, PRRTE
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",  # Cray
    "ALPS_APP_PE",
    "FLUX_TASK_RANK",
    "JSM_NAMESPACE_RANK",
)
_SIZE_VARIABLES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def launcher_rank() -> int | None:
    """Return this process's rank as the launcher's environment says it; None without a launcher.

    Known before MPI_Init, and even where MPI does not work: it decides who prints.
    """
    for name in _RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    # A SLURM batch script also has SLURM_PROCID; only srun's tasks have a step with a task count.
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return None


def launcher_size() -> int | None:
    """Return how many processes the launcher says it started; None if it does not say.

    mpirun inside a SLURM job starts its helpers with srun, one a node: so SLURM's count is asked
    last.
    """
    for name in _SIZE_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "0")) or None


class Watchdog:
    """Ends this process if it waits for other ranks in vain: nothing else ends it everywhere.

    A cut network link leaves MPICH, and by default Open MPI, waiting for ever.
    """

    def __init__(self) -> None:
        """Begin asleep."""
        self._wait: object | None = None
        """Stands for the wait under way; None while nothing is waited for."""
        self._timeout_s = 0.0

    def begin(self) -> None:
        """A wait for other ranks begins. Not collective."""
        self._wait = object()

    def end(self) -> None:
        """It is over. Not collective."""
        self._wait = None

    def start(self, timeout_s: float) -> None:
        """Watch from now on: a wait of more than `timeout_s` ends the process with exit code 75.

        Seconds are counted, not read from a clock: a job that is suspended stands still. Called
        again, it changes the time.
        """
        started, self._timeout_s = self._timeout_s > 0, timeout_s
        if not started:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        seen, waited_s = None, 0.0
        while True:
            timeout_s = self._timeout_s
            step_s = min(1.0, timeout_s / 4)
            time.sleep(step_s)
            wait = self._wait
            waited_s = waited_s + step_s if wait is not None and wait is seen else 0.0
            seen = wait
            if waited_s > timeout_s:
                rank = launcher_rank()
                print(
                    f"h5ingest: error: rank {rank}: no sign of life of another rank for "
                    f"{timeout_s:.0f} s (--peer-timeout): a host or its network is gone. Start the "
                    f"same command again to go on.",
                    file=sys.__stderr__,
                    flush=True,
                )
                _exit_now(EXIT_STOPPED)


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
    library: str
    """Name and version of the MPI library; empty without one."""
    handle: Any
    """The `mpi4py.MPI.Comm` for h5py's MPI-IO driver; None without one."""
    info: Any
    """The `mpi4py.MPI.Info` that goes with it; None without one."""
    watch: Watchdog
    """Is told when this rank waits for others."""

    def bcast(self, value: T | None) -> T:
        """Return root's value. Collective."""

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks in order on root, None elsewhere. Collective."""

    def allgather(self, value: T) -> list[T]:
        """Return the values of all ranks in order. Collective."""

    def exchange(self, parts: Sequence[T]) -> list[T]:
        """Send part r to rank r; return what each rank sent here, in order. Collective."""

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
    library = ""
    handle = None
    info = None

    def __init__(self) -> None:
        self.watch = Watchdog()

    def bcast(self, value: T | None) -> T:  # noqa: D102 - see Comm
        return value  # type: ignore[return-value]  # root's value is not None

    def gather(self, value: T) -> list[T] | None:  # noqa: D102
        return [value]

    def allgather(self, value: T) -> list[T]:  # noqa: D102
        return [value]

    def exchange(self, parts: Sequence[T]) -> list[T]:  # noqa: D102
        return list(parts)

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:  # noqa: D102
        total[:] = local
        return _Complete()

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:  # noqa: D102
        raise AssertionError("there is no other rank")

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:  # noqa: D102
        return None

    def abort(self, code: int) -> None:  # noqa: D102
        _exit_now(code)


class _Complete:
    def test(self) -> bool:
        return True


class _MpiRequest:
    def __init__(self, request: Any, values: Any = None) -> None:
        self._request = request
        self._values = values  # MPI reads them until the request is complete

    def test(self) -> bool:
        return bool(self._request.Test())


class MpiComm:
    """All processes that the launcher started."""

    def __init__(self, mpi: Any) -> None:
        """Take `mpi4py.MPI`. Collective."""
        self.handle = mpi.COMM_WORLD
        self.rank: int = self.handle.Get_rank()
        self.size: int = self.handle.Get_size()
        self.library: str = _one_line(mpi.Get_library_version())
        self.info = mpi.INFO_NULL
        self.watch = Watchdog()
        self._mpi = mpi
        # What is under way must not be mixed up with the steps' own collectives.
        self._sums = self.handle.Dup()
        self._messages = self.handle.Dup()
        self._status = mpi.Status()

    def bcast(self, value: T | None) -> T:  # noqa: D102 - see Comm
        with waiting(self):
            return self.handle.bcast(value)  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T] | None:  # noqa: D102
        with waiting(self):
            return self.handle.gather(value)  # type: ignore[no-any-return]

    def allgather(self, value: T) -> list[T]:  # noqa: D102
        with waiting(self):
            return self.handle.allgather(value)  # type: ignore[no-any-return]

    def exchange(self, parts: Sequence[T]) -> list[T]:  # noqa: D102
        with waiting(self):
            return self.handle.alltoall(list(parts))  # type: ignore[no-any-return]

    def start_sum(self, local: NDArray[np.int64], total: NDArray[np.int64]) -> Request:  # noqa: D102
        return _MpiRequest(self._sums.Iallreduce(local, total, self._mpi.SUM))

    def send(self, rank: int, tag: int, values: NDArray[np.int64]) -> Request:  # noqa: D102
        return _MpiRequest(self._messages.Isend(values, rank, tag), values)

    def receive(self, tag: int) -> tuple[int, NDArray[np.int64]] | None:  # noqa: D102
        if not self._messages.Iprobe(self._mpi.ANY_SOURCE, tag, self._status):
            return None
        source = self._status.Get_source()
        values = np.empty(self._status.Get_count(self._mpi.INT64_T), np.int64)
        self._messages.Recv(values, source, tag)
        return source, values

    def abort(self, code: int) -> None:  # noqa: D102
        sys.stdout.flush()
        sys.stderr.flush()
        self.handle.Abort(code)
        _exit_now(code)  # some MPI libraries return from Abort


def _exit_now(code: int) -> None:
    # Not sys.exit: closing a parallel file on the way out is collective and would wait for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def world() -> Comm:
    """Return the communicator of all processes of this job. Collective.

    Raises:
        SetupError: the launcher started several processes and MPI does not see them as one world,
            each of which would write the same file; or MPI cannot be loaded.
    """
    if launcher_rank() is None:
        return SerialComm()
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a launcher that does not fit: said below, once
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise SetupError(
            f"a launcher started this process, but MPI cannot be loaded: {error}\n"
            f"Install an MPI library that mpi4py finds (for example: pip install mpich), "
            f"or run without mpirun or srun."
        ) from None
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

    return _one_line(MPI.Get_library_version())


def _one_line(version: str) -> str:
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
        print(textwrap.indent(text, where), end="", file=sys.__stderr__, flush=True)
        comm.abort(code)
