"""Files and datasets as every writer creates them, and what HDF5's errors become."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import outfiles
from h5ingest.core.errors import StorageError, one_line
from h5ingest.core.layout import DatasetSpec, Layout
from h5ingest.storage.shared_blocks import BLOCK

LIBVER: Final = (h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
"""Readable by every HDF5 from 1.10 on. With 'latest', HDF5 2.0 writes what no 1.10 can open."""

_ALIGNED_FROM: Final = 64 * 1024
"""Bytes of a dataset; smaller ones would waste too much of a block."""


def hdf5_version() -> str:
    """Return the version of HDF5: another one may lay out a file in another way."""
    return str(h5py.version.hdf5_version)


def file_creation() -> Any:
    """Return the property list of a new file: no times in it."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)  # of the HDF5 group `/`: a file has no time in it
    return creation


def file_access(layout: Layout | None = None) -> Any:
    """Return the property list to create or open a file with.

    No chunk cache: writers hand over whole chunks. And an error comes when a chunk is written, not
    when HDF5 flushes its cache at close, where a full disk makes it crash (seen with 1.10 and 2.0).
    No sieve buffer either: what has been written to a contiguous dataset must be in the file, and
    not in 64 KiB of memory, when a checkpoint says that it is safe (one process; found by kills).

    Args:
        layout: of a file that is to be created.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_cache(0, 0, 0, 0.0)
    access.set_sieve_buf_size(0)
    access.set_libver_bounds(*LIBVER)
    if layout is not None and layout.alignment:
        access.set_alignment(layout.alignment, layout.alignment)
    elif layout is not None and layout.kind != "tree" and not layout.is_filtered:
        access.set_alignment(_ALIGNED_FROM, BLOCK)  # so a block begins with an element
    return access


def create_all(file: Any, layout: Layout) -> Iterator[Any]:
    """Create the HDF5 groups, then yield the datasets of a layout, new ones. Collective."""
    folders = {spec.name.rpartition("/")[0] for spec in layout.datasets}
    folders |= {group.prefix for group in layout.groups}
    for folder in sorted(folders - {""}):  # a folder sorts before what is in it
        create_group(file, folder)
    for spec in layout.datasets:
        yield create(file, spec)


def create(file: Any, spec: DatasetSpec) -> Any:
    """Return a new dataset, allocated. Collective."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    if spec.filters:  # a chunk is allocated when it is placed; one that never is reads as zeros
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)
    else:
        # Explicit: under MPI-IO HDF5 would force EARLY only after choosing a chunk index for LATE.
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # The default would write every byte of the dataset once, in vain: what was never written in
        # a new file reads as zeros (POSIX), and zero is what a status of 0 says.
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_fill_value(np.zeros((), spec.dtype))
    if spec.chunk_rows:
        creation.set_chunk((spec.chunk_rows, *spec.shape[1:]))
    for filter_ in spec.filters:  # optional: a codec may decline a chunk that it cannot shrink
        creation.set_filter(filter_.id, h5py.h5z.FLAG_OPTIONAL, filter_.options)
    space = h5py.h5s.create_simple(spec.shape)
    name = spec.name.encode("utf-8", "surrogateescape")
    return h5py.h5d.create(file, name, file_type(spec), space, creation)


def create_group(file: Any, name: str) -> None:
    """Create an HDF5 group. Collective."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    h5py.h5g.create(file, name.encode("utf-8", "surrogateescape"), gcpl=creation)


def open_dataset(file: Any, name: str) -> Any:
    """Return a dataset. Not collective."""
    return h5py.h5d.open(file, name.encode("utf-8", "surrogateescape"))


def rows_of(dataset: Any, rows: range) -> NDArray[Any]:
    """Return rows of a dataset of numbers. Not collective."""
    shape = dataset.shape[1:]
    values = np.empty((len(rows), *shape), dataset.dtype)
    space = dataset.get_space()
    space.select_hyperslab((rows.start, *(0 for _ in shape)), values.shape)
    dataset.read(h5py.h5s.create_simple(values.shape), space, values)
    return values


def offset_of(dataset: Any) -> int:
    """Return where an unfiltered dataset begins; an empty one begins nowhere."""
    if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
        return int(dataset.get_chunk_info(0).byte_offset)
    return dataset.get_offset() or 0


def file_type(spec: DatasetSpec) -> Any:
    """Return the HDF5 type of a dataset's elements: little-endian, whatever the machine."""
    little = np.dtype(spec.dtype).newbyteorder("<")
    dtype = h5py.enum_dtype(spec.enum, little) if spec.enum else little
    return h5py.h5t.py_create(dtype, logical=True)


@contextlib.contextmanager
def output_errors(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn HDF5's and the system's errors into a `StorageError` that says what was tried.

    h5py maps HDF5's errors to OSError and RuntimeError, in H5Fcreate also to ValueError.
    """
    try:
        yield
    except (OSError, RuntimeError, *also) as error:  # type: ignore[misc]  # a tuple of classes
        of_file = getattr(error, "filename", None) is not None  # it may be one of ours alone
        said = error.strerror if of_file else one_line(error)
        raise StorageError(f"{what}: {said}") from None


def sync(path: Path) -> None:
    """Bring what this host has written to the file, or to the folder, to the disk.

    Not collective. HDF5's close does not do it, and each host can only speak for itself.

    Raises:
        OutputError: the system says that data did not reach the disk.
    """
    with output_errors(f"{path}: cannot be brought to the disk"):
        outfiles.sync(path)
