"""Gray, RGB and RGBA PNGs of 8 and 16 bits in half of libpng's time, and checked as well.

libdeflate inflates the pixels: it checks their number and their Adler-32. kornia-rs (image-png),
which would check neither, undoes the filters: it gets a PNG whose pixels are not compressed. That
takes hardly longer than kornia-rs alone. Small images that are alike become one tall PNG: their
time would go into calls.

May not: say what is damaged. That is libpng's, which gets whatever is refused here.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from h5ingest.images.png_chunks import CHANNELS, END, SIGNATURE

_MODES: Final = {0: "mono", 2: "rgb", 6: "rgba"}
"""What kornia-rs calls the colour types that it hands out as they are."""
_BLOCK_BYTES: Final = 65535
"""Of a stored block of deflate, at most."""
_FEW_BYTES: Final = 1024
"""With fewer, Python's zlib takes less time than a call of libdeflate, which need not be there."""
_SMALL_IMAGE_BYTES: Final = 2048
"""Such an image is inflated by kornia-rs in less time than it takes to give it uncompressed."""
_LARGEST_BYTES: Final = 2**30
"""Of the scanlines of an image: they are held twice for a moment, and must fit into one chunk."""
_PASSES: Final = (
    (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
    (1, 2, 0, 1),
)  # fmt: skip
"""Of an interlaced image: first row and step, first column and step (PNG specification, 8.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Images that are decoded alike."""

    decode: Callable[[bytes, tuple[int, int], str], NDArray[Any]]
    """Of kornia-rs."""
    mode: str
    """In its words."""
    height: int
    width: int
    ihdr: bytes
    """Their IHDR chunk, 25 bytes."""
    is_interlaced: bool
    row_bytes: int
    """Of a scanline, with the byte that names its filter."""
    n_bytes: int
    """Of all scanlines."""


@functools.lru_cache(maxsize=1024)
def kind_of(ihdr: bytes, channels: int) -> Kind | None:
    """Return the kind of an image; None if it is for libpng.

    Args:
        ihdr: the IHDR chunk (25 bytes), which is right.
        channels: of its pixels. kornia-rs drops what a tRNS chunk says: then they are one more than
            the colour type has.
    """
    width, height, depth, colour = struct.unpack(">IIBB", ihdr[8:18])
    if depth < 8 or colour not in _MODES or channels != CHANNELS[colour]:
        return None
    from kornia_rs import io  # imported here because a usage error must not pay for it

    pixel_bytes = channels * depth // 8
    passes = [
        (len(range(row, height, down)), len(range(column, width, right)))
        for row, down, column, right in (_PASSES if ihdr[20] else ((0, 1, 0, 1),))
    ]
    n_bytes = sum(rows * (1 + columns * pixel_bytes) for rows, columns in passes if columns)
    if n_bytes > _LARGEST_BYTES:
        return None
    return Kind(
        decode=io.decode_image_png_u8 if depth == 8 else io.decode_image_png_u16,
        mode=_MODES[colour],
        height=height,
        width=width,
        ihdr=ihdr,
        is_interlaced=bool(ihdr[20]),
        row_bytes=1 + width * pixel_bytes,
        n_bytes=n_bytes,
    )


def decode_into(data: bytes, stream: bytes, out: NDArray[Any], kind: Kind) -> bool:
    """Decode an image; return whether `out` holds its pixels. If not, its content is undefined.

    Args:
        data: the file, whose chunks are intact and plain.
        stream: the zlib stream in it.
        out: (H, W) or (H, W, C), of the kind's type; C-contiguous.
        kind: of the image.
    """
    scanlines = _inflate([stream], kind.n_bytes)
    if scanlines is None:
        return False
    if kind.n_bytes > _SMALL_IMAGE_BYTES:  # else it takes longer to put together than to inflate
        data = _uncompressed(scanlines[0], kind.ihdr)
    pixels = _undo_filters(data, kind.height, kind)
    if pixels is None:
        return False
    out[...] = pixels.reshape(out.shape)
    return True


def decode_all(streams: Sequence[bytes], out: NDArray[Any], kind: Kind) -> bool:
    """Decode images at once; return whether `out` holds their pixels, as `decode_into` does.

    Args:
        streams: the zlib stream of each, at least one.
        out: (n, H, W) or (n, H, W, C), of the kind's type; C-contiguous.
        kind: of all images; not interlaced.
    """
    scanlines = _inflate(streams, kind.n_bytes)
    if scanlines is None:
        return False
    # One image below the other, and between them what the filters of a first row expect: zeros.
    n, rows, gap = len(streams), kind.height + 1, bytes(kind.row_bytes)
    header = struct.pack(">II", kind.width, n * rows) + kind.ihdr[16:21]
    tall = _uncompressed(gap.join([*scanlines, b""]), b"".join(_chunk(b"IHDR", [header])))
    pixels = _undo_filters(tall, n * rows, kind)
    if pixels is None:
        return False
    out[...] = pixels.reshape(n, rows, *out.shape[2:])[:, : kind.height]
    return True


def _undo_filters(data: bytes, height: int, kind: Kind) -> NDArray[Any] | None:
    """Return what kornia-rs makes of a PNG; None if it refuses it."""
    try:
        return kind.decode(data, (height, kind.width), kind.mode)
    except BaseException as error:
        # A panic in Rust arrives as a BaseException of its own (PyO3's PanicException).
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None


def _uncompressed(scanlines: bytes, ihdr: bytes) -> bytes:
    """Return a PNG with a header chunk and scanlines as they are."""
    return b"".join((SIGNATURE, ihdr, *_chunk(b"IDAT", _stored(scanlines)), END))


def _inflate(streams: Sequence[bytes], n_bytes: int) -> list[bytes] | None:
    """Return what zlib streams hold; None if one is not right, or not of that many bytes."""
    found: list[bytes] = []
    try:
        for stream in streams:
            # libdeflate takes no notice of the window that a stream declares, 256 bytes to 32 KiB.
            if not stream or (stream[0] < 0x78 and 256 << (stream[0] >> 4) < n_bytes):
                return None
            if len(stream) < _FEW_BYTES:
                found.append(zlib.decompress(stream, bufsize=n_bytes))
            else:
                found.append(_libdeflate().inflate(stream, out=n_bytes))
    except (RuntimeError, zlib.error):  # imagecodecs' DeflateError is a RuntimeError
        return None
    return found if all(len(one) == n_bytes for one in found) else None


def _stored(raw: bytes) -> list[bytes | memoryview]:
    """Return the parts of a zlib stream that holds bytes as they are (RFC 1950 and 1951)."""
    view = memoryview(raw)
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(view), _BLOCK_BYTES):
        block = view[start : start + _BLOCK_BYTES]
        is_last = start + len(block) == len(view)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    adler32 = zlib.adler32 if len(raw) < _FEW_BYTES else _libdeflate().adler32
    parts.append(adler32(raw).to_bytes(4))
    return parts


def _chunk(kind: bytes, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a chunk."""
    crc = 0
    for part in (kind, *parts):
        crc32 = zlib.crc32 if len(part) < _FEW_BYTES else _libdeflate().crc32
        crc = crc32(part, crc)
    return [sum(map(len, parts)).to_bytes(4), kind, *parts, crc.to_bytes(4)]


class _Libdeflate(NamedTuple):
    """Functions of libdeflate, by imagecodecs, which looks for a name at every use."""

    inflate: Callable[..., Any]
    crc32: Callable[..., int]
    adler32: Callable[..., int]


@functools.cache
def _libdeflate() -> _Libdeflate:
    """Import libdeflate: here, because a usage error must not pay for it."""
    import imagecodecs as ic

    return _Libdeflate(ic.deflate_decode, ic.deflate_crc32, ic.deflate_adler32)
