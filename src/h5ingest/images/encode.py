"""Image files made of what is stored: PNG of pixels, and the JPEG that a JPEG XL file was made of.

May not: know HDF5, ranks, files.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.signatures import format_of
from h5ingest.images import jpegxl

_LEVEL: Final = 3
"""Of zlib: half of the time that 6 takes, for 2 % more bytes of a photograph."""
_AFTER_HEADER: Final = 8 + 25
"""Where a PNG goes on after its signature and IHDR."""
_COLOUR_TYPE: Final = 25
"""Byte of IHDR that says gray, or indices (3)."""


def png(pixels: NDArray[Any], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Return a PNG with exactly these pixels.

    Args:
        pixels: (H, W) or (H, W, C) uint8 or uint16, C from 2 to 4; at least one pixel.
        palette: (k, 3) colours that the pixels, (H, W) uint8, are indices of; None: they are gray.
    """
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=_LEVEL))
    if palette is None:
        return data
    header = data[12:_COLOUR_TYPE] + b"\x03" + data[_COLOUR_TYPE + 1 : _AFTER_HEADER - 4]
    return b"".join(
        [data[:8], _chunk(header), _chunk(b"PLTE" + palette.tobytes()), data[_AFTER_HEADER:]]
    )


def _chunk(kind_and_body: bytes) -> bytes:
    n_bytes, crc = len(kind_and_body) - 4, zlib.crc32(kind_and_body)
    return struct.pack(">I", n_bytes) + kind_and_body + struct.pack(">I", crc)


def is_made_of_jpeg(data: bytes) -> bool:
    """Return whether this is a JPEG XL file that gives back the JPEG that it was made of.

    Raises:
        SampleError: a JPEG XL file, and damaged.
    """
    return format_of(data) == "JPEG XL" and jpegxl.header(data)[1]


def jpeg_of(data: bytes) -> bytes:
    """Return the JPEG that a JPEG XL file was made of, byte for byte.

    Raises:
        SampleError: it cannot be had.
    """
    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except (RuntimeError, ValueError, MemoryError) as error:  # of imagecodecs: RuntimeErrors
        raise SampleError("damaged", f"its JPEG cannot be had: {error}") from None
