"""The manifest of what is exported: the columns as the file has them, a line for each image.

An ingest of it gives each column the same type and values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import lists
from h5ingest.core.errors import ManifestError, OutputError
from h5ingest.core.lists import Lists
from h5ingest.core.manifest_heading import separator_for
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.exports.chosen import Share
from h5ingest.exports.names import listed
from h5ingest.exports.stored import Stored
from h5ingest.exports.work import Work
from h5ingest.images.folder_manifest import quoted
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.reading.selection import flat
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.reading.text import Strings

_BLOCK_BYTES: Final = 16 * 1024**2
"""Of lines that go to rank 0 at once."""
_JOINED: Final = 4096
"""Lines that are written at once."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a manifest."""

    text: PackedStrings
    """(n,) each with its end."""
    samples: NDArray[np.int64]
    """(n,) the index of each sample in the manifest that was ingested."""
    n_renamed: int
    """Images whose path is not what it was there."""


Cells = dict[str, Sequence[Any]]
"""Column -> the values of some rows: bytes, int or float, or lists of them."""


def columns_of(stored: Stored) -> tuple[str, ...]:
    """Return the names of all columns but those of images, of the first group."""
    group = stored.group(0)
    with stored.inside():
        labels, _ = group.classes()
        return *(("label",) if labels is not None else ()), *group.columns()


def cells_of(stored: Stored, group: StoredGroup, rows: NDArray[np.int64]) -> Cells:
    """Return what the file has of some rows, beside their paths; labels by name if they have one.

    Raises:
        OutputError: the file cannot be read.
    """
    found: Cells = {}
    texts: dict[str, Strings] = {}
    with stored.inside():
        labels, names = group.classes()
        for name, column in group.columns().items():
            if isinstance(column, Strings):
                texts[name] = column
            else:
                first, end = int(rows[0]), int(rows[-1]) + 1
                found[name] = column[first:end][rows - first].tolist()
    found |= {name: column.raw(rows) for name, column in texts.items()}
    if labels is not None:
        found["label"] = labels[rows].tolist()
        if names is not None:
            known = np.unique(flat(labels[rows]))
            each = dict(zip(known.tolist(), names.raw(known), strict=True))
            if isinstance(labels, Lists):
                found["label"] = [[each[label] for label in row] for row in found["label"]]
            else:
                found["label"] = [each[label] for label in found["label"]]
    return found


def heading(columns: Sequence[str]) -> bytes:
    """Return the first line of a manifest with these columns."""
    return _line([name.encode("utf-8", "surrogateescape") for name in columns])


def lines_of(stored: Stored, share: Share, names: Sequence[bytes], columns: Sequence[str]) -> Lines:
    """Return a line for each row: the names of its files, and columns beside those of images.

    Raises:
        OutputError: a text cannot be written in a line; or the file cannot be read.
    """
    lines, samples, n_renamed = [], [np.zeros(0, np.int64)], 0
    mark = separator_of(stored)
    for number, here in share.runs():
        group, rows = stored.group(number), share.rows[here]
        with stored.inside():
            samples.append(group.samples(rows))
        cells = cells_of(stored, group, rows)
        missing = [name for name in columns if name not in cells]
        if missing or len(cells) != len(columns):
            raise OutputError(f"{stored.path}: expected the same columns in all groups")
        if mark:
            cells["label"] = [mark.join(label) for label in cells["label"]]
        table: list[Iterable[bytes]] = []
        of_files = names[here.start * stored.n_each : here.stop * stored.n_each]
        for k, paths in enumerate(stored.paths(number, rows).values()):
            found = [*map(listed, paths, of_files[k :: stored.n_each])]
            n_renamed += sum(map(operator.ne, found, paths))
            table.append(found)
        table += (map(as_cell, cells[name]) for name in columns)
        lines.append(PackedStrings.pack([*map(_line, zip(*table, strict=True))]))
    every = PackedStrings.concatenate(lines)
    if every.text.count(b"\n") != len(every) or b"\r" in every.text or b"\0" in every.text:
        raise OutputError(
            f"{stored.path}: a text of a column has a line end or a NUL in it, which no manifest "
            f"can hold"
        )
    return Lines(every, np.concatenate(samples), n_renamed)


def separator_of(stored: Stored) -> bytes:
    """Return what stands between the classes of a label; empty: each has one."""
    group = stored.group(0)
    with stored.inside():
        labels, names = group.classes()
    if not isinstance(labels, Lists) or names is None:
        return b""
    try:
        return separator_for(names.raw(np.arange(len(names))))
    except ManifestError as error:
        raise OutputError(f"{stored.path}: {error}") from None


def as_cell(value: bytes | int | float | list[Any]) -> bytes:
    """Return what a manifest has for a value, such that an ingest finds the same one.

    >>> as_cell(b"007"), as_cell(-3), as_cell(1e22), as_cell(math.nan)
    (b'007', b'-3', b'1e+22', b'nan')
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return lists.as_cell(value)
    sign = "-" if value != value and math.copysign(1, value) < 0 else ""  # which repr has not
    return f"{sign}{value!r}".encode()


def _line(cells: Sequence[bytes]) -> bytes:
    return b",".join(map(quoted, cells)) + b"\n"


Ordered = tuple[PackedStrings, NDArray[np.int64]]
"""Lines, and (n,) in which order they are those of the manifest that was ingested."""


def of_all(work: Work) -> tuple[Ordered | None, tuple[str, ...]]:
    """Return the lines of all ranks on rank 0, and all columns. Collective.

    How many paths are new is noted.

    Raises:
        OutputError: a text cannot be written in a line; or the file cannot be read.
    """
    columns: tuple[str, ...] = ()
    lines: Lines | None = None
    with agreeing(work.comm):
        columns = columns_of(work.stored)
        lines = lines_of(work.stored, *work.kept(), columns)
    assert lines is not None, "else there is an error"
    if mark := separator_of(work.stored).decode():
        columns = tuple(f"label[{mark}]" if name == "label" else name for name in columns)
    work.n_renamed = sum(work.comm.allgather(lines.n_renamed))
    return _gathered(work.comm, lines), (*work.stored.image_columns, *columns)


def _gathered(comm: Comm, lines: Lines) -> Ordered | None:
    """Return the lines of all ranks on rank 0. Collective.

    In pieces: all of them may be more than MPI takes at once.
    """
    here = _blocks(lines.text)
    every, pieces = comm.gather(lines.samples), []
    for rank, n_blocks in enumerate(comm.allgather(len(here))):
        for k in range(n_blocks):
            told = comm.gather(here[k] if rank == comm.rank else None)
            if told is not None and (piece := told[rank]) is not None:
                pieces.append(piece)
    if every is None:
        return None
    return PackedStrings.concatenate(pieces), np.argsort(np.concatenate(every), kind="stable")


def in_order(
    lines: PackedStrings, order: NDArray[np.int64], beat: Callable[[], None]
) -> Iterator[bytes]:
    """Yield the lines in this order, many at a time; call `beat` in between."""
    for start in range(0, len(order), _JOINED):
        beat()
        yield b"".join(map(lines.__getitem__, order[start : start + _JOINED].tolist()))


def _blocks(lines: PackedStrings) -> list[PackedStrings]:
    """Return the lines in pieces that are not too large for a message."""
    n_pieces = 1 + len(lines.text) // _BLOCK_BYTES
    ends = [len(lines) * k // n_pieces for k in range(n_pieces + 1)]
    return [lines.slice(range(start, end)) for start, end in pairwise(ends)]
