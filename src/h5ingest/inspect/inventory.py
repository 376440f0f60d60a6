"""A finished file as a whole: its structure, its content digest, and which samples a group has."""

from __future__ import annotations

import os
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import column_types, schema
from h5ingest.core.digest import ContentDigest
from h5ingest.core.schema import FileHeader
from h5ingest.reading.open_file import datasets

_BLOCK_ROWS: Final = 256 * 1024


def structure_problems(file: h5py.File, header: FileHeader) -> list[str]:
    """Return what is wrong with the structure: datasets that are missing or do not fit together."""
    if not header.complete:
        return ["its status is not 'complete'"]
    problems = [
        problem for prefix in header.prefixes for problem in _shape_problems(file, header, prefix)
    ]
    if problems:
        return problems
    n_rows = sum(len(file[schema.STATUS.at(prefix)]) for prefix in header.prefixes)
    if n_rows != header.n_samples:
        return [f"n_samples: expected {n_rows}, found {header.n_samples}"]
    return []


def _shape_problems(file: h5py.File, header: FileHeader, prefix: str) -> list[str]:
    """Return which datasets of a group are missing, or else have another number of rows."""
    required = [dataset.at(prefix) for dataset in schema.required_datasets(header.layout)]
    missing = [name for name in required if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        return [f"expected a dataset {name}, found none" for name in missing]
    found = {name: len(dataset) for name, dataset in datasets(file[prefix or "/"], header.layout)}
    found.pop(schema.LABEL_NAMES.name, None)  # a row for each class
    found.pop(schema.CHUNK_CHECKSUMS.name, None)  # a row for each chunk
    n_rows = found[schema.STATUS.name]
    expected = dict.fromkeys(found, n_rows)
    if schema.OFFSETS.name in found:
        expected[schema.OFFSETS.name] = n_rows + schema.OFFSETS.extra_rows
        n_elements = int(file[schema.OFFSETS.at(prefix)][-1])
        expected[schema.PIXELS[header.layout].name] = n_elements
    return [
        f"{prefix}/{name}: expected {expected[name]} rows, found {n}"
        for name, n in found.items()
        if n != expected[name]
    ]


def digest_problems(
    file: h5py.File, header: FileHeader, checksums: NDArray[np.uint64]
) -> list[str]:
    """Return a line if the content digest is not that of what the file holds.

    Args:
        file: the file.
        header: of the file.
        checksums: (n,) of all images, one group after the other, computed from their pixels: not
            those that the file has.
    """
    digest = ContentDigest(schema.content_text(header.layout, header.n_samples))
    pixels = schema.PIXELS.get(header.layout)
    first = 0
    for prefix in header.prefixes:
        for name, dataset in datasets(file[prefix or "/"], header.layout):
            full_name = f"{prefix}/{name}"
            if name == schema.CHUNK_CHECKSUMS.name:
                continue
            if pixels is not None and name == pixels.name:
                digest.add_pixels(full_name, [_kind(dataset)])
            elif name == schema.CHECKSUMS.name:
                n_rows = len(dataset)
                digest.add_numbers(full_name, checksums[first : first + n_rows])
                first += n_rows
            else:
                _add(digest, full_name, dataset)
        if pixels is None:
            tree_names = schema.TREE_NAMES.at(prefix)
            kinds = (_kind(file[name]) if name in file else "" for name in file[tree_names][:])
            digest.add_pixels(tree_names, kinds)
    found = digest.hexdigest()
    if found == header.content_digest:
        return []
    return [f"content_digest: expected {header.content_digest}, found {found}"]


def group_problems(file: h5py.File, header: FileHeader) -> list[str]:
    """Return what is wrong with the division of the samples into groups.

    Every sample is in one group, in the order of the manifest; and where the column that they are
    grouped by is stored, each of a group's rows says the group's name.
    """
    group_by = header.options["group_by"]
    if group_by is None:
        return []
    problems = []
    n_samples = header.n_samples or 0
    taken = np.zeros(n_samples, bool)
    for prefix in header.prefixes:
        name, last = schema.SAMPLES.at(prefix), -1
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


def _kind(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype.name}{dataset.shape}"


def _add(digest: ContentDigest, name: str, dataset: h5py.Dataset) -> None:
    for start in range(0, len(dataset), _BLOCK_ROWS):
        values = dataset[start : start + _BLOCK_ROWS]
        if h5py.check_string_dtype(dataset.dtype) is not None:
            digest.add_strings(name, values)
        else:
            digest.add_numbers(name, values)
