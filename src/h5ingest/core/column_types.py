"""What the cells of a manifest column are: integers, floats or text; decided once for all rows.

A rank sees only its part of a column, so each part is summed up in a few flag bits that are
combined by bitwise or, in any order, and `resolve` decides from the combined flags.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("int64", "float64", "text")
"""What a column can be."""
INTEGER: Final = 1
"""An integer as numbers are written: `str` of the int64 is the cell."""
BIG_INTEGER: Final = 2
"""An integer beyond ±2**53, which float64 cannot hold exactly."""
FLOAT: Final = 4
"""A decimal number that float64 holds as well as any; 1.50 and 1.5 are the same."""
EMPTY: Final = 8
TEXT: Final = 16

_INT64: Final = np.iinfo(np.int64)
_DIGITS: Final = re.compile(rb"[+-]?0{0,99}[0-9]{1,19}")
_SMALL_DIGITS: Final = re.compile(rb"(?:[+-]?[0-9]{1,18}\n)*")
_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_SMALL_INTEGERS: Final = re.compile(rb"(?:(?:0|-?[1-9][0-9]{0,17})\n)*")
_FLOAT: Final = re.compile(
    rb"[+-]?(?:(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
    rb"|(?:0|[1-9][0-9]*)e[+-]?[0-9]+|inf|nan)|-0",
    re.I,
)


def all_integers(cells: Sequence[bytes]) -> bool:
    """Return whether every cell is an integer that int64 holds, with a sign or zeros in front.

    >>> all_integers([b"3", b"-12"]), all_integers([b"3", b"cat"]), all_integers([b"1_0"])
    (True, False, False)
    """
    if not cells or _SMALL_DIGITS.fullmatch(b"\n".join(cells) + b"\n"):
        return True
    return all(_DIGITS.fullmatch(cell) and _fits(int(cell)) for cell in cells)


def _fits(value: int) -> bool:
    return int(_INT64.min) <= value <= int(_INT64.max)


def column_flags(cells: Sequence[bytes]) -> int:
    """Return the flags of the kinds of cells seen."""
    if not cells:
        return 0
    if _SMALL_INTEGERS.fullmatch(b"\n".join(cells) + b"\n"):
        values = to_integers(cells)
        return INTEGER | (BIG_INTEGER if np.abs(values).max() > 2**53 else 0)
    flags = 0
    for cell in set(cells):
        if not cell:
            flags |= EMPTY
        elif _INTEGER.fullmatch(cell) and _fits(int(cell)):
            flags |= INTEGER | (BIG_INTEGER if abs(int(cell)) > 2**53 else 0)
        elif _FLOAT.fullmatch(cell) and _is_held(cell):
            flags |= FLOAT
        else:  # what is longer than int64, and what a number is not written like: 007, +49
            return TEXT
    return flags


def _is_held(cell: bytes) -> bool:
    """Return whether a decimal number is neither too large for float64 nor too small."""
    value, mantissa = float(cell), cell.lower().partition(b"e")[0]
    if math.isinf(value):
        return b"inf" in mantissa
    return value != 0 or not re.search(b"[1-9]", mantissa)


def resolve(flags: int) -> str:
    """Return `int64`, `float64` or `text`: the kind that holds every cell without loss.

    Numbers of a column are `int64` if the cells can be written again from them, letter by letter;
    `float64` if each is the nearest to its cell, however that is written: 1.50. So identifiers stay
    what they are: `007` and `+49` are text. Empty cells are NaN in a column of numbers. A column of
    nothing but empty cells is text.

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
