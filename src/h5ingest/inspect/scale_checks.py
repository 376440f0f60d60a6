"""Dimension scales, checked: all axes of a group's datasets have theirs, or none has."""

from __future__ import annotations

from functools import partial
from typing import Any

import h5py

from h5ingest.core.dimensions import scales
from h5ingest.inspect.findings import Unread
from h5ingest.inspect.readable import Readable, attempt
from h5ingest.reading.scales import find_scale


def scale_problems(file: h5py.File, readable: Readable, prefix: str, names: list[str]) -> list[str]:
    """Return what is wrong with the scales of a group's datasets; scales that users add are theirs.

    Args:
        file: the file.
        readable: the same.
        prefix: of the group.
        names: of its datasets, below the group's.

    Raises:
        Exception: a dataset cannot be read.
    """
    datasets = {name: readable.open(f"{prefix}/{name}") for name in names}
    wanted = {name: scales(prefix, name, dataset.ndim) for name, dataset in datasets.items()}
    paths = dict.fromkeys(path for of_one in wanted.values() for path in of_one)
    found = {path: attempt(partial(find_scale, file, path)) for path in paths}
    if all(scale is None or isinstance(scale, Unread) for scale in found.values()):
        return []  # made before there were any, or a further image has the name of one
    problems = []
    for path, scale in found.items():
        if scale is None:
            problems.append(f"expected a dimension scale {path}, found none")
        elif isinstance(scale, Unread):
            problems.append(f"{path}: cannot be read: {scale.reason}")
        elif scale.id.get_storage_size():
            problems.append(f"{path}: expected a dimension scale without values, found some")
    for name, of_one in wanted.items():
        for axis, path in enumerate(of_one):
            n, scale = datasets[name].shape[axis], found[path]
            if scale is None or isinstance(scale, Unread):
                continue
            attached = attempt(partial(_attached, datasets[name].id, axis))
            if isinstance(attached, Unread):
                told = f"what cannot be read: {attached.reason}"
            elif _place(scale.id) not in attached:
                told = "another" if attached else "none"
            elif scale.shape != (n,):
                told = f"one of the shape {scale.shape}"
            else:
                continue
            problems.append(
                f"{prefix}/{name}: expected {path}, ({n},), as the scale of axis {axis}, found "
                f"{told}"
            )
    return problems


def _attached(dataset: Any, axis: int) -> list[Any]:
    """Return where the scales of an axis are."""
    found: list[Any] = []
    if not h5py.h5ds.get_num_scales(dataset, axis):
        return found
    h5py.h5ds.iterate(dataset, axis, lambda scale: found.append(_place(scale)))
    return found


def _place(scale: Any) -> Any:
    return h5py.h5o.get_info(scale).addr
