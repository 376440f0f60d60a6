"""Which rows of a file are exported, in the order of the file; and which of them a rank has.

May not: know what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import UsageError
from h5ingest.core.lists import Lists
from h5ingest.core.schema import STATUS_OK
from h5ingest.exports.options import ExportOptions
from h5ingest.exports.stored import Stored
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.reading.text import Strings

_BLOCK_ROWS: Final = 64 * 1024
_MOST_SHOWN: Final = 10
"""Values that a message lists."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the rows that are exported: all of them, or those of one rank."""

    places: NDArray[np.int64]
    """(n,) the place of each among all that are exported; ascending."""
    groups: NDArray[np.int64]
    """(n,) number of the group that has its first image, see `Stored`; ascending."""
    rows: NDArray[np.int64]
    """(n,) row in that group."""

    def __len__(self) -> int:
        return len(self.places)

    def at(self, places: NDArray[np.int64]) -> Share:
        """Return those at these positions of this share."""
        return Share(self.places[places], self.groups[places], self.rows[places])

    def runs(self) -> Iterator[tuple[int, slice]]:
        """Yield (group, positions in this share) of neighbours of one group, not too many."""
        numbers, starts = np.unique(self.groups, return_index=True)
        ends = [*starts.tolist(), len(self)]
        for number, (start, end) in zip(numbers.tolist(), pairwise(ends), strict=False):
            for first in range(start, end, _BLOCK_ROWS):
                yield number, slice(first, min(first + _BLOCK_ROWS, end))


def choose(stored: Stored, options: ExportOptions, beat: Callable[[], None]) -> tuple[Share, int]:
    """Return the rows to export, and how many others of these have failed when they were ingested.

    Of rows of several images, all fail together. `beat` is called now and then.

    Raises:
        UsageError: there is no such group, row, column or value; or nothing is left.
    """
    header = stored.header
    wanted = header.group_prefixes
    if options.group is not None:
        wanted = (header.prefix(options.group),)
    elif header.groups and options.rows is not None:
        header.prefix(None)  # raises: rows are those of a group
    found: list[tuple[int, NDArray[np.int64]]] = []
    n_failed = 0
    for number, prefix in enumerate(header.prefixes):
        if prefix not in wanted:
            continue
        beat()
        group = stored.group(number)
        taken = _in_range(group, options)
        for column, value in options.where:
            _narrow(stored, group, taken, column, value, beat)
        good = group.status == STATUS_OK
        n_failed += int((taken & ~good).sum())
        found.append((number, np.flatnonzero(taken & good)))
    groups = np.repeat(*np.array([(k, len(rows)) for k, rows in found], np.int64).reshape(-1, 2).T)
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in found)])
    if not len(rows):
        failed = f" except {n_failed:,} that failed when they were ingested" if n_failed else ""
        raise UsageError(f"{stored.path}: expected rows to export, found none{failed}")
    return Share(np.arange(len(rows)), groups, rows), n_failed


def _in_range(group: StoredGroup, options: ExportOptions) -> NDArray[np.bool_]:
    taken = np.ones(group.n_rows, np.bool_)
    if options.rows is not None:
        first, end = options.rows
        if first >= group.n_rows or (end or 0) > group.n_rows:
            said = f"{first}:{'' if end is None else end}"
            raise UsageError(f"--rows {said}: expected rows within 0:{group.n_rows}")
        taken[:first] = False
        if end is not None:
            taken[end:] = False
    return taken


def _narrow(
    stored: Stored,
    group: StoredGroup,
    taken: NDArray[np.bool_],
    column: str,
    value: str,
    beat: Callable[[], None],
) -> None:
    """Untake the rows whose cell is another.

    Raises:
        UsageError: there is no such column, or its cells can be no such value.
    """
    with stored.inside():
        labels, names = group.classes()
        columns = group.columns()
    said, raw = f"--where {column}={value}", value.encode("utf-8", "surrogateescape")
    if column == "label" and labels is not None and names is not None:
        every = names.raw(np.arange(len(names)))
        if raw not in every:
            shown = ", ".join(repr(name.decode("utf-8", "replace")) for name in every[:_MOST_SHOWN])
            more = f" and {len(every) - _MOST_SHOWN:,} more" * (len(every) > _MOST_SHOWN)
            raise UsageError(f"{said}: expected a label, one of {shown}{more}")
        code = every.index(raw)
        if isinstance(labels, Lists):
            has_it = [code in label for label in labels.tolist()]
            taken &= np.fromiter(has_it, np.bool_, group.n_rows)
        else:
            taken &= labels == code
        return
    cells = labels if column == "label" else columns.get(column)
    if cells is None and column != "path":
        known = ", ".join(("path", *(("label",) if labels is not None else ()), *columns))
        raise UsageError(f"{said}: expected a column, one of {known}")
    if isinstance(cells, Lists):
        raise UsageError(f"{said}: expected a column of single values, found lists")
    for start in range(0, group.n_rows, _BLOCK_ROWS):
        beat()
        here = slice(start, min(start + _BLOCK_ROWS, group.n_rows))
        if cells is None or isinstance(cells, Strings):
            places = np.arange(here.start, here.stop)
            texts = group.paths(places) if cells is None else cells.raw(places)
            taken[here] &= np.fromiter((text == raw for text in texts), np.bool_, len(places))
        else:
            wanted = _number(said, value, cells.dtype)
            with stored.inside():
                values: NDArray[Any] = np.asarray(cells[here])
            taken[here] &= np.isnan(values) if wanted != wanted else values == wanted


def _number(said: str, value: str, dtype: np.dtype[Any]) -> int | float:
    try:
        return int(value) if dtype.kind in "iu" else float(value)
    except ValueError:
        raise UsageError(f"{said}: expected a number, as that column has {dtype}") from None
