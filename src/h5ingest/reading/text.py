"""Strings and columns of the file, read when they are asked for: there may be many millions."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.lists import Lists
from h5ingest.reading.dataset_rule import naming
from h5ingest.reading.forksafe_file import FileBytes, ForkSafeFile
from h5ingest.reading.heap_text import SPARSE, HeapText
from h5ingest.reading.open_file import column_names, open_column, open_dataset
from h5ingest.reading.rows import Indices, all_normal, normal
from h5ingest.reading.selection import Selection
from h5ingest.reading.stored_lists import kind_of_column, read_lists

_BLOCK_ROWS: Final = 64 * 1024


class LazyStrings(Sequence[str]):
    """Strings that are read when they are asked for."""

    @abstractmethod
    def many(self, places: Indices) -> list[str]:
        """Return the strings at these places, in the order asked."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one string, or the list of a slice."""
        if isinstance(index, slice):
            return self.many(np.arange(*index.indices(len(self)), dtype=np.intp))
        return self.many(np.array([normal(index, len(self))], np.intp))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self[start : start + _BLOCK_ROWS]


@dataclass(eq=False, repr=False)
class Strings(LazyStrings):
    """A dataset of strings; undecodable bytes come as surrogates, as `os.fsdecode` gives them."""

    _handle: ForkSafeFile
    _name: str
    """HDF5 path."""
    _n_rows: int
    """Length of the dataset."""
    _rows: Indices | None
    """(n,) the rows that are items of this sequence; None: all."""
    _heap: HeapText | None = None
    """Reads them without HDF5; None: that cannot be."""

    def __len__(self) -> int:
        return self._n_rows if self._rows is None else len(self._rows)

    def many(self, places: Indices) -> list[str]:
        """See `LazyStrings.many`."""
        return [raw.decode("utf-8", "surrogateescape") for raw in self.raw(places)]

    def raw(self, places: Indices) -> list[bytes]:
        """Return the bytes of the strings at these places, in the order asked."""
        places = all_normal(places, len(self))
        rows = places if self._rows is None else self._rows[places]
        if not len(rows):
            return []
        if self._heap is not None:
            return self._heap.read(rows)
        first, last = int(rows.min()), int(rows.max())
        with self._handle as file, naming(file, self._name):
            dataset = self._handle.dataset(self._name)
            if last - first >= SPARSE * len(rows):
                return [dataset[row] for row in rows.tolist()]
            block = dataset[first : last + 1]
        return [block[row] for row in (rows - first).tolist()]


Column = NDArray[Any] | LazyStrings | Lists
"""A further column of the manifest: (n,) numbers, strings, or lists of numbers."""


class Texts(Protocol):
    """Paths and further columns of the samples of a group."""

    def paths(self, selection: Selection) -> LazyStrings:
        """Return the paths of the source files of samples."""

    def columns(self, selection: Selection) -> Columns:
        """Return the further columns of samples."""

    def column(self, name: str, selection: Selection) -> Column:
        """Return one of them, which there is."""

    def kinds(self) -> dict[str, str]:
        """Return column -> what it is: see `column_types.resolve`."""


@dataclass(eq=False)
class FileTexts:
    """Those of a file."""

    _handle: ForkSafeFile
    _bytes: FileBytes
    """The same file."""
    _prefix: str
    """HDF5 path of the group of samples."""
    _n_rows: int
    """Rows of the group."""

    def paths(self, selection: Selection) -> Strings:
        """See `Texts.paths`."""
        name = schema.PATHS.at(self._prefix)
        return Strings(self._handle, name, self._n_rows, selection.rows, self._heap)

    def columns(self, selection: Selection) -> Columns:
        """See `Texts.columns`."""
        with self._handle as file:
            return Columns(self, tuple(column_names(file, self._prefix)), selection)

    def kinds(self) -> dict[str, str]:
        """See `Texts.kinds`."""
        with self._handle as file:
            names = column_names(file, self._prefix)
            found = {name: open_column(file, self._prefix, name, self._n_rows) for name in names}
            return {name: kind_of_column(column) for name, column in found.items()}

    def column(self, name: str, selection: Selection) -> Column:
        """See `Texts.column`."""
        with self._handle as file:
            dataset = open_column(file, self._prefix, name, self._n_rows)
            if isinstance(dataset, tuple):
                return selection.per_sample(read_lists(file, *dataset))
            full_name = dataset.name
            if dataset.dtype.kind != "O":
                with naming(file, full_name):
                    values: NDArray[Any] = dataset[()]
                return selection.per_sample(values)
            heap = HeapText.of(self._bytes, dataset, file.id.get_create_plist())
            return Strings(self._handle, full_name, self._n_rows, selection.rows, heap)

    @functools.cached_property
    def _heap(self) -> HeapText | None:
        """Reads the paths without HDF5; opened when they are wanted, as few readers do."""
        with self._handle as file:
            paths = open_dataset(file, schema.PATHS, self._prefix, self._n_rows)
            if paths is None:
                return None
            return HeapText.of(self._bytes, paths, file.id.get_create_plist())


@dataclass(eq=False, repr=False)
class Columns(Mapping[str, Column]):
    """The further columns of samples by name, each read when it is asked for."""

    _texts: Texts
    _names: tuple[str, ...]
    _selection: Selection

    def __getitem__(self, name: str) -> Column:
        if name not in self._names:
            raise KeyError(name)
        return self._texts.column(name, self._selection)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Columns({', '.join(self._names)})"
