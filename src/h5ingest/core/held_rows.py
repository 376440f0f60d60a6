"""`HeldRows`: what a file has already, when images are added to it: they come behind it.

May not: know a file, a communicator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRows:
    """The rows of a file that stay, in groups."""

    groups: tuple[bytes, ...]
    """Names of the groups that have some."""
    counts: NDArray[np.int64]
    """(groups, 2) rows and elements of each, on all ranks."""
    kinds: NDArray[np.void]
    """(k,) `census.KIND` of what one rank has of them, first `census.STORED`; summed over the ranks
    they are all."""
    palettes: frozenset[bytes] = frozenset()
    """RGB entries of the palette that their samples are indices of, if there is one."""

    @property
    def n_samples(self) -> int:
        """Rows of all groups."""
        return int(self.counts[:, 0].sum())

    def among(self, groups: Sequence[bytes]) -> HeldRows:
        """Return the same, numbered as these groups, of which some may be new."""
        places = {name: k for k, name in enumerate(groups)}
        numbers = np.array([places[name] for name in self.groups], np.int32)
        counts, kinds = np.zeros((len(groups), 2), np.int64), self.kinds.copy()
        counts[numbers] = self.counts
        kinds["group"] = numbers[kinds["group"]]
        return replace(self, groups=tuple(groups), counts=counts, kinds=kinds)


NOTHING: Final = HeldRows(groups=(), counts=np.zeros((0, 2), np.int64), kinds=np.zeros(0, KIND))
"""Of a new file."""
