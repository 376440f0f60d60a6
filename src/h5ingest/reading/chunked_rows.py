"""Rows of a dataset in chunks of whole rows: each chunk read as stored, decoded once, kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.reading.checks import Checks, StoredChunk, Verify
from h5ingest.reading.chunk_cache import ChunkCache
from h5ingest.reading.dataset_rule import StoredDataset, check_available
from h5ingest.reading.forksafe_file import ForkSafeFile, plain_dtype
from h5ingest.reading.rows import Indices, all_normal, normal
from h5ingest.reading.threads import Threads
from h5ingest.reading.unfilter import FilterPipeline

_FEW: Final = 8
"""Rows of a chunk up to which copying one by one beats an index array."""


class ChunkedRows:
    """Rows in chunks, with the decoded chunks that were used last.

    A chunk that is one row is not kept: it is decoded into the caller's array, and an epoch does
    not come back to it.
    """

    def __init__(
        self,
        handle: ForkSafeFile,
        dataset: StoredDataset,
        cache_bytes: int,
        threads: Threads,
        read_sums: Callable[[], NDArray[np.uint64] | None],
        verify: Verify,
    ) -> None:
        """Prepare.

        Args:
            handle: of the file.
            dataset: (N, …), chunked along axis 0 only.
            cache_bytes: what decoded chunks may take; one is always kept.
            threads: for the chunks of a batch.
            read_sums: returns (chunks,) checksums of the chunks as they are stored, to be compared
                before they are decoded; or None: they have none.
            verify: when; see `ImageStore`.

        Raises:
            SetupError: a filter is not available here.
        """
        self.shape, self.dtype = dataset.shape, plain_dtype(dataset.dtype)
        self._handle, self._name, self._threads = handle, dataset.name, threads
        self._pipeline = FilterPipeline(dataset.chunks, self.dtype, dataset.filters)
        self.chunk_rows: int = dataset.chunks[0]
        self._beyond = (0,) * (len(self.shape) - 1)
        n_chunks = -(-self.shape[0] // self.chunk_rows)
        n_kept = min(n_chunks, max(1, cache_bytes // self._pipeline.chunk_bytes))
        self._cache = ChunkCache(handle, n_kept, self._pipeline.chunk_shape, self.dtype)
        self._read_sums, self._verify = read_sums, verify
        self._checks: Checks | None = None
        self._has_looked = verify == "never"
        """Whether there is nothing to be found out about checksums."""

    @property
    def checks(self) -> Checks | None:
        """Of the chunks; None: what is stored is not compared."""
        if not self._has_looked:
            self._checks, self._has_looked = self._find_checks(), True
        return self._checks

    def _find_checks(self) -> Checks | None:
        sums = self._read_sums()
        if sums is None:
            return None
        once = self._verify == "first"
        if self._verify == "auto":  # what HDF5 decodes has to be read twice to be compared
            once = not self._pipeline.native
        return Checks(self._handle.path, lambda: sums, self._describe(), once=once)

    def one(self, row: int) -> NDArray[Any]:
        """Return a copy of the row."""
        chunk, place = divmod(normal(row, self.shape[0]), self.chunk_rows)
        if self.chunk_rows == 1:
            out = np.empty((1, *self.shape[1:]), self.dtype)
            self._decode(chunk, out)
            found: NDArray[Any] = out[0]
            return found
        values = self._cache.hold(chunk, self._decode)
        try:
            found = values[place].copy()
        finally:
            self._cache.lock.release()
        return found

    def span(self, rows: slice) -> NDArray[Any]:
        """Return a copy of the rows of a slice."""
        wanted = range(*rows.indices(self.shape[0]))
        if wanted.step != 1:
            return self.many(np.array(wanted, np.intp))
        step = self.chunk_rows
        first_chunk, place = divmod(wanted.start, step)
        if wanted and 1 < step >= place + len(wanted):  # as most slices are
            values = self._cache.hold(first_chunk, self._decode)
            try:
                return values[place : place + len(wanted)].copy()
            finally:
                self._cache.lock.release()
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype)

        def fill(chunk: int) -> None:
            first = chunk * step
            start, stop = max(first, wanted.start), min(first + step, wanted.stop)
            target = out[start - wanted.start : stop - wanted.start]
            if step == 1:
                self._decode(chunk, target)
                return
            values = self._cache.hold(chunk, self._decode)
            try:
                target[...] = values[start - first : stop - first]
            finally:
                self._cache.lock.release()

        chunks = range(wanted.start // step, -(-wanted.stop // step)) if wanted else range(0)
        n_new = sum(chunk not in self._cache for chunk in chunks)
        self._threads.each(fill, chunks, n_new * self._pipeline.chunk_bytes)
        return out

    def many(self, rows: Indices) -> NDArray[Any]:
        """Return copies of the rows in the order asked; each chunk is decoded once."""
        rows = all_normal(rows, self.shape[0])
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        where: dict[int, list[int]] = {}  # chunk -> places in `out`
        for place, chunk in enumerate((rows // self.chunk_rows).tolist()):
            where.setdefault(chunk, []).append(place)

        def fill(chunk: int) -> None:
            self._take(chunk, rows, where[chunk], out)

        # Those that are kept first: reading the others could push them out.
        kept = [chunk for chunk in where if chunk in self._cache]
        for chunk in kept:
            fill(chunk)
        others = sorted(where.keys() - kept) if kept else sorted(where)
        self._threads.each(fill, others, len(others) * self._pipeline.chunk_bytes)
        return out

    def _take(self, chunk: int, rows: Indices, places: list[int], out: NDArray[Any]) -> None:
        """Copy those rows that are in a chunk to their places in `out`."""
        if self.chunk_rows == 1:
            self._decode(chunk, out[places[0] : places[0] + 1])
            out[places[1:]] = out[places[0]]
            return
        in_chunk = rows[places] - chunk * self.chunk_rows
        values = self._cache.hold(chunk, self._decode)
        try:
            if len(places) > _FEW:
                out[places] = values[in_chunk]
            else:
                for place, row in zip(places, in_chunk.tolist(), strict=True):
                    out[place] = values[row]
        finally:
            self._cache.lock.release()

    def stored(self, chunk: int) -> StoredChunk | None:
        """Return a chunk as it is stored; None if nothing says that it is what was stored."""
        if self.checks is None:
            return None
        first = chunk * self.chunk_rows, *self._beyond
        with self._handle:
            return StoredChunk.read(self._handle.dataset(self._name), first, chunk, self.checks)

    def _decode(self, chunk: int, out: NDArray[Any]) -> None:
        """Fill `out`, of the shape of a chunk, C-contiguous.

        Raises:
            OutputError: the chunk cannot be read or decoded, or is not what was stored: the file is
                damaged.
        """
        checks = self.checks
        native = self._pipeline.native and not (checks is None and self._pipeline.overlooks_damage)
        stored = self._stored(chunk) if native or checks is not None else None
        if checks is not None:  # before a decoder sees it that may crash
            if stored is None:
                what = f"{self._handle.path}: {self._describe()(chunk)}"
                raise OutputError(f"{what} is damaged: it is not where it should be")
            checks.one(chunk, stored[1])
        if native and stored is not None:
            try:
                self._pipeline.decode_into(*stored, out)
            except ValueError as error:
                raise OutputError(
                    f"{self._handle.path}: {self._name}: chunk {chunk} is damaged: {error}"
                ) from None
            return
        check_available(self._pipeline.filters)
        start = chunk * self.chunk_rows
        with self._handle:
            rows = self._handle.dataset(self._name)[start : start + self.chunk_rows]
        out[: len(rows)] = rows

    def _stored(self, chunk: int) -> tuple[int, bytes] | None:
        """Return (filter mask, bytes) of a chunk; None if it was never written."""
        first = chunk * self.chunk_rows, *self._beyond
        with self._handle:
            dataset = self._handle.dataset(self._name)
            try:
                mask, data = dataset.id.read_direct_chunk(first)
            except (OSError, RuntimeError):  # or not readable, which HDF5 is going to say once more
                return None
        return mask, data

    def _describe(self) -> Callable[[int], str]:
        """Return what names a chunk; it does not hold this object, and with it the file."""
        name, rows, n_rows = self._name, self.chunk_rows, self.shape[0]
        what = "images" if self._beyond else "elements"

        def describe(chunk: int) -> str:
            first, last = chunk * rows, min((chunk + 1) * rows, n_rows) - 1
            return f"{name}: chunk {chunk} ({what} {first:,} to {last:,})"

        return describe


def stored_chunk(rows: object, chunk: int) -> StoredChunk | None:
    """Return a chunk as it is stored, if the rows are in compressed chunks with checksums."""
    return rows.stored(chunk) if isinstance(rows, ChunkedRows) else None
