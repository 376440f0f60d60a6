"""`Checkpoints`: what has been written, and since when it is safe.

A rank notes what it has written. Every half minute it brings its bytes to the disk (fsync) and only
then tells rank 0, which enters it in the journal.

Bytes that rank 0 writes for another rank (`shared_blocks`) go the same way. Messages of one rank
with one tag arrive in the order in which they were sent: so they are written before what they
belong to is entered.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request, agreeing
from h5ingest.storage.datasets import output_errors, sync
from h5ingest.storage.direct_io import write_all
from h5ingest.storage.gathered_writes import GatheredWrites, WrittenBlocks
from h5ingest.storage.journal import Done, Journal, pack
from h5ingest.storage.lock import Fence
from h5ingest.storage.shared_blocks import Bytes, split

_TAG: Final = 3
"""Of what a rank tells: `_BYTES`, or (spans, 4) int64, the fields of each `Done`."""
_BYTES: Final = -1
"""Begins a message of bytes: then come their offset, their number, and they themselves."""
_SEND_FROM: Final = 64 * 1024
"""Bytes for rank 0 that are sent together."""
_MOST_SENT: Final = 16 * 1024**2
"""Bytes under way to rank 0, beyond which a rank waits: bounds its memory."""
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
        self.whole_blocks_only = comm.n_hosts > 1
        """Whether ranks write only blocks of the file that they fill (`shared_blocks`)."""
        self._under_way: deque[list[Done]] = deque()
        """For each write that is under way, oldest first, what is written when it has ended."""
        self._written: list[Done] = []
        """By this rank, maybe not on the disk yet."""
        self._records: list[bytes] = []
        """On rank 0: to be entered at the next checkpoint, in order."""
        self._for_rank_0: list[NDArray[np.int64]] = []
        """Bytes that are to be sent together."""
        self._n_held = 0
        """Their number."""
        self._sends: deque[tuple[Request, int]] = deque()
        """Messages under way to rank 0, oldest first, and the bytes of each."""
        self._n_sent = 0
        """Messages to rank 0."""
        self._n_received = 0
        """On rank 0: messages of all ranks."""
        self._received = GatheredWrites(self._write)
        """On rank 0: bytes that fill blocks in part, of all ranks."""
        self._file: int | None = None
        """On rank 0: the file, if there were such bytes."""

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
        """Check that this job may still write. Not collective.

        Args:
            now: look even if that was a moment ago.

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
        message = np.zeros(3 + -(-len(data) // 8), np.int64)
        message[:3] = _BYTES, offset, len(data)
        message[3:].view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        self._for_rank_0.append(message)
        self._n_held += message.nbytes
        if self._n_held >= _SEND_FROM:
            self._send_bytes()
            while sum(n_bytes for _, n_bytes in self._sends) > _MOST_SENT:
                time.sleep(_NAP_S)
                self._forget_sent()

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
        self._forget_sent()

    def finish(self) -> None:
        """Make the last checkpoint. Collective.

        Raises:
            OutputError: what was written could not reach the disk (on all ranks).
        """
        with agreeing(self._comm):
            self._sync()
        self._send_bytes()
        told = self._comm.gather((pack(self._written), self._n_sent))
        self._written = []
        with agreeing(self._comm):
            if told is not None:
                n_sent = sum(n for _, n in told)
                while self._n_received < n_sent:  # they are under way: nothing can hold them up
                    self._receive()
                if self._comm.n_hosts > 1:
                    self._sync()
                if self._file is not None:
                    os.close(self._file)
                if self._journal is not None:
                    last = [records for records, _ in told]
                    self._journal.append(b"".join(self._records + last))
                self._records = []
        while self._sends:
            time.sleep(_NAP_S)
            self._forget_sent()

    def _checkpoint(self) -> None:
        self._sync()
        if self._journal is not None:
            self._journal.append(b"".join(self._records) + pack(self._written))
            self._records = []
        elif self._written and self._comm.rank > 0:
            self._send_bytes()
            self._send(np.array(self._written, np.int64))
        self._written = []
        self._next_s = time.monotonic() + self._checkpoint_s

    def _send_bytes(self) -> None:
        if self._for_rank_0:
            self._send(np.concatenate(self._for_rank_0))
            self._for_rank_0, self._n_held = [], 0

    def _send(self, message: NDArray[np.int64]) -> None:
        self._sends.append((self._comm.send(0, _TAG, message), message.nbytes))
        self._n_sent += 1

    def _forget_sent(self) -> None:
        while self._sends and self._sends[0][0].test():
            self._sends.popleft()

    def _receive(self) -> None:
        """Take in what other ranks have told. Rank 0 only; never waits."""
        while (message := self._comm.receive(_TAG)) is not None:
            self._n_received += 1
            told = message[1]
            if told[0] != _BYTES:
                self._records.append(pack(Done(*row) for row in told.reshape(-1, 4).tolist()))
            while len(told) and told[0] == _BYTES:
                offset, n_bytes = told[1:3].tolist()
                end = 3 + -(-n_bytes // 8)
                self._received.put(offset, told[3:end].view(np.uint8)[:n_bytes].data)
                told = told[end:]

    def _write(self, offset: int, data: Bytes) -> None:
        """Write bytes that fill blocks in part. Rank 0 only."""
        self.guard()
        with output_errors(f"{self._path}: writing at byte {offset}"):
            write_all(self._fd, [data], offset)

    @property
    def _fd(self) -> int:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._file

    def _sync(self) -> None:
        self._received.flush()
        self.guard(now=True)
        sync(self._path)
