"""The writer for filtered chunks, and for several ranks without a parallel HDF5.

Each rank compresses its own chunks (`compress`) and tells root only their lengths; root takes space
for them (`placer`) and tells the offsets; the rank writes its bytes there, neighbouring chunks in
one call. Nobody waits: a rank goes on with the next batch while root places this one, and root
serves the others between its own images. Unfiltered datasets lie at an offset that is known from
the start.

The bytes are written by `pwrite`, not through MPI-IO: its errors say what happened (ENOSPC), its
data is brought to the disk by one rank without the others, and it has none of the known bugs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.comm import Comm, Request, agreeing
from h5ingest.layout import Layout
from h5ingest.storage.compress import Compressor
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.journal import Journal, pack
from h5ingest.storage.placer import Placer

CHECKPOINT_S: Final = 30.0

_ASK: Final = 1
_ANSWER: Final = 2
_DURABLE: Final = 3
_MOST_WAITING: Final = 4
"""Batches whose offsets a rank may be waiting for before it pauses: bounds its memory."""
_NAP_S: Final = 0.0005
_MOST_VECTORS: Final = 512
"""Buffers in one pwritev; IOV_MAX is 1024 on Linux."""


class PlacedWriter:
    """One shared file: root has it open in HDF5, every rank as bytes."""

    def __init__(self, path: Path, layout: Layout, comm: Comm, journal: Journal | None) -> None:
        """Create the file with all datasets. Collective.

        Args:
            path: the file.
            layout: its datasets.
            comm: the ranks.
            journal: on root, takes the placements at each checkpoint.

        Raises:
            OutputError: HDF5 cannot create it (on all ranks).
        """
        self._path = path
        self._comm = comm
        self._specs = layout.datasets
        self._names = {spec.name: i for i, spec in enumerate(layout.datasets)}
        self._compressors: dict[int, Compressor] = {}
        self._waiting: deque[list[bytes]] = deque()
        """Chunks of each batch whose offsets root has not told yet, oldest first."""
        self._sends: list[Request] = []
        self._n_written = 0
        """Batches whose bytes have been written."""
        self._next_checkpoint_s = time.monotonic() + CHECKPOINT_S
        self._desk: Desk | None = None
        offsets: list[int | None] | None = None
        with agreeing(comm):
            if comm.rank == 0:
                placer = Placer(path, layout)
                offsets = placer.offsets()
                self._desk = Desk(placer, journal, comm)
        self._offsets: list[int | None] = comm.bcast(offsets)
        with agreeing(comm), output_errors(f"{path}: cannot be opened by rank {comm.rank}"):
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """See `Writer.write`. The values may be reused at once."""
        if not rows:
            return
        dataset = self._names[name]
        start = self._offsets[dataset]
        if start is not None:
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            self._write_at(start + rows.start * self._specs[dataset].row_bytes, [little.data])
            return
        while len(self._waiting) >= _MOST_WAITING:
            if self.advance():
                break
            time.sleep(_NAP_S)
        ask, chunks = self._compress(dataset, rows, values)
        self._waiting.append(chunks)
        if self._desk is not None:
            self._store(self._desk.place(0, ask))
        else:
            self._sends.append(self._comm.send(0, _ASK, ask))

    def advance(self) -> bool:
        """See `Writer.advance`. On root it also serves the other ranks."""
        if self._desk is not None:
            self._desk.serve()
        elif (answer := self._comm.receive(_ANSWER)) is not None:
            self._store(answer[1])
        self._sends = [send for send in self._sends if not send.test()]
        if time.monotonic() >= self._next_checkpoint_s:
            self._checkpoint()
        return not self._waiting and not self._sends

    def close(self) -> None:
        """See `Writer.close`."""
        with agreeing(self._comm), output_errors(f"{self._path}: cannot be closed"):
            os.fsync(self._fd)
            os.close(self._fd)
        with agreeing(self._comm):
            if self._desk is not None:
                self._desk.close()

    def _compress(
        self, dataset: int, rows: range, values: NDArray[Any]
    ) -> tuple[NDArray[np.int64], list[bytes]]:
        """Return what to ask root, and the chunks. Serves the other ranks in between."""
        spec = self._specs[dataset]
        compressor = self._compressors.get(dataset)
        if compressor is None:
            compressor = self._compressors[dataset] = Compressor(spec)
        chunk_rows = spec.chunk_rows or 1
        starts = range(rows.start, rows.stop, chunk_rows)
        # ask: (chunks, 4) dataset, chunk, bytes, filter mask
        ask = np.empty((len(starts), 4), np.int64)
        chunks = []
        for i, start in enumerate(starts):
            local = start - rows.start
            mask, data = compressor.compress(values[local : local + chunk_rows])
            ask[i] = dataset, start // chunk_rows, len(data), mask
            chunks.append(data)
            self.advance()
        return ask, chunks

    def _store(self, offsets: NDArray[np.int64]) -> None:
        """Write the oldest waiting batch, neighbouring chunks in one call."""
        run: list[bytes] = []
        run_start = run_end = 0
        for offset, data in zip(offsets.tolist(), self._waiting.popleft(), strict=True):
            if offset != run_end or len(run) == _MOST_VECTORS:
                self._write_at(run_start, run)
                run, run_start = [], offset
            run.append(data)
            run_end = offset + len(data)
        self._write_at(run_start, run)
        self._n_written += 1

    def _write_at(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        with output_errors(f"{self._path}: writing at byte {offset} on rank {self._comm.rank}"):
            while views:
                n_written = os.pwritev(self._fd, views, offset)
                offset += n_written
                while views and n_written >= len(views[0]):
                    n_written -= len(views.pop(0))
                if n_written:
                    views[0] = views[0][n_written:]

    def _checkpoint(self) -> None:
        """Bring this rank's bytes to the disk and tell root, for the journal. Not collective."""
        with output_errors(f"{self._path}: cannot be brought to the disk"):
            os.fsync(self._fd)
        if self._desk is not None:
            self._desk.confirm(0, self._n_written)
        else:
            count = np.array([self._n_written], np.int64)
            self._sends.append(self._comm.send(0, _DURABLE, count))
        self._next_checkpoint_s = time.monotonic() + CHECKPOINT_S


class Desk:
    """Root's side: takes what ranks ask, places, answers, and keeps the journal."""

    def __init__(self, placer: Placer, journal: Journal | None, comm: Comm) -> None:
        """Begin. Root only."""
        self._placer = placer
        self._journal = journal
        self._comm = comm
        self._sends: list[Request] = []
        self._unsaved: deque[tuple[int, int, bytes]] = deque()
        """(rank, number of the batch on that rank, records for the journal), oldest first."""
        self._n_placed = [0] * comm.size
        """Batches placed for each rank."""
        self._n_durable = [0] * comm.size
        """Batches that each rank has brought to the disk."""

    def serve(self) -> None:
        """Answer what ranks have asked so far. Never waits."""
        while (message := self._comm.receive(_ASK)) is not None:
            rank, ask = message
            answer = self.place(rank, ask.reshape(-1, 4))
            self._sends.append(self._comm.send(rank, _ANSWER, answer))
        while (message := self._comm.receive(_DURABLE)) is not None:
            self.confirm(message[0], int(message[1][0]))
        self._sends = [send for send in self._sends if not send.test()]

    def place(self, rank: int, ask: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets (chunks,) of what a rank asks (chunks, 4)."""
        placements = [self._placer.place(*row) for row in ask.tolist()]
        if self._journal is not None:
            self._unsaved.append((rank, self._n_placed[rank], pack(placements)))
        self._n_placed[rank] += 1
        return np.array([placement.offset for placement in placements], np.int64)

    def confirm(self, rank: int, n_durable: int) -> None:
        """Note how many batches of a rank are on the disk; save what has none missing before it."""
        self._n_durable[rank] = n_durable
        if self._journal is None:
            return
        ready: list[bytes] = []
        while self._unsaved and self._unsaved[0][1] < self._n_durable[self._unsaved[0][0]]:
            ready.append(self._unsaved.popleft()[2])
        if ready:
            self._journal.append(b"".join(ready))

    def close(self) -> None:
        """End the file; every rank's bytes are on the disk. Not collective."""
        self.serve()  # a last word on durability may still be here
        if self._journal is not None:
            self._journal.append(b"".join(records for _, _, records in self._unsaved))
        self._placer.close()
