"""Which of many things are taken for a sample: the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator


def evenly(n: int, n_wanted: int) -> list[int]:
    """Return at most `n_wanted` of the rows 0..n-1, the same every time, as far apart as they can.

    >>> evenly(10, 3), evenly(3, 10)
    ([1, 5, 8], [0, 1, 2])
    """
    k = min(n, n_wanted)
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]


def spread(n: int) -> Iterator[int]:
    """Yield 0..n-1 so that the first of them, however many, lie all over (van der Corput).

    >>> list(spread(6))
    [0, 4, 2, 1, 5, 3]
    """
    n_bits = max(1, (n - 1).bit_length())
    for i in range(1 << n_bits):
        at = int(f"{i:0{n_bits}b}"[::-1], 2)
        if at < n:
            yield at


def neighbours(n: int, n_places: int, n_each: int) -> list[int]:
    """Return rows of 0..n-1: runs of up to `n_each` neighbours at `n_places` that lie evenly.

    The first of every run comes first, then the second of every run, so that the beginning of the
    list lies all over, too. None is in it twice; where there are not more, all are in it.

    >>> neighbours(100, 2, 3), neighbours(5, 2, 3)
    ([25, 75, 26, 76, 27, 77], [0, 4, 2, 1, 3])
    """
    if n <= n_places * n_each:
        return list(spread(n))
    places = evenly(n, n_places)
    order = [places[at] for at in spread(len(places))]
    return list(dict.fromkeys(row + k for k in range(n_each) for row in order if row + k < n))
