"""Image files for layout `encoded`: coded anew without loss (`recode`), or of pixels (`code`).

Under JPEG XL a JPEG takes the form that gives it back byte for byte. What is coded is decoded
again, as a reader does, and compared.

May not: know HDF5, ranks, files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError, SetupError
from h5ingest.core.layout import CODED_CHANNELS, ImageSpec
from h5ingest.core.notes import (
    AS_PNG,
    MORE_IMAGES,
    MORE_TO_LOSE,
    NOT_EXACT,
    NOT_SMALLER,
    NOT_TAKEN,
    RECODING,
)
from h5ingest.core.recoding import Recoding
from h5ingest.core.signatures import format_of
from h5ingest.images import decode, encode, htj2k

_ENCODERS: Final = {
    "jxl": ("JPEGXL", "2023.7.4"), "webp": ("WEBP", "2022.7.31"), "htj2k": ("HTJ2K", "2026.1.1"),
    "png": ("PNG", "2022.7.31"),
}  # fmt: skip
"""Codec -> its name in imagecodecs, and the first version that has what is needed of it."""
_WEBP_SIDE: Final = 16383
"""The most pixels of a side of a WebP image (RFC 9649, 2.5)."""


def check_available(to: Recoding) -> None:
    """Check that a codec can be had here.

    Raises:
        SetupError: it cannot; says what has it.
    """
    name, since = _ENCODERS[to.codec]
    if not getattr(getattr(imagecodecs, name, None), "available", False):
        raise SetupError(
            f"--recode {to.codec}: imagecodecs {imagecodecs.__version__} comes without it; wheels "
            f"from {since} on have it: pip install --upgrade imagecodecs"
        )


def encoder_version(to: Recoding) -> str:
    """Return name and version of what codes: another version may make other bytes."""
    version = getattr(imagecodecs, f"{_ENCODERS[to.codec][0].lower()}_version")
    return f"imagecodecs {imagecodecs.__version__}, {version()}"


def recode(data: bytes, spec: ImageSpec, to: Recoding) -> tuple[bytes | None, tuple[str, ...]]:
    """Return an image file in another form.

    Args:
        data: the whole file.
        spec: what `decode.probe` returned for it.
        to: the codec.

    Returns:
        The bytes, fewer than the file's; None: it is to be kept as it is. And kinds of
        `core.notes.RECODING` that hold for it.

    Raises:
        SampleError: the file is damaged.
    """
    pixels = np.empty(spec.shape, spec.dtype)
    found = decode.decode_into(data, pixels, spec=spec)
    notes = tuple(kind for kind in found if kind in RECODING)
    is_jpeg = to.codec == "jxl" and format_of(data) == "JPEG"
    if MORE_IMAGES in found and not is_jpeg:
        return None, (*notes, MORE_TO_LOSE)
    coded = _attempt(_encode_jpeg, data) if is_jpeg else _attempt(_encode, pixels, to)
    if coded is None:
        return None, (*notes, NOT_TAKEN)
    if len(coded) >= len(data):
        return None, (*notes, NOT_SMALLER)
    if not _shows(coded, pixels):
        return None, (*notes, NOT_EXACT)
    return coded, notes


def code(
    pixels: NDArray[Any], to: Recoding, palette: NDArray[np.uint8] | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """Return pixels as an image file: in the codec, or as PNG if that takes fewer bytes.

    Args:
        pixels: (H, W) or (H, W, C) uint8 or uint16, C from 2 to 4; at least one pixel.
        to: the codec.
        palette: (k, 3) colours of which the pixels are indices; for PNG alone.

    Returns:
        The bytes, and kinds of `core.notes.RECODING` that hold for them.

    Raises:
        SampleError: no file gives the pixels back.
    """
    if palette is not None and (pixels.dtype != np.uint8 or pixels.max() >= len(palette)):
        palette = None  # a PNG has no such index
    plain = encode.png(pixels, palette)
    if to.codec != "png":
        coded = _attempt(_encode, pixels, to)
        if coded is not None and len(coded) < len(plain) and _shows(coded, pixels):
            return coded, ()
    if not _shows(plain, pixels, raw=palette is not None):
        raise SampleError("damaged", "coded as PNG, it does not come back as it was")
    return plain, (AS_PNG,) * (to.codec != "png")


def _attempt(make: Callable[..., bytes | None], *what: object) -> bytes | None:
    """Return what an encoder makes; None if it refuses."""
    try:
        return make(*what)
    except (RuntimeError, ValueError, MemoryError):  # errors of imagecodecs are RuntimeErrors
        return None


def _encode(pixels: NDArray[Any], to: Recoding) -> bytes | None:
    """Return pixels, (H, W) or (H, W, C) uint8 or uint16, as a file; None: they have no such form.

    By one thread: each rank has its core.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if to.codec == "jxl":
        effort = to.effort
        return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort, numthreads=1))
    if to.codec == "htj2k":
        if channels not in CODED_CHANNELS:
            return None
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    if to.codec == "png":
        return encode.png(pixels)
    if channels < 3 or pixels.dtype != np.uint8 or max(pixels.shape) > _WEBP_SIDE:
        return None  # gray would come back as RGB
    return bytes(imagecodecs.webp_encode(pixels, level=20, lossless=True, method=3, numthreads=1))


def _encode_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG as JPEG XL; None: it would not come back byte for byte."""
    coded = bytes(imagecodecs.jpegxl_encode_jpeg(data, numthreads=1))
    return coded if imagecodecs.jpegxl_decode_jpeg(coded, numthreads=1) == data else None


def _shows(data: bytes, pixels: NDArray[Any], *, raw: bool = False) -> bool:
    """Return whether a reader, of indices if `raw`, finds these pixels in a file."""
    try:
        spec = decode.probe(data, max_pixels=sys.maxsize, raw=raw)
        if spec != ImageSpec.of(pixels.shape, pixels.dtype):
            return False
        found = np.empty_like(pixels)
        decode.decode_into(data, found, spec=spec, raw=raw)
        if htj2k.is_lossless(data) and np.array_equal(found, pixels):
            htj2k.decode_into(data, found)  # as a reader does that has compared the checksum
    except (SampleError, ValueError):
        return False
    return np.array_equal(found, pixels)
