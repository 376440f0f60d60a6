"""A finished file: opened, its header checked, its datasets listed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import h5py

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, one_line


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """Open an HDF5 file to read it.

    Raises:
        OutputError: the system refuses, or this is no HDF5 file.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise OutputError(f"{path}: {_reason(path, error)}") from None


def open_checked(path: str | os.PathLike[str]) -> tuple[h5py.File, schema.FileHeader]:
    """Open a file of h5ingest and return it with its header. The caller closes it.

    Raises:
        OutputError: it cannot be opened; or see `read_header`.
    """
    file = open_file(path)
    try:
        return file, schema.read_header(file.attrs, path)
    except OutputError:
        file.close()
        raise


def datasets(group: h5py.Group, layout: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield name, below the group's, and dataset of all that a group of samples has.

    Those of the format first, then the columns; the images of a tree are not among them.
    """
    columns = group.get(schema.COLUMNS, ())
    names = itertools.chain(schema.known(layout), (f"{schema.COLUMNS}/{name}" for name in columns))
    for name in names:
        dataset = group.get(name)
        if isinstance(dataset, h5py.Dataset):
            yield name, dataset


def _reason(path: str | os.PathLike[str], error: OSError) -> str:
    """Return one sentence: the system's words where it speaks, else that this is no HDF5 file."""
    if error.errno:
        return os.strerror(error.errno)
    if os.path.isfile(path) and not h5py.is_hdf5(path):
        return "not an HDF5 file"
    return one_line(error)
