"""Reading what may be damaged: what cannot be read is a value, and takes its own rows with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import one_line
from h5ingest.core.schema import FileHeader
from h5ingest.inspect.findings import Facts, Unread
from h5ingest.reading.dataset_rule import StoredDataset, check_claim, kind_of
from h5ingest.reading.forksafe_file import FileBytes, identity_of
from h5ingest.reading.heap_text import HeapText
from h5ingest.reading.open_file import find

T = TypeVar("T")

_MOST_FAILURES: Final = 1000
"""Failed reads of a dataset from which on rows that cannot be read together are not divided."""


def attempt(read: Callable[[], T]) -> T | Unread:
    """Return what `read` returns, or why it cannot."""
    try:
        return read()
    except (AttributeError, NameError, ImportError, AssertionError):  # a bug of ours
        raise
    except Exception as error:  # whatever h5py makes of damaged bytes; it has been each of a dozen
        return Unread(one_line(error))


class Readable:
    """An open file, some of which cannot be read."""

    def __init__(self, file: h5py.File, header: FileHeader) -> None:
        self._file = file
        pixels = schema.PIXELS.get(header.layout)
        self._in_parts = {pixels.at(prefix) for prefix in header.prefixes} if pixels else set()
        """Datasets that are never read as a whole."""
        self._n_failures: Counter[str] = Counter()
        self._unopened: dict[str | bytes, Exception] = {}
        self._groups: set[bytes] = set()
        """HDF5 paths of groups that are of this file."""
        self._bytes = FileBytes(file.filename, identity_of(file.id.get_vfd_handle()))
        self._texts: dict[str, HeapText | None] = {}

    def open(self, name: str | bytes) -> StoredDataset:
        """Return a dataset: the only way to one for whoever judges rows and values.

        One that could not be opened cannot ever be: HDF5 1.10 opens an object with a damaged header
        if it is asked a second time.

        Raises:
            Exception: whatever h5py makes of it.
        """
        if name in self._unopened:
            raise self._unopened[name]
        try:
            return self._open(name)
        except Exception as error:
            self._unopened[name] = error.with_traceback(None)
            raise

    def _open(self, name: str | bytes) -> StoredDataset:
        found = find(self._file, name, self._groups)
        if found is None:
            raise KeyError(f"there is no {name!r}")
        if not isinstance(found, StoredDataset):
            raise TypeError(f"expected a dataset, found {kind_of(found)}")
        if found.external or found.is_virtual:
            raise OSError("its values are not in this file")
        check_claim(self._file, name, found, whole=name not in self._in_parts)
        return found

    def dataset(self, name: str) -> StoredDataset | Unread | None:
        """Return a dataset by its HDF5 path; None if there is none of this name."""
        present = attempt(lambda: name in self._file)
        if isinstance(present, Unread):
            return present
        return attempt(lambda: self.open(name)) if present else None

    def facts(self, name: str) -> Facts | Unread | None:
        """Return what a dataset says of itself; None if there is none of this name."""
        dataset = self.dataset(name)
        return attempt(lambda: _facts(dataset)) if isinstance(dataset, h5py.Dataset) else dataset

    def dims(self, name: str) -> tuple[str, ...] | Unread:
        """Return the labels of a dataset's dimensions."""
        return attempt(lambda: tuple(dim.label for dim in self.open(name).dims))

    def last(self, name: str) -> int | Unread:
        """Return the last value of a dataset of integers, or why it cannot be read."""
        return attempt(lambda: int(self.open(name)[-1]))

    def pieces(self, name: str, rows: range) -> Iterator[tuple[range, NDArray[Any] | Unread]]:
        """Yield (rows, values): all together, or halves where that cannot be read."""
        values = attempt(lambda: self._values(name, rows))
        if isinstance(values, Unread):
            self._n_failures[name] += 1
            if len(rows) > 1:
                if self._n_failures[name] < _MOST_FAILURES:
                    middle = len(rows) // 2
                    yield from self.pieces(name, rows[:middle])
                    yield from self.pieces(name, rows[middle:])
                    return
                values = Unread(f"{values.reason} (not divided further)")
        elif len(values) != len(rows):
            values = Unread(f"expected {len(rows)} rows, found {len(values)}")
        yield rows, values

    def _values(self, name: str, rows: range) -> Any:
        """Return the values of rows, those of them that there are."""
        dataset = self.open(name)
        if name not in self._texts:
            text = h5py.check_string_dtype(dataset.dtype)
            is_heap = text is not None and text.length is None
            how = self._bytes, dataset, self._file.id.get_create_plist()
            self._texts[name] = HeapText.of(*how) if is_heap else None
        texts, wanted = self._texts[name], rows[: max(0, len(dataset) - rows.start)]
        if texts is not None and wanted:  # HDF5 1.10 would take the memory that a wrong length says
            texts.read(np.array(wanted))
        return dataset[rows.start : rows.stop]

    def column(self, name: str, rows: range) -> list[Any]:
        """Return the value of each row, as a Python object, or why it cannot be read."""
        found: list[Any] = []
        for part, values in self.pieces(name, rows):
            found += [values] * len(part) if isinstance(values, Unread) else values.tolist()
        return found


def _facts(dataset: h5py.Dataset) -> Facts:
    text, chunks, dtype = h5py.check_string_dtype(dataset.dtype), dataset.chunks, dataset.dtype.name
    if text is not None:
        dtype = "text" if tuple(text) == ("utf-8", None) else str(text)
    return Facts(
        shape=tuple(map(int, dataset.shape)),
        dtype=dtype,
        chunk_rows=int(chunks[0]) if chunks else 1,
        members=tuple((h5py.check_enum_dtype(dataset.dtype) or {}).items()),
    )


def numbers(value: Any) -> NDArray[Any]:
    """Return pixels or bytes, whatever HDF5 object or value was found in their place.

    Raises:
        TypeError: it is something else.
    """
    found: NDArray[Any] = np.asarray(value)
    if found.dtype.kind not in "ui":
        raise TypeError(f"expected integers, found {found.dtype}")
    return found
