"""The writer for trees: each image is a dataset, unfiltered or of one chunk that is placed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.moments import ByKind
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import agreeing
from h5ingest.storage.chunk_queue import ChunkQueue
from h5ingest.storage.compress import ImageCompressor
from h5ingest.storage.gathered_writes import GatheredWrites
from h5ingest.storage.placed_file import PlacedFile, RowWriter
from h5ingest.storage.shared_blocks import as_bytes
from h5ingest.storage.writer import Image, TreeWriter

_ASK_IMAGES: Final = 256
_ASK_BYTES: Final = 256 * 1024
"""Images whose places are asked for together, and their bytes, if it is more than one."""


class PlacedTreeWriter(RowWriter, TreeWriter):
    """Writes images where rank 0 has created or placed them, and rows at their offsets."""

    def __init__(self, file: PlacedFile) -> None:
        """Begin with a file that has no datasets for images yet. Not collective."""
        super().__init__(file)
        self._queue = ChunkQueue(file)
        of_groups = [group.pixels.filters for group in file.layout.groups]
        compressors = {filters: ImageCompressor(filters) for filters in of_groups}
        self._compressors = [compressors[filters] for filters in of_groups]
        """Of each group."""
        self._held = GatheredWrites(lambda offset, data: file.write(offset, [data]))
        """Small unfiltered images, which lie side by side."""
        self._images: dict[tuple[int, int], tuple[int, int | None]] = {}
        """(group, row) -> (number of the dataset, where it begins)."""
        self._asks: list[tuple[int, int, int, int]] = []
        self._chunks: list[bytes] = []
        """Images whose places have not been asked for yet: what to ask, and what to write."""
        self._n_bytes = 0
        """Bytes in `_chunks`."""

    def create_images(self, images: Sequence[Image]) -> None:
        comm = self._file.comm
        every = comm.gather(list(images))
        answers: list[list[int | None]] = [[] for _ in range(comm.size)]
        with while_rank_0_works(comm) as beat:
            placer = self._file.placer
            if placer is not None and every is not None:
                begin = iter(placer.create_images(chain.from_iterable(every), beat))
                answers = [[next(begin) for _ in told] for told in every]
                self._checkpoints.enter(placer.replay(beat))
        offsets = comm.exchange(answers)[0]
        first = len(self._specs) + sum(comm.allgather(len(images))[: comm.rank])
        for number, (image, offset) in enumerate(zip(images, offsets, strict=True), first):
            self._images[image.group, image.row] = number, offset

    def write_image(self, group: int, row: int, values: NDArray[Any]) -> int:
        _, offset = self._images[group, row]
        if offset is not None:
            plain = as_bytes(values)
            self._held.put(offset, plain)
            filters = self._file.layout.groups[group].pixels.filters
            return xxh3_64_intdigest(plain) if filters else 0
        return self.write_image_chunk(group, row, *self._compressors[group].compress(values))

    def write_image_chunk(self, group: int, row: int, mask: int, data: bytes) -> int:
        number, _ = self._images[group, row]
        self._asks.append((number, 0, len(data), mask))
        self._chunks.append(data)
        self._n_bytes += len(data)
        if len(self._asks) >= _ASK_IMAGES or self._n_bytes >= _ASK_BYTES:
            self._ask()
        return xxh3_64_intdigest(data)

    def _ask(self) -> None:
        """Ask for the places of the images that have been compressed."""
        if self._asks:
            asks, chunks = np.array(self._asks, np.int64), self._chunks
            self._asks, self._chunks, self._n_bytes = [], [], 0
            self._queue.put(asks, chunks)

    def mark(self, group: int, span: range, *, joints: int = 0, sums: ByKind | None = None) -> None:
        self._held.flush()
        self._ask()
        super().mark(group, span, joints=joints, sums=sums)

    def names(self) -> dict[int, list[tuple[str, str]]] | None:
        placer = self._file.placer
        return None if placer is None else placer.names()

    def advance(self) -> bool:
        """On rank 0 it also serves the other ranks."""
        if not self._queue.full:
            self._ask()
        return self._queue.advance()

    def give_up(self) -> None:
        self._held.drop()

    def close(self) -> None:
        with agreeing(self._file.comm):
            self._held.flush()  # what was not marked, as images beside it failed
        super().close()
