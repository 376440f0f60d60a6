"""What a finished file says of itself as a whole: its content digest, and who is in which group."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import column_types, schema
from h5ingest.core.digest import ContentDigest

_BLOCK_ROWS: Final = 256 * 1024


def digest_problems(
    file: h5py.File, prefixes: Iterable[str], checksums: NDArray[np.uint64]
) -> list[str]:
    """Return a line if the content digest is not that of what the file holds.

    Args:
        file: the file.
        prefixes: of its groups.
        checksums: (n,) of all images, one group after the other, as their pixels say now: those
            that are stored beside them do not count.
    """
    digest = ContentDigest(f"{file.attrs['schema']}\t{file.attrs['n_samples']}")
    layout = str(file.attrs["schema"]).split()[1]
    first = 0
    for prefix in prefixes:
        n_rows = len(file[f"{prefix}/status"])
        columns = [
            f"{schema.COLUMNS}/{name}" for name in file.get(f"{prefix}/{schema.COLUMNS}", ())
        ]
        for name in (*schema.known(layout), *columns):
            full_name = f"{prefix}/{name}"
            if name == schema.PIXELS.get(layout):
                digest.add_pixels(full_name, [_kind(file[full_name])])
            elif name == "checksums":
                digest.add_numbers(full_name, checksums[first : first + n_rows])
            elif full_name in file:
                _add(digest, full_name, file[full_name])
        first += n_rows
        if layout == "tree":
            kinds = (
                _kind(file[name]) if name in file else "" for name in file[f"{prefix}/datasets"][:]
            )
            digest.add_pixels(f"{prefix}/datasets", kinds)
    found = digest.hexdigest()
    if found == file.attrs["content_digest"]:
        return []
    return [f"content_digest: expected {file.attrs['content_digest']}, found {found}"]


def group_problems(file: h5py.File, prefixes: Iterable[str], group_by: str | None) -> list[str]:
    """Return what is wrong with the division of the samples into groups.

    Every sample is in one group, in the order of the manifest; and where the column that they are
    grouped by is stored, each of a group's rows says the group's name.

    Args:
        file: the file.
        prefixes: of its groups.
        group_by: the column.
    """
    if group_by is None:
        return []
    problems = []
    n_samples = int(file.attrs["n_samples"])
    taken = np.zeros(n_samples, bool)
    for prefix in prefixes:
        name, last = f"{prefix}/samples", -1
        if name not in file:
            return [f"expected a dataset {name}, found none"]
        for start in range(0, len(file[name]), _BLOCK_ROWS):
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


def _n_others(file: h5py.File, prefix: str, group_by: str) -> int:
    """Return how many rows of a group say in its column that they are of another one."""
    name = f"{prefix}/labels" if group_by == "label" else f"{prefix}/columns/{group_by}"
    column, group = file.get(name), file[prefix].attrs.get("name")
    if not isinstance(column, h5py.Dataset) or group is None:
        return 0
    cell = os.fsencode(group)
    wanted: Any
    try:
        if group_by == "label" and f"{prefix}/label_names" in file:
            wanted = file[f"{prefix}/label_names"][:].tolist().index(cell)
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


def _kind(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype.name}{dataset.shape}"


def _add(digest: ContentDigest, name: str, dataset: h5py.Dataset) -> None:
    for start in range(0, len(dataset), _BLOCK_ROWS):
        values = dataset[start : start + _BLOCK_ROWS]
        if h5py.check_string_dtype(dataset.dtype) is not None:
            digest.add_strings(name, values)
        else:
            digest.add_numbers(name, values)
