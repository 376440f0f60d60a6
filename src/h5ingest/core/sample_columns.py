"""What goes with the images: their paths, labels and further columns, a block of samples at a time.

May not: know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.lists import Lists

INDEX: Final = "\0index"
"""Name of the column of the samples' indices: no column of a manifest can have it."""

Cells = NDArray[Any] | Lists
"""(n,) numbers or bytes objects, or lists."""
Block = tuple[NDArray[np.int64], dict[str, Cells]]
"""(n,) position of each sample's group in the layout; column -> its cells; among the columns those
of further images, whose cells are their paths."""
_STANDARD: Final = {"path": schema.PATHS, "label": schema.LABELS, INDEX: schema.SAMPLES}


def target(prefix: str, column: str) -> str:
    """Return the HDF5 path of a column in the group of this prefix: most lie below `columns`."""
    standard = _STANDARD.get(column)
    return standard.at(prefix) if standard else schema.column(prefix, column)


class SampleColumns(Protocol):
    """The columns of all samples."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Column -> what it is: `path`, perhaps `label`, others, `INDEX` (see `column_types`)."""

    @property
    def class_names(self) -> tuple[bytes, ...] | None:
        """The names that labels are positions in; None: labels are numbers only."""

    def blocks(self) -> Iterator[Block]:
        """Yield all samples, those of a group in the order of its rows.

        Raises:
            IngestError: they are not what they were when the run began.
        """
