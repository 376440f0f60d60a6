"""Strings of variable length, read from HDF5's global heap without HDF5.

HDF5 1.10 believes a file whatever it says of the length of a string: one wrong bit, and it writes
beyond its memory or takes gigabytes of it. Here every length is compared with what there is. Where
things lie is in the HDF5 file format specification 3.0: global heap (III.E), references (VIII.C).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.reading.dataset_rule import most_bytes
from h5ingest.reading.forksafe_file import FileBytes
from h5ingest.reading.rows import Indices

_REFERENCE: Final = np.dtype([("n_bytes", "<u4"), ("address", "<u8"), ("index", "<u4")])
_COLLECTION: Final = np.dtype([("signature", "S4"), ("version", "<u4"), ("n_bytes", "<u8")])
"""What a collection of objects begins with."""
_OBJECT: Final = np.dtype([("index", "<u2"), ("_", "V6"), ("n_bytes", "<u8")])
"""What an object begins with; its bytes follow, filled up to a multiple of 8."""
SPARSE: Final = 64
"""Rows of a span for each row wanted, from which they are read one by one."""
_MOST_OBJECTS: Final = 2**16 - 1
"""In a collection: their numbers have 16 bits."""
_TIMES_LOOKED: Final = 20
"""A collection is looked through once, or by as many threads as need it at the same moment."""
_UNPACK: Final = struct.Struct("<H6xQ").unpack_from
"""Of what an object begins with."""
_BYTE: Final = np.dtype(np.uint8)


class HeapText:
    """The strings of one contiguous dataset."""

    def __init__(self, file: FileBytes, name: str, offset: int, n_rows: int, base: int) -> None:
        """Read nothing yet.

        Args:
            file: the bytes.
            name: of the dataset, for messages.
            offset: where it begins.
            n_rows: how many strings there are.
            base: bytes before HDF5's own: a user block.
        """
        self._file, self._name = file, name
        self._offset, self._n_rows, self._base = offset, n_rows, base
        self._places: dict[int, NDArray[np.int64]] = {}
        """Address -> where its objects begin, of collections that had to be looked through."""
        self._n_looked = 0
        """Bytes of them."""

    @classmethod
    def of(
        cls, file: FileBytes, dataset: h5py.Dataset, file_creation: h5py.h5p.PropFCID
    ) -> HeapText | None:
        """Return the strings of a dataset; None: only HDF5 can find them.

        Args:
            file: the bytes.
            dataset: text.
            file_creation: the creation properties of its file.
        """
        offset = dataset.id.get_offset()
        if offset is None or file_creation.get_sizes() != (8, 8):
            return None
        return cls(file, dataset.name, offset, len(dataset), file_creation.get_userblock())

    def read(self, rows: Indices) -> list[bytes]:
        """Return the strings of these rows, (n,), all of which exist.

        Raises:
            OutputError: the file is damaged, or was changed meanwhile.
        """
        try:
            return self._read(rows)
        finally:
            self._file.check()  # an error may be due to it

    def _read(self, rows: Indices) -> list[bytes]:
        first, last = int(rows.min()), int(rows.max())
        if first == last or last - first >= SPARSE * len(rows):
            return [self._one(row) for row in rows.tolist()]
        found = self._span(first, last + 1)
        if len(rows) == len(found) and (np.diff(rows) == 1).all():
            return found
        return [found[place] for place in (rows - first).tolist()]

    def _one(self, row: int) -> bytes:
        """Return the string of a row, found by looking through its collection, once."""
        length, address, index = self._references(row, row + 1)[0].tolist()
        if not length:
            return b""
        if length > most_bytes(self._file.n_bytes, 0):
            raise self._damaged("a text that fits into the file", length)
        places = self._looked_up(address)
        begin = int(places[index]) if index < len(places) else -1
        room = _OBJECT.itemsize + length
        if begin < 0 or begin + room > self._file.n_bytes:
            raise self._damaged("texts", address)
        data = self._file.read(begin, room, _BYTE).tobytes()
        if _UNPACK(data) != (index, length):
            raise self._damaged("texts", address)
        return data[_OBJECT.itemsize :]

    def _span(self, start: int, stop: int) -> list[bytes]:
        """Return the strings of neighbouring rows."""
        references = self._references(start, stop)
        n_bytes = int(references["n_bytes"].sum(dtype=np.int64))
        most = most_bytes(self._file.n_bytes, 0)
        if n_bytes > most:
            raise self._damaged(f"at most {most:,} bytes in {stop - start:,} rows", n_bytes)
        used = np.flatnonzero(references["n_bytes"])
        if not len(used):
            return [b""] * (stop - start)
        # HDF5 numbers the objects of a collection from 1 in the order in which they lie there: with
        # the references to those before, each is found without a look at the others.
        before = min(int(references["index"][used[0]]) - 1, start, _MOST_OBJECTS)
        if before > 0:
            earlier = self._references(start - before, start)
            earlier = earlier[earlier["n_bytes"] > 0]
            references = np.concatenate([earlier, references[used]])
        else:
            earlier, references = references[:0], references[used]
        begins = self._begins(references)
        texts: list[bytes] = []
        for run in _runs(references["address"], len(earlier)):
            texts += self._run(references[run], begins[run])
        if len(texts) == stop - start:
            return texts
        found = [b""] * (stop - start)
        for place, text in zip(used.tolist(), texts, strict=True):
            found[place] = text
        return found

    def _references(self, start: int, stop: int) -> NDArray[Any]:
        """Return the lengths, addresses and numbers of these rows, as they are in the dataset."""
        offset = self._offset + start * _REFERENCE.itemsize
        return self._file.read(offset, stop - start, _REFERENCE)

    def _begins(self, references: NDArray[Any]) -> NDArray[np.int64]:
        """Return (n,) the byte of the file where each object should begin; see `_span`."""
        address = references["address"]
        if address.max() >= self._file.n_bytes:
            raise self._damaged("an address in the file", int(address.max()))
        room = -(-references["n_bytes"].astype(np.int64) // 8) * 8 + _OBJECT.itemsize
        before = np.cumsum(room) - room
        is_first = np.append(True, address[1:] != address[:-1])
        run = np.cumsum(is_first) - 1
        start = address.astype(np.int64) + self._base + _COLLECTION.itemsize
        begins: NDArray[np.int64] = start + before - before[is_first][run]
        return begins

    def _run(self, references: NDArray[Any], begins: NDArray[np.int64]) -> list[bytes]:
        """Return the strings of neighbouring rows that one collection holds."""
        found = self._texts(references, begins)
        if found is None:
            places = self._looked_up(int(references["address"][0]))
            numbers = references["index"]
            if numbers.max() < len(places):
                found = self._texts(references, places[numbers])
        if found is None:
            raise self._damaged("texts", int(references["address"][0]))
        return found

    def _texts(self, references: NDArray[Any], begins: NDArray[np.int64]) -> list[bytes] | None:
        """Return the strings that begin there; None: other objects do."""
        first, lengths = int(begins.min()), references["n_bytes"]
        n_bytes = int((begins + lengths).max()) + _OBJECT.itemsize - first
        if first < self._base or first + n_bytes > self._file.n_bytes:
            return None
        data = self._file.read(first, n_bytes, _BYTE)
        places = begins - first
        heads = data[places[:, np.newaxis] + np.arange(_OBJECT.itemsize)].view(_OBJECT)[:, 0]
        if (heads["index"] != references["index"]).any() or (heads["n_bytes"] != lengths).any():
            return None
        raw, texts = data.tobytes(), (places + _OBJECT.itemsize).tolist()
        return [raw[at : at + n] for at, n in zip(texts, lengths.tolist(), strict=True)]

    def _looked_up(self, address: int) -> NDArray[np.int64]:
        if address not in self._places:
            self._places[address] = self._look_up(address)
        return self._places[address]

    def _look_up(self, address: int) -> NDArray[np.int64]:
        """Return where the objects of a collection begin, by their numbers; -1: there is none."""
        begins: dict[int, int] = {}
        start = address + self._base
        left = self._file.n_bytes - start
        if left < _COLLECTION.itemsize:
            return _by_number(begins)
        head = self._file.read(start, 1, _COLLECTION)[0]
        size = int(head["n_bytes"])
        if head["signature"] != b"GCOL" or head["version"] != 1 or size > left:
            return _by_number(begins)
        self._n_looked += size
        if self._n_looked > _TIMES_LOOKED * self._file.n_bytes:
            raise self._damaged("collections of texts that do not overlap", address)
        data = self._file.read(start, size, _BYTE).tobytes()
        at = _COLLECTION.itemsize
        while at + _OBJECT.itemsize <= size:
            index, n_bytes = _UNPACK(data, at)
            if not index:  # what is free ends the collection
                break
            begins[index] = start + at
            at += _OBJECT.itemsize + -(-n_bytes // 8) * 8
        return _by_number(begins)

    def _damaged(self, expected: str, found: int) -> OutputError:
        return OutputError(
            f"{self._file.path}: {self._name} cannot be read: expected {expected}, found {found:,}"
        )


def _by_number(begins: dict[int, int]) -> NDArray[np.int64]:
    places = np.full(max(begins, default=0) + 1, -1)
    places[list(begins)] = list(begins.values())
    return places


def _runs(addresses: NDArray[np.uint64], start: int) -> Iterator[slice]:
    """Yield the places, from `start` on, of runs of one address."""
    ends = np.flatnonzero(np.append(addresses[1:] != addresses[:-1], True)) + 1
    for stop in ends[ends > start].tolist():
        yield slice(start, stop)
        start = stop
