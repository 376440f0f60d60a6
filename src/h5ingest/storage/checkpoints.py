"""`Checkpoints`: what has been written, and since when it is safe.

A rank notes what it has written. Every half minute it brings its bytes to the disk (fsync) and only
then tells rank 0, which enters it in the journal.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request, agreeing
from h5ingest.storage.datasets import sync
from h5ingest.storage.journal import Done, Journal, pack
from h5ingest.storage.lock import Fence

_TAG: Final = 3
_NAP_S: Final = 0.0005


class Checkpoints:
    """One rank's part in them; rank 0 has the journal."""

    def __init__(
        self,
        comm: Comm,
        path: Path,
        journal: Journal | None,
        fence: Fence | None,
        checkpoint_s: float,
    ) -> None:
        """Begin. Not collective.

        Args:
            comm: the ranks.
            path: the file that is written; it exists.
            journal: on rank 0.
            fence: guards the file; None where nobody else can come.
            checkpoint_s: seconds between two checkpoints.
        """
        self._comm = comm
        self._path = path
        self._journal = journal
        self._fence = fence
        self._checkpoint_s = checkpoint_s
        self._next_s = time.monotonic() + checkpoint_s
        self._under_way: deque[list[Done]] = deque()
        """For each write that is under way, oldest first, what is written when it has ended."""
        self._written: list[Done] = []
        """By this rank, maybe not on the disk yet."""
        self._records: list[bytes] = []
        """On rank 0: to be entered at the next checkpoint, in order."""
        self._sends: list[Request] = []
        self._n_sent = 0
        """Messages to rank 0."""
        self._n_received = 0
        """On rank 0: messages of all ranks."""

    def guard(self, *, now: bool = False) -> None:
        """Check that this job may still write. Not collective.

        Args:
            now: look even if that was a moment ago.

        Raises:
            OutputError: another job has taken the output over.
        """
        if self._fence is not None:
            self._fence.check(now=now)

    def begin_write(self) -> None:
        """A write is under way: what is noted from now on is written when it has ended."""
        self._under_way.append([])

    def end_write(self) -> None:
        """The oldest of the writes that are under way has ended. Not collective."""
        self._written += self._under_way.popleft()

    def note(self, done: Done) -> None:
        """Note what this rank has given to be written, all of it so far. Not collective."""
        (self._under_way[-1] if self._under_way else self._written).append(done)

    def enter(self, records: bytes) -> None:
        """Have records in the journal before anything that is noted later. Rank 0 only."""
        self._records.append(records)

    def tick(self) -> None:
        """Make a checkpoint if it is time; rank 0 takes in those of others. Never waits for a rank.

        Raises:
            OutputError: what was written could not reach the disk.
        """
        if self._comm.rank == 0:
            self._receive()
        if time.monotonic() >= self._next_s:
            self._checkpoint()
        if self._sends:
            self._sends = [send for send in self._sends if not send.test()]

    def finish(self) -> None:
        """Make the last checkpoint. Collective.

        Raises:
            OutputError: what was written could not reach the disk (on all ranks).
        """
        with agreeing(self._comm):
            self._sync()
        told = self._comm.gather((pack(self._written), self._n_sent))
        self._written = []
        with agreeing(self._comm):
            if told is not None and self._journal is not None:
                n_sent = sum(n for _, n in told)
                while self._n_received < n_sent:  # they are under way: nothing can hold them up
                    self._receive()
                last = [records for records, _ in told]
                self._journal.append(b"".join(self._records + last))
                self._records = []
        while not all(send.test() for send in self._sends):
            time.sleep(_NAP_S)

    def _checkpoint(self) -> None:
        self._sync()
        if self._journal is not None:
            self._journal.append(b"".join(self._records) + pack(self._written))
            self._records = []
        elif self._written:
            values = np.array(self._written, np.int64)
            self._sends.append(self._comm.send(0, _TAG, values))
            self._n_sent += 1
        self._written = []
        self._next_s = time.monotonic() + self._checkpoint_s

    def _receive(self) -> None:
        """Take in what other ranks have told. Rank 0 only; never waits."""
        while (message := self._comm.receive(_TAG)) is not None:
            self._records.append(_packed(message[1]))
            self._n_received += 1

    def _sync(self) -> None:
        self.guard()
        sync(self._path)


def _packed(values: NDArray[np.int64]) -> bytes:
    return pack(Done(*row) for row in values.reshape(-1, 4).tolist())
