"""The writer for filtered rows: each rank compresses its own chunks, rank 0 places them.

HDF5's own way is a collective write. Besides what that costs, HDF5 1.10.8 then loses the filter
mask of a chunk that an optional filter declined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.storage.chunk_queue import ChunkQueue
from h5ingest.storage.compress import compressor
from h5ingest.storage.placed_file import PlacedFile, RowWriter


class ChunkWriter(RowWriter):
    """Writes filtered chunks where rank 0 has placed them, and unfiltered rows at their offsets."""

    def __init__(self, file: PlacedFile) -> None:
        """Begin. Not collective."""
        super().__init__(file)
        self._queue = ChunkQueue(file)
        self._numbers = {spec.name: i for i, spec in enumerate(file.layout.datasets)}
        self._compressors: dict[str, Callable[[NDArray[Any]], tuple[int, bytes]]] = {}
        groups = file.layout.groups
        self._checksums = {g.pixels.name: g.chunk_checksums for g in groups if g.chunk_checksums}

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        if rows and self._specs[name].filters:
            self._put(name, *self._compress(name, rows, values))
        else:
            super().write(name, rows, values)

    def write_chunks(self, name: str, first: int, chunks: Sequence[tuple[int, bytes]]) -> None:
        number = self._numbers[name]
        asks = [
            (number, chunk, len(data), mask) for chunk, (mask, data) in enumerate(chunks, first)
        ]
        self._put(name, np.array(asks, np.int64), [data for _, data in chunks])

    def _put(self, name: str, asks: NDArray[np.int64], chunks: list[bytes]) -> None:
        """Write the checksums of neighbouring chunks, and have these placed."""
        first = int(asks[0, 1])
        sums = np.fromiter(map(xxh3_64_intdigest, chunks), np.uint64, len(chunks))
        super().write(self._checksums[name].name, range(first, first + len(sums)), sums)
        self._queue.put(asks, chunks)

    def _compress(
        self, name: str, rows: range, values: NDArray[Any]
    ) -> tuple[NDArray[np.int64], list[bytes]]:
        """Return what to ask rank 0, and the chunks. Serves the other ranks in between."""
        spec, number = self._specs[name], self._numbers[name]
        compress = self._compressors.get(name)
        if compress is None:
            compress = self._compressors[name] = compressor(spec)
        chunk_rows = spec.chunk_rows or 1
        starts = range(rows.start, rows.stop, chunk_rows)
        asks = np.empty((len(starts), 4), np.int64)  # dataset, chunk, bytes, filter mask
        chunks = []
        for i, start in enumerate(starts):
            local = start - rows.start
            mask, data = compress(values[local : local + chunk_rows])
            asks[i] = number, start // chunk_rows, len(data), mask
            chunks.append(data)
            self.advance()
        return asks, chunks

    def advance(self) -> bool:
        """On rank 0 it also serves the other ranks."""
        return self._queue.advance()
