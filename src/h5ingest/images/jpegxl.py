"""The header of a JPEG XL file (ISO/IEC 18181): what must be known before libjxl decodes it.

May not: decode, know files.
"""

from __future__ import annotations

import struct
from typing import Final

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.images.pillow_formats import unsupported

_START: Final = b"\xff\x0a"
_HEADER_BYTES: Final = 512
"""More than what is read of a header."""
_NAME: Final = "JPEG XL"
_DAMAGED: Final = "the JPEG XL header is damaged or truncated"
_LOSSY: Final = "lossy coding, whose samples are no whole numbers"
_RATIOS: Final = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_GRAY: Final = 1
_ENUM: Final = ((0, 0), (0, 1), (4, 2), (6, 18))
_SIDE: Final = ((9, 1), (13, 1), (18, 1), (30, 1))
"""Forms of a number: how many bits it has, and what is added."""


def header(data: bytes) -> tuple[ImageSpec, bool]:
    """Return what a file decodes to, and whether it is the form of a JPEG, which it gives back.

    Raises:
        SampleError: damaged, or without exact pixels.
    """
    codestream, is_jpeg = _codestream(data)
    if not codestream.startswith(_START):
        raise SampleError("damaged", _DAMAGED)
    bits = _Bits(codestream[2:])
    height, width = _size(bits)
    if bits.take(1):  # all as by default
        raise unsupported(_NAME, _LOSSY)
    if bits.take(1):
        is_turned = bits.take(3)
        if bits.take(1):
            _size(bits)  # as which it is meant to be shown
        if bits.take(2):
            raise unsupported(_NAME, "a preview or an animation")
        if is_turned and not is_jpeg:
            raise unsupported(_NAME, "pixels that are to be turned or mirrored")
    depth = _depth(bits)
    bits.take(1)
    n_extra = bits.number((0, 0), (0, 1), (4, 2), (12, 1))
    if n_extra > 1:
        raise unsupported(_NAME, f"{n_extra} channels beside the colours")
    if n_extra:
        _check_alpha(bits, depth)
    if bits.take(1):
        raise unsupported(_NAME, _LOSSY)
    is_gray = False
    if not bits.take(1):  # else colours as by default
        bits.take(1)  # whether there is a profile
        is_gray = bits.number(*_ENUM) == _GRAY
    if depth not in (8, 16):
        raise unsupported(_NAME, f"uint{depth} samples")
    channels = (1 if is_gray else 3) + n_extra
    spec = ImageSpec(height=height, width=width, channels=channels, dtype=f"uint{depth}")
    return spec, is_jpeg


class _Bits:
    """Reads numbers, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")
        self._n_left = 8 * len(data)

    def take(self, n: int) -> int:
        """Return the number in the next n bits."""
        self._n_left -= n
        if self._n_left < 0:
            raise SampleError("damaged", _DAMAGED)
        found = self._left & (1 << n) - 1
        self._left >>= n
        return found

    def number(self, *forms: tuple[int, int]) -> int:
        """Return a number of one of four forms: how many bits it has, and what is added."""
        n, more = forms[self.take(2)]
        return self.take(n) + more


def _size(bits: _Bits) -> tuple[int, int]:
    """Return (height, width)."""

    def side() -> int:
        return 8 * (bits.take(5) + 1) if is_small else bits.number(*_SIDE)

    is_small = bits.take(1)
    height = side()
    ratio = bits.take(3)
    if not ratio:
        return height, side()
    numerator, denominator = _RATIOS[ratio]
    return height, height * numerator // denominator


def _depth(bits: _Bits) -> int:
    """Return the bits of a sample.

    Raises:
        SampleError: it is a float.
    """
    if bits.take(1):
        raise unsupported(_NAME, "samples of floats")
    return bits.number((0, 8), (0, 10), (0, 12), (6, 1))


def _check_alpha(bits: _Bits, depth: int) -> None:
    """Raise if the one channel beside the colours is not what is taken for alpha."""
    its_depth, is_other, is_associated = 8, 0, 0
    if not bits.take(1):  # else all as by default
        is_other, its_depth = bits.number(*_ENUM), _depth(bits)
        is_other |= bits.number((0, 0), (0, 3), (0, 4), (3, 1))  # smaller
        is_other |= bits.take(2)  # its name has a length
        is_associated = bits.take(1)
    if is_other or its_depth != depth:
        raise unsupported(_NAME, "a channel beside the colours that is not alpha of their size")
    if is_associated:
        raise unsupported(_NAME, "colours multiplied by alpha")


def _codestream(data: bytes) -> tuple[bytes, bool]:
    """Return the first bytes of the codestream, and whether a JPEG is to be made of it."""
    if data.startswith(_START):
        return data[:_HEADER_BYTES], False
    at, found, is_jpeg = 0, b"", False
    while at < len(data):
        try:
            length, kind = struct.unpack_from(">I4s", data, at)
            head = 8
            if length == 1:
                (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        except struct.error:
            raise SampleError("damaged", _DAMAGED) from None
        length = length or len(data) - at
        if length < head:
            raise SampleError("damaged", _DAMAGED)
        if kind in (b"jxlc", b"jxlp") and len(found) < _HEADER_BYTES:
            begin = at + head + 4 * (kind == b"jxlp")  # its number
            found += data[begin : min(at + length, begin + _HEADER_BYTES)]
        is_jpeg = is_jpeg or kind == b"jbrd"
        at += length
    return found, is_jpeg
