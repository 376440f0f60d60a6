"""What one group of a file holds, and the fastest way to read each of its datasets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import OutputError
from h5ingest.core.lists import Lists
from h5ingest.core.schema import StandardDataset
from h5ingest.reading.checks import Checks, Verify, chunk_sums, row_sums
from h5ingest.reading.chunked_rows import ChunkedRows
from h5ingest.reading.dataset_rule import StoredDataset, most_bytes, refuse
from h5ingest.reading.forksafe_file import SIZE, FileBytes, ForkSafeFile, plain_dtype
from h5ingest.reading.group_statistics import GroupStatistics, Part, told
from h5ingest.reading.heap_text import HeapText
from h5ingest.reading.images import Encoded, Images, Ragged, Stack
from h5ingest.reading.open_file import open_dataset
from h5ingest.reading.rows import FlatRows, PlainRows, Rows, every, flat_offset, whole
from h5ingest.reading.selection import Labels
from h5ingest.reading.stored_lists import checked, checked_lengths
from h5ingest.reading.text import FileTexts, Strings, Texts
from h5ingest.reading.threads import Threads
from h5ingest.reading.tree_images import Tree

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
    labels: Labels | None
    """(n_rows,)"""
    status: NDArray[np.uint8]
    """(n_rows,)"""
    sizes: NDArray[Any] | None
    """(n_rows, 2) true height and width: of padded images, or where sizes differ."""
    bounds: NDArray[np.int64]
    """(B + 1,) first rows of blocks that are best read together, and n_rows."""
    label_names: Sequence[str] | None
    """Names of the classes."""
    texts: Texts
    """Paths and further columns."""
    statistics: GroupStatistics
    check: Callable[[], None]
    """Raises `OutputError` if a file is not what it was."""


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
        self._creation = file.id.get_create_plist()
        self._known = set[bytes]()  # HDF5 paths of groups that are of this file
        self._cache_bytes, self._verify = cache_bytes, verify
        assert handle.identity is not None, "the file is open"
        self._bytes = FileBytes(handle.path, handle.identity)
        self._file_bytes = handle.identity[SIZE]
        self._n_rows: int | None = None
        self._opened: dict[str, StoredDataset | None] = {}
        self._arrays: dict[str, NDArray[Any]] = {}

    def contents(self, layout: str, *, raw: bool = False) -> Contents:
        """Return what the group holds.

        Args:
            layout: of the file.
            raw: whether images that are files are read with palette indices as they are.

        Raises:
            OutputError: datasets are missing or do not fit together.
            SetupError: a filter is not available here.
        """
        status = self.array(schema.STATUS)
        if status is None:
            raise self._missing(schema.STATUS)
        self._n_rows = n_rows = len(status)
        if n_rows and status.max() > schema.STATUS_FAILED:
            refuse(self._file, schema.STATUS.at(self._prefix), "0, 1 or 2", f"{status.max()}")
        texts = FileTexts(self._handle, self._bytes, self._prefix, n_rows)
        images, shape, dtype, bounds = getattr(self, f"_{layout}")(n_rows)
        if raw and isinstance(images, Encoded):
            images.keep_indices()
        classes = self._classes()
        tell = partial(told, self._handle, self._prefix)
        part = Part(path=self._handle.path, tell=tell, images=images, status=status)
        return Contents(
            images=images, n_rows=n_rows, row_shape=shape, dtype=dtype, status=status,
            sizes=self._sizes(layout), bounds=bounds, **classes, texts=texts,
            statistics=GroupStatistics(parts=[part], **classes), check=self._bytes.check,
        )  # fmt: skip

    def array(self, wanted: StandardDataset) -> NDArray[Any] | None:
        """Return a dataset of numbers, read-only; the mapped file itself if that is large."""
        if wanted.name in self._arrays:
            return self._arrays[wanted.name]
        dataset = self._dataset(wanted)
        if dataset is None:
            return None
        self._arrays[wanted.name] = found = whole(self._file, self._bytes, dataset)
        return found

    def rows(self, wanted: StandardDataset) -> Rows:
        """Return the rows of a dataset of numbers that must be there."""
        dataset = self._dataset(wanted)
        if dataset is None:
            raise self._missing(wanted)
        offset = flat_offset(dataset, self._creation)
        if offset is not None:
            return FlatRows(self._bytes, offset, dataset.shape, plain_dtype(dataset.dtype))
        if dataset.chunks and dataset.chunks[1:] == dataset.shape[1:] and dataset.size:
            sums = partial(chunk_sums, self._handle, self._bytes, self._prefix, dataset.name)
            how = self._handle, dataset, self._cache_bytes, self._threads
            return ChunkedRows(*how, sums, self._verify)
        return PlainRows(self._handle, dataset)

    def _dataset(self, wanted: StandardDataset) -> StoredDataset | None:
        if wanted.name not in self._opened:
            self._opened[wanted.name] = open_dataset(
                self._file, wanted, self._prefix, self._n_rows, self._known
            )
        return self._opened[wanted.name]

    def _missing(self, wanted: StandardDataset) -> OutputError:
        return OutputError(f"{self._handle.path}: {wanted.at(self._prefix)} is missing")

    def _classes(self) -> dict[str, Any]:
        """Return labels and their names, if there are any."""
        labels: Labels | None = self.array(schema.LABELS)
        if labels is None:
            values, offsets = map(self.array, (schema.LABEL_VALUES, schema.LABEL_OFFSETS))
            if values is not None and offsets is not None:
                labels = checked(self._file, schema.LABELS.at(self._prefix), values, offsets)
        dataset = self._dataset(schema.LABEL_NAMES)
        names = None if dataset is None else self._strings(dataset)
        numbers = labels.values if isinstance(labels, Lists) else labels
        if numbers is not None and names is not None and len(numbers):
            highest = int(numbers.view(np.uint64).max())  # in which -1 is the highest of all
            if highest >= len(names):
                name, found = schema.LABELS.at(self._prefix), np.uint64(highest).view(np.int64)
                refuse(self._file, name, f"0 to {len(names) - 1:,}, which have names", f"{found:,}")
        return {"labels": labels, "label_names": names}

    def _strings(self, dataset: StoredDataset) -> Strings:
        heap = HeapText.of(self._bytes, dataset, self._creation)
        return Strings(self._handle, dataset.name, len(dataset), None, heap)

    def _stack(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        rows = self.rows(schema.IMAGES)
        dataset = self._dataset(schema.IMAGES)
        each = dataset.chunks[0] if dataset is not None and dataset.chunks else 0
        if not each:
            each = max(1, _BLOCK_BYTES // (math.prod(rows.shape[1:]) * rows.dtype.itemsize or 1))
        checks = self._checks(rows, schema.IMAGES, auto=False)
        return Stack(rows, checks), rows.shape[1:], rows.dtype, every(each, n_rows)

    def _ragged(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        elements = self.rows(schema.RAGGED_PIXELS)
        return self._any_size(Ragged, elements, schema.RAGGED_PIXELS, elements.dtype)

    def _encoded(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        elements = self.rows(schema.ENCODED_DATA)
        return self._any_size(Encoded, elements, schema.ENCODED_DATA, None)

    def _any_size(
        self,
        layout: type[Ragged],
        elements: Rows,
        pixels: StandardDataset,
        dtype: np.dtype[Any] | None,
    ) -> tuple[Images, Any, Any, Any]:
        offsets, shapes = self.array(schema.OFFSETS), self.array(schema.SHAPES)
        if offsets is None or shapes is None:
            raise self._missing(schema.OFFSETS if offsets is None else schema.SHAPES)
        self._check_offsets(offsets, pixels)
        if shapes.size and shapes.min() < 0:
            name = schema.SHAPES.at(self._prefix)
            refuse(self._file, name, "no negative number", f"{shapes.min()}")
        checks = self._checks(elements, schema.IMAGES, auto=layout is Encoded)
        file = self._handle.path, self._file_bytes
        images = layout(elements, offsets.data, shapes, self._threads, *file, checks)
        return images, None, dtype, self._blocks(elements, offsets)

    def _check_offsets(self, offsets: NDArray[np.int64], pixels: StandardDataset) -> None:
        """Refuse offsets that do not cut the elements into one piece for each image."""
        dataset, name = self._dataset(pixels), schema.OFFSETS.at(self._prefix)
        assert dataset is not None
        lengths = checked_lengths(self._file, name, offsets, len(dataset))
        n_bytes = int(lengths.max(initial=0)) * dataset.dtype.itemsize
        most = most_bytes(self._file_bytes, dataset.id.get_storage_size())
        if n_bytes > most:
            refuse(self._file, name, f"images of at most {most:,} bytes", f"{n_bytes:,}")

    def _tree(self, n_rows: int) -> tuple[Images, Any, Any, Any]:
        dataset = self._dataset(schema.TREE_NAMES)
        if dataset is None:
            raise self._missing(schema.TREE_NAMES)
        names = self._strings(dataset)
        rows = self._checks(None, schema.TREE_NAMES, auto=True)
        chunks = None if rows is None else self._compare(schema.CHUNK_CHECKSUMS, schema.TREE_NAMES)
        of_file = None if self._creation.get_userblock() else self._bytes
        images = Tree(self._handle, of_file, self._prefix, names, self._threads, rows, chunks)
        return images, None, None, every(1, n_rows)

    def _checks(self, rows: Rows | None, images: StandardDataset, *, auto: bool) -> Checks | None:
        """Return what compares the images that are read; None: nothing does, or it does already.

        Args:
            rows: they are read from; they may compare chunks.
            images: for messages.
            auto: whether they are compared unless somebody asks for something else.
        """
        if self._verify == "never" or (self._verify == "auto" and not auto):
            return None
        if isinstance(rows, ChunkedRows) and rows.checks is not None:
            return None
        checks = self._compare(schema.CHECKSUMS, images)
        if self._verify != "auto":  # whoever asks for them learns at once that they are damaged
            checks.load()
        return checks

    def _compare(self, wanted: StandardDataset, images: StandardDataset) -> Checks:
        """Return what compares images with one of the datasets of checksums."""
        assert self._n_rows is not None, "known before images are looked at"
        read = partial(row_sums, self._handle, self._bytes, self._prefix, wanted, self._n_rows)
        name, once = images.at(self._prefix), self._verify == "first"
        return Checks(self._handle.path, read, lambda row: f"{name}: image {row}", once=once)

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
