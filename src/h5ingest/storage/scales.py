"""Dimension scales: names of the axes of a stack, for those who read netCDF's files.

By h5py's calls of HDF5 alone, as in `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from h5ingest.core import schema
from h5ingest.core.dimensions import NOT_A_VARIABLE, scales


def write_scales(file: h5py.File, prefix: str) -> None:
    """Attach scales to all datasets in a group of a stack, once it has them.

    To none of them if a further image of the samples has the name of a scale: xarray refuses a
    group where only some axes have a name.

    Args:
        file: the file.
        prefix: HDF5 path of the group: empty, or `/train`.
    """
    found = dict(_datasets(h5py.h5g.open(file.id, _raw(prefix or "/"))))
    wanted = {name: scales(prefix, name, len(dataset.shape)) for name, dataset in found.items()}
    lengths = {
        path: n
        for name, paths in wanted.items()
        for path, n in zip(paths, found[name].shape, strict=True)
    }
    if any(file.id.links.exists(_raw(path)) for path in lengths):
        return
    made = {path: _create(file, path, n) for path, n in lengths.items()}
    for name, paths in wanted.items():
        for axis, path in enumerate(paths):
            h5py.h5ds.attach_scale(found[name], made[path], axis)


def _datasets(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name, below the group's, and dataset of all but further images of the samples."""
    for key in group:
        item, name = h5py.h5o.open(group, key), above + key.decode("utf-8", "surrogateescape")
        if isinstance(item, h5py.h5d.DatasetID):
            yield name, item
        elif above or name in (schema.COLUMNS, schema.LABELS.name):
            yield from _datasets(item, f"{name}/")


def _create(file: h5py.File, path: str, length: int) -> Any:
    """Return a new scale: no space is ever allocated for its values."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    space = h5py.h5s.create_simple((length,))
    scale = h5py.h5d.create(file.id, _raw(path), h5py.h5t.STD_U8LE, space, creation)
    h5py.h5ds.set_scale(scale, f"{NOT_A_VARIABLE}{length:10d}".encode())
    return scale


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
