"""PNG: what the header says, whether the file is intact, and its exact pixels.

The pixels are what the PNG specification says (ISO/IEC 15948), not what a library finds convenient:
palettes become RGB, tRNS becomes an alpha channel in every colour type, gray of 1, 2 and 4 bits is
scaled to 0..255, 16 bits stay 16 bits, and no gamma, colour profile or rotation is applied.

Gray, RGB and RGBA of 8 and 16 bits go through kornia-rs (image-png), which takes half of libpng's
time; whatever it does not take goes through imagecodecs (libpng), which is exact for every kind of
PNG and has the last word on what is damaged. Both check the CRC of all chunks that hold pixels;
kornia-rs does not look at the Adler-32 inside, which says the same once more.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import functools
import logging
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.errors import SampleError, one_line
from h5ingest.layout import ImageSpec
from h5ingest.notes import MORE_IMAGES

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
END: Final = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk."""

PALETTE: Final = 3
"""The colour type of images that are indices."""

_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths allowed for each colour type (PNG specification, table 11.1)."""
_CHANNELS: Final = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels after palette expansion for each colour type; tRNS adds one to 0, 2 and 3."""
_MODES: Final = {0: "mono", 2: "rgb", 6: "rgba"}
"""What kornia-rs calls the colour types that it hands out as they are."""
_CHUNK: Final = struct.Struct(">I4s")


def decoder_version() -> str:
    """Return names and versions of the PNG decoders."""
    import imagecodecs
    import kornia_rs

    from h5ingest import libpng

    return (
        f"kornia-rs {kornia_rs.__version__}, imagecodecs {imagecodecs.__version__}, "
        f"libpng {libpng.version()}"
    )


def spec_of(data: bytes, *, whole: bool = True, raw: bool = False) -> ImageSpec | None:
    """Return what a PNG decodes to, judged by all that precedes its pixels.

    Args:
        data: the file's first bytes, signature included.
        whole: whether `data` is all of the file.
        raw: whether palette indices and low-bit gray are to be kept as they are.

    Returns:
        The spec; None if `data` is not the whole file and does not tell yet.

    Raises:
        SampleError: damaged.
    """
    transparent = data[37:41] != b"IDAT" and _has_transparency(data, whole=whole)
    return None if transparent is None else _spec(data[8:33], transparent, raw)


def decode_into(
    data: bytes, out: NDArray[Any], spec: ImageSpec, *, raw: bool = False
) -> tuple[str, ...]:
    """Decode a PNG; return kinds of notes on it.

    Args:
        data: the whole file.
        out: of the spec's shape and dtype; C-contiguous. On an error its content is undefined.
        spec: as `spec_of` told.
        raw: as for `spec_of`.

    Raises:
        SampleError: damaged.
    """
    if not data.endswith(END) and not _is_complete(data):
        # The decoders stop at the last row: they never look for the end of the file.
        raise SampleError("damaged", "the file is truncated: no IEND chunk at its end")
    notes = (MORE_IMAGES,) if data[37:41] != b"IDAT" and _is_animated(data) else ()
    fast = _fast(data[8:33], spec.channels)
    if fast is not None:
        decode, size, mode = fast
        try:
            pixels = decode(data, size, mode)
        except BaseException as error:
            _check_refusal(error)
        else:
            out[...] = pixels if spec.channels > 1 else pixels[:, :, 0]
            return notes
    scale = 1
    if raw and data[25] in (0, 3) and (data[24] < 8 or data[25] == 3):
        data, scale = _as_plain_gray(data), 255 // (2 ** data[24] - 1)
    try:
        pixels = _libpng()(data, out=out)
    except (RuntimeError, ValueError) as error:  # PngError is a RuntimeError; a bad chunk name
        raise SampleError("damaged", one_line(error)) from None  # makes a UnicodeDecodeError
    if pixels is not out:
        raise AssertionError("the PNG decoder returned another array than the one to fill")
    if scale > 1:
        out //= out.dtype.type(scale)
    return notes


class Alike:
    """PNGs that are the same up to their pixels: all of them decode to the same spec."""

    def __init__(self, data: bytes, spec: ImageSpec) -> None:
        """Take one of them.

        Args:
            data: its first bytes, which told the spec.
            spec: as `spec_of` told.
        """
        self.spec = spec
        start = next(start for kind, start, _ in _chunks(data, 33) if kind == b"IDAT")
        self._head = data[:start]
        self._kind = slice(start + 4, start + 8)
        self._noted = _is_animated(data)

    def fits(self, data: bytes) -> bool:
        """Return whether the file that begins with `data` is one of them."""
        return data.startswith(self._head) and data[self._kind] == b"IDAT"

    def decode_into(self, files: Sequence[bytes], out: NDArray[Any]) -> bool:
        """Decode several in one go; return whether `out` holds their pixels.

        For small images this takes half of the time that `decode_into` needs beside the decoder.

        Args:
            files: whole files, at least one.
            out: (n, *shape) of the spec's shape and dtype; C-contiguous.
        """
        fast = None if self._noted else _fast(self._head[8:33], self.spec.channels)
        if fast is None or out.shape[1:] != self.spec.shape or out.dtype != self.spec.dtype:
            return False
        decode, size, mode = fast
        if not all(map(self.fits, files)) or not all(data.endswith(END) for data in files):
            return False
        try:
            pixels = [decode(data, size, mode) for data in files]
        except BaseException as error:
            _check_refusal(error)
            return False
        np.concatenate(pixels, out=out.reshape(-1, *pixels[0].shape[1:]))
        return True


def palette(data: bytes) -> bytes | None:
    """Return the RGB entries of a palette PNG (3 bytes each), from its first bytes; else None."""
    if not data.startswith(SIGNATURE) or data[25:26] != b"\3":
        return None
    for kind, start, end in _chunks(data, 33):
        if kind == b"PLTE":  # (a damaged one does not harm indices)
            colours = data[start + 8 : end - 4]
            return None if len(colours) % 3 or len(data) < end - 4 else colours
    return None


def check_intact(data: bytes) -> None:
    """Check every chunk's checksum of a whole PNG.

    Raises:
        SampleError: damaged or truncated.
    """
    for kind, start, end in _chunks(data, 8):
        if start + 12 > len(data):
            break
        if not _has_right_crc(data, start, end):
            raise SampleError("damaged", f"the {_name(kind)} chunk is damaged or truncated")
        if kind == b"IEND":
            return
    raise SampleError("damaged", "the file is truncated: no IEND chunk at its end")


def is_exact_in_pillow(data: bytes) -> bool:
    """Return whether Pillow gives the same pixels for a whole PNG.

    It does for 8 bits a sample and less, but for gray and RGB with a tRNS chunk, and for 16-bit
    gray.
    """
    depth, colour = data[24], data[25]
    transparent = has_transparency(data)
    return not ((depth == 16 and colour != 0) or (transparent and colour != 3))


def has_transparency(data: bytes) -> bool:
    """Return whether a whole PNG has a tRNS chunk before its pixels.

    Raises:
        SampleError: damaged.
    """
    return bool(_has_transparency(data, whole=True))


@functools.cache
def _libpng() -> Any:
    """Return imagecodecs' decoder; imported here because a usage error must not pay for it."""
    # libpng's warnings come as log records, and logging's last resort prints them on stderr.
    logger = logging.getLogger("imagecodecs")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    import imagecodecs

    return imagecodecs.png_decode


@functools.lru_cache(maxsize=1024)
def _fast(
    ihdr: bytes, channels: int
) -> tuple[Callable[..., NDArray[Any]], tuple[int, int], str] | None:
    """Return kornia-rs' decoder, the size and the mode for a header; None if it cannot be used.

    It drops what a tRNS chunk says: then the pixels have a channel more than the colour type.
    """
    width, height, depth, colour = struct.unpack(">IIBB", ihdr[8:18])
    if depth < 8 or colour not in _MODES or channels != _CHANNELS[colour]:
        return None
    from kornia_rs import io  # see _libpng

    decode = io.decode_image_png_u8 if depth == 8 else io.decode_image_png_u16
    return decode, (height, width), _MODES[colour]


def _check_refusal(error: BaseException) -> None:
    """Raise what kornia-rs did not raise because it refuses an image."""
    # A panic in Rust arrives as a BaseException of its own (PyO3's PanicException).
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


@functools.lru_cache(maxsize=1024)
def _spec(ihdr: bytes, transparent: bool, raw: bool) -> ImageSpec:
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
    channels = _CHANNELS[colour] + (transparent and colour in (0, 2, 3))
    if raw and (colour == 3 or (colour == 0 and depth < 8)):
        channels = 1  # indices, or labels: what is transparent is for those who show them
    return ImageSpec(
        height=height,
        width=width,
        channels=channels,
        dtype="uint16" if depth == 16 else "uint8",
    )


def _has_transparency(data: bytes, *, whole: bool) -> bool | None:
    """Return whether a tRNS chunk precedes the pixels; None if `data` ends before they begin.

    The chunks on the way must be intact: libpng skips one that is not, and with a damaged tRNS
    chunk the transparency would be lost without a word.
    """
    found = False
    for kind, start, end in _chunks(data, 33):
        if kind == b"IDAT":
            return found
        if kind == b"IEND" or (whole and end > len(data)):
            break
        if end > len(data):
            return None
        if not _has_right_crc(data, start, end):
            raise SampleError("damaged", f"the checksum of the {_name(kind)} chunk is wrong")
        found = found or kind == b"tRNS"
    else:
        if not whole:
            return None
    raise SampleError("damaged", "no image data: the file has no IDAT chunk")


def _is_animated(data: bytes) -> bool:
    """Return whether an acTL chunk, before the pixels, says that there are more frames."""
    for kind, *_ in _chunks(data, 33):
        if kind in (b"IDAT", b"acTL"):
            return kind == b"acTL"
    return False


def _is_complete(data: bytes) -> bool:
    """Return whether an intact IEND chunk ends the chunks (bytes after it are no part of it)."""
    for kind, start, _ in _chunks(data, 8):
        if kind == b"IEND":
            return data[start : start + 12] == END
    return False


def _as_plain_gray(data: bytes) -> bytes:
    """Return a palette or gray PNG as plain gray of the same depth: its samples are the indices.

    The pixels of both are stored alike (PNG specification, 4.4): so libpng serves here too, and
    gray of 1, 2, 4 bits, which it scales, is scaled back exactly.
    """
    head = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    parts = [SIGNATURE, data[8:12], head, zlib.crc32(head).to_bytes(4)]
    parts += [
        data[start:end] for kind, start, end in _chunks(data, 33) if kind not in (b"PLTE", b"tRNS")
    ]
    return b"".join(parts)


def _chunks(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of each chunk from `start` on; the last may end beyond the data."""
    while start + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, start)
        end = start + 12 + length
        yield kind, start, end
        start = end


def _has_right_crc(data: bytes, start: int, end: int) -> bool:
    """Return whether the CRC-32 that ends the chunk data[start:end] is that of type and data."""
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
