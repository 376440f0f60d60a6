"""What one group of a file holds, and the fastest way to read each of its datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import OutputError
from h5ingest.core.schema import StandardDataset
from h5ingest.reading.checks import Checks, Verify, fit_chunks
from h5ingest.reading.chunked_rows import ChunkedRows
from h5ingest.reading.forksafe_file import FileBytes, ForkSafeFile, plain_dtype
from h5ingest.reading.images import Encoded, Images, Ragged, Stack, Tree
from h5ingest.reading.rows import FlatRows, PlainRows, Rows, flat_offset
from h5ingest.reading.text import Strings
from h5ingest.reading.threads import Threads

_BLOCK_BYTES: Final = 2**20
"""Of neighbouring images that are read together best, where the file has no chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What one group holds, ready to be read; belongs to a process and those forked from it."""

    images: Images
    """In the layout of the file."""
    n_rows: int
    """Samples, failed ones included."""
    row_shape: tuple[int, ...] | None
    """(H, W) or (H, W, C), where all images have it."""
    dtype: np.dtype[Any] | None
    """Type of the pixels, where all images have the same."""
    labels: NDArray[np.int64] | None
    """(n_rows,)"""
    status: NDArray[np.uint8]
    """(n_rows,)"""
    sizes: NDArray[Any] | None
    """(n_rows, 2) true height and width: of padded images, or where sizes differ."""
    bounds: NDArray[np.int64]
    """(B + 1,) first rows of blocks that are best read together, and n_rows."""
    label_names: tuple[str, ...] | None
    """Names of the classes."""
    columns: dict[str, str]
    """Column -> full name of its dataset."""


class Opener:
    """Finds the datasets of one group and the fastest way to read each."""

    def __init__(
        self,
        handle: ForkSafeFile,
        file: h5py.File,
        prefix: str,
        cache_bytes: int,
        n_threads: int | None,
        verify: Verify,
    ) -> None:
        """Map the file.

        Args:
            handle: of the file.
            file: what entering the handle gave; it is not left before `contents` returns.
            prefix: HDF5 path of the group: empty, or `/train`.
            cache_bytes: what decoded chunks may take.
            n_threads: that decode; see `Threads`.
            verify: when checksums are compared; see `ImageStore`.
        """
        self._threads = Threads(n_threads)
        self._handle, self._file, self._prefix = handle, file, prefix
        self._cache_bytes, self._verify = cache_bytes, verify
        self._bytes = FileBytes(handle.path, handle.identity)

    def contents(self, layout: str) -> Contents:
        """Return what the group holds.

        Raises:
            OutputError: datasets are missing or do not fit together.
            SetupError: a filter is not available here.
        """
        status = self.array(schema.STATUS)
        if status is None:
            raise self._missing(schema.STATUS)
        n_rows = len(status)
        images, shape, dtype, bounds = getattr(self, f"_{layout}")(n_rows)
        names = self._dataset(schema.LABEL_NAMES)
        columns = self._file.get(f"{self._prefix}/{schema.COLUMNS}") or {}
        return Contents(
            images=images, n_rows=n_rows, row_shape=shape, dtype=dtype,
            labels=self.array(schema.LABELS), status=status,
            sizes=self._sizes(layout), bounds=bounds,
            label_names=None if names is None else _texts(names),
            columns={name: columns[name].name for name in columns},
        )  # fmt: skip

    def array(self, wanted: StandardDataset) -> NDArray[Any] | None:
        """Return a dataset of numbers, read-only: the mapping itself where the file allows it."""
        dataset = self._dataset(wanted)
        if dataset is None:
            return None
        offset = flat_offset(dataset)
        if offset is not None:
            return FlatRows(self._bytes, offset, dataset.shape, plain_dtype(dataset.dtype)).view
        values: NDArray[Any] = dataset[()].view(plain_dtype(dataset.dtype))
        values.flags.writeable = False
        return values

    def rows(self, wanted: StandardDataset) -> Rows:
        """Return the rows of a dataset of numbers that must be there."""
        dataset = self._dataset(wanted)
        if dataset is None:
            raise self._missing(wanted)
        offset = flat_offset(dataset)
        if offset is not None:
            return FlatRows(self._bytes, offset, dataset.shape, plain_dtype(dataset.dtype))
        if dataset.chunks and dataset.chunks[1:] == dataset.shape[1:] and dataset.size:
            sums = None
            if self._verify != "never" and fit_chunks(
                self._dataset(schema.CHUNK_CHECKSUMS), dataset
            ):
                sums = self.array(schema.CHUNK_CHECKSUMS)
            how = self._handle, dataset, self._cache_bytes, self._threads
            return ChunkedRows(*how, sums, self._verify)
        return PlainRows(self._handle, dataset)

    def _dataset(self, wanted: StandardDataset) -> h5py.Dataset | None:
        found = self._file.get(wanted.at(self._prefix))
        return found if isinstance(found, h5py.Dataset) else None

    def _missing(self, wanted: StandardDataset) -> OutputError:
        return OutputError(f"{self._handle.path}: {wanted.at(self._prefix)} is missing")

    def _stack(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        rows = self.rows(schema.IMAGES)
        if rows.shape[0] != n_rows:
            raise OutputError(
                f"{self._handle.path}: expected {n_rows:,} images, found {rows.shape[0]:,}"
            )
        dataset = self._dataset(schema.IMAGES)
        each = dataset.chunks[0] if dataset is not None and dataset.chunks else 0
        if not each:
            each = max(1, _BLOCK_BYTES // (math.prod(rows.shape[1:]) * rows.dtype.itemsize or 1))
        checks = self._checks(rows, schema.IMAGES, auto=False)
        return Stack(rows, checks), rows.shape[1:], rows.dtype, _every(each, n_rows)

    def _ragged(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        elements = self.rows(schema.RAGGED_PIXELS)
        return self._any_size(Ragged, elements, n_rows, elements.dtype)

    def _encoded(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        return self._any_size(Encoded, self.rows(schema.ENCODED_DATA), n_rows, None)

    def _any_size(
        self, layout: type[Ragged], elements: Rows, n_rows: int, dtype: np.dtype[Any] | None
    ) -> tuple[Images, Any, Any, Any]:
        offsets, shapes = self.array(schema.OFFSETS), self.array(schema.SHAPES)
        if offsets is None or shapes is None or offsets.shape != (n_rows + 1,):
            raise OutputError(
                f"{self._handle.path}: {self._prefix}/images has no offsets or shapes"
            )
        checks = self._checks(elements, schema.IMAGES, auto=layout is Encoded)
        images = layout(elements, offsets, shapes, self._threads, self._handle.path, checks)
        return images, None, dtype, self._blocks(elements, offsets)

    def _tree(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        names = Strings(self._handle, schema.TREE_NAMES.at(self._prefix), n_rows, None)
        rows = self._checks(None, schema.TREE_NAMES, auto=True)
        chunks = None
        sums = self._dataset(schema.CHUNK_CHECKSUMS)
        filters = None if sums is None else sums.attrs.get(schema.CHUNKING)  # else an image
        if rows is not None and filters is not None:
            chunks = self._compare(schema.CHUNK_CHECKSUMS, schema.TREE_NAMES), filters
        return Tree(self._handle, names, rows, chunks), None, None, _every(1, n_rows)

    def _checks(self, rows: Rows | None, images: StandardDataset, *, auto: bool) -> Checks | None:
        """Return what compares the images that are read; None: nothing does, or it does already.

        Args:
            rows: they are read from; they may compare chunks.
            images: for messages.
            auto: whether they are compared unless somebody asks for something else.
        """
        of_chunks = isinstance(rows, ChunkedRows) and rows.checks is not None
        if of_chunks or self._verify == "never" or (self._verify == "auto" and not auto):
            return None
        return self._compare(schema.CHECKSUMS, images)

    def _compare(self, wanted: StandardDataset, images: StandardDataset) -> Checks:
        """Return what compares images with one of the datasets of checksums."""
        sums, status = self.array(wanted), self.array(schema.STATUS)
        if sums is None or status is None:
            raise self._missing(wanted)
        if sums.shape != status.shape:
            raise OutputError(
                f"{self._handle.path}: {wanted.at(self._prefix)}: expected {len(status):,} "
                f"checksums, found {sums.shape}"
            )
        name, once = images.at(self._prefix), self._verify == "first"
        return Checks(self._handle.path, sums, lambda row: f"{name}: image {row}", once=once)

    def _sizes(self, layout: str) -> NDArray[Any] | None:
        known = schema.known_datasets(layout)  # a tree may have an image of such a name
        if schema.SHAPES in known:
            shapes = self.array(schema.SHAPES)
            return None if shapes is None else shapes[:, :2]
        return self.array(schema.SIZES) if schema.SIZES in known else None

    def _blocks(self, elements: Rows, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bounds of runs of images that begin in the same chunk."""
        each = getattr(elements, "chunk_rows", _BLOCK_BYTES // elements.dtype.itemsize)
        chunks = offsets[:-1] // each
        first = np.flatnonzero(np.diff(chunks, prepend=-1))
        return np.append(first, len(chunks)).astype(np.int64)


def _every(step: int, n_rows: int) -> NDArray[np.int64]:
    return np.append(np.arange(0, n_rows, step), n_rows).astype(np.int64)


def _texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(raw.decode("utf-8", "surrogateescape") for raw in dataset[()])
