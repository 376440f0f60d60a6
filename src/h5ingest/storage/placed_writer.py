"""The writer for filtered chunks, for trees, for local disks, and without a parallel HDF5.

Each rank compresses its own chunks (`compress`) and tells root only their lengths; root takes space
for them (`placer`) and tells the offsets; the rank writes its bytes there, neighbouring chunks in
one call. Nobody waits: a rank goes on with the next batch while root places this one, and root
serves the others between its own images. Unfiltered datasets lie at an offset that is known from
the start; on ext4 and XFS they are written around the system's cache (`direct`).

The bytes are written by `pwrite`, not through MPI-IO: its errors say what happened (ENOSPC), its
data is brought to the disk by one rank without the others, and it has none of the known bugs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import Layout
from h5ingest.mpi.async_sum import while_root_works
from h5ingest.mpi.comm import Comm, Request, agreeing
from h5ingest.storage.buffer import Buffer
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_allocator import ANSWER, ASK, ChunkAllocator
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.compress import Compressor, ImageCompressor
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.direct_io import DirectFile, write_all
from h5ingest.storage.journal import Done, Record, pack
from h5ingest.storage.writer import Image

if TYPE_CHECKING:
    from concurrent.futures import Future

_MOST_WAITING: Final = 4
"""Batches whose offsets a rank may be waiting for before it pauses: bounds its memory."""
_ASK_IMAGES: Final = 256
_ASK_BYTES: Final = 256 * 1024
"""Images of a tree whose places are asked for together, and their bytes, if it is more than one."""
_NAP_S: Final = 0.0005
_MOST_VECTORS: Final = 512
"""Buffers in one pwritev; IOV_MAX is 1024 on Linux."""


class PlacedWriter:
    """One shared file: root has it open in HDF5, every rank as bytes."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        comm: Comm,
        checkpoints: Checkpoints,
        known: Sequence[Record] = (),
        *,
        direct: bool = False,
    ) -> None:
        """Create the file with all datasets. Collective.

        Args:
            path: the file; it exists.
            layout: its datasets.
            comm: the ranks.
            checkpoints: is told what has been written.
            known: on root, the journal of a job that did not end: its bytes are kept.
            direct: write unfiltered rows around the system's cache.

        Raises:
            OutputError: HDF5 cannot create it (on all ranks).
        """
        self._path = path
        self._comm = comm
        self._specs = layout.datasets
        self._names = {spec.name: i for i, spec in enumerate(layout.datasets)}
        self._compressors: dict[int, Compressor] = {}
        self._waiting: deque[tuple[list[bytes], list[Done]]] = deque()
        """Chunks of each batch whose offsets root has not told yet, oldest first, and what is done
        when they have been written."""
        self._sends: list[Request] = []
        self._buffer = Buffer()
        self._room: NDArray[Any] | None = None
        """The one that was given out last, if it is to be written directly."""
        self._under_way: deque[tuple[Future[None], int, list[Done]]] = deque()
        """What a thread writes, oldest first: where, and what is done after each."""
        self._checkpoints = checkpoints
        self._allocator: ChunkAllocator | None = None
        self._is_tree = layout.kind == "tree"
        self._compress_image = ImageCompressor(layout.filters).compress
        self._images: dict[tuple[int, int], tuple[int, int | None]] = {}
        """(group, row) of a tree -> (number of the dataset, where it begins)."""
        self._asks: list[tuple[int, int, int, int]] = []
        self._chunks: list[bytes] = []
        """Images whose places have not been asked for yet: what to ask, and what to write."""
        self._n_bytes = 0
        """Of them."""
        offsets: list[int | None] | None = None
        with while_root_works(comm) as beat:
            if comm.rank == 0:
                placer = ChunkPlacer(path, layout, known, beat)
                offsets = placer.offsets
                self._allocator = ChunkAllocator(placer, checkpoints, comm)
                if layout.kind != "tree":  # that has more datasets first: `create_images`
                    self._recall(placer, known, beat)
        self._known = known
        self._offsets: list[int | None] = comm.bcast(offsets)
        with agreeing(comm), output_errors(f"{path}: cannot be opened by rank {comm.rank}"):
            self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._direct: DirectFile | None = None
        if direct:
            assert not layout.filters, "their places are not known"
            what = f"{path}: cannot be written directly, --direct-io off does without that"
            with agreeing(comm), output_errors(what):
                self._direct = DirectFile(path, self._fd)

    def get_buffer(self, name: str, rows: range) -> NDArray[Any]:
        """See `Writer.get_buffer`."""
        dataset = self._names[name]
        spec, start = self._specs[dataset], self._offsets[dataset]
        shape = (len(rows), *spec.shape[1:])
        if self._direct is None or start is None:
            return self._buffer.array(shape, spec.dtype)
        self._take_note()
        offset = start + rows.start * spec.row_bytes
        self._room = self._direct.get_buffer(shape, spec.dtype, offset)
        return self._room

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """See `Writer.write`."""
        if not rows:
            return
        dataset = self._names[name]
        start = self._offsets[dataset]
        if start is not None:
            offset = start + rows.start * self._specs[dataset].row_bytes
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            if self._direct is None:
                self._write_at(offset, [little.data])
                return
            self._checkpoints.guard()
            write = self._direct.write if values is self._room else self._direct.write_copy
            self._under_way.append((write(little, offset), offset, []))
            return
        self._send(*self._compress(dataset, rows, values))

    def _send(self, ask: NDArray[np.int64], chunks: list[bytes]) -> None:
        """Ask root where chunks belong; they are written when it has answered."""
        while len(self._waiting) >= _MOST_WAITING and not self.advance():
            time.sleep(_NAP_S)
        self._waiting.append((chunks, []))
        if self._allocator is not None:
            self._allocator.serve()  # with small images the beats are not often enough
            self._store(self._allocator.place(ask))
        else:
            self._sends.append(self._comm.send(0, ASK, ask))

    def create_images(self, images: Sequence[Image]) -> None:
        """See `Writer.create_images`."""
        every = self._comm.gather(list(images))
        answers: list[list[int | None]] = [[] for _ in range(self._comm.size)]
        with while_root_works(self._comm) as beat:
            if self._allocator is not None and every is not None:
                placer = self._allocator.placer
                begin = iter(placer.create_images(chain.from_iterable(every), beat))
                answers = [[next(begin) for _ in told] for told in every]
                self._recall(placer, self._known, beat)
        offsets = self._comm.exchange(answers)[0]
        first = len(self._specs) + sum(self._comm.allgather(len(images))[: self._comm.rank])
        for number, (image, offset) in enumerate(zip(images, offsets, strict=True), first):
            self._images[image.group, image.row] = number, offset

    def _recall(
        self, placer: ChunkPlacer, known: Sequence[Record], beat: Callable[[], None]
    ) -> None:
        """Compare the new file with what an earlier job knew, or have it known. Root only."""
        if known:
            placer.replay(beat)
        else:
            self._checkpoints.enter(pack(placer.begins()))

    def write_image(self, group: int, row: int, values: NDArray[Any]) -> None:
        """See `Writer.write_image`. The values may be reused at once."""
        number, offset = self._images[group, row]
        if offset is not None:
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            self._write_at(offset, [little.data])
            return
        mask, data = self._compress_image(values)
        self._asks.append((number, 0, len(data), mask))
        self._chunks.append(data)
        self._n_bytes += len(data)
        if len(self._asks) >= _ASK_IMAGES or self._n_bytes >= _ASK_BYTES:
            self._ask()

    def _ask(self) -> None:
        """Ask for the places of a tree's images."""
        if self._asks:
            asks, chunks = np.array(self._asks, np.int64), self._chunks
            self._asks, self._chunks, self._n_bytes = [], [], 0
            self._send(asks, chunks)

    def mark(self, group: int, span: range, *, joints: int = 0) -> None:
        """See `Writer.mark`."""
        done = Done(group, span.start, span.stop, joints)
        self._ask()
        if self._waiting:  # what was written last may be waiting still
            self._waiting[-1][1].append(done)
        elif self._under_way:
            self._under_way[-1][2].append(done)
        else:
            self._checkpoints.note(done)

    def names(self) -> dict[int, list[tuple[str, str]]] | None:
        """See `Writer.names`."""
        if self._allocator is None or not self._is_tree:
            return None
        return self._allocator.placer.names()

    def advance(self) -> bool:
        """See `Writer.advance`. On root it also serves the other ranks."""
        if self._allocator is not None:
            self._allocator.serve()
        elif (answer := self._comm.receive(ANSWER)) is not None:
            self._store(answer[1])
        if len(self._waiting) < _MOST_WAITING:
            self._ask()
        if self._sends:
            self._sends = [send for send in self._sends if not send.test()]
        self._take_note()
        self._checkpoints.tick()
        return not self._waiting and not self._sends and not self._under_way

    def _take_note(self, *, wait: bool = False) -> None:
        """Note what the thread has written by now, or, if need be, wait for all of it.

        Raises:
            OutputError: it could not write something.
        """
        while self._under_way and (wait or self._under_way[0][0].done()):
            written, offset, dones = self._under_way[0]
            with self._write_errors(offset):
                written.result()
            self._under_way.popleft()
            for done in dones:
                self._checkpoints.note(done)

    def close(self) -> None:
        """See `Writer.close`."""
        with agreeing(self._comm):
            self._take_note(wait=True)
        self.give_up()
        self._checkpoints.finish()
        os.close(self._fd)
        with agreeing(self._comm):
            if self._allocator is not None:
                self._allocator.placer.close()

    def give_up(self) -> None:
        """See `Writer.give_up`."""
        if self._direct is not None:
            self._direct.close()
            self._direct = None

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
        chunks, dones = self._waiting.popleft()
        for offset, data in zip(offsets.tolist(), chunks, strict=True):
            if offset != run_end or len(run) == _MOST_VECTORS:
                self._write_at(run_start, run)
                run, run_start = [], offset
            run.append(data)
            run_end = offset + len(data)
        self._write_at(run_start, run)
        for done in dones:
            self._checkpoints.note(done)

    def _write_at(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        self._checkpoints.guard()
        with self._write_errors(offset):
            write_all(self._fd, parts, offset)

    def _write_errors(self, offset: int) -> AbstractContextManager[None]:
        what = f"{self._path}: writing at byte {offset} on rank {self._comm.rank}"
        return output_errors(what)
