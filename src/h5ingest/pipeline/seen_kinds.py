"""`SeenKinds`: the kinds of images that a rank stores before all headers are known.

May not: know a communicator, a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import KIND, censuses, merge, numbers_of
from h5ingest.core.layout import ImageSpec, OutputSpec
from h5ingest.core.options import IngestOptions


class SeenKinds:
    """The kinds of images that one rank stores, each compared with the first look."""

    def __init__(
        self, known: NDArray[np.void], outputs: tuple[OutputSpec, ...], options: IngestOptions
    ) -> None:
        """Begin with none.

        Args:
            known: (k,) `census.KIND`, merged: those of the first look.
            outputs: what images of such kinds become, in each group.
            options: what is to become of images that differ.
        """
        self.known = known
        self.outputs = outputs
        self.options = options
        self._found: dict[tuple[int, ImageSpec], _Found] = {}

    def add(self, group: int, spec: ImageSpec, index: int, n: int = 1) -> bool:
        """Count images of one kind; return whether they become what is expected.

        Args:
            group: position of their group.
            spec: what they are.
            index: global, of the first of them.
            n: how many they are.
        """
        found = self._found.get((group, spec))
        if found is None:
            found = self._found[group, spec] = _Found(index, self._fits(group, spec))
        found.first = min(found.first, index)
        found.count += n
        return found.fits

    def becomes(self, group: int, spec: ImageSpec) -> ImageSpec:
        """Return what an image of a group becomes."""
        return self.outputs[group].apply(spec)

    def kinds(self) -> NDArray[np.void]:
        """Return (k,) `census.KIND` of what has been counted."""
        found = self._found.items()
        return np.array([_kind(*key, each.count, each.first) for key, each in found], KIND)

    def _fits(self, group: int, spec: ImageSpec) -> bool:
        known = self.known[self.known["group"] == group]
        one = merge([known, np.array([_kind(group, spec, 1, 0)], KIND)])
        if len(one) == len(known):
            return True
        from h5ingest.pipeline.output_spec import decide  # not where all are alike

        census = censuses(one, group + 1)[group]
        return decide(census, self.options) == (self.outputs[group], [])


@dataclass(slots=True)
class _Found:
    """Images of one kind."""

    first: int
    """Global index of the first."""
    fits: bool
    """Whether they may be stored."""
    count: int = 0


def _kind(group: int, spec: ImageSpec, count: int, first: int) -> tuple[int, ...]:
    return group, *numbers_of(spec), count, first
