"""`KeptRows`: which rows of a file stay when images are added to it, and which row each becomes.

May not: know a file, a communicator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class KeptRows:
    """All but those that a new image replaces; they are the same on all ranks.

    >>> kept = KeptRows((np.array([1, 2]),), np.array([1, 2]))
    >>> kept.stay(0, range(4)), kept.old_rows(0, range(2)), kept.n_before(0, 3)
    (array([ True, False, False,  True]), array([0, 3]), 1)
    """

    dropped: tuple[NDArray[np.int64], ...]
    """Of each group of images of the file, (n,) rows that go, ascending."""
    indices: NDArray[np.int64]
    """(m,) the samples that they were, ascending."""

    @classmethod
    def of(
        cls,
        n_groups: int,
        n_each: int,
        gone: Sequence[tuple[int, NDArray[np.int64], NDArray[np.int64]]],
    ) -> KeptRows:
        """Return what stays where some rows go.

        Args:
            n_groups: of images of the file.
            n_each: images of a row, each in a group.
            gone: group of samples, (k,) rows, (k,) indices, in any order.
        """
        nothing = np.zeros(0, np.int64)
        return cls(
            tuple(
                np.sort(np.concatenate([nothing, *(rows for g, rows, _ in gone if g == group)]))
                for group in (number // n_each for number in range(n_groups))
            ),
            np.sort(np.concatenate([nothing, *(indices for *_, indices in gone)])),
        )

    def stay(self, group: int, rows: range) -> NDArray[np.bool_]:
        """Return (n,) whether each of these rows stays."""
        dropped = self.dropped[group]
        first, stop = np.searchsorted(dropped, (rows.start, rows.stop)).tolist()
        stays = np.ones(len(rows), np.bool_)
        stays[dropped[first:stop] - rows.start] = False
        return stays

    def n_before(self, group: int, row: int) -> int:
        """Return how many rows stay before this one."""
        return row - int(np.searchsorted(self.dropped[group], row))

    def old_rows(self, group: int, rows: range) -> NDArray[np.int64]:
        """Return (n,) which rows of the file these rows were."""
        new, dropped = np.arange(rows.start, rows.stop), self.dropped[group]
        found: NDArray[np.int64] = new + np.searchsorted(
            dropped - np.arange(len(dropped)), new, side="right"
        )
        return found

    def renumbered(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """Return the indices that samples have from now on."""
        found: NDArray[np.int64] = indices - np.searchsorted(self.indices, indices)
        return found
