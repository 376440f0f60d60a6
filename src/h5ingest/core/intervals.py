"""Intervals of rows, elements or bytes."""

from __future__ import annotations

from collections.abc import Iterable


def merged(spans: Iterable[range], gap: int = 0) -> list[range]:
    """Return the intervals in order, as few as possible: what overlaps or touches is one.

    Args:
        spans: in any order.
        gap: positions that may lie between two that become one.

    >>> merged([range(4, 8), range(9, 9), range(0, 4), range(3, 5), range(10, 12)])
    [range(0, 8), range(9, 9), range(10, 12)]
    >>> merged([range(5, 8), range(0, 4)], gap=1)
    [range(0, 8)]
    """
    found: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if found and span.start <= found[-1].stop + gap:
            found[-1] = range(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return found
