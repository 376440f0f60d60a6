"""Rows of one dataset, in whatever way is fastest for how it lies in the file.

`FlatRows`: unfiltered, one piece of the file: no HDF5, but `pread`, or a mapping for small rows.
`ChunkedRows` (`chunked`): whole-row chunks, filtered or scattered: decoded once each, kept a while.
`PlainRows`: everything else, through HDF5.

All of them return copies, take negative indices, and raise IndexError beyond the end.
"""

from __future__ import annotations

import math
import mmap
import operator
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.units import MIB
from h5ingest.reading.dataset_rule import StoredDataset, naming
from h5ingest.reading.forksafe_file import LARGE_BYTES, FileBytes, ForkSafeFile, plain_dtype

Indices = NDArray[np.intp]

_PREAD_BYTES: Final = 64 * 1024
"""Bytes from which one `pread` costs no more than the page faults of a mapping, and asks a disk for
all of them at once; and an error of the disk is then an exception, not a signal."""
_SAMPLED_CHUNKS: Final = 1024
_COPIED_BYTES: Final = 64 * MIB
"""Of a dataset beside the images, up to which each process has its own copy."""
_HUGE_BYTES: Final = 4 * MIB
"""Bytes from which NumPy takes huge pages, and an array lies by itself."""
_STEP: Final = 64
"""Bytes of a cache line: any dtype stays aligned."""


class Rows(Protocol):
    """A dataset as a sequence of rows."""

    shape: tuple[int, ...]
    """(N, …), as in the file."""
    dtype: np.dtype[Any]
    """Type of the elements."""

    def one(self, row: int) -> NDArray[Any]:
        """Return the row, shape (…)."""

    def span(self, rows: slice) -> NDArray[Any]:
        """Return the rows of a slice, (n, …)."""

    def many(self, rows: Indices) -> NDArray[Any]:
        """Return the rows in the order asked, repeats included, (len(rows), …)."""


def normal(row: int, n_rows: int) -> int:
    """Return the row counted from the front.

    Raises:
        IndexError: there is no such row.

    >>> normal(-1, 10)
    9
    """
    if not -n_rows <= row < n_rows:
        raise IndexError(f"index {row} is out of range for {n_rows:,} images")
    return row + n_rows if row < 0 else row


def all_normal(rows: Indices, n_rows: int) -> Indices:
    """Return the rows counted from the front; see `normal`."""
    if not len(rows):
        return rows
    low, high = int(rows.min()), int(rows.max())
    normal(low, n_rows), normal(high, n_rows)
    return np.where(rows < 0, rows + n_rows, rows) if low < 0 else rows


class FlatRows:
    """Rows that lie back to back in the file.

    What is large is read with `pread`, what is small is copied from a mapping. Before the mapping
    is touched the file is looked at, if that was not done a moment ago: to touch what somebody has
    cut off ends the process.
    """

    def __init__(
        self, file: FileBytes, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Map the rows.

        Args:
            file: the bytes.
            offset: byte of the first element.
            shape: (N, …).
            dtype: of an element.

        Raises:
            OutputError: the file ends before the last row does.
        """
        self.shape, self.dtype = shape, dtype
        self._file, self._offset = file, offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        view = file.mapped(offset, math.prod(shape), dtype)
        self._view = view.reshape(shape)
        self._by_pread = self._row_bytes >= _PREAD_BYTES
        # One element a row: NumPy then gathers with one memcpy each, and checks bounds on the way.
        self._elements = None
        if 0 < self._row_bytes < _PREAD_BYTES:
            flat = view.view(np.uint8).view(np.dtype((np.void, self._row_bytes)))
            self._elements = flat.reshape(shape[0])

    def one(self, row: int) -> NDArray[Any]:
        """Return a copy of the row."""
        if not self._by_pread:
            if monotonic() > self._file.sure_until_s:
                self._file.check()
            found: NDArray[Any] = self._view[row].copy()
            return found
        out = np.empty(self.shape[1:], self.dtype)
        self._file.read_into(out, self._byte(normal(row, self.shape[0])))
        return out

    def span(self, rows: slice) -> NDArray[Any]:
        """Return a copy of the rows of a slice."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            return self.many(np.arange(start, stop, step, dtype=np.intp))
        if (stop - start) * self._row_bytes < _PREAD_BYTES:
            if monotonic() > self._file.sure_until_s:
                self._file.check()
            return self._view[rows].copy()
        offset = self._byte(start)
        out = _empty_for(offset, (stop - start, *self.shape[1:]), self.dtype)
        self._file.read_into(out, offset)
        return out

    def raw(self, start: int, stop: int) -> bytes:
        """Return the bytes of some rows as they are in the file."""
        n_bytes = (stop - start) * self._row_bytes
        if n_bytes >= _PREAD_BYTES:
            return self._file.read_bytes(self._byte(start), n_bytes)
        if monotonic() > self._file.sure_until_s:
            self._file.check()
        return self._view[start:stop].tobytes()

    def many(self, rows: Indices) -> NDArray[Any]:
        """Return copies of the rows in the order asked."""
        if self._by_pread:
            out = np.empty((len(rows), *self.shape[1:]), self.dtype)
            for place, row in enumerate(all_normal(rows, self.shape[0]).tolist()):
                self._file.read_into(out[place], self._byte(row))
            return out
        if monotonic() > self._file.sure_until_s:
            self._file.check()
        if self._elements is None:  # elements of no bytes
            return self._view[rows]
        found = self._elements[rows].view(self.dtype).reshape(len(rows), *self.shape[1:])
        if len(rows) * self._row_bytes >= LARGE_BYTES:
            self._file.check()
        return found

    def _byte(self, row: int) -> int:
        return self._offset + row * self._row_bytes


def _empty_for(offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array to be filled from a byte of a file on.

    NumPy's large arrays begin 16 bytes after a page does. From the beginning of a page of the file
    the processor copies to there at half its speed: each store seems to be to what it loads next.
    So a large array begins where the byte does in its page, or a little before.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < _HUGE_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(n_bytes + mmap.PAGESIZE, np.uint8)
    start = (offset - memory.ctypes.data) % mmap.PAGESIZE // _STEP * _STEP
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


class PlainRows:
    """Rows of any dataset, through HDF5 itself."""

    def __init__(self, handle: ForkSafeFile, dataset: h5py.Dataset) -> None:
        """Remember the name.

        Args:
            handle: of the file.
            dataset: (N, …) numbers.
        """
        self.shape, self.dtype = dataset.shape, plain_dtype(dataset.dtype)
        self._handle, self._name = handle, dataset.name

    def one(self, row: int) -> NDArray[Any]:
        """Return the row."""
        row = normal(row, self.shape[0])
        found: NDArray[Any] = self.span(slice(row, row + 1))[0]
        return found

    def span(self, rows: slice) -> NDArray[Any]:
        """Return the rows of a slice."""
        wanted = range(*rows.indices(self.shape[0]))
        if wanted.step != 1:
            return self.many(np.array(wanted, np.intp))
        with self._handle as file, naming(file, self._name):
            dataset = self._handle.dataset(self._name)
            found: NDArray[Any] = dataset[wanted.start : wanted.stop].view(self.dtype)
        return found

    def many(self, rows: Indices) -> NDArray[Any]:
        """Return the rows in the order asked; HDF5 is asked for each once, in its own order."""
        each, places = np.unique(all_normal(rows, self.shape[0]), return_inverse=True)
        with self._handle as file, naming(file, self._name):
            found: NDArray[Any] = self._handle.dataset(self._name)[each].view(self.dtype)
        return found[places]


def flat_offset(dataset: StoredDataset, file_creation: h5py.h5p.PropFCID) -> int | None:
    """Return the byte of the file where the dataset begins, if all of it lies there as in memory.

    None: it is filtered, scattered, virtual, compact, in another file, or was never allocated.

    Unfiltered chunks of whole rows, allocated at creation in a file of HDF5 1.10 or later, have an
    implicit index: one block, chunk i at i times the size of a chunk (HDF5 file format 3.0, VII.B).
    That is checked on all chunks up to 1,024 of them, and on so many, evenly spread and with the
    first and the last, beyond; on all of them if the file does not say that it is so new.

    Args:
        dataset: any.
        file_creation: the creation properties of its file.
    """
    if dataset.filters or not dataset.size or file_creation.get_userblock():
        return None
    if dataset.offset is not None:
        return dataset.offset
    if not dataset.chunks or dataset.chunks[1:] != dataset.shape[1:]:
        return None
    n_chunks = -(-dataset.shape[0] // dataset.chunks[0])
    recent = file_creation.get_version()[0] >= 3 and dataset.shape == dataset.maxshape
    looked_at: Iterable[int] = range(n_chunks)
    if (
        n_chunks > _SAMPLED_CHUNKS
        and recent
        and dataset.creation.get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY
    ):
        looked_at = np.linspace(0, n_chunks - 1, _SAMPLED_CHUNKS).astype(int).tolist()
    return _common_offset(dataset, looked_at)


def _common_offset(dataset: StoredDataset, chunks: Iterable[int]) -> int | None:
    """Return where chunk 0 would be for each of these chunks, if they agree."""
    n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    beyond = (0,) * (len(dataset.shape) - 1)
    found: int | None = None
    for chunk in chunks:
        info = dataset.id.get_chunk_info_by_coord((chunk * dataset.chunks[0], *beyond))
        if info.byte_offset is None or info.size != n_bytes:
            return None
        offset = operator.index(info.byte_offset) - chunk * n_bytes
        if found not in (None, offset):
            return None
        found = offset
    return found


def every(step: int, n_rows: int) -> NDArray[np.int64]:
    """Return the bounds of runs of so many rows: their first rows, and n_rows."""
    return np.append(np.arange(0, n_rows, step), n_rows).astype(np.int64)


def whole(file: h5py.File, file_bytes: FileBytes, dataset: StoredDataset) -> NDArray[Any]:
    """Return a dataset of numbers, read-only; the mapped file itself if that is large."""
    dtype = plain_dtype(dataset.dtype)
    offset = flat_offset(dataset, file.id.get_create_plist())
    values: NDArray[Any]
    if offset is None:
        with naming(file, dataset.name):
            values = dataset[()].view(dtype)
    else:
        get = file_bytes.read if dataset.nbytes <= _COPIED_BYTES else file_bytes.mapped
        values = get(offset, math.prod(dataset.shape), dtype).reshape(dataset.shape)
    values.flags.writeable = False
    return values
