"""`MpiComm`: a `Comm` by mpi4py, whose ranks sleep while they wait.

MPI's blocking calls spin: a waiting rank takes a whole core and, where there are more ranks than
cores, takes it from the rank that is waited for. So every collective here is a non-blocking one,
polled with sleeps in between. (Open MPI yields the core if it knows that it is oversubscribed; in
Debian's MPICH 4.0.2, MPIR_CVAR_POLLS_BEFORE_YIELD=1 changed nothing.)

mpi4py holds Python's GIL in MPI_Init_thread, MPI_Finalize and MPI_Abort: a `Watchdog`, which is a
thread, could not end a process that hangs there. So these three are called through ctypes, which
releases it.

May not: know images, files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SetupError
from h5ingest.mpi.comm import Request, first_line, sleep_until, waiting
from h5ingest.mpi.launcher import launcher_rank
from h5ingest.mpi.watchdog import Watchdog, exit_now, exit_within

T = TypeVar("T")

_LONGEST_NAP_S: Final = 0.005
_START_TIMEOUT: Final = "H5INGEST_START_TIMEOUT"
"""Environment variable: the seconds that MPI may take to start, before any option is parsed.
Debian's mpirun.mpich, if a signal ends it just after its start, leaves its ranks hanging there."""
_START_TIMEOUT_S: Final = 300.0
_ABORT_TIMEOUT_S: Final = 10.0
_LAST_WORDS_S: Final = 0.3
"""Pause before an abort: MPICH's mpirun may lose what a rank has just printed."""
_SETTLED_S: Final = 0.1
"""Pause before MPI_Finalize, for MPI over UCX and TCP, where each rank asks every peer that it has
sent something to whether all of it has come, and ends when it has been answered. A rank that polls
for messages once more answers a peer before it has asked itself; the peer leaves, and the rank
waits for its answer for ever. With the pause all ranks have polled for the last time before the
first one finalizes, unless the system stalls one for that long: see `world.leave`. (MPICH waits for
all ranks in MPI_Finalize since 4.2.)"""


class MpiComm:
    """The communicator of all processes that the launcher started."""

    def __init__(self, mpi: Any) -> None:
        """Take `mpi4py.MPI`, and start MPI. Collective.

        Raises:
            SetupError: it cannot be started.
        """
        self.watch = Watchdog(launcher_rank() or 0)
        self.watch.begin()
        self.watch.start(_start_timeout_s(), f"{_START_TIMEOUT}, while MPI starts")
        _start(mpi)
        self._world = mpi.COMM_WORLD
        self.rank: int = self._world.Get_rank()
        self.size: int = self._world.Get_size()
        self.library: str = first_line(mpi.Get_library_version())
        self._mpi = mpi
        # Its own communicator, so that a sum under way does not mix with the steps' collectives.
        self._sums, sums = self._world.Idup()
        self._messages, messages = self._world.Idup()
        for request in (sums, messages):
            _sleep_until(request)
        self.watch.end()
        self._status = mpi.Status()
        self.hosts: Sequence[str] = self.allgather(mpi.Get_processor_name())
        self.n_hosts = len(set(self.hosts))

    def c_handles(self, hints: Mapping[str, str]) -> tuple[Any, Any]:  # noqa: D102 - see Comm
        return self._in_c(self._world), self._in_c(self._info(hints))

    def _in_c(self, handle: Any) -> Any:
        """Return an MPI handle as C has it: an int in MPICH, a pointer in Open MPI."""
        is_int = self._mpi._sizeof(handle) == ctypes.sizeof(ctypes.c_int)
        return (ctypes.c_int if is_int else ctypes.c_void_p)(self._mpi._handleof(handle))

    def _info(self, hints: Mapping[str, str]) -> Any:
        return self._mpi.Info.Create(dict(hints)) if hints else self._mpi.INFO_NULL

    def create(self, path: Path, hints: Mapping[str, str]) -> None:  # noqa: D102
        mpi = self._mpi
        mode = mpi.MODE_CREATE | mpi.MODE_EXCL | mpi.MODE_WRONLY
        try:
            mpi.File.Open(mpi.COMM_SELF, str(path), mode, self._info(hints)).Close()
        except mpi.Exception as error:
            raise OSError(str(error)) from None

    def bcast(self, value: T | None) -> T:  # noqa: D102
        with waiting(self):
            data = _pickled(value) if self.rank == 0 else b""
            length = np.array([len(data)], np.int64)
            _sleep_until(self._world.Ibcast(length))
            buffer = bytearray(data) if self.rank == 0 else bytearray(int(length[0]))
            _sleep_until(self._world.Ibcast([buffer, self._mpi.BYTE]))
            return value if self.rank == 0 else pickle.loads(buffer)  # type: ignore[return-value]

    def gather(self, value: T) -> list[T] | None:  # noqa: D102
        with waiting(self):
            data = _pickled(value)
            lengths = np.zeros(self.size if self.rank == 0 else 0, np.int64)
            _sleep_until(self._world.Igather(np.array([len(data)], np.int64), lengths))
            buffer = bytearray(int(lengths.sum()))
            told = [buffer, lengths, self._mpi.BYTE] if self.rank == 0 else None
            _sleep_until(self._world.Igatherv([data, self._mpi.BYTE], told))
            return _unpickled(buffer, lengths) if self.rank == 0 else None

    def allgather(self, value: T) -> list[T]:  # noqa: D102
        with waiting(self):
            data = b"" if value is None else _pickled(value)
            lengths = np.zeros(self.size, np.int64)
            _sleep_until(self._world.Iallgather(np.array([len(data)], np.int64), lengths))
            buffer = bytearray(int(lengths.sum()))
            if buffer:  # mostly no rank has an error: one round is then enough
                told = [buffer, lengths, self._mpi.BYTE]
                _sleep_until(self._world.Iallgatherv([data, self._mpi.BYTE], told))
            return _unpickled(buffer, lengths)

    def exchange(self, parts: Sequence[T]) -> list[T]:  # noqa: D102
        with waiting(self):
            # What stays on this rank, usually nearly everything, is not copied.
            data = [b"" if r == self.rank else _pickled(part) for r, part in enumerate(parts)]
            to = np.array([len(part) for part in data], np.int64)
            lengths = np.zeros(self.size, np.int64)
            _sleep_until(self._world.Ialltoall(to, lengths))
            outgoing, buffer = b"".join(data), bytearray(int(lengths.sum()))
            del data
            byte = self._mpi.BYTE
            _sleep_until(self._world.Ialltoallv([outgoing, to, byte], [buffer, lengths, byte]))
            told: list[Any] = _unpickled(buffer, lengths)
            told[self.rank] = parts[self.rank]
            return told

    def final_barrier(self) -> None:  # noqa: D102
        if self.n_hosts == 1:
            _sleep_until(self._world.Ibarrier())
            return
        # Who has sent nothing to a peer does not ask it, so does not stay to answer it: see above.
        empty, met = np.empty(0, np.int64), met_by(self.rank, self.hosts)
        requests = [self._world.Irecv(np.empty(0, np.int64), rank) for rank in met]
        requests += [self._world.Isend(empty, rank) for rank in met]
        sleep_until(lambda: bool(self._mpi.Request.Testall(requests)), _LONGEST_NAP_S)
        _sleep_until(self._world.Ibarrier())
        time.sleep(_SETTLED_S)

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

    def abort(self, code: int, last_words: str = "") -> None:  # noqa: D102
        exit_within(_ABORT_TIMEOUT_S, code)  # whatever MPI does, or who reads what is printed
        with contextlib.suppress(OSError):
            print(last_words, end="", file=sys.__stderr__)
            sys.stdout.flush()
            sys.stderr.flush()
        if self.size > 1:  # MPICH's Abort runs exit handlers, where HDF5 may crash: not if alone
            time.sleep(_LAST_WORDS_S)
            c_library(self._mpi).MPI_Abort(self._in_c(self._world), code)
        exit_now(code)  # some MPI libraries return from Abort


def met_by(rank: int, hosts: Sequence[str]) -> set[int]:
    """Return the ranks with which a rank may have exchanged messages, in either direction.

    This program sends to rank 0 and from there. MPI's trees and rings go from a rank to those that
    are a power of two further or nearer, among all and among the first ones of each host.

    Args:
        rank: a rank.
        hosts: the name of each rank's host.

    >>> sorted(met_by(3, ["a"] * 3 + ["b"] * 3 + ["c"] * 3))
    [0, 1, 2, 4, 5, 6, 7, 8]
    """
    met = {0, *range(0 if rank else len(hosts))}
    first = {host: place for place, host in reversed([*enumerate(hosts)])}
    for ranks in (range(len(hosts)), sorted(first.values())):
        if rank in ranks:
            place, n_ranks = ranks.index(rank), len(ranks)
            for step in (1 << bit for bit in range(n_ranks.bit_length())):
                met |= {ranks[(place + step) % n_ranks], ranks[(place - step) % n_ranks]}
    return met - {rank}


def c_library(mpi: Any) -> ctypes.CDLL:
    """Return MPI's functions in C. Not collective."""
    return ctypes.CDLL(mpi.__file__)  # symbols of the libraries it is linked with are found, too


def _start(mpi: Any) -> None:
    """Start MPI as mpi4py does, but without the GIL. Collective.

    Raises:
        SetupError: it cannot be started.
    """
    if mpi.Is_initialized():  # the user's MPI4PY_RC_INITIALIZE
        return
    provided = ctypes.byref(ctypes.c_int())
    code = c_library(mpi).MPI_Init_thread(None, None, mpi.THREAD_FUNNELED, provided)
    if code:
        raise SetupError(f"MPI cannot be started: MPI_Init_thread returned {code}")
    for comm in (mpi.COMM_SELF, mpi.COMM_WORLD):
        comm.Set_errhandler(mpi.ERRORS_RETURN)


def _start_timeout_s() -> float:
    text = os.environ.get(_START_TIMEOUT, "")
    try:
        seconds = float(text or _START_TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise SetupError(f"{_START_TIMEOUT}: expected a number of seconds, got {text!r}")
    return seconds


class _MpiRequest:
    def __init__(self, request: Any, values: Any = None) -> None:
        self._request = request
        self._values = values  # MPI reads them until the request is complete

    def test(self) -> bool:
        return bool(self._request.Test())


def _sleep_until(request: Any) -> None:
    """Wait, asleep, until the request is complete."""
    sleep_until(request.Test, _LONGEST_NAP_S)


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _unpickled(data: bytearray, lengths: NDArray[np.int64]) -> list[Any]:
    """Return the values that lie one after the other; None where there is nothing."""
    view, end = memoryview(data), 0
    values = []
    for length in lengths.tolist():
        start, end = end, end + length
        values.append(pickle.loads(view[start:end]) if length else None)
    return values
