"""HTJ2K: one gray or RGB image as a lossless codestream of High-Throughput JPEG 2000 (ITU-T T.814).

It is what the HDF5 filter 32033 holds in a chunk. The filter's own encoder leaves the colour
transform out, without which a photograph takes a third more bytes; its decoder takes both.

May not: know HDF5, files, ranks.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SIZES: Final = struct.Struct(">HHHHIIIIIIIIH")
"""SOC; SIZ: its length, capabilities, image size and offset, tile size and offset, components.
Then comes for each of these a byte: its bits less one, 128 more if it is signed; and two more."""
_START: Final = (0xFF4F, 0xFF51)
_SIGNATURE: Final = b"\xff\x4f\xff\x51"
_COD: Final = b"\xff\x52"
_SOT: Final = b"\xff\x90"
_HIGH_THROUGHPUT: Final = 0x40
"""Of the first byte of the capabilities: Part 15 is needed."""


def missing() -> str | None:
    """Return why there is no encoder here, if there is none."""
    import imagecodecs

    if getattr(getattr(imagecodecs, "HTJ2K", None), "available", False):
        return None
    return f"imagecodecs {imagecodecs.__version__} comes without HTJ2K; a newer one has it"


def encode(image: NDArray[Any]) -> bytes | None:
    """Return the codestream of an image.

    It is decoded again and compared: twice as long as encoding alone, but less than `zstd:9` takes.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16, C-contiguous.

    Returns:
        None if it is no shorter than the pixels, or does not give them back.
    """
    import imagecodecs  # where it is used: slow to import

    data = bytes(imagecodecs.htj2k_encode(image, reversible=True))
    if len(data) >= image.nbytes:
        return None
    again = np.empty_like(image)
    try:
        decode_into(data, again)
    except ValueError:
        return None
    return data if np.array_equal(again, image) else None


def is_lossless(data: bytes) -> bool:
    """Return whether these bytes begin like a codestream that `encode` makes.

    OpenJPEG reads those too, and finds the same pixels in three times the time.
    """
    if not data.startswith(_SIGNATURE) or not data[6:7] or not data[6] & _HIGH_THROUGHPUT:
        return False
    at = 2
    while (marker := data[at : at + 2]) != _COD:
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker == _SOT or length < 2:
            return False
        at += 2 + length
    return data[at + 13 : at + 14] == b"\1"  # the 5/3 transform


def check_size(data: bytes, out: NDArray[Any]) -> None:
    """Check that a codestream is that of an image of this shape, before anything is allocated.

    Args:
        data: the codestream.
        out: (H, W) or (H, W, 3), uint8 or uint16.

    Raises:
        ValueError: it is none, or that of another image.
    """
    height, width, channels = (*out.shape, 1)[:3]
    if len(data) <= _SIZES.size:
        raise ValueError(f"expected a codestream of JPEG 2000, found {len(data)} bytes")
    (*start, _length, _cap, right, bottom, left, top, _tw, _th, _tx, _ty, n) = _SIZES.unpack_from(
        data
    )
    found = bottom - top, right - left, n, data[_SIZES.size] // 8 + 1
    if tuple(start) != _START or found != (height, width, channels, out.itemsize):
        raise ValueError(
            f"expected a codestream of JPEG 2000 of {height}x{width} pixels, {channels} channels "
            f"of {out.dtype}"
        )


def decode_into(data: bytes, out: NDArray[Any]) -> None:
    """Fill `out` with the image of a codestream that is known to be intact.

    Damage in its middle goes unnoticed: imagecodecs (2026.3.6) prints the decoder's error and
    returns what it has. So compare a checksum before, or the pixels afterwards.

    Args:
        data: the codestream.
        out: (H, W) or (H, W, 3), uint8 or uint16, C-contiguous.

    Raises:
        ValueError: it is damaged, or that of another image.
    """
    import imagecodecs

    check_size(data, out)
    try:
        found = imagecodecs.htj2k_decode(data)
    except RuntimeError as error:  # imagecodecs' errors are RuntimeErrors
        raise ValueError(str(error)) from None
    if found.dtype != out.dtype or found.size != out.size:
        raise ValueError(f"expected {out.shape} {out.dtype}, found {found.shape} {found.dtype}")
    out[...] = found.reshape(out.shape)
