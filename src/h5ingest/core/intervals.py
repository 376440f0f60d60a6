"""Intervals of rows, elements or bytes."""

from __future__ import annotations

from collections.abc import Iterable


def merged(spans: Iterable[range]) -> list[range]:
    """Return the intervals in order, as few as possible: what overlaps or touches is one.

    >>> merged([range(4, 8), range(9, 9), range(0, 4), range(3, 5), range(10, 12)])
    [range(0, 8), range(9, 9), range(10, 12)]
    """
    found: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if found and span.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return found
