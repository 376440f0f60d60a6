"""Lists as a file has them: their two datasets, read as a whole and checked."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.lists import Lists, kind_name, offsets_of
from h5ingest.reading.dataset_rule import StoredDataset, naming, refuse


def kind_of_column(column: StoredDataset | tuple[StoredDataset, StoredDataset]) -> str:
    """Return what a column is, of what `open_file.open_column` returns: see `column_types`."""
    if isinstance(column, tuple):
        return kind_name(column[0].dtype.name, column[0].shape[1:])
    return "text" if column.dtype.kind == "O" else str(column.dtype.name)


def read_lists(file: h5py.File, values: StoredDataset, offsets: StoredDataset) -> Lists:
    """Return lists, read-only, of what `open_file.open_lists` returns.

    Raises:
        OutputError: the offsets do not cut the values into rows; or they cannot be read.
    """
    arrays = []
    for dataset in (values, offsets):
        with naming(file, dataset.name):
            arrays.append(dataset[()])
        arrays[-1].flags.writeable = False
    return checked(file, values.name.rpartition("/")[0], *arrays)


def checked(file: h5py.File, name: str, values: NDArray[Any], offsets: NDArray[np.int64]) -> Lists:
    """Return lists, if the offsets cut the values into rows.

    Raises:
        OutputError: they do not.
    """
    checked_lengths(file, offsets_of(name), offsets, len(values))
    return Lists(values, offsets)


def checked_lengths(
    file: h5py.File, name: str, offsets: NDArray[np.int64], total: int
) -> NDArray[np.int64]:
    """Return the length of each row, (n,), if offsets, (n + 1,), cut so many values into rows.

    Args:
        file: the file.
        name: of the offsets, for messages.
        offsets: where each row begins, and where the last one ends.
        total: values.

    Raises:
        OutputError: they do not.
    """
    if not len(offsets) or (offsets[0], offsets[-1]) != (0, total):
        found = f"{offsets[0]:,} to {offsets[-1]:,}" if len(offsets) else "none"
        refuse(file, name, f"0 to {total:,}", found)
    lengths = np.diff(offsets)
    if lengths.min(initial=0) < 0:
        row = int(lengths.argmin())
        refuse(file, name, "offsets that ascend", f"{lengths[row]:,} after row {row:,}")
    return lengths
