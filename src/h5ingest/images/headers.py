"""Parsers of headers, for what must be known before Pillow opens a file or what it does not tell.

Each function takes the bytes of a whole file of its format. May not: decode, know files.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from h5ingest.core.errors import SampleError

_NUMBER: Final = rb"(?:\s|#[^\r\n]*+[\r\n])++(\d{1,9})"
"""A number in a PNM header, with the white space and comments before it."""
_PNM: Final = re.compile(rb"P([14])" + 2 * _NUMBER + rb"\s")
_PNM_WITH_HIGHEST: Final = re.compile(rb"P([2356])" + 3 * _NUMBER + rb"\s")
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
"""The first two markers of JPEG 2000, SOC and SIZ."""
_DAMAGED_JPEG_2000: Final = "the JPEG 2000 header is damaged or truncated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pnm:
    """The header of a PBM, PGM or PPM file."""

    kind: int
    """1 to 6, as in its first two bytes."""
    height: int
    width: int
    highest: int
    """The value of white."""
    start: int
    """Where the pixels begin."""

    @property
    def n_bytes(self) -> int | None:
        """Bytes of the pixels; None where they are written as text."""
        if self.kind < 4:
            return None
        if self.kind == 4:
            return self.height * -(-self.width // 8)
        return self.height * self.width * (3 if self.kind == 6 else 1) * (1 + (self.highest > 255))


def pnm(data: bytes) -> Pnm:
    """Return the header of a PNM file.

    Raises:
        SampleError: damaged.
    """
    match = _PNM.match(data) or _PNM_WITH_HIGHEST.match(data)
    if match is None:
        raise SampleError("damaged", "the PNM header is damaged or truncated")
    kind, width, height, *highest = map(int, match.groups())
    return Pnm(
        kind=kind,
        height=height,
        width=width,
        highest=highest[0] if highest else 1,
        start=match.end(),
    )


def webp_size(data: bytes) -> tuple[int, int]:
    """Return height and width of a WebP file; those of the canvas where it has one.

    Raises:
        SampleError: damaged.
    """
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(data) >= 30:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise SampleError("damaged", "the WebP header is damaged or truncated")
    return height, width


def avif_depth(data: bytes) -> int:
    """Return the highest bit depth of any picture in an AVIF file."""
    depth = 8
    at = data.find(b"av1C")
    while 0 <= at < len(data) - 6:
        flags = data[at + 6]
        depth = max(depth, 8 + 2 * (flags >> 6 & 1) + 2 * (flags >> 6 & flags >> 5 & 1))
        at = data.find(b"av1C", at + 4)
    return depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg2000:
    """What the SIZ segment of a JPEG 2000 file says."""

    height: int
    width: int
    samples: frozenset[str]
    """Types of its channels: `uint8`, `int16`, `uint12` ..."""
    n_channels: int


def jpeg2000(data: bytes) -> Jpeg2000:
    """Return size and sample types of a JPEG 2000 file, from its codestream, not from the boxes.

    Raises:
        SampleError: damaged, tiles are missing, or boxes and codestream give different sizes.
    """
    try:
        start, boxed = _codestream(data)
        size = struct.unpack_from(">IIIIIIII", data, start + 8)
        width, height, left, top = size[:4]
        (n_channels,) = struct.unpack_from(">H", data, start + 40)
        kinds = struct.unpack_from(">" + "BBB" * n_channels, data, start + 42)[::3]
        found = _tiles(data, start)
    except struct.error:
        raise SampleError("damaged", _DAMAGED_JPEG_2000) from None
    height, width = height - top, width - left
    if height <= 0 or width <= 0 or boxed not in (None, (height, width)) or not all(size[4:6]):
        raise SampleError("damaged", _DAMAGED_JPEG_2000)
    n_tiles = -(-(size[0] - size[6]) // size[4]) * -(-(size[1] - size[7]) // size[5])
    if found != n_tiles:  # decoders fill missing tiles with zeros, and allocate memory for them
        raise SampleError("damaged", f"the JPEG 2000 file has {found} of its {n_tiles} tiles")
    return Jpeg2000(
        height=height,
        width=width,
        samples=frozenset(f"{'int' if k >> 7 else 'uint'}{1 + (k & 127)}" for k in kinds),
        n_channels=n_channels,
    )


def _tiles(data: bytes, start: int) -> int:
    """Return the number of tiles in a codestream of which at least the first part is complete."""
    at, tiles = start + 2, set[int]()
    while data[at : at + 2] != b"\xff\x90":  # SOT ends the main header
        at += 2 + max(2, *struct.unpack_from(">H", data, at + 2))
    while data[at : at + 2] == b"\xff\x90":
        tile, length = struct.unpack_from(">HI", data, at + 4)
        at = at + length if length else len(data)  # 0: all that is left
        if at > len(data):
            break
        tiles.add(tile)
    return len(tiles)


def _codestream(data: bytes) -> tuple[int, tuple[int, int] | None]:
    """Return where the codestream begins, and the (height, width) that the boxes before it give."""
    if data.startswith(_CODESTREAM):
        return 0, None
    at, boxed = 0, None
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        if kind == b"jp2c":
            if not data.startswith(_CODESTREAM, at + head):
                raise SampleError("damaged", _DAMAGED_JPEG_2000)
            return at + head, boxed
        if kind == b"jp2h":
            inner = data.find(b"ihdr", at + head, at + max(length, head))
            boxed = struct.unpack_from(">II", data, inner + 4) if inner >= 0 else None
        if length < head:
            raise SampleError("damaged", _DAMAGED_JPEG_2000)
        at += length
