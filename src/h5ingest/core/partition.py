"""Who writes what, and when: a function of the layout and the number of ranks.

The plan cannot change the file. It cuts the pixels of the groups, one after the other, into one
piece per rank of about the same number of bytes, at borders of chunks where there are chunks: so no
chunk has two owners.

May not: touch a file, a buffer, a communicator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import DatasetSpec


class Cut(NamedTuple):
    """A border between two ranks; cuts are in order."""

    group: int
    """The group in which the next rank begins."""
    position: int
    """Where in `pixels` (axis 0) it begins: a row of a stack, else an element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one rank writes in one group."""

    group: int
    """Position of the group in the layout."""
    span: range
    """Rows of a stack, else elements of `pixels`; whole chunks."""


def unit(spec: DatasetSpec) -> int:
    """Return the positions on axis 0 that must stay with one rank."""
    return spec.chunk_rows or 1


def cut(pixels: Sequence[DatasetSpec], size: int) -> list[Cut]:
    """Return the size - 1 borders between ranks: equal bytes, rounded to whole chunks.

    The last chunk of a group counts like the others: so the ranks' shares differ by at most one
    chunk, and none is idle while there are chunks for all.

    >>> spec = DatasetSpec(name="/images", shape=(10, 4), dtype="uint8", chunk_rows=3)
    >>> cut([spec], 2)
    [Cut(group=0, position=6)]
    """
    n_bytes = [spec.stored_bytes for spec in pixels]
    ends = np.cumsum(n_bytes, dtype=object)
    cuts = []
    for rank in range(1, size):
        target = int(ends[-1]) * rank // size
        group = min(int(np.searchsorted(ends, target, side="right")), len(pixels) - 1)
        spec = pixels[group]
        inside = target - (int(ends[group]) - n_bytes[group])
        step = unit(spec) * spec.row_bytes
        cuts.append(Cut(group, min((inside + step // 2) // step * unit(spec), spec.shape[0])))
    return cuts


def pieces(cuts: Sequence[Cut], lengths: Sequence[int], rank: int) -> list[Piece]:
    """Return the pieces of one rank: one, maybe empty, for each group between its borders.

    Args:
        cuts: borders between the ranks, in order.
        lengths: positions on axis 0 of each group's `pixels`.
        rank: whose.

    >>> pieces([Cut(0, 6)], [10], 1)
    [Piece(group=0, span=range(6, 10))]
    """
    ends = [Cut(0, 0), *cuts, Cut(len(lengths) - 1, lengths[-1])]
    first, last = ends[rank], ends[rank + 1]
    found = []
    for group in range(first.group, last.group + 1):
        start = first.position if group == first.group else 0
        stop = last.position if group == last.group else lengths[group]
        found.append(Piece(group=group, span=range(start, stop)))
    return found


def batches(span: range, step: int, batch_positions: int) -> list[range]:
    """Return the interval in batches of whole units, as many as `batch_positions` hold.

    >>> batches(range(6, 20), step=3, batch_positions=7)
    [range(6, 12), range(12, 18), range(18, 20)]
    """
    size = max(1, batch_positions // step) * step
    return [
        range(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size)
    ]


def element_batches(
    span: range,
    owned: range,
    first_row: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    step: int,
    batch_positions: int,
) -> list[tuple[range, range, range]]:
    """Return (elements, rows with a part in them, rows that begin in them), in order.

    Units are kept whole where they have several positions, images where they have one. An empty
    image belongs to the batch that begins where it does.

    Args:
        span: elements.
        owned: rows that begin in it.
        first_row: of those that follow.
        starts: (n,) the element at which each row begins, non-decreasing.
        lengths: (n,) elements of each.
        step: elements of a unit.
        batch_positions: elements of a batch, about.
    """
    ends = starts + lengths
    found: list[tuple[range, range, range]] = []
    if step > 1:
        for part in batches(span, step, batch_positions):
            begin = int(np.searchsorted(starts, part.start))
            first = min(begin, int(np.searchsorted(ends, part.start, side="right")))
            stop = int(np.searchsorted(starts, part.stop))
            if part.stop == span.stop:
                stop = len(ends)
            begun = range(max(first_row + begin, owned.start), first_row + stop)
            found.append((part, range(first_row + first, first_row + stop), begun))
        return found or [(span, range(first_row, first_row + len(ends)), owned)]
    first = 0
    while first < len(ends):
        begin = int(starts[first])
        stop = max(first + 1, int(np.searchsorted(ends, begin + batch_positions, side="right")))
        rows = range(first_row + first, first_row + stop)
        found.append((range(begin, int(ends[stop - 1])), rows, rows))
        first = stop
    return found


def overlap(a: range, b: range) -> range:
    """Return the positions in both intervals; empty, and within `a`, if there are none.

    >>> overlap(range(0, 5), range(3, 9)), overlap(range(0, 2), range(4, 6))
    (range(3, 5), range(2, 2))
    """
    start = min(max(a.start, b.start), a.stop)
    return range(start, max(start, min(a.stop, b.stop)))
