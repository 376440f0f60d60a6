"""What the cells of a manifest column are: integers, floats or text; decided once for all rows.

A rank sees only its part of a column, so each part is summed up in a few flag bits that are
combined by bitwise or, in any order, and `resolve` decides from the combined flags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

INTEGER: Final = 1
BIG_INTEGER: Final = 2
"""An integer beyond ±2**53, which float64 cannot hold exactly."""
FLOAT: Final = 4
EMPTY: Final = 8
TEXT: Final = 16

_INTEGERS: Final = re.compile(rb"(?:[+-]?[0-9]{1,18}\n)*")
_FLOAT: Final = re.compile(
    rb"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|inf|nan)", re.I
)


def all_integers(cells: Sequence[bytes]) -> bool:
    """Return whether every cell is an integer of at most 18 digits (which int64 holds).

    >>> all_integers([b"3", b"-12"]), all_integers([b"3", b"cat"]), all_integers([b"1_0"])
    (True, False, False)
    """
    return _INTEGERS.fullmatch(b"\n".join(cells) + b"\n") is not None if cells else True


def column_flags(cells: Sequence[bytes]) -> int:
    """Return the flags of the kinds of cells seen."""
    if not cells:
        return 0
    if all_integers(cells):
        values = to_integers(cells)
        return INTEGER | (BIG_INTEGER if np.abs(values).max() > 2**53 else 0)
    flags = 0
    for cell in set(cells):
        if not cell:
            flags |= EMPTY
        elif all_integers([cell]):
            flags |= INTEGER | (BIG_INTEGER if abs(int(cell)) > 2**53 else 0)
        elif _FLOAT.fullmatch(cell) and not cell.lstrip(b"+-").isdigit():
            flags |= FLOAT
        else:  # identifiers of 19 and more digits included: no number type holds them all
            return TEXT
    return flags


def resolve(flags: int) -> str:
    """Return `int64`, `float64` or `text`: the kind that holds every cell without loss.

    Empty cells are NaN in a column of numbers. A column of nothing but empty cells is text.

    >>> resolve(INTEGER), resolve(INTEGER | EMPTY), resolve(FLOAT | BIG_INTEGER), resolve(TEXT)
    ('int64', 'float64', 'text', 'text')
    """
    if flags & TEXT or not flags & (INTEGER | FLOAT):
        return "text"
    if not flags & (FLOAT | EMPTY):
        return "int64"
    return "text" if flags & BIG_INTEGER else "float64"


def to_integers(cells: Sequence[bytes]) -> NDArray[np.int64]:
    """Return the cells as (n,) int64."""
    return np.fromiter(map(int, cells), dtype=np.int64, count=len(cells))


def convert(cells: Sequence[bytes], kind: str) -> NDArray[Any]:
    """Return the cells as (n,) int64, float64, or bytes objects, as `resolve` named the kind."""
    if kind == "int64":
        return to_integers(cells)
    if kind == "float64":
        values = (float(cell or b"nan") for cell in cells)
        return np.fromiter(values, dtype=np.float64, count=len(cells))
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column
