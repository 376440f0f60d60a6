"""Everything about image bytes: what they are (`probe`) and their exact pixels (`decode_into`).

The pixels of a PNG are what the PNG specification says (ISO/IEC 15948), not what a library finds
convenient: palettes become RGB, tRNS becomes an alpha channel in every colour type, gray of 1, 2
and 4 bits is scaled to 0..255, 16 bits stay 16 bits, and no gamma, colour profile or rotation is
applied. PNG goes through imagecodecs (libpng), straight into the caller's buffer and without
Python's lock; every other format through imageio.

May not: know ranks, datasets, labels.
"""

from __future__ import annotations

import functools
import io
import logging
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.errors import SampleError
from h5ingest.layout import ImageSpec
from h5ingest.options import MAX_PIXELS

HEAD_BYTES: Final = 4096
"""What a header probe reads of a file first: IHDR and, mostly, all that precedes the pixels."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths allowed for each colour type (PNG specification, table 11.1)."""
_CHANNELS: Final = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels after palette expansion for each colour type; tRNS adds one to 0, 2 and 3."""
_CHUNK: Final = struct.Struct(">I4s")


@functools.cache
def _png_decode() -> Any:
    """Return imagecodecs' decoder; imported here because a usage error must not pay for it."""
    # libpng's warnings come as log records, and logging's last resort prints them on stderr.
    logger = logging.getLogger("imagecodecs")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    import imagecodecs

    return imagecodecs.png_decode


def decoder_version() -> str:
    """Return name and version of the PNG decoder."""
    import imagecodecs

    return f"imagecodecs {imagecodecs.__version__}"


def probe(
    data: bytes, *, whole: bool = True, max_pixels: int = MAX_PIXELS, raw: bool = False
) -> ImageSpec | None:
    """Return what the image decodes to, judged by its header alone.

    Args:
        data: the file's first bytes.
        whole: whether `data` is all of the file.
        max_pixels: height times width beyond which the header is refused.
        raw: whether palette indices and low-bit gray are to be kept as they are (PNG only).

    Returns:
        The spec; None if `data` is not the whole file and does not tell yet.

    Raises:
        SampleError: no image, damaged, too large, or of a kind that has no lossless uint8 or
            uint16 form.
    """
    if not data:
        raise SampleError("damaged", "the file is empty")
    if data.startswith(_SIGNATURE):
        transparent = _png_has_transparency(data, whole=whole)
        if transparent is None:
            return None
        return _png_spec(data[8:33], transparent, max_pixels, raw)
    if not whole:
        return None
    return _other_spec(data, max_pixels)


def decode_into(data: bytes, out: NDArray[Any], *, raw: bool = False) -> None:
    """Decode the whole file `data` into `out`.

    Args:
        data: all bytes of an image file.
        out: (H, W) or (H, W, C) uint8 or uint16, C-contiguous, as `probe` told; on an error its
            content is undefined.
        raw: as for `probe`.

    Raises:
        SampleError: the image is damaged, or is not what `out` was made for.
    """
    if not data.startswith(_SIGNATURE):
        pixels = _other_pixels(data)
        _check_fit(pixels, out)
        out[...] = pixels
        return
    if not data.endswith(_IEND) and not _png_is_complete(data):
        # libpng stops at the last row: it never looks for the end of the file.
        raise SampleError("damaged", "the file is truncated: no IEND chunk at its end")
    spec = _png_spec(data[8:33], bool(_png_has_transparency(data, whole=True)), None, raw)
    if spec.shape != out.shape or spec.dtype != out.dtype:
        raise SampleError("changed", f"expected {out.shape} {out.dtype}, found {spec}")
    scale = 1
    if raw and data[25] in (0, 3) and (data[24] < 8 or data[25] == 3):
        data, scale = _as_plain_gray(data), 255 // (2 ** data[24] - 1)
    try:
        pixels = _png_decode()(data, out=out)
    except (RuntimeError, ValueError) as error:  # PngError is a RuntimeError; a bad chunk name
        raise SampleError("damaged", _one_line(error)) from None  # makes a UnicodeDecodeError
    if pixels is not out:
        raise AssertionError("the PNG decoder returned another array than the one to fill")
    if scale > 1:
        out //= out.dtype.type(scale)


def decode_otherwise(data: bytes) -> NDArray[Any] | None:
    """Return the pixels by another decoder than `decode_into` uses; None where none is exact.

    Pillow, through imageio, is exact for PNG of 8 bits a sample and less, but for gray and RGB with
    a tRNS chunk, and for 16-bit gray. For other formats there is no other decoder.

    Raises:
        SampleError: it cannot read the image.
    """
    if not data.startswith(_SIGNATURE):
        return None
    depth, colour = data[24], data[25]
    transparent = _png_has_transparency(data, whole=True)
    if (depth == 16 and colour != 0) or (transparent and colour != 3):
        return None
    with _other_open(data) as file:
        wanted = {"mode": "RGBA" if transparent else "RGB"} if colour == 3 else {}
        pixels = np.asarray(_guarded(lambda: file.read(index=0, **wanted)))
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels


def palette(data: bytes) -> bytes | None:
    """Return the RGB entries of a palette PNG (3 bytes each), from its first bytes; else None."""
    if not data.startswith(_SIGNATURE) or data[25:26] != b"\3":
        return None
    position = 33
    while position + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"PLTE":  # (a damaged one does not harm indices)
            colours = data[position + 8 : position + 8 + length]
            return None if length % 3 or len(colours) < length else colours
        position += 12 + length
    return None


def check_intact(data: bytes) -> None:
    """Check a file that is stored as it is: every checksum of a PNG; others are taken as they are.

    Raises:
        SampleError: damaged or truncated.
    """
    if not data.startswith(_SIGNATURE):
        return
    position = 8
    while position + 12 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        end = position + 12 + length
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end]
        ):
            name = kind.decode("ascii", "backslashreplace")
            raise SampleError("damaged", f"the {name} chunk is damaged or truncated")
        if kind == b"IEND":
            return
        position = end
    raise SampleError("damaged", "the file is truncated: no IEND chunk at its end")


def _as_plain_gray(data: bytes) -> bytes:
    """Return a palette or gray PNG as plain gray of the same depth: its samples are the indices.

    The pixels of both are stored alike (PNG specification, 4.4): so the fast decoder serves here
    too, and gray of 1, 2, 4 bits, which it scales, is scaled back exactly.
    """
    head = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    parts = [_SIGNATURE, data[8:12], head, zlib.crc32(head).to_bytes(4)]
    position = 33
    while position + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        if kind not in (b"PLTE", b"tRNS"):
            parts.append(data[position : position + 12 + length])
        position += 12 + length
    return b"".join(parts)


def _png_has_transparency(data: bytes, *, whole: bool) -> bool | None:
    """Return whether a tRNS chunk precedes the pixels; None if `data` ends before they begin.

    The chunks on the way must be intact: libpng skips one that is not, and with a damaged tRNS
    chunk the transparency would be lost without a word.
    """
    if data[37:41] == b"IDAT":
        return False
    found = False
    position = 33
    while position + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"IDAT":
            return found
        end = position + 12 + length
        if kind == b"IEND" or (whole and end > len(data)):
            break
        if end > len(data):
            return None
        crc = int.from_bytes(data[end - 4 : end])
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != crc:
            name = kind.decode("ascii", "backslashreplace")
            raise SampleError("damaged", f"the checksum of the {name} chunk is wrong")
        found = found or kind == b"tRNS"
        position = end
    else:
        if not whole:
            return None
    raise SampleError("damaged", "no image data: the file has no IDAT chunk")


def _png_is_complete(data: bytes) -> bool:
    """Return whether an intact IEND chunk ends the chunks (bytes after it are no part of it)."""
    position = 8
    while position + 12 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"IEND":
            return data[position : position + 12] == _IEND
        position += 12 + length
    return False


@functools.lru_cache(maxsize=1024)
def _png_spec(
    ihdr: bytes, transparent: bool, max_pixels: int | None, raw: bool = False
) -> ImageSpec:
    """Return the spec that an IHDR chunk (25 bytes: length, type, data, CRC) describes."""
    if len(ihdr) < 25:
        raise SampleError("damaged", "the file is truncated in its header")
    if ihdr[:8] != b"\0\0\0\x0dIHDR" or zlib.crc32(ihdr[4:21]) != int.from_bytes(ihdr[21:]):
        raise SampleError("damaged", "the PNG header (IHDR) is damaged")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", ihdr[8:21]
    )
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise SampleError("damaged", f"the PNG header claims {width}x{height} pixels")
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise SampleError(
            "damaged",
            f"the PNG header has no valid combination of colour type ({colour}), bit depth "
            f"({depth}), compression ({compression}), filter ({filtering}) and interlace "
            f"({interlace})",
        )
    _check_pixels(height, width, max_pixels)
    channels = _CHANNELS[colour] + (transparent and colour in (0, 2, 3))
    if raw and (colour == 3 or (colour == 0 and depth < 8)):
        channels = 1  # indices, or labels: what is transparent is for those who show them
    return ImageSpec(
        height=height,
        width=width,
        channels=channels,
        dtype="uint16" if depth == 16 else "uint8",
    )


def _check_pixels(height: int, width: int, max_pixels: int | None) -> None:
    if max_pixels is not None and height * width > max_pixels:
        raise SampleError(
            "too large",
            f"the header claims {width}x{height} = {height * width:,} pixels, more than "
            f"--max-pixels {max_pixels:,}",
        )


def _other_spec(data: bytes, max_pixels: int) -> ImageSpec:
    with _other_open(data) as file:
        properties = _guarded(lambda: file.properties(index=0))  # from the header alone
        if len(properties.shape) > 1:
            _check_pixels(properties.shape[0], properties.shape[1], max_pixels)
        mode = _other_mode(file, data)
        if mode in ("L", "RGB", "RGBA"):  # imageio hands these out as they are
            return _spec_of(properties.shape, properties.dtype)
        pixels = _other_read(file, mode)
    return _spec_of(pixels.shape, pixels.dtype)


def _other_pixels(data: bytes) -> NDArray[Any]:
    with _other_open(data) as file:
        return _other_read(file, _other_mode(file, data))


def _other_open(data: bytes) -> Any:
    import imageio.v3 as iio  # 0.2 s and hundreds of files: only for who has such images
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # --max-pixels decides, by the header, and says so
    try:
        return iio.imopen(data, "r", legacy_mode=False)
    except Exception:
        # Any of imageio's plugins may raise anything; whatever it is, this file is no image.
        raise SampleError("not an image", "no image format that imageio knows") from None


def _guarded(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        # Any of imageio's plugins may raise anything; whatever it is, this file is damaged.
        raise SampleError("damaged", _one_line(error)) from None


def _other_mode(file: Any, data: bytes) -> str | None:
    """Return Pillow's name for the kind of pixels, once it is known that none is lost.

    `P+A` stands for a palette with a transparent colour; None: not read by Pillow.
    """
    about = _guarded(lambda: file.metadata(index=0, exclude_applied=False))
    mode: str | None = about.get("mode")
    if mode is None:
        return None
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I;16L"):
        raise SampleError(
            "unsupported",
            f"expected unsigned 8- or 16-bit samples, found mode {mode} "
            f"({_guarded(lambda: file.properties(index=0)).dtype}); convert it",
        )
    if data[:4] in (b"II*\0", b"MM\0*"):
        _check_tiff(data, mode)
    return "P+A" if mode in ("P", "PA") and "transparency" in about else mode


def _check_tiff(data: bytes, mode: str) -> None:
    """Refuse what Pillow would cut to 8 bits, or read as unsigned, without a word."""
    import PIL.Image

    with _guarded(lambda: PIL.Image.open(io.BytesIO(data))) as image:
        bits = tuple(image.tag_v2.get(258, (1,)))  # BitsPerSample
        signs = tuple(image.tag_v2.get(339, (1,)))  # SampleFormat; 1: unsigned
    expected = 16 if mode.startswith("I;16") else 1 if mode == "1" else 8
    if any(sign != 1 for sign in signs) or (max(bits) > expected):
        raise SampleError(
            "unsupported",
            f"expected unsigned 8- or 16-bit gray or 8-bit colour in a TIFF file, found samples of "
            f"{bits} bits and formats {signs}; convert it to PNG",
        )


def _other_read(file: Any, mode: str | None) -> NDArray[Any]:
    """Return (H, W) or (H, W, C) pixels as stored: bilevel images scaled to 0..255."""
    wanted = {"mode": "RGBA"} if mode == "P+A" else {}
    pixels = np.asarray(_guarded(lambda: file.read(index=0, **wanted)))
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _spec_of(shape: tuple[int, ...], dtype: Any) -> ImageSpec:
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 2, 3, 4):
        raise SampleError("unsupported", f"expected one 2-D image, found an array of {shape}")
    if np.dtype(dtype).name not in ("uint8", "uint16"):
        raise SampleError("unsupported", f"expected 8- or 16-bit samples, found {np.dtype(dtype)}")
    height, width = shape[:2]
    return ImageSpec(height=height, width=width, channels=channels, dtype=np.dtype(dtype).name)


def _check_fit(pixels: NDArray[Any], out: NDArray[Any]) -> None:
    if pixels.shape != out.shape or pixels.dtype != out.dtype:
        raise SampleError(
            "changed",
            f"expected {out.shape} {out.dtype}, found {pixels.shape} {pixels.dtype}",
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
