"""Many files as one: their rows one after the other, their labels by name."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.core.lists import MOST_EXACT, Lists
from h5ingest.reading.contents import Contents
from h5ingest.reading.group_statistics import GroupStatistics
from h5ingest.reading.images import Batch
from h5ingest.reading.rows import Indices, all_normal, normal
from h5ingest.reading.selection import Labels, Selection
from h5ingest.reading.text import Column, Columns, LazyStrings

_NUMBERS: Final = re.compile("int64|float64")


def join(parts: Sequence[Contents], files: Sequence[str]) -> Contents:
    """Return what files hold together.

    Args:
        parts: what each of them holds; at least one.
        files: their paths, for messages.

    Raises:
        OutputError: they do not fit together; says in what.
    """
    first = parts[0]
    kinds = [part.texts.kinds() for part in parts]
    for part, file, columns in zip(parts, files, kinds, strict=True):

        def same(what: str, wanted: object, found: object, file: str = file) -> None:
            if wanted != found:
                raise OutputError(
                    f"{file}: {what}: expected {wanted}, as {files[0]} has, found {found}"
                )

        same("shape of the images", first.row_shape, part.row_shape)
        same("type of the pixels", first.dtype, part.dtype)
        same("labels", _labelled(first), _labelled(part))
        same("columns", _families(kinds[0]), _families(columns))
    names = _all_names(parts)
    rows = _Rows(tuple(accumulate((part.n_rows for part in parts), initial=0)))
    labels: Labels | None = None
    if first.labels is not None:
        labels = _all_labels([_renumbered(part, names) for part in parts])
    status = np.concatenate([part.status for part in parts])
    status.flags.writeable = False

    def check() -> None:
        for part in parts:
            part.check()

    return Contents(
        images=_Images(parts, rows, first),
        n_rows=rows.starts[-1],
        row_shape=first.row_shape,
        dtype=first.dtype,
        labels=labels,
        status=status,
        sizes=_sizes(parts),
        bounds=_bounds(parts, rows),
        label_names=None if names is None else tuple(names),
        texts=_Texts(parts, rows, kinds[0]),
        statistics=GroupStatistics(
            parts=[each for part in parts for each in part.statistics.parts],
            labels=labels,
            label_names=None if names is None else tuple(names),
        ),
        check=check,
    )


def _labelled(part: Contents) -> str:
    if part.labels is None:
        return "none"
    if isinstance(part.labels, Lists):
        return "any number of classes each"
    return "numbers" if part.label_names is None else "names"


def _families(kinds: Mapping[str, str]) -> str:
    """Return the names of columns, and whether each has numbers, texts or lists of one shape."""
    families = {name: _NUMBERS.sub("numbers", kind) for name, kind in kinds.items()}
    return ", ".join(f"{name} ({family})" for name, family in sorted(families.items())) or "none"


def _all_names(parts: Sequence[Contents]) -> dict[str, int] | None:
    """Return the names of all labels, numbered in the order in which they appear."""
    if parts[0].label_names is None:
        return None
    names = dict.fromkeys(name for part in parts for name in part.label_names or ())
    return {name: number for number, name in enumerate(names)}


def _renumbered(part: Contents, names: Mapping[str, int] | None) -> Labels:
    assert part.labels is not None, "all have labels, or none"
    if names is None or not part.label_names:
        return part.labels
    numbers = np.array([names[name] for name in part.label_names], np.int64)
    if isinstance(part.labels, Lists):
        return Lists(numbers[part.labels.values], part.labels.offsets)
    renumbered: NDArray[np.int64] = numbers[part.labels]
    return renumbered


def _all_labels(each: Sequence[Labels]) -> Labels:
    lists = [labels for labels in each if isinstance(labels, Lists)]
    if lists:
        return Lists.concatenate(lists)
    labels = np.concatenate([labels for labels in each if isinstance(labels, np.ndarray)])
    labels.flags.writeable = False
    return labels


def _sizes(parts: Sequence[Contents]) -> NDArray[Any] | None:
    """Return the true sizes of all images; where some files have none, they are not padded."""
    known = [part.sizes for part in parts if part.sizes is not None]
    if not known:
        return None
    return np.concatenate(
        [
            np.full((part.n_rows, 2), (part.row_shape or (0, 0))[:2], known[0].dtype)
            if part.sizes is None
            else part.sizes
            for part in parts
        ]
    )


def _bounds(parts: Sequence[Contents], rows: _Rows) -> NDArray[np.int64]:
    each = [part.bounds[:-1] + start for part, start in zip(parts, rows.starts, strict=False)]
    return np.append(np.concatenate(each), rows.starts[-1]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which file a row is in."""

    starts: tuple[int, ...]
    """(files + 1,) first row of each file, and how many rows there are."""

    def one(self, row: int) -> tuple[int, int]:
        """Return the file of a row, and the row in it.

        Raises:
            IndexError: there is no such row.
        """
        row = normal(row, self.starts[-1])
        file = bisect_right(self.starts, row) - 1
        return file, row - self.starts[file]

    def many(self, rows: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        """Yield (file, places in `rows`, rows in the file), file by file.

        Raises:
            IndexError: there is no such row.
        """
        if not len(rows):
            return
        rows = all_normal(rows, self.starts[-1])
        files = np.searchsorted(self.starts, rows, "right") - 1
        order = np.argsort(files, kind="stable")
        found, begins = np.unique(files[order], return_index=True)
        for file, places in zip(found.tolist(), np.split(order, begins[1:]), strict=True):
            yield file, places, rows[places] - self.starts[file]


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of all files; see `Images`."""

    _parts: Sequence[Contents]
    _rows: _Rows
    _first: Contents

    def one(self, row: int) -> NDArray[Any]:
        """See `Images.one`."""
        file, row = self._rows.one(row)
        return self._parts[file].images.one(row)

    def many(self, rows: Indices | slice) -> Batch:
        """See `Images.many`."""
        if not isinstance(rows, slice):
            return self._many(rows)
        wanted = range(*rows.indices(self._rows.starts[-1]))
        if wanted and wanted.step == 1:
            (first, start), (last, end) = map(self._rows.one, (wanted[0], wanted[-1]))
            if first == last:
                return self._parts[first].images.many(slice(start, end + 1))
        return self._many(np.arange(wanted.start, wanted.stop, wanted.step, dtype=np.intp))

    def _many(self, rows: Indices) -> Batch:
        if self._first.row_shape is None or self._first.dtype is None:
            images: list[Any] = [None] * len(rows)
            for file, places, local in self._rows.many(rows):
                found = self._parts[file].images.many(local)
                for place, image in zip(places.tolist(), found, strict=True):
                    images[place] = image
            return images
        out = np.empty((len(rows), *self._first.row_shape), self._first.dtype)
        for file, places, local in self._rows.many(rows):
            out[places] = self._parts[file].images.many(local)
        return out


@dataclass(eq=False, repr=False)
class _Strings(LazyStrings):
    """Strings of all files."""

    _parts: Sequence[LazyStrings]
    """Of each file."""
    _all: _Rows
    _chosen: Indices | None
    """(n,) the rows that are items of this sequence; None: all."""

    def __len__(self) -> int:
        return self._all.starts[-1] if self._chosen is None else len(self._chosen)

    def many(self, places: Indices) -> list[str]:
        """See `LazyStrings.many`."""
        places = all_normal(places, len(self))
        rows = places if self._chosen is None else self._chosen[places]
        found = [""] * len(rows)
        for file, where, local in self._all.many(rows):
            for place, text in zip(where.tolist(), self._parts[file].many(local), strict=True):
                found[place] = text
        return found


@dataclass(frozen=True, slots=True)
class _Texts:
    """Paths and columns of all files; see `Texts`."""

    _parts: Sequence[Contents]
    _rows: _Rows
    _kinds: Mapping[str, str]
    """Of the columns of the first file."""

    def paths(self, selection: Selection) -> LazyStrings:
        """See `Texts.paths`."""
        each = [part.texts.paths(Selection.every(part.n_rows)) for part in self._parts]
        return _Strings(each, self._rows, selection.rows)

    def columns(self, selection: Selection) -> Columns:
        """See `Texts.columns`."""
        return Columns(self, tuple(self._kinds), selection)

    def kinds(self) -> dict[str, str]:
        """See `Texts.kinds`."""
        return dict(self._kinds)

    def column(self, name: str, selection: Selection) -> Column:
        """See `Texts.column`."""
        found = [part.texts.column(name, Selection.every(part.n_rows)) for part in self._parts]
        texts = [each for each in found if isinstance(each, LazyStrings)]
        if texts:
            return _Strings(texts, self._rows, selection.rows)
        lists = [each for each in found if isinstance(each, Lists)]
        numbers = [each for each in found if isinstance(each, np.ndarray)]
        numbers += [each.values for each in lists]
        values = np.concatenate(numbers)  # float64, if some are integers and others are not
        for integers in numbers:
            if integers.dtype != values.dtype and np.abs(integers).max(initial=0) > MOST_EXACT:
                raise OutputError(
                    f"column {name}: expected one type in all files, found int64 beyond 2**53, "
                    f"which float64 cannot hold, and float64"
                )
        return selection.per_sample(Lists.concatenate(lists) if lists else values)
