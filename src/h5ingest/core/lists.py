"""`Lists`: rows of numbers, each of any length; and the JSON arrays that a manifest has of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
MOST_EXACT: Final = 2**53
"""Up to which float64 holds every integer."""
LIST_TYPES: Final = ("int64", "float64")
"""What values of lists can be."""
OF_CLASSES: Final = "int64[*]"
"""The kind of a column of labels that name several classes each."""
_MOST_AXES: Final = 8
_LIST: Final = re.compile(rb"\[(?:[\[\]0-9eE.,+ \t-]|NaN|Infinity)*\]")
"""Of what is a JSON array of numbers, or damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """An immutable sequence of arrays, (k, ...) each with its own k.

    >>> boxes = Lists.of([[[1, 2]], [], [[3, 4], [5, 6]]], np.int64, (2,))
    >>> len(boxes), boxes[0].tolist(), boxes[1:].values.tolist(), boxes.offsets.tolist()
    (3, [[1, 2]], [[3, 4], [5, 6]], [0, 1, 1, 3])
    """

    values: NDArray[Any]
    """(total, ...) those of all rows, one row after the other."""
    offsets: NDArray[np.int64]
    """(n + 1,) where each row begins in `values`; the last one is `total`."""

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any, inner: Shape = ()) -> Lists:
        """Return rows, each an array or a list (k, *inner), as numbers of one type."""
        arrays = [np.asarray(row, dtype).reshape(-1, *inner) for row in rows]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        values = np.concatenate([np.zeros((0, *inner), dtype), *arrays])
        return cls(values, _offsets(lengths))

    @classmethod
    def concatenate(cls, parts: Iterable[Lists]) -> Lists:
        """Return the rows of all parts in order; at least one part."""
        parts = list(parts)
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.values for part in parts]), _offsets(lengths))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) how many values each row has."""
        return np.diff(self.offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Lists: ...
    def __getitem__(self, index: Any) -> NDArray[Any] | Lists:
        """Return the array of one row; of a slice, of (m,) positions or of a mask, the rows."""
        if isinstance(index, (slice, np.ndarray)):
            starts, lengths = self.offsets[:-1][index], self.lengths[index]
            offsets = _offsets(lengths)
            places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
            return Lists(self.values[places], offsets)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self):,} rows")
        row = index % len(self)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def tolist(self) -> list[Any]:
        """Return the rows as Python lists."""
        return [row.tolist() for row in self]

    def astype(self, dtype: Any) -> Lists:
        """Return the same with another type of numbers."""
        return Lists(self.values.astype(dtype), self.offsets)

    def having(self, value: int) -> NDArray[np.bool_]:
        """Return (n,) whether each row has a value."""
        found = np.zeros(len(self), np.bool_)
        found[np.repeat(np.arange(len(self)), self.lengths)[self.values == value]] = True
        return found

    def each_once(self) -> NDArray[Any]:
        """Return the values of all rows, of rows of classes: what a row has twice, once.

        >>> Lists.of([[2, 2, 1], [], [2]], np.int64).each_once().tolist()
        [1, 2, 2]
        """
        rows = np.repeat(np.arange(len(self)), self.lengths)
        return np.unique(np.stack([rows, self.values], axis=1), axis=0)[:, 1]

    def multi_hot(self, n_classes: int) -> NDArray[np.uint8]:
        """Return (n, n_classes) uint8, 1 where a row has the class: of rows of classes."""
        hot = np.zeros((len(self), n_classes), np.uint8)
        hot[np.repeat(np.arange(len(self)), self.lengths), self.values] = 1
        return hot


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def values_of(name: str) -> str:
    """Return the HDF5 path of the values of lists, (total, ...), in the HDF5 group `name`."""
    return f"{name}/values"


def offsets_of(name: str) -> str:
    """Return the HDF5 path of the offsets of lists, (n + 1,) int64, likewise."""
    return f"{name}/offsets"


def kind_name(dtype: str, inner: Shape) -> str:
    """Return the kind of a column of lists.

    >>> kind_name("int64", ()), kind_name("float64", (4,))
    ('int64[*]', 'float64[*, 4]')
    """
    return f"{dtype}[{', '.join(['*', *map(str, inner)])}]"


def kind_of(column: Any) -> str:
    """Return the kind of an array of numbers, or of lists."""
    if isinstance(column, Lists):
        return kind_name(column.values.dtype.name, column.values.shape[1:])
    return str(column.dtype.name)


def parse_kind(kind: str) -> tuple[str, Shape] | None:
    """Return type and inner shape of a kind of lists; None: it is one of single values.

    >>> parse_kind("float64[*, 4]"), parse_kind("text")
    (('float64', (4,)), None)
    """
    dtype, bracket, rest = kind.partition("[*")
    return (dtype, tuple(map(int, re.findall("[0-9]+", rest)))) if bracket else None


def parse_cell(cell: bytes) -> NDArray[Any] | None:
    """Return a JSON array of numbers: int64 if all are written as integers, else float64.

    None: it is none, or holds a number that its type cannot hold, or rows of several shapes.

    >>> parse_cell(b"[[1, 2], [3, 4]]").shape, parse_cell(b"[1, 2.5]").dtype, parse_cell(b"[[1],2]")
    ((2, 2), dtype('float64'), None)
    """
    if not _LIST.fullmatch(cell):
        return None
    try:
        found = np.array(json.loads(cell, parse_float=_float, parse_int=_integer), object)
        kinds = set(map(type, found.ravel().tolist()))
        if kinds - {int, float} or found.ndim > _MOST_AXES:
            return None
        if not found.size:
            return np.zeros(0, np.int64) if found.shape == (0,) else None
        if float not in kinds:
            return found.astype(np.int64)
        if any(type(each) is int and abs(each) > MOST_EXACT for each in found.ravel().tolist()):
            return None
        return found.astype(np.float64)
    except (ValueError, OverflowError, RecursionError):
        return None


def _integer(text: str) -> float:
    return -0.0 if text == "-0" else int(text)


def _float(text: str) -> float:
    """Return a decimal number; refuse what is too large for float64, or too small."""
    value = float(text)
    if math.isinf(value) or (value == 0 and re.search("[1-9]", text.lower().partition("e")[0])):
        raise ValueError(text)
    return value


def as_cell(row: Any) -> bytes:
    """Return what a manifest has for a row of numbers.

    >>> as_cell([[1, 2], [3, 4]]), as_cell([0.5, -0.0, 1e22])
    (b'[[1, 2], [3, 4]]', b'[0.5, -0.0, 1e+22]')
    """
    return json.dumps(row).encode()
