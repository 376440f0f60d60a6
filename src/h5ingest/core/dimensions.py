"""Names of the dimensions of a stack, as xarray and others that read netCDF's files find them.

In the file each is an HDF5 dimension scale: a dataset without values, as long as the axes that it
is attached to. It lies in the HDF5 group of the images; of what belongs to lists, in theirs.
"""

from __future__ import annotations

from typing import Final

from h5ingest.core import schema
from h5ingest.core.lists import offsets_of, values_of

NOT_A_VARIABLE: Final = "This is a netCDF dimension but not a netCDF variable."
"""How netCDF begins the attribute `NAME` of a scale without values."""

_OF_OURS: Final = {each.name: each.dims for each in schema.known_datasets("stack")}
_NAMES: Final = {"y, x": "y_x"}
"""Dimension label -> name, where they differ."""

SCALES: Final = frozenset(_NAMES.get(dim, dim) for dims in _OF_OURS.values() for dim in dims)
"""Names that scales in the HDF5 group of the images may have."""


def dimensions(name: str, n_axes: int) -> tuple[str, ...]:
    """Return the name of each axis of a dataset, whose own `name` is that below its group's.

    >>> dimensions("images", 3), dimensions("columns/age", 1)
    (('sample', 'y', 'x'), ('sample',))
    >>> dimensions("columns/bbox/values", 2), dimensions("labels/offsets", 1)
    (('value', 'item_1'), ('offset',))
    """
    lists = _lists(name)
    if lists is None:
        dims = _OF_OURS.get(name, ("sample",))[:n_axes]
        return tuple(_NAMES.get(dim, dim) for dim in dims)
    if name == offsets_of(lists):
        return ("offset",)
    return ("value", *(f"item_{axis}" for axis in range(1, n_axes)))


def scales(prefix: str, name: str, n_axes: int) -> tuple[str, ...]:
    """Return the HDF5 path of the scale of each axis of a dataset.

    >>> scales("/train", "columns/age", 1), scales("", "columns/bbox/offsets", 1)
    (('/train/sample',), ('/columns/bbox/offset',))
    """
    lists = _lists(name)
    where = prefix if lists is None else f"{prefix}/{lists}"
    return tuple(f"{where}/{dimension}" for dimension in dimensions(name, n_axes))


def _lists(name: str) -> str | None:
    """Return the HDF5 group of the lists that a dataset belongs to; None: to none."""
    folder = name.rpartition("/")[0]
    is_ours = folder == schema.LABELS.name or folder.startswith(f"{schema.COLUMNS}/")
    return folder if is_ours and name in (values_of(folder), offsets_of(folder)) else None
