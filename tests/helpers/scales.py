"""Attributes of dimension scales, and of what they are attached to, as they can be compared."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np


def plain(file: h5py.File, key: str, value: Any) -> Any:
    """The value of an attribute as Python has it, with names in place of references."""
    if key == "DIMENSION_LIST":
        return [[file[scale].name for scale in axis] for axis in value]
    if key == "REFERENCE_LIST":
        return [[file[dataset].name, int(axis)] for dataset, axis in value]
    return np.asarray(value).tolist()
