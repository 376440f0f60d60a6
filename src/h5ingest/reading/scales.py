"""Dimension scales that are found in a file: whether they are h5ingest's."""

from __future__ import annotations

import h5py
import numpy as np

from h5ingest.core.dimensions import NOT_A_VARIABLE, SCALES
from h5ingest.core.errors import OutputError
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.dataset_rule import StoredDataset
from h5ingest.reading.open_file import find


def find_scale(file: h5py.File, path: str) -> StoredDataset | None:
    """Return the scale of this HDF5 path; None: there is none, or somebody has added coordinates.

    Raises:
        OutputError: it is not in this file, or cannot be read.
    """
    found = find(file, path)
    if not isinstance(found, StoredDataset):
        return None
    name = Attributes(found).get("NAME")
    is_ours = isinstance(name, np.bytes_) and name.startswith(NOT_A_VARIABLE.encode())
    return found if is_ours else None


def is_scale(file: h5py.File, prefix: str, name: str) -> bool:
    """Return whether an object in a group of images, of this name, is one of its scales."""
    try:
        return name in SCALES and find_scale(file, f"{prefix}/{name}") is not None
    except OutputError:
        return False
