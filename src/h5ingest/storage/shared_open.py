"""Opening a file on all ranks in a way that lets Python's other threads go on.

H5Pset_fapl_mpio and H5Fopen wait for all ranks, and h5py keeps Python's lock in them: if a host is
gone just then, the `Watchdog`, a thread, could never say so. (h5py's api_functions.txt marks with
`nogil` what gives the lock away. Of what waits for other ranks here, these two are not marked, from
3.11 to 3.16; H5Idec_ref, which closes, is.) ctypes gives it away in every call.

So here are h5py's own two lines, the same functions of the same library. One rank, which waits for
nobody, needs none of this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
from h5py._objects import phil

from h5ingest.mpi.comm import Comm

_hid_t = ctypes.c_int64
_DEFAULT_STACK = _hid_t(0)
"""H5E_DEFAULT: the errors of the last call."""
_DOWNWARD = 1
"""H5E_WALK_DOWNWARD: from the function that was called to the one that failed."""


class _Error(ctypes.Structure):
    """H5E_error2_t."""

    _fields_ = (
        ("cls_id", _hid_t),
        ("maj_num", _hid_t),
        ("min_num", _hid_t),
        ("line", ctypes.c_uint),
        ("func_name", ctypes.c_char_p),
        ("file_name", ctypes.c_char_p),
        ("desc", ctypes.c_char_p),
    )


_Walk = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Error), ctypes.c_void_p)


def share(access: Any, comm: Comm, hints: Mapping[str, str]) -> None:
    """Have a file access property list open files on all ranks, through MPI-IO. Collective.

    Raises:
        OSError: with HDF5's reason.
    """
    _call("H5Pset_fapl_mpio", ctypes.c_int, _hid_t(access.id), *comm.c_handles(hints))


def open_shared(path: Path, access: Any) -> Any:
    """Return the `h5py.h5f.FileID` of a file, open for reading and writing. Collective.

    Raises:
        OSError: with HDF5's reason.
    """
    read_write = ctypes.c_uint(h5py.h5f.ACC_RDWR)
    return h5py.h5f.FileID(_call("H5Fopen", _hid_t, bytes(path), read_write, _hid_t(access.id)))


def _call(name: str, result: Any, *arguments: Any) -> int:
    """Call a function of h5py's HDF5 without Python's lock, but with h5py's: it is for one thread.

    Raises:
        OSError: it returned a negative number; in the words of h5py's own errors.
    """
    library = ctypes.CDLL(h5py.h5f.__file__)  # a name is also looked up in what this is linked with
    function = library[name]
    function.restype = result
    with phil:
        returned = int(function(*arguments))
        if returned < 0:
            raise OSError(_reason(library) or f"{name} failed")
        return returned


def _reason(library: ctypes.CDLL) -> str:
    """Return what the last call says of its failure, outermost and innermost; empty if nothing."""
    said: list[str] = []

    def note(_number: int, error: Any, _data: Any) -> int:
        said.append(error[0].desc.decode("utf-8", "replace"))
        return 0

    library.H5Ewalk2(_DEFAULT_STACK, _DOWNWARD, _Walk(note), None)
    return f"{said[0].capitalize()} ({said[-1]})" if said else ""
