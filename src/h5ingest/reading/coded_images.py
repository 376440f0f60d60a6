"""HTJ2K codestreams to images, by the fastest decoder that is here, without HDF5's lock.

That of hdf5plugin needs four fifths of the time of imagecodecs' (docs/codecs.md). It is a filter,
whose interface HDF5 fixes (H5Zpublic.h, H5Z_class2_t), and needs nothing of HDF5 to decode: so it
is called as HDF5 would call it, but by several threads at a time.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import HTJ2K
from h5ingest.images import htj2k

_CLASS_VERSION: Final = 1
"""H5Z_CLASS_T_VERS."""
_REVERSE: Final = 0x0100
"""H5Z_FLAG_REVERSE: undo the filter."""
_FILTER_VERSION: Final = 1
"""The first of the filter's `cd_values`; the second is the bytes of a value, unsigned."""
_FILTER: Final = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.POINTER(ctypes.c_void_p),
)
"""Bytes that it made, 0 for an error; of flags, how many options, options, bytes that are used of
the buffer, its size, the buffer: both are the new ones afterwards, and the old one is freed."""


class _FilterClass(ctypes.Structure):
    """H5Z_class2_t."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("id", ctypes.c_int),
        ("can_encode", ctypes.c_uint),
        ("can_decode", ctypes.c_uint),
        ("name", ctypes.c_char_p),
        ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p),
        ("filter", _FILTER),
    )


def is_available() -> bool:
    """Return whether there is a decoder beside HDF5."""
    return _plugin() is not None or htj2k.missing() is None


def decode_into(data: bytes, out: NDArray[Any]) -> None:
    """Fill `out` with the image of a codestream that is known to be intact.

    Damage goes unnoticed, as in `htj2k.decode_into`: compare a checksum before.

    Args:
        data: the codestream.
        out: (H, W) or (H, W, 3), uint8 or uint16, C-contiguous.

    Raises:
        ValueError: it is damaged, or that of another image.
    """
    undo = _plugin()
    if undo is None:
        htj2k.decode_into(data, out)
        return
    htj2k.check_size(data, out)
    undo(data, out)


@functools.cache
def _plugin() -> Callable[[bytes, NDArray[Any]], None] | None:
    """Return what calls the filter of hdf5plugin; None if that has none, or another interface.

    The package is not imported: that would load a dozen filters, and register them.
    """
    spec = importlib.util.find_spec("hdf5plugin")
    if spec is None or not spec.origin:
        return None
    libraries = sorted(Path(spec.origin).parent.glob("plugins/libh5htj2k.*"))
    if not libraries:
        return None
    try:
        library, system = ctypes.CDLL(os.fspath(libraries[0])), ctypes.CDLL(None)
        tell = library.H5PLget_plugin_info
    except (OSError, AttributeError):
        return None
    tell.restype = ctypes.POINTER(_FilterClass)
    found = tell().contents
    if (found.version, found.id) != (_CLASS_VERSION, HTJ2K) or not found.can_decode:
        return None
    allocate, free = system.malloc, system.free
    allocate.argtypes, allocate.restype = (ctypes.c_size_t,), ctypes.c_void_p
    free.argtypes, free.restype = (ctypes.c_void_p,), None

    def undo(data: bytes, out: NDArray[Any]) -> None:
        address = allocate(len(data))
        if not address:
            raise MemoryError
        ctypes.memmove(address, data, len(data))
        buffer, size = ctypes.c_void_p(address), ctypes.c_size_t(len(data))
        options = (ctypes.c_uint * 2)(_FILTER_VERSION, out.itemsize)
        try:
            n_bytes = found.filter(
                _REVERSE, len(options), options, len(data), ctypes.byref(size), ctypes.byref(buffer)
            )
            if n_bytes != out.nbytes or not buffer.value:
                raise ValueError(f"expected {out.nbytes:,} bytes of pixels, found {n_bytes:,}")
            pixels = (ctypes.c_ubyte * n_bytes).from_address(buffer.value)
            out[...] = np.frombuffer(pixels, out.dtype).reshape(out.shape)
        finally:
            free(buffer)

    return undo
