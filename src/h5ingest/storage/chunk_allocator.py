"""Rank 0's side of placing chunks: ranks ask for space, it takes it, enters it, and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.journal import pack

if TYPE_CHECKING:
    from h5ingest.storage.chunk_placer import ChunkPlacer

ASK: Final = 1
"""Tag of what a rank asks: (chunks, 4) int64, the arguments of `ChunkPlacer.place`."""
ANSWER: Final = 2
"""Tag of the answer: the offsets, (chunks,) int64."""


class ChunkAllocator:
    """Takes space in the file for all ranks; each asks for its own chunks."""

    def __init__(self, placer: ChunkPlacer, checkpoints: Checkpoints, comm: Comm) -> None:
        """Begin. Rank 0 only."""
        self.placer = placer
        self._checkpoints = checkpoints
        self._comm = comm
        self._sends: list[Request] = []

    def serve(self) -> None:
        """Answer what ranks have asked so far. Never waits."""
        while (message := self._comm.receive(ASK)) is not None:
            rank, ask = message
            answer = self.place(ask.reshape(-1, 4))
            self._sends.append(self._comm.send(rank, ANSWER, answer))
        if self._sends:
            self._sends = [send for send in self._sends if not send.test()]

    def place(self, ask: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets (chunks,) of what a rank asks (chunks, 4)."""
        placements = [self.placer.place(*row) for row in ask.tolist()]
        self._checkpoints.enter(pack(placements))
        return np.array([placement.offset for placement in placements], np.int64)
