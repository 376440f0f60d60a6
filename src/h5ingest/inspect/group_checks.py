"""Which samples a group has: the division into groups, checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import h5py
import numpy as np

from h5ingest.core import column_types, schema
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.schema import FileHeader

_BLOCK_ROWS: Final = 256 * 1024


def group_problems(file: h5py.File, header: FileHeader, beat: Callable[[], None]) -> list[str]:
    """Return what is wrong with the division of the samples into groups.

    Every sample is in one group, in the order of the manifest; and where the column that they are
    grouped by is stored, each of a group's rows says the group's name.

    Raises:
        Exception: something in the file cannot be read.
    """
    problems = _row_problems(file, header, beat)
    group_by = header.options.get("group_by")
    if group_by is None:
        return problems
    n_samples = header.n_samples or 0
    taken = np.zeros(n_samples, bool)
    for prefix in header.group_prefixes:
        name, last = schema.SAMPLES.at(prefix), -1
        if name not in file:
            return [f"expected a dataset {name}, found none"]
        group = file[prefix].attrs.get(schema.GROUP_NAME)
        if not isinstance(group, str) or group_prefix(group) != prefix:
            problems.append(f"{prefix}: expected the name of that group, found {group!r}")
        for start in range(0, len(file[name]), _BLOCK_ROWS):
            beat()
            samples = file[name][start : start + _BLOCK_ROWS]
            in_order = (np.diff(samples, prepend=last) > 0).all() and samples[-1] < n_samples
            if not in_order or taken[samples].any():
                problems.append(
                    f"{name}: expected samples of no other group, in order, below {n_samples:,}"
                )
                break
            taken[samples] = True
            last = samples[-1]
        n_others = _n_others(file, prefix, group_by)
        if n_others:
            problems.append(
                f"{prefix}: expected only rows whose {group_by} is the group's name, found "
                f"{n_others:,} of {len(file[name]):,} that say something else"
            )
    n_left = n_samples - int(taken.sum())
    if n_left and not problems:
        problems.append(f"samples: expected each of {n_samples:,} in a group, {n_left:,} are not")
    return problems


def _row_problems(file: h5py.File, header: FileHeader, beat: Callable[[], None]) -> list[str]:
    """Return where the images of a row do not have the same status: it fails as a whole."""
    problems = []
    for prefix in header.group_prefixes:
        first, *others = (file[schema.STATUS.at(path)] for path in header.images_of(prefix))
        for other in others:
            beat()
            if other.shape != first.shape:
                problems.append(f"{other.name}: expected {len(first)} rows, found {len(other)}")
            elif n_wrong := int((other[:] != first[:]).sum()):
                problems.append(
                    f"{other.name}: expected the status of {first.name} in each row, found another "
                    f"in {n_wrong:,}"
                )
    return problems


def _n_others(file: h5py.File, prefix: str, group_by: str) -> int:
    """Return how many rows of a group say in its column that they are of another one."""
    is_label = group_by == "label"
    name = schema.LABELS.at(prefix) if is_label else schema.column(prefix, group_by)
    column, group = file.get(name), file[prefix].attrs.get(schema.GROUP_NAME)
    if not isinstance(column, h5py.Dataset) or group is None:
        return 0
    cell = os.fsencode(group)
    wanted: Any
    try:
        classes = schema.LABEL_NAMES.at(prefix)
        if is_label and classes in file:
            wanted = file[classes][:].tolist().index(cell)
        else:
            kind = "text" if h5py.check_string_dtype(column.dtype) else column.dtype.name
            wanted = column_types.convert([cell], kind)[0]
    except ValueError:
        return len(column)
    n_others = 0
    for start in range(0, len(column), _BLOCK_ROWS):
        values = column[start : start + _BLOCK_ROWS]
        if values.dtype.kind == "f" and np.isnan(wanted):  # an empty cell
            n_others += int((~np.isnan(values)).sum())
        else:
            n_others += int((values != wanted).sum())
    return n_others
