"""`Pair`: two ranks that do things at the same time, in a scratch folder, while others wait.

May not: know what they do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from h5ingest.core.errors import StoppedError, agreed
from h5ingest.mpi.comm import Comm
from h5ingest.mpi.signals import Interrupt

LONGEST_S: Final = 3.0
"""For one host to see what the other has done."""
MEASURE_S: Final = 0.7
"""For each measurement, at most."""


class Pair:
    """The two ranks: `me` is 0 on the first, 1 on the second, and 2 on those that only wait."""

    def __init__(self, folder: Path, comm: Comm, interrupt: Interrupt) -> None:
        """Take rank 0 and the first rank on another host; if there is none, rank 1. Collective.

        The scratch folder goes into `folder`.
        """
        others = (rank for rank, host in enumerate(comm.hosts) if host != comm.hosts[0])
        self._comm, self._interrupt = comm, interrupt
        self._ranks = (0, next(others, 1))
        self.me = self._ranks.index(comm.rank) if comm.rank in self._ranks else 2
        self.hosts = (comm.hosts[0], comm.hosts[self._ranks[1]])
        self.scratch = folder / f".h5ingest-doctor-{comm.bcast(os.urandom(8).hex())}"
        self.refused: list[str] = []
        """What the file system would not do, and why; the same on all ranks."""
        self.fd = -1
        """A file that each of the two has open, once it has."""

    def finish(self) -> None:
        """Close the file on both, then remove the scratch folder. Collective."""
        self.both("closing", self._close, self._close)
        self.both("removing", lambda: shutil.rmtree(self.scratch), None)

    def give_up(self) -> None:
        """Remove the scratch folder. Not collective: for a rank that leaves in between."""
        if self.me < 2:
            with suppress(OSError):
                self._close()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def both(
        self, name: str, first: Callable[[], Any] | None, second: Callable[[], Any] | None
    ) -> tuple[Any, Any]:
        """Return what the two do at the same time, None where it is refused. Collective.

        Raises:
            StoppedError: asked to stop (on all ranks).
        """
        value, refused = None, ""
        work = (first, second, None)[self.me]
        if work is not None:
            try:
                value = work()
            except OSError as error:
                refused = f"{name}: {error.strerror or error}"
        told = self._comm.allgather((value, refused, self._interrupt.requested))
        if any(asked for _, _, asked in told):
            raise agreed(StoppedError("stopped as asked"))
        for rank in self._ranks:
            if told[rank][1] and told[rank][1] not in self.refused:
                self.refused.append(told[rank][1])
        return told[self._ranks[0]][0], told[self._ranks[1]][0]


def until(seen: Callable[[], bool]) -> float | None:
    """Return after how many seconds this host sees something; None if it does not in time."""
    start_s = time.monotonic()
    while (waited_s := time.monotonic() - start_s) < LONGEST_S:
        with suppress(OSError):  # not yet there, or stale
            if seen():
                return waited_s
        time.sleep(0.002)
    return None


def counted(work: Callable[[int], object], most: int = 1000) -> tuple[int, float]:
    """Return how often something was done within the time for a measurement, and that time."""
    start_s = time.monotonic()
    n_times = 0
    while n_times < most and time.monotonic() - start_s < MEASURE_S:
        work(n_times)
        n_times += 1
    return n_times, max(time.monotonic() - start_s, 1e-6)


def write_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file whole; bring it to the disk, if `sync`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
