"""Gray, RGB and RGBA PNGs of 8 and 16 bits in half of libpng's time, and checked as well.

libdeflate inflates the pixels: it checks their number and their Adler-32. kornia-rs (image-png),
which would check neither, undoes the filters: it gets a PNG whose pixels are not compressed. That
takes hardly longer than kornia-rs alone. Small images become one tall PNG: their time would go into
calls.

May not: say what is damaged. That is libpng's, which gets whatever is refused here.
"""

from __future__ import annotations

import functools
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.images.libdeflate import FEW_BYTES, crc32, libdeflate
from h5ingest.images.png_chunks import CHANNELS, END, SIGNATURE

_MODES: Final = {0: "mono", 2: "rgb", 6: "rgba"}
"""What kornia-rs calls the colour types that it hands out as they are."""
_ZLIB: Final = b"\x78\x01"
"""What a zlib stream begins with."""
_BLOCK_BYTES: Final = 65535
"""Of a stored block of deflate, at most."""
_FEW_COMPRESSED_BYTES: Final = 384
"""With fewer, so does inflating."""
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
    row_bytes: int
    """Of a scanline, with the byte that names its filter."""
    n_bytes: int
    """Of all scanlines."""
    head: bytes
    """Of a PNG with the scanlines of one image as they are: all before them. Empty: they do not fit
    into one block."""
    head_crc: int
    """CRC of what of it the IDAT chunk's CRC covers."""

    @property
    def family(self) -> tuple[object, ...]:
        """What images have in common that can become one tall PNG: their widths are near."""
        return self.decode, self.mode, self.width.bit_length()


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
    head = b""
    if n_bytes <= _BLOCK_BYTES:
        head = b"".join((b"IDAT", _ZLIB, _block_head(n_bytes, is_last=True)))
    return Kind(
        decode=io.decode_image_png_u8 if depth == 8 else io.decode_image_png_u16,
        mode=_MODES[colour],
        height=height,
        width=width,
        ihdr=ihdr,
        row_bytes=1 + width * pixel_bytes,
        n_bytes=n_bytes,
        head=head and b"".join((SIGNATURE, ihdr, (len(head) + n_bytes).to_bytes(4), head)),
        head_crc=zlib.crc32(head),
    )


def without_compression(stream: bytes, kind: Kind) -> bytes | None:
    """Return an image as a PNG for `undo_filters`; None if its stream is not right.

    Args:
        stream: the zlib stream of its pixels.
        kind: of the image.
    """
    found = _inflate_all([stream], [kind.n_bytes])
    if found is None:
        return None
    (scanlines,) = found
    if not kind.head:
        return _uncompressed(scanlines, kind.ihdr)
    adler32 = stream[-4:]
    crc = crc32(adler32, crc32(scanlines, kind.head_crc))
    return b"".join((kind.head, scanlines, adler32, crc.to_bytes(4), END))


def decode_all(streams: Sequence[bytes], out: NDArray[Any], kind: Kind) -> bool:
    """Decode images at once; return whether `out` holds their pixels, as `decode_into` does.

    Args:
        streams: the zlib stream of each, at least one.
        out: (n, H, W) or (n, H, W, C), of the kind's type; C-contiguous.
        kind: of all images; not interlaced.
    """
    scanlines = _inflate_all(streams, itertools.repeat(kind.n_bytes))
    if scanlines is None:
        return False
    # One image below the other, and between them what the filters of a first row expect: zeros.
    n, rows, gap = len(streams), kind.height + 1, bytes(kind.row_bytes)
    tall = _uncompressed(gap.join([*scanlines, b""]), _ihdr(n * rows, kind.width, kind))
    pixels = undo_filters(tall, kind, n * rows, kind.width)
    if pixels is None:
        return False
    out[...] = pixels.reshape(n, rows, *out.shape[2:])[:, : kind.height]
    return True


def decode_mixed(
    streams: Sequence[bytes], images: Sequence[NDArray[Any]], kinds: Sequence[Kind]
) -> bool:
    """Decode images of different sizes at once; return whether `images` hold their pixels.

    Args:
        streams: the zlib stream of each, at least one.
        images: (H, W) or (H, W, C) each, of its kind's type; C-contiguous.
        kinds: of each; with one `family`, and not interlaced.
    """
    scanlines = _inflate_all(streams, [kind.n_bytes for kind in kinds])
    if scanlines is None:
        return False
    # As in `decode_all`.
    widest = max(kinds, key=lambda kind: kind.width)
    n_rows = sum(kind.height + 1 for kind in kinds)
    parts = map(_widened, scanlines, kinds, itertools.repeat(widest.row_bytes))
    lines = bytes(widest.row_bytes).join([*parts, b""])
    tall = _uncompressed(lines, _ihdr(n_rows, widest.width, widest))
    pixels = undo_filters(tall, widest, n_rows, widest.width)
    if pixels is None:
        return False
    row = 0
    for image, kind in zip(images, kinds, strict=True):
        found = pixels[row : row + kind.height, : kind.width]
        image[...] = found if image.ndim == 3 else found[:, :, 0]
        row += kind.height + 1
    return True


def _widened(scanlines: bytes, kind: Kind, row_bytes: int) -> bytes:
    """Return the scanlines of an image, each with room to its right: that has no say in pixels."""
    if kind.row_bytes == row_bytes:
        return scanlines
    wide = np.zeros((kind.height, row_bytes), np.uint8)
    lines = np.frombuffer(scanlines, np.uint8).reshape(kind.height, kind.row_bytes)
    wide[:, : kind.row_bytes] = lines
    return wide.tobytes()


def undo_filters(data: bytes, kind: Kind, height: int, width: int) -> NDArray[Any] | None:
    """Return what kornia-rs makes of a PNG, (H, W, C); None if it refuses it."""
    try:
        return kind.decode(data, (height, width), kind.mode)
    except BaseException as error:
        # A panic in Rust arrives as a BaseException of its own (PyO3's PanicException).
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None


def _ihdr(height: int, width: int, kind: Kind) -> bytes:
    """Return the IHDR chunk of an image of another size."""
    return b"".join(_chunk(b"IHDR", [struct.pack(">II", width, height) + kind.ihdr[16:21]]))


def _uncompressed(scanlines: bytes | memoryview, ihdr: bytes) -> bytes:
    """Return a PNG with a header chunk and scanlines as they are."""
    return b"".join((SIGNATURE, ihdr, *_chunk(b"IDAT", _stored(scanlines)), END))


def _inflate_all(streams: Iterable[bytes], sizes: Iterable[int]) -> list[bytes] | None:
    """Return what zlib streams hold; None if one is not right, or not of that many bytes."""
    found, few = [], zlib.decompress
    for stream, n_bytes in zip(streams, sizes, strict=False):
        # libdeflate takes no notice of the window that a stream declares, 256 to 32 Ki (0x78).
        if stream < b"\x78" and (not stream or 256 << (stream[0] >> 4) < n_bytes):
            return None
        try:
            if len(stream) < _FEW_COMPRESSED_BYTES:
                raw = few(stream)  # given `bufsize`, it looks for more than that: 0.3 µs longer
            else:
                raw = libdeflate().inflate(stream, out=n_bytes)
        except (RuntimeError, zlib.error):  # imagecodecs' DeflateError is a RuntimeError
            return None
        if len(raw) != n_bytes:
            return None
        found.append(raw)
    return found


def _stored(raw: bytes | memoryview) -> list[bytes | memoryview]:
    """Return the parts of a zlib stream that holds bytes as they are (RFC 1950 and 1951)."""
    view = memoryview(raw)
    parts: list[bytes | memoryview] = [_ZLIB]
    for start in range(0, len(view), _BLOCK_BYTES):
        block = view[start : start + _BLOCK_BYTES]
        parts += [_block_head(len(block), is_last=start + len(block) == len(view)), block]
    adler32 = zlib.adler32 if len(raw) < FEW_BYTES else libdeflate().adler32
    parts.append(adler32(raw).to_bytes(4))
    return parts


def _block_head(n_bytes: int, *, is_last: bool) -> bytes:
    """Return what precedes the bytes of a block."""
    return struct.pack("<BHH", is_last, n_bytes, n_bytes ^ 0xFFFF)


def _chunk(kind: bytes, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a chunk."""
    crc = 0
    for part in (kind, *parts):
        crc = crc32(part, crc)
    return [sum(map(len, parts)).to_bytes(4), kind, *parts, crc.to_bytes(4)]
