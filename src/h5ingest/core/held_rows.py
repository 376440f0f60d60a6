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
    """The rows of a file that stay, in groups of images: `n_each` for each group of samples."""

    groups: tuple[bytes, ...]
    """Names of the groups of samples that have some."""
    counts: NDArray[np.int64]
    """(groups of images, 2) rows and elements of each, on all ranks."""
    kinds: NDArray[np.void]
    """(k,) `census.KIND` of what one rank has of them, first `census.STORED`; summed over the ranks
    they are all."""
    palettes: tuple[bytes | None, ...] = (None,)
    """Of each column of images, RGB entries of the palette that they are indices of, if any."""

    @property
    def n_each(self) -> int:
        """Images of a row."""
        return len(self.palettes)

    @property
    def n_samples(self) -> int:
        """Rows of all groups."""
        return int(self.counts[:: self.n_each, 0].sum())

    def among(self, groups: Sequence[bytes]) -> HeldRows:
        """Return the same, numbered as these groups, of which some may be new."""
        places = {name: k for k, name in enumerate(groups)}
        first = np.array([places[name] for name in self.groups], np.int32) * self.n_each
        numbers = (first[:, np.newaxis] + np.arange(self.n_each, dtype=np.int32)).ravel()
        counts, kinds = np.zeros((len(groups) * self.n_each, 2), np.int64), self.kinds.copy()
        counts[numbers] = self.counts
        kinds["group"] = numbers[kinds["group"]]
        return replace(self, groups=tuple(groups), counts=counts, kinds=kinds)


NOTHING: Final = HeldRows(groups=(), counts=np.zeros((0, 2), np.int64), kinds=np.zeros(0, KIND))
"""Of a new file."""
