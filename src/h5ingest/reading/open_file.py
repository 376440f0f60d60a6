"""A finished file: opened, its header checked; and the one way to every object in it.

A file may be damaged, or made by somebody who wishes the reader ill, so it is not believed:

- An object is one of this very file, reached by hard links alone. Through a soft or an external
  link, external storage or a virtual dataset, HDF5 would read what lies elsewhere, without a word.
- A dataset has the type and the shape that the format gives it, and is no bomb: see `dataset_rule`.

Whatever does not fit is refused by name: where, what was expected, what was found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import h5py

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, cut_short, one_line
from h5ingest.core.lists import LIST_TYPES, offsets_of, values_of
from h5ingest.core.schema import StandardDataset
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.dataset_rule import (
    HDF5_ERRORS,
    PIXEL_TYPES,
    StoredDataset,
    as_text,
    check_dataset,
    check_image,
    kind_of,
    naming,
    path_of,
    refuse,
)

_LINKS: Final = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}
_OWN_LENGTH: Final = (
    schema.RAGGED_PIXELS, schema.ENCODED_DATA, schema.LABEL_NAMES, schema.LABEL_VALUES,
    schema.CHUNK_CHECKSUMS,
)  # fmt: skip
"""Datasets without a row for each sample."""


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """Open an HDF5 file to read it, in two thirds of the time of `h5py.File(path)`.

    Raises:
        OutputError: the system refuses, or this is no HDF5 file.
    """
    try:
        return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY))
    except HDF5_ERRORS as error:
        raise OutputError(f"{path}: {_reason(path, error)}") from None


def open_checked(path: str | os.PathLike[str]) -> tuple[h5py.File, schema.FileHeader]:
    """Open a file of h5ingest and return it with its header. The caller closes it.

    Raises:
        OutputError: it cannot be opened, or a group of samples is missing; or see `read_header`.
    """
    file = open_file(path)
    try:
        header = schema.read_header(Attributes(file), path)
        for prefix in header.prefixes:
            open_group(file, prefix)
        return file, header
    except OutputError:
        file.close()
        raise


def find(
    file: h5py.Group, name: str | bytes, known: set[bytes] | None = None
) -> StoredDataset | h5py.Group | h5py.Datatype | None:
    """Return the object of this name; None: there is none.

    Args:
        file: the file, or a group of it from which relative names begin.
        name: HDF5 path.
        known: those of groups that have been found to be of this file, which grows; None: each is
            looked at.

    Raises:
        OutputError: it is not in this file, or cannot be read.
    """
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    with naming(file, raw):
        if not _is_here(file, raw, set() if known is None else known):
            return None
        opened = h5py.h5o.open(file.id, raw)
        if isinstance(opened, h5py.h5d.DatasetID):
            return StoredDataset(opened)
        return (h5py.Group if isinstance(opened, h5py.h5g.GroupID) else h5py.Datatype)(opened)


def open_group(file: h5py.File, prefix: str) -> h5py.Group:
    """Return a group of samples.

    Args:
        file: the file.
        prefix: its HDF5 path, empty for the root group.

    Raises:
        OutputError: there is none.
    """
    found = find(file, prefix or "/")
    if found is None:
        raise OutputError(f"{path_of(file)}: the group {prefix} is missing")
    if not isinstance(found, h5py.Group):
        refuse(file, prefix, "an HDF5 group", kind_of(found))
    return found


def open_dataset(
    file: h5py.File,
    wanted: StandardDataset,
    prefix: str = "",
    n_rows: int | None = None,
    known: set[bytes] | None = None,
) -> StoredDataset | None:
    """Return a dataset that the format names; None: there is none.

    Args:
        file: the file.
        wanted: the dataset.
        prefix: HDF5 path of the group of samples: empty, or `/train`.
        n_rows: rows of the group, which a dataset with a row for each has to have; None: that is
            not looked at.
        known: see `find`.

    Raises:
        OutputError: it is not as the format has it.
        SetupError: a filter is not available here.
    """
    name = wanted.at(prefix)
    if wanted in (schema.LABEL_VALUES, schema.LABEL_OFFSETS):
        labels = find(file, schema.LABELS.at(prefix), known)
        if not isinstance(labels, h5py.Group):
            return None
    dataset = find(file, name, known)
    if dataset is None:
        return None
    if wanted is schema.LABELS and isinstance(dataset, h5py.Group):
        return None  # several a row: `LABEL_VALUES`
    if wanted is schema.CHUNK_CHECKSUMS and schema.CHUNKING not in Attributes(dataset):
        return None  # an image of a tree of version 1
    if wanted in _OWN_LENGTH or n_rows is None:
        rows = None
    else:
        rows = n_rows + wanted.extra_rows
    shape = None if wanted is schema.IMAGES else (rows, *wanted.row_shape)
    types = (wanted.dtype,) if wanted.dtype else PIXEL_TYPES
    check_dataset(file, name, dataset, types, shape, whole=wanted not in schema.PIXELS.values())
    if wanted is schema.IMAGES:
        check_image(file, name, dataset.shape[1:])
        if rows not in (None, dataset.shape[0]):
            refuse(file, name, f"{rows:,} images", f"{dataset.shape[0]:,}")
    return dataset


def open_column(
    file: h5py.File, prefix: str, name: str, n_rows: int | None
) -> StoredDataset | tuple[StoredDataset, StoredDataset]:
    """Return a further column of the manifest: numbers or strings, (n_rows,).

    Of lists, return their values, (total, ...), and offsets, (n_rows + 1,).

    Raises:
        OutputError: there is none, or it is something else.
        SetupError: a filter is not available here.
    """
    full_name = schema.column(prefix, name)
    dataset = find(file, full_name)
    if dataset is None:
        raise OutputError(f"{path_of(file)}: {full_name} is missing")
    if isinstance(dataset, h5py.Group):
        return open_lists(file, full_name, n_rows)
    check_dataset(file, full_name, dataset, (), (n_rows,))
    return dataset


def open_lists(
    file: h5py.File, name: str, n_rows: int | None
) -> tuple[StoredDataset, StoredDataset]:
    """Return values and offsets of lists; see `open_column`."""
    values, offsets = (find(file, of(name)) for of in (values_of, offsets_of))
    if values is None or offsets is None:
        missing = values_of(name) if values is None else offsets_of(name)
        raise OutputError(f"{path_of(file)}: {missing} is missing")
    axes = (None,) * (values.ndim if isinstance(values, StoredDataset) else 1)
    check_dataset(file, values_of(name), values, LIST_TYPES, axes or (None,))
    n_offsets = None if n_rows is None else n_rows + 1
    check_dataset(file, offsets_of(name), offsets, (schema.OFFSETS.dtype,), (n_offsets,))
    return values, offsets


def open_image(file: h5py.File, name: bytes, known: set[bytes]) -> StoredDataset:
    """Return the dataset of an image of a tree: pixels, (H, W) or (H, W, C).

    One of which not even the size was known when it failed is (0, 0).

    Args:
        file: the file.
        name: HDF5 path.
        known: those of HDF5 groups that have been found to be of this file; grows.

    Raises:
        OutputError: there is none, or it is something else.
        SetupError: a filter is not available here.
    """
    dataset = find(file, name, known)
    if dataset is None:
        raise OutputError(f"{path_of(file)}: {as_text(name)} is missing")
    check_dataset(file, name, dataset, PIXEL_TYPES, None)
    if dataset.shape != (0, 0):
        check_image(file, name, dataset.shape)
    return dataset


def column_names(file: h5py.File, prefix: str = "") -> list[str]:
    """Return the names of the further columns of the manifest.

    Raises:
        OutputError: where they should be is something else.
    """
    name = f"{prefix}/{schema.COLUMNS}"
    columns = find(file, name)
    if columns is None:
        return []
    if not isinstance(columns, h5py.Group):
        refuse(file, name, "an HDF5 group", kind_of(columns))
    with naming(file, name):
        return list(columns)


def datasets(group: h5py.Group, layout: str) -> Iterator[tuple[str, StoredDataset]]:
    """Yield name, below the group's, and dataset of all that a group of samples has.

    Those of the format first, then the columns; the images of a tree are not among them. How many
    rows each has is not looked at.

    Raises:
        OutputError: one is not as the format has it.
        SetupError: a filter is not available here.
    """
    file, prefix = group.file, group.name.rstrip("/")
    for wanted in schema.known_datasets(layout):
        dataset = open_dataset(file, wanted, prefix)
        if dataset is not None:
            yield wanted.name, dataset
    for name in column_names(file, prefix):
        column, relative = open_column(file, prefix, name, None), f"{schema.COLUMNS}/{name}"
        if isinstance(column, tuple):
            yield from zip((values_of(relative), offsets_of(relative)), column, strict=True)
        else:
            yield relative, column


def _is_here(file: h5py.Group, raw: bytes, known: set[bytes]) -> bool:
    """Return whether there is an object of this name; refuse it if a link leads elsewhere."""
    links = file.id.links
    end = 0
    while end >= 0 and raw != b"/":
        end = raw.find(b"/", end + 1)
        step = raw if end < 0 else raw[:end]
        if step in known:
            continue
        try:
            kind = links.get_info(step).type
        except HDF5_ERRORS:
            if links.exists(step):
                raise
            return False
        if kind != h5py.h5l.TYPE_HARD:
            refuse(file, step, "an object of this file", _LINKS.get(kind, f"a link of type {kind}"))
        if end >= 0:
            known.add(step)
    return True


def _reason(path: str | os.PathLike[str], error: BaseException) -> str:
    """Return one sentence: the system's words where it speaks, else that this is no HDF5 file."""
    if os.path.isdir(path):
        return "expected a file that h5ingest made, found a folder"
    if not os.path.lexists(path) and os.path.lexists(partial := f"{os.fspath(path)}.partial"):
        return (
            f"not complete yet: the job that makes it, in {partial}, is running, or was stopped "
            "and goes on when the same command is started again"
        )
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if os.path.isfile(path) and not h5py.is_hdf5(path):
        return "not an HDF5 file"
    if cut := cut_short(error):
        return f"{cut}. Copy it again, or make it anew"
    return one_line(error)
