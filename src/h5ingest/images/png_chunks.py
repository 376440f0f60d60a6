"""The chunks of a PNG: the header, whether all chunks are intact, where the pixels are.

One rule for all kinds of PNG and all layouts: every chunk up to IEND must have a correct CRC and a
valid type, and critical chunks must be known ones. (libpng silently drops ancillary chunks that are
damaged: with tRNS, the transparency would be lost.)

May not: decode pixels; know files, ranks, datasets.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.images.libdeflate import crc32

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
END: Final = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk."""
PALETTE: Final = 3
"""The colour type of palette images."""
CHANNELS: Final = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels after palette expansion for each colour type; tRNS adds one to 0, 2 and 3."""

_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths allowed for each colour type (PNG specification, table 11.1)."""
_CRITICAL: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
LARGE_BYTES: Final = 32 * 1024
"""From so many on, a CRC is worth importing libdeflate for: eight times as fast as Python's."""
_CHUNK: Final = struct.Struct(">I4s")
_CRC_AND_END: Final = 4 + len(END)
_IDAT_CRC: Final = zlib.crc32(b"IDAT")


@dataclass(frozen=True, slots=True)
class Contents:
    """What an intact PNG holds."""

    pixels: tuple[slice, ...]
    """Where the data of the IDAT chunks is: of the first one and those that directly follow it."""
    is_plain: bool
    """Whether no other chunk, except the header, has an effect on the pixels."""


def spec_of(data: bytes, *, whole: bool = True, raw: bool = False) -> ImageSpec | None:
    """Return what a PNG decodes to, from the chunks before its pixels.

    Args:
        data: the file's first bytes, signature included.
        whole: whether `data` is all of the file.
        raw: whether palette indices and gray of 1, 2, 4 bits are kept as they are.

    Returns:
        The spec; None if `data` is not the whole file and too short.

    Raises:
        SampleError: damaged.
    """
    ihdr, transparent = data[8:33], None
    if data[37:41] == b"IDAT":
        transparent = False
    elif whole or len(ihdr) == 25:
        _spec(ihdr, False, raw)  # a wrong header is reported before what follows it
        transparent = has_transparency(data, whole=whole)
    return None if transparent is None else _spec(ihdr, transparent, raw)


def check(data: bytes, start: int = 8) -> Contents:
    """Check every chunk of a whole PNG, and return what it holds.

    Args:
        data: the whole file.
        start: of the first chunk; 33 if the header has been checked (by `spec_of`).

    Raises:
        SampleError: damaged or truncated.
    """
    pixels: list[slice] = []
    is_plain = True
    for kind, begin, end in chunks(data, start):
        if data[begin : begin + 12] == END:
            return Contents(tuple(pixels), is_plain)
        _check_chunk(data, kind, begin, end)
        if kind == b"IDAT" and (not pixels or begin == pixels[-1].stop + 4):
            pixels.append(slice(begin + 8, end - 4))
        elif begin > 8 and matters(kind):
            is_plain = False
    raise SampleError("damaged", "the file is truncated: no IEND chunk at its end")


def only_stream(data: bytes, start: int) -> bytes | None:
    """Return the zlib stream of a PNG whose only IDAT chunk is the last one before IEND.

    Most files are so, and this takes a fraction of the time of `check`.

    Args:
        data: the whole file.
        start: of an IDAT chunk; the chunks before it have been checked.

    Returns:
        The stream; None if other chunks follow, or the chunk is damaged.
    """
    n_bytes = len(data) - start - 8 - _CRC_AND_END
    if n_bytes < 0 or _CHUNK.unpack_from(data, start) != (n_bytes, b"IDAT"):
        return None
    stream = data[start + 8 : -_CRC_AND_END]
    of_stream = zlib.crc32 if len(data) < LARGE_BYTES else crc32
    crc = of_stream(stream, _IDAT_CRC).to_bytes(4)
    return stream if data[-_CRC_AND_END:] == crc + END else None


def matters(kind: bytes) -> bool:
    """Return whether a chunk of this type, apart from the header, may affect the pixels."""
    return kind in _CRITICAL or kind in (b"tRNS", b"acTL", b"fcTL", b"fdAT")


def palette(data: bytes) -> bytes | None:
    """Return the RGB entries of a palette PNG (3 bytes each), from its first bytes; else None."""
    if not data.startswith(SIGNATURE) or data[25:26] != b"\3":
        return None
    for kind, start, end in chunks(data, 33):
        if kind == b"PLTE":  # (a damaged one does not harm indices)
            colours = data[start + 8 : end - 4]
            return None if len(colours) % 3 or len(data) < end - 4 else colours
    return None


def exif(data: bytes) -> bytes:
    """Return the EXIF data of a PNG, from the bytes before its pixels; empty if there are none."""
    if data.find(b"eXIf", 33, max(33, data.find(b"IDAT", 33))) < 0:  # mostly
        return b""
    for kind, start, end in chunks(data, 33):
        if kind == b"eXIf":
            return data[start + 8 : end - 4]
        if kind == b"IDAT":
            break
    return b""


def is_exact_in_pillow(data: bytes) -> bool:
    """Return whether Pillow gives the same pixels for a whole PNG.

    It does for 8 bits a sample and less, but for gray and RGB with a tRNS chunk, and for 16-bit
    gray.
    """
    depth, colour = data[24], data[25]
    transparent = has_transparency(data)
    return not ((depth == 16 and colour != 0) or (transparent and colour != 3))


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
    channels = CHANNELS[colour] + (transparent and colour in (0, 2, 3))
    if raw and (colour == 3 or (colour == 0 and depth < 8)):
        channels = 1  # indices, or labels: transparency only matters for display
    return ImageSpec(
        height=height,
        width=width,
        channels=channels,
        dtype="uint16" if depth == 16 else "uint8",
    )


def has_transparency(data: bytes, *, whole: bool = True) -> bool | None:
    """Return whether a tRNS chunk precedes the pixels.

    Args:
        data: the file, or its first bytes.
        whole: whether it is all of the file.

    Returns:
        None if `data` is not the whole file and ends before the pixels begin.

    Raises:
        SampleError: damaged.
    """
    found = False
    for kind, start, end in chunks(data, 33):
        if kind == b"IDAT":
            return found
        if kind == b"IEND":
            break
        if end > len(data) and not whole:
            return None
        _check_chunk(data, kind, start, end)
        found = found or kind == b"tRNS"
    else:
        if not whole:
            return None
    raise SampleError("damaged", "no image data: the file has no IDAT chunk")


def is_animated(data: bytes) -> bool:
    """Return whether an acTL chunk before the pixels announces more frames."""
    for kind, *_ in chunks(data, 33):
        if kind in (b"IDAT", b"acTL"):
            return kind == b"acTL"
    return False


def as_plain_gray(data: bytes) -> bytes:
    """Return a palette or gray PNG as plain gray of the same depth: its samples are the indices.

    Both store pixels in the same way (PNG specification, 4.4): so libpng can decode the result, and
    gray of 1, 2 and 4 bits, which it scales to 0..255, can be scaled back exactly.
    """
    head = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    parts = [SIGNATURE, data[8:12], head, zlib.crc32(head).to_bytes(4)]
    parts += [
        data[start:end] for kind, start, end in chunks(data, 33) if kind not in (b"PLTE", b"tRNS")
    ]
    return b"".join(parts)


def with_palette(data: bytes, colours: bytes) -> bytes:
    """Return a palette PNG with other colours (3 bytes each); its first PLTE chunk is replaced."""
    start, end = next((start, end) for kind, start, end in chunks(data, 33) if kind == b"PLTE")
    head = len(colours).to_bytes(4) + b"PLTE"
    crc = zlib.crc32(colours, zlib.crc32(b"PLTE")).to_bytes(4)
    return b"".join((data[:start], head, colours, crc, data[end:]))


def only_pixels(data: bytes) -> bytes:
    """Return an intact PNG with only the chunks that make its pixels."""
    wanted = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
    parts = [data[start:end] for kind, start, end in chunks(data, 8) if kind in wanted]
    return SIGNATURE + b"".join(parts)


def chunks(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of each chunk from `start` on; the last may end beyond the data."""
    while start + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, start)
        end = start + 12 + length
        yield kind, start, end
        start = end


def _check_chunk(data: bytes, kind: bytes, start: int, end: int) -> None:
    """Raise if the chunk data[start:end] is truncated, damaged or of an unknown critical type."""
    if end > len(data):
        raise SampleError("damaged", f"the file is truncated in its {_name(kind)} chunk")
    crc = crc32 if end - start >= LARGE_BYTES else zlib.crc32
    if crc(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
        raise SampleError("damaged", f"the checksum of the {_name(kind)} chunk is wrong")
    if not kind.isalpha() or kind[2] & 32:
        raise SampleError("damaged", f"expected the type of a chunk, found {_name(kind)}")
    if not kind[0] & 32 and kind not in _CRITICAL:
        raise SampleError("damaged", f"the {_name(kind)} chunk is critical and unknown")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
