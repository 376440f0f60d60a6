"""Filtered chunks on their way into the file.

     every rank: has the pixels                          rank 0: has the file open in HDF5
    ┌─────────────────────────────────┐                 ┌──────────────────────────────────────┐
    │ 1 compress                      │  (chunk, bytes, │ 2 place                              │
    │   HDF5's own filters, in a file │   filter mask)  │   write_direct_chunk(dummy of that   │
    │   in memory that has one chunk  ├────────────────▶│   length): HDF5 takes the space and  │
    │                                 │                 │   enters the chunk in its index;     │
    │ 3 write                         │◀────────────────┤   the driver notes the offset of the │
    │   pwritev at that offset,       │      offset     │   dummy and drops its bytes          │
    │   neighbours in one call        │                 └──────────────────────────────────────┘
    └─────────────────────────────────┘

Nobody waits: a rank goes on with the next batch while rank 0 places this one, and rank 0 serves the
others between its own images. One rank alone does the same, so that any number of ranks can resume.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.journal_records import pack
from h5ingest.storage.placed_file import PlacedFile

if TYPE_CHECKING:
    from h5ingest.storage.chunk_placer import ChunkPlacer

_ASK: Final = 1
"""Tag of what a rank asks: (chunks, 4) int64, the arguments of `ChunkPlacer.place`."""
_ANSWER: Final = 2
"""Tag of the answer: the offsets, (chunks,) int64."""
_MOST_WAITING: Final = 4
"""Batches whose offsets a rank may be waiting for before it pauses: bounds its memory."""
_NAP_S: Final = 0.0005
_MOST_VECTORS: Final = 512
"""Buffers in one pwritev; IOV_MAX is 1024 on Linux."""


class ChunkAllocator:
    """Rank 0's side: takes space in the file for all ranks, each of which asks for its chunks."""

    def __init__(self, placer: ChunkPlacer, checkpoints: Checkpoints, comm: Comm) -> None:
        """Begin."""
        self.placer = placer
        self._checkpoints = checkpoints
        self._comm = comm
        self._sends: list[Request] = []

    def serve(self) -> None:
        """Answer what ranks have asked so far. Never waits."""
        while (message := self._comm.receive(_ASK)) is not None:
            rank, ask = message
            answer = self.place(ask.reshape(-1, 4))
            self._sends.append(self._comm.send(rank, _ANSWER, answer))
        if self._sends:
            self._sends = [send for send in self._sends if not send.test()]

    def place(self, ask: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets (chunks,) of what a rank asks (chunks, 4)."""
        placements = [self.placer.place(*row) for row in ask.tolist()]
        self._checkpoints.enter(pack(placements))
        return np.array([placement.offset for placement in placements], np.int64)


class ChunkQueue:
    """A rank's batches of chunks whose offsets are not known yet, oldest first."""

    def __init__(self, file: PlacedFile) -> None:
        """Begin. Not collective."""
        self._file = file
        self._comm = file.comm
        self._checkpoints = file.checkpoints
        self._allocator: ChunkAllocator | None = None
        if file.placer is not None:
            self._allocator = ChunkAllocator(file.placer, file.checkpoints, file.comm)
        self._waiting: deque[list[bytes]] = deque()
        self._sends: list[Request] = []

    @property
    def full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._waiting) >= _MOST_WAITING

    def put(self, asks: NDArray[np.int64], chunks: list[bytes]) -> None:
        """Ask rank 0 where chunks belong; they are written when it has answered. Not collective.

        Args:
            asks: (chunks, 4), the arguments of `ChunkPlacer.place`.
            chunks: their bytes.

        Raises:
            OutputError: see `PlacedFile.write`.
        """
        while self.full:
            self.advance()
            time.sleep(_NAP_S)
        self._waiting.append(chunks)
        self._checkpoints.begin_write()
        if self._allocator is not None:
            self._allocator.serve()  # with small images the beats are not often enough
            self._write_oldest(self._allocator.place(asks))
        else:
            self._sends.append(self._comm.send(0, _ASK, asks))

    def advance(self) -> bool:
        """See `Writer.advance`. On rank 0 it also serves the other ranks."""
        if self._allocator is not None:
            self._allocator.serve()
        elif (answer := self._comm.receive(_ANSWER)) is not None:
            self._write_oldest(answer[1])
        if self._sends:
            self._sends = [send for send in self._sends if not send.test()]
        self._checkpoints.tick()
        return not self._waiting and not self._sends

    def _write_oldest(self, offsets: NDArray[np.int64]) -> None:
        """Write the oldest batch, neighbouring chunks in one call."""
        run: list[bytes] = []
        run_start = run_end = 0
        for offset, data in zip(offsets.tolist(), self._waiting.popleft(), strict=True):
            if offset != run_end or len(run) == _MOST_VECTORS:
                self._file.write(run_start, run)
                run, run_start = [], offset
            run.append(data)
            run_end = offset + len(data)
        self._file.write(run_start, run)
        self._checkpoints.end_write()
