"""Images that are there more than once, found by their checksums: within groups, and between them.

Checksums are of the bytes alone, so what else makes two images the same is mixed into them: shape
and type. May not: hold more than a part of the checksums of a large file at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_AT_ONCE: Final = 2**24
"""Keys that are sorted at once: half a gigabyte of memory."""
_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
"""Odd numbers (of the golden ratio and of xxHash): what is multiplied with them differs."""


class Keys(NamedTuple):
    """Some images of a group."""

    group: int
    rows: NDArray[np.int64]
    """(n,)"""
    keys: NDArray[np.uint64]
    """(n,) equal for images that are the same."""


class Copies(NamedTuple):
    """Images that are the same, some with each other."""

    groups: NDArray[np.int64]
    """(n,) group of each; those that are the same lie side by side, in order of group and row."""
    rows: NDArray[np.int64]
    """(n,) row of each."""
    starts: NDArray[np.int64]
    """(k + 1,) where each set of images that are the same begins, and n."""


def mixed(
    checksums: NDArray[np.uint64], shapes: NDArray[np.uint64], n_bytes: int | NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return keys of images.

    Args:
        checksums: (n,)
        shapes: (n, 3), or (1, 3), height, width, channels.
        n_bytes: of a value; or (n,).
    """
    mixed_in = (shapes * _MIX).sum(axis=1, dtype=np.uint64)
    keys: NDArray[np.uint64] = checksums ^ (mixed_in * np.asarray(n_bytes, np.uint64))
    return keys


def find(
    blocks: Callable[[], Iterable[Keys]], n_images: int, most: int = MOST_AT_ONCE
) -> Iterator[Copies]:
    """Yield the images that are there more than once, of one part of all keys after the other.

    Args:
        blocks: returns all images, in any number of blocks; called once for each part.
        n_images: about how many there are.
        most: keys that are sorted at once, about.
    """
    n_parts = -(-n_images // most) or 1
    for part in range(n_parts):
        groups, rows, keys = [], [], []
        for block in blocks():
            chosen = slice(None) if n_parts == 1 else block.keys % np.uint64(n_parts) == part
            rows.append(block.rows[chosen])
            keys.append(block.keys[chosen])
            groups.append(np.full(len(rows[-1]), block.group))
        if keys:
            yield _copies(np.concatenate(groups), np.concatenate(rows), np.concatenate(keys))


def _copies(groups: NDArray[np.int64], rows: NDArray[np.int64], keys: NDArray[np.uint64]) -> Copies:
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return Copies(groups[:0], rows[:0], np.zeros(1, np.intp))
    # np.isin imports all of numpy.ma first.
    near = repeated[np.searchsorted(repeated, keys).clip(max=len(repeated) - 1)]
    some = np.flatnonzero(near == keys)
    order = some[np.argsort(keys[some], kind="stable")]  # blocks come in order of group and row
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
    return Copies(groups[order], rows[order], np.append(starts, len(order)))


def counted(found: Iterable[Copies], n_groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many images of each group have an earlier one, and how many another group has.

    >>> sets = Copies(np.array([0, 0, 1]), np.array([4, 7, 0]), np.array([0, 3]))
    >>> [counts.tolist() for counts in counted([sets], 2)]
    [[1, 0], [2, 1]]
    """
    copies, elsewhere = np.zeros((2, n_groups), np.int64)
    for groups, _, starts in found:
        if not len(groups):
            continue
        sets = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        new_set = np.append(True, sets[1:] != sets[:-1])
        new_group = new_set | np.append(True, groups[1:] != groups[:-1])
        np.add.at(copies, groups[~new_group], 1)
        several = np.add.reduceat(new_group, starts[:-1], dtype=np.int64) > 1
        np.add.at(elsewhere, groups[several[sets]], 1)
    return copies, elsewhere
