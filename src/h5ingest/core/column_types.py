"""What the cells of a manifest column are: integers, floats, lists of them, or text.

That is decided once for all rows. A rank sees only its part of a column, so each part is summed up
as the set of kinds that were seen; `resolve` decides from the union of all sets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.lists import MOST_EXACT, Lists, Shape, kind_name, parse_cell, parse_kind

KINDS: Final = ("int64", "float64", "text")
"""What a column of single values can be; for lists see `lists.kind_name`."""
INTEGER: Final = "an integer"
"""As numbers are written: `str` of the int64 is the cell."""
BIG_INTEGER: Final = "a big integer"
"""One beyond ±2**53, which float64 cannot hold exactly; in a list, too."""
FLOAT: Final = "a float"
"""A decimal number that float64 holds as well as any; 1.50 and 1.5 are the same."""
EMPTY: Final = "nothing"
NO_VALUES: Final = "an empty list"
TEXT: Final = "text"

Seen = frozenset[str | tuple[str, Shape]]
"""Kinds of cells: those above; of a list, the type of its numbers and the shape of each item."""

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


def kinds_seen(cells: Sequence[bytes]) -> Seen:
    """Return the kinds of cells seen."""
    if not cells:
        return frozenset()
    if _SMALL_INTEGERS.fullmatch(b"\n".join(cells) + b"\n"):
        is_big = np.abs(to_integers(cells)).max() > MOST_EXACT
        return frozenset([INTEGER, BIG_INTEGER] if is_big else [INTEGER])
    seen: set[str | tuple[str, Shape]] = set()
    for cell in set(cells):
        if not cell:
            seen.add(EMPTY)
        elif _INTEGER.fullmatch(cell) and _fits(int(cell)):
            seen |= {INTEGER, BIG_INTEGER} if abs(int(cell)) > MOST_EXACT else {INTEGER}
        elif _FLOAT.fullmatch(cell) and _is_held(cell):
            seen.add(FLOAT)
        elif (row := parse_cell(cell)) is not None:
            seen.add((row.dtype.name, row.shape[1:]) if row.size else NO_VALUES)
            if row.dtype == np.int64 and any(abs(n) > MOST_EXACT for n in row.ravel().tolist()):
                seen.add(BIG_INTEGER)
        else:  # what is longer than int64, and what a number is not written like: 007, +49
            return frozenset([TEXT])
    return frozenset(seen)


def _is_held(cell: bytes) -> bool:
    """Return whether a decimal number is neither too large for float64 nor too small."""
    value, mantissa = float(cell), cell.lower().partition(b"e")[0]
    if math.isinf(value):
        return b"inf" in mantissa
    return value != 0 or not re.search(b"[1-9]", mantissa)


def resolve(seen: Seen) -> str:
    """Return `int64`, `float64`, a kind of lists, or `text`: what holds every cell without loss.

    Numbers of a column are `int64` if the cells can be written again from them, letter by letter;
    `float64` if each is the nearest to its cell, however that is written: 1.50. So identifiers stay
    what they are: `007` and `+49` are text. Empty cells are NaN in a column of numbers. A column of
    nothing but empty cells is text.

    A column is one of lists if every cell that is not empty is a JSON array of numbers, `[1, 2]`,
    or of arrays of one shape, `[[1, 2], [3, 4]]`. An empty cell is then the same as `[]`.

    >>> resolve(frozenset([INTEGER, EMPTY])), resolve(frozenset([FLOAT, BIG_INTEGER, INTEGER]))
    ('float64', 'text')
    >>> resolve(frozenset([EMPTY, ("int64", (4,)), ("float64", (4,))]))
    'float64[*, 4]'
    """
    lists = [each for each in seen if isinstance(each, tuple)]
    if lists or NO_VALUES in seen:
        types, shapes = {dtype for dtype, _ in lists}, {shape for _, shape in lists} or {()}
        if len(shapes) > 1 or seen - {*lists, NO_VALUES, EMPTY, BIG_INTEGER}:
            return "text"
        if "float64" not in types:
            return kind_name("int64", *shapes)
        return "text" if BIG_INTEGER in seen else kind_name("float64", *shapes)
    if TEXT in seen or not seen & {INTEGER, FLOAT}:
        return "text"
    if not seen & {FLOAT, EMPTY}:
        return "int64"
    return "text" if BIG_INTEGER in seen else "float64"


def to_integers(cells: Sequence[bytes]) -> NDArray[np.int64]:
    """Return the cells as (n,) int64."""
    return np.fromiter(map(int, cells), dtype=np.int64, count=len(cells))


def convert(cells: Sequence[bytes], kind: str) -> NDArray[Any] | Lists:
    """Return the cells as (n,) int64, float64, bytes objects, or lists, as `resolve` has said.

    Raises:
        ValueError: a cell is of another kind.
    """
    if kind == "int64":
        return to_integers(cells)
    if kind == "float64":
        values = (float(cell or b"nan") for cell in cells)
        return np.fromiter(values, dtype=np.float64, count=len(cells))
    if of_lists := parse_kind(kind):
        rows = [parse_cell(cell or b"[]") for cell in cells]
        if any(row is None for row in rows):
            raise ValueError(f"expected {kind}")
        return Lists.of(rows, *of_lists)
    return to_texts(cells)


def to_texts(cells: Sequence[bytes]) -> NDArray[np.object_]:
    """Return the cells as (n,) bytes objects."""
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column
