"""What goes with the images: their paths, labels and further columns, a block of samples at a time.

May not: know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

INDEX: Final = "\0index"
"""Name of the column of the samples' indices: no column of a manifest can have it."""

Block = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]
"""(n,) position of each sample's group in the layout; column -> (n,) numbers, or bytes objects;
among them those of further images, which are their paths."""


class SampleColumns(Protocol):
    """The columns of all samples."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Column -> `int64`, `float64` or `text`: `path`, perhaps `label`, others, `INDEX`."""

    @property
    def class_names(self) -> tuple[bytes, ...] | None:
        """The names that labels are positions in; None: labels are numbers only."""

    def blocks(self) -> Iterator[Block]:
        """Yield all samples, those of a group in the order of its rows.

        Raises:
            IngestError: they are not what they were when the run began.
        """
