"""`Checkpoints`: what has been written, and since when it is safe.

A rank tells rank 0 what it has written. Every half minute one rank of each client of the file
system brings the file to the disk (fsync), by a descriptor that it has had since before the first
write. Rank 0 enters in the journal what was written before such an fsync began that went well.

It is one rank alone because a system tells of a write that failed later only once: Linux each
descriptor that was open then, GlusterFS whoever asks first (`__wb_request_waiting_on` in its
write-behind.c). A rank whose bytes were lost could be told that all is well, since another had been
told before.

Bytes that rank 0 writes for another rank (`shared_blocks`) go the same way. Messages of one rank
with one tag arrive in the order in which they were sent: so they are written before what they
belong to is entered.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.direct_io import write_all
from h5ingest.storage.gathered_writes import GatheredWrites, WrittenBlocks
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Done, Sums, pack
from h5ingest.storage.lock import Fence
from h5ingest.storage.outbox import BYTES, TAG, Outbox, take_bytes
from h5ingest.storage.shared_blocks import Bytes, split

_WRITTEN: Final = -2
"""Begins a message: then come the time, and the records, 4 x 64 bits each."""
_SYNCED: Final = -3
"""Begins a message: then comes the time when an fsync began that has ended well."""
_SOONER: Final = 8
"""So many times as often as they are synced, ranks tell what they have written."""


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
        self.whole_blocks_only = comm.n_hosts > 1
        """Whether ranks write only blocks of the file that they fill (`shared_blocks`)."""
        self._under_way: deque[list[Done | Sums]] = deque()
        """For each write that is under way, oldest first, what is written when it has ended."""
        self._written: list[Done | Sums] = []
        """By this rank, maybe not on the disk yet."""
        self._records: list[bytes] = []
        """On rank 0: to be entered at the next checkpoint, in order."""
        self._outbox = Outbox(comm)
        self._n_received = 0
        """On rank 0: messages of all ranks."""
        self._received = GatheredWrites(self._write)
        """On rank 0: bytes that fill blocks in part, of all ranks."""
        self._leaders: list[int] = []
        """For each rank, which one brings the file to the disk on its client."""
        self._fd = -1
        """The file, on these ranks."""
        self._told: list[_Told] = []
        """On rank 0: what others have written, maybe not on the disk yet."""
        self._synced: dict[int, int] = {}
        """On rank 0: of each leader, when the last fsync began that ended well."""

    def open(self) -> None:
        """Open the file where it is going to be brought to the disk. Collective.

        To be called when all hosts see it, and before anything is written by anybody.

        Raises:
            OutputError: it cannot be opened (on all ranks).
        """
        comm = self._comm
        client = (comm.hosts[comm.rank], -1)
        with agreeing(comm), output_errors(f"{self._path}: cannot be opened by rank {comm.rank}"):
            client = (comm.hosts[comm.rank], os.stat(self._path).st_dev)
        clients = comm.allgather(client)
        self._leaders = [clients.index(each) for each in clients]
        with agreeing(comm), output_errors(f"{self._path}: cannot be opened by rank {comm.rank}"):
            if self._leads:
                self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    @property
    def _leads(self) -> bool:
        return self._leaders[self._comm.rank] == self._comm.rank

    def begin_blocks(self, *, fresh: bool) -> WrittenBlocks | None:
        """Return what remembers what rank 0 writes, if it alone writes parts of blocks.

        Args:
            fresh: whether nothing of an earlier job is in the file.
        """
        if not self.whole_blocks_only:
            return None
        written = WrittenBlocks(fresh=fresh)
        self._received = GatheredWrites(self._write, written)
        return written

    def guard(self, *, now: bool = False) -> None:
        """Check that this job may still write, `now` even if that was a moment ago. Not collective.

        Raises:
            OutputError: another job has taken the output over.
        """
        if self._fence is not None:
            self._fence.check(now=now)

    def keep_whole(self, offset: int, parts: Sequence[Bytes]) -> tuple[int, Sequence[Bytes]]:
        """Return what of the bytes this rank writes itself: all, or what fills whole blocks.

        The rest rank 0 is going to write. Not collective; may wait for rank 0.

        Args:
            offset: of the first part in the file, in bytes.
            parts: lie there one after the other; they may be reused when they are written.
        """
        if not self.whole_blocks_only:
            return offset, parts
        ends, offset, parts = split(offset, parts)
        for end in ends:
            self.hand_over(*end)
        return offset, parts

    def hand_over(self, offset: int, data: bytes) -> None:
        """Have rank 0 write bytes before it enters what is noted from now on. Not collective."""
        if self._comm.rank == 0:
            self._received.put(offset, data)
            return
        self._outbox.put(offset, data)

    def begin_write(self) -> None:
        """A write is under way: what is noted from now on is written when it has ended."""
        self._under_way.append([])

    def end_write(self) -> None:
        """The oldest of the writes that are under way has ended. Not collective."""
        self._written += self._under_way.popleft()

    def note(self, *done: Done | Sums) -> None:
        """Note what this rank has given to be written, all of it so far. Not collective."""
        (self._under_way[-1] if self._under_way else self._written).extend(done)

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
        self._outbox.forget_sent()

    def finish(self) -> None:
        """Make the last checkpoint. Collective.

        Raises:
            OutputError: what was written could not reach the disk (on all ranks).
        """
        self._outbox.send_bytes()
        told = self._comm.gather((pack(self._written), self._outbox.n_sent))
        self._written = []
        with agreeing(self._comm):  # when this ends, all ranks have written all
            if told is not None:
                n_sent = sum(n for _, n in told)
                while self._n_received < n_sent:  # they are under way: nothing can hold them up
                    self._receive()
                self._received.flush()
        with agreeing(self._comm):
            if self._leads:
                self._sync()
                os.close(self._fd)
                self._fd = -1
        with agreeing(self._comm):
            if self._journal is not None and told is not None:
                others = [records for *_, records in self._told] + [records for records, _ in told]
                self._journal.append(b"".join(self._records + others))
                self._records, self._told = [], []
        self._outbox.wait()

    def _checkpoint(self) -> None:
        written, self._written = self._written, []
        if written and self._comm.rank > 0:
            records = np.frombuffer(pack(written), np.int64).tolist()
            self._outbox.send(_WRITTEN, time.monotonic_ns(), *records)
        pause_s = self._checkpoint_s / _SOONER
        if self._leads:
            started_ns = time.monotonic_ns()
            self._sync()
            pause_s = self._checkpoint_s
            if self._comm.rank > 0:
                self._outbox.send(_SYNCED, started_ns)
            self._synced[self._comm.rank] = started_ns
        if self._journal is not None:
            safe = [told.records for told in self._told if told.is_safe(self._synced)]
            self._told = [told for told in self._told if not told.is_safe(self._synced)]
            self._journal.append(b"".join([*self._records, pack(written), *safe]))
            self._records = []
        self._next_s = time.monotonic() + pause_s

    def _receive(self) -> None:
        """Take in what other ranks have told. Rank 0 only; never waits."""
        while (message := self._comm.receive(TAG)) is not None:
            self._n_received += 1
            rank, told = message
            if told[0] == BYTES:
                for offset, data in take_bytes(told):
                    self._received.put(offset, data)
                continue
            kind, time_ns = told[:2].tolist()
            if kind == _SYNCED:
                self._synced[rank] = time_ns
            else:
                self._told.append(_Told(self._leaders[rank], time_ns, told[2:].tobytes()))

    def _write(self, offset: int, data: Bytes) -> None:
        """Write bytes that fill blocks in part. Rank 0 only."""
        self.guard()
        with output_errors(f"{self._path}: writing at byte {offset}"):
            write_all(self._fd, [data], offset)

    def _sync(self) -> None:
        """Bring all that this client has to the disk."""
        self._received.flush()
        self.guard(now=True)
        with output_errors(f"{self._path}: cannot be brought to the disk"):
            os.fsync(self._fd)


class _Told(NamedTuple):
    """What a rank has written."""

    leader: int
    """The rank that brings it to the disk."""
    time_ns: int
    """When it had been written, by the clock of the host."""
    records: bytes

    def is_safe(self, synced: Mapping[int, int]) -> bool:
        """Return whether an fsync that began later has ended well."""
        return synced.get(self.leader, -1) >= self.time_ns
