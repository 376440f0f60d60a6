"""The rule for a dataset that is read: of this file, of its kind, and not larger than can be."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import h5py
import numpy as np

from h5ingest.core.errors import IngestError, OutputError, SetupError, one_line
from h5ingest.core.units import MIB

HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError)
"""What h5py makes of an error of HDF5, where the file is damaged."""

PIXEL_TYPES: Final = ("uint8", "uint16")

_LAYOUTS: Final = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
_COLUMN_KINDS: Final = "biufS"
_MOST_CHANNELS: Final = 4
_BELIEVED_BYTES: Final = 64 * MIB
_MOST_TIMES: Final = 1032
"""Bytes that deflate can make of one."""


class StoredDataset(h5py.Dataset):  # type: ignore[misc]  # h5py has no types
    """A dataset of a file that nobody writes to: HDF5 is asked once what it says of it."""

    shape: Any = None
    """A tuple; None: it has no elements at all."""
    size: Any = None
    """Elements; None as in `shape`."""
    dtype: Any = None
    """NumPy's."""
    chunks: Any = None
    """Shape of a chunk, a tuple; None: it has none."""
    filters: tuple[int, ...] = ()
    """Their registered numbers, in order."""

    def __init__(self, opened: h5py.h5d.DatasetID) -> None:
        """Ask HDF5.

        Raises:
            Exception: whatever h5py makes of a header that cannot be read.
        """
        super().__init__(opened, readonly=True)
        self.shape, self.dtype = opened.shape, opened.dtype
        self.size = None if self.shape is None else math.prod(self.shape)
        self.offset: Final[int | None] = opened.get_offset()
        """Byte of this very file where its values begin, in one piece; None: they lie otherwise."""
        if self.offset is not None:  # what has filters, or lies elsewhere, has no offset
            return
        creation = self.creation = opened.get_create_plist()  # the property takes a lock for it
        if creation.get_layout() == h5py.h5d.CHUNKED:
            self.chunks = creation.get_chunk()
        filters = range(creation.get_nfilters())
        self.filters = tuple([creation.get_filter(k)[0] for k in filters])

    @functools.cached_property
    def creation(self) -> h5py.h5p.PropDCID:
        """Properties of its creation, which takes half as long to ask for as to open it."""
        return self.id.get_create_plist()


class naming:  # used as a function; `contextlib` takes three times as long
    """Turns errors of HDF5 into an `OutputError` that names the object that cannot be read."""

    __slots__ = ("_file", "_name")

    def __init__(self, file: h5py.HLObject, name: str | bytes) -> None:
        """Take the file, or an object of it, and the name of the object that is read."""
        self._file, self._name = file, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HDF5_ERRORS) and not isinstance(error, IngestError):
            what = f"{path_of(self._file)}: {as_text(self._name)}"
            raise OutputError(f"{what} cannot be read: {one_line(error)}") from None


def check_dataset(
    file: h5py.File,
    name: str | bytes,
    dataset: StoredDataset | h5py.Group | h5py.Datatype,
    types: tuple[str, ...],
    shape: tuple[int | None, ...] | None,
    *,
    whole: bool = True,
) -> None:
    """Refuse what is no dataset of this kind that is stored in this file, or claims too much.

    Args:
        file: the file.
        name: of the object, for messages.
        dataset: the object.
        types: NumPy names, or `text`; none: whatever a column may have.
        shape: None stands for any number; all of it None: any shape.
        whole: whether all of it is read at once.

    Raises:
        OutputError: it is another.
        SetupError: a filter is not available here.
    """
    if not isinstance(dataset, StoredDataset):
        refuse(file, name, "a dataset", kind_of(dataset))
    with naming(file, name):
        dtype, found = dataset.dtype, dataset.shape
        kind = _type_name(dtype)
        if kind not in types if types else not (kind == "text" or dtype.kind in _COLUMN_KINDS):
            refuse(file, name, " or ".join(types) or "numbers or strings", kind)
        if found is None or (shape is not None and not _fits(found, shape)):
            refuse(file, name, f"the shape {_shape(shape or ())}", f"{found}")
        if dataset.offset is None:
            layout = dataset.creation.get_layout()
            if layout not in _LAYOUTS or dataset.creation.get_external_count():
                what = "external storage" if layout in _LAYOUTS else "a virtual dataset"
                refuse(file, name, "a dataset whose values are in this file", what)
        if not all(map(h5py.h5z.filter_avail, dataset.filters)):
            check_available(dataset.filters, f"{path_of(file)}: {as_text(name)}: ")
        check_claim(file, name, dataset, whole=whole)


def check_claim(
    file: h5py.File, name: str | bytes, dataset: h5py.Dataset, *, whole: bool = True
) -> None:
    """Refuse a dataset that claims to have more than the file can hold: see `most_bytes`.

    Args:
        file: the file.
        name: of the dataset, for messages.
        dataset: any.
        whole: whether all of it is read at once; else rows.

    Raises:
        OutputError: it does.
    """
    shape, item_bytes = dataset.shape, dataset.dtype.itemsize
    chunk_bytes = math.prod(dataset.chunks or ()) * item_bytes
    n_bytes = max(chunk_bytes, math.prod(shape if whole else shape[1:]) * item_bytes)
    if n_bytes <= _BELIEVED_BYTES:
        return
    if chunk_bytes > max(_BELIEVED_BYTES, math.prod(shape) * item_bytes):
        refuse(file, name, "chunks no larger than the dataset", f"{chunk_bytes:,} bytes")
    stored = dataset.id.get_storage_size()
    most = most_bytes(file.id.get_filesize(), stored)
    if n_bytes > most:
        refuse(
            file, name, f"at most {most:,} bytes to be read at once",
            f"{n_bytes:,}, of which {stored:,} are stored",
        )  # fmt: skip


def check_image(file: h5py.File, name: str | bytes, shape: tuple[int, ...]) -> None:
    """Refuse a shape that no image has.

    Raises:
        OutputError: this one.
    """
    if len(shape) not in (2, 3) or min(shape) < 1 or shape[2:] > (_MOST_CHANNELS,):
        refuse(file, name, "images of (height, width) or (height, width, channels)", f"{shape}")


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(
        wanted in (None, n) for n, wanted in zip(found, shape, strict=True)
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    """Return the shape in words, as NumPy writes it.

    >>> _shape((None, 3)), _shape((5,))
    ('(any, 3)', '(5,)')
    """
    words = ", ".join("any" if n is None else str(n) for n in shape)
    return f"({words},)" if len(shape) == 1 else f"({words})"


def _type_name(dtype: np.dtype[Any]) -> str:
    """Return the NumPy name; `text` for strings of variable length; its words for others."""
    if dtype.kind == "O":
        is_text = h5py.check_string_dtype(dtype) is not None
        return "text" if is_text else "references or arrays of any length"
    return _number_name(dtype)


@functools.lru_cache
def _number_name(dtype: np.dtype[Any]) -> str:
    """Do it for numbers; NumPy makes the name anew each time."""
    return dtype.name if dtype.isnative else f"{dtype.name} of the other byte order"


def kind_of(found: object) -> str:
    """Return in words what an HDF5 object is."""
    if isinstance(found, h5py.Dataset):
        return "a dataset"
    return "an HDF5 group" if isinstance(found, h5py.Group) else "a named type"


def refuse(file: h5py.HLObject, name: str | bytes, expected: str, found: str) -> NoReturn:
    """Raise the error that says where, what was expected and what was found."""
    raise OutputError(f"{path_of(file)}: {as_text(name)}: expected {expected}, found {found}")


def as_text(name: str | bytes) -> str:
    """Return a name as it can be printed."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def path_of(file: h5py.HLObject) -> str:
    """Return the path of the file that an object is in."""
    return str(file.file.filename)


def most_bytes(file_bytes: int, stored_bytes: int) -> int:
    """Return how many bytes are believed to come of what is stored, when they are read at once.

    64 MiB always, and beyond that no more than a file of this size can hold: its own bytes, or
    1,032 for each byte that is stored, which is the most that deflate makes of one. More would cost
    the reader its memory for nothing.

    Args:
        file_bytes: size of the file.
        stored_bytes: what the file has of the dataset, or of the image.
    """
    return max(_BELIEVED_BYTES, file_bytes, _MOST_TIMES * stored_bytes)


def check_available(filters: Iterable[int], where: str = "") -> None:
    """Make HDF5 able to undo these filters.

    Args:
        filters: their registered numbers.
        where: the beginning of an error.

    Raises:
        SetupError: one is not to be had here.
    """
    missing = [id_ for id_ in filters if not h5py.h5z.filter_avail(id_)]
    if missing:
        try:
            import hdf5plugin  # noqa: F401  # registers its filters
        except ImportError:
            raise SetupError(
                f"{where}HDF5 filter {missing[0]} is not available here: pip install hdf5plugin"
            ) from None
    for id_ in missing:
        if not h5py.h5z.filter_avail(id_):
            raise SetupError(
                f"{where}HDF5 filter {id_} is not available here, not even in hdf5plugin"
            )
