"""TIFF: the tags of the first page, and its pixels.

libtiff (in imagecodecs) returns samples as they are stored; this module interprets them:
WhiteIsZero is inverted, gray of 1, 2 and 4 bits is scaled to 0..255, palettes become RGB, and no
orientation is applied. Memory is bounded: the tags are checked before libtiff opens the file.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.images import orientation
from h5ingest.images.pillow_formats import REMEDY

_TYPES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Code of an integer type -> its format character for `struct`."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_OTHERS: Final = {
    4: "a transparency mask", 5: "CMYK (inks)", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB",
    32803: "raw camera samples (CFA)", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
"""Photometric interpretations that are refused."""
_ORIENTATION: Final = 274
_JPEG: Final = 7
_COMPRESSIONS: Final = (1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 50000)
"""None, CCITT (3), LZW, JPEG, deflate, PackBits, deflate, zstd. (LZMA may need any memory.)"""
_FORMATS: Final = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex float"}
_USED: Final = {256, 257, 258, 259, 262, _ORIENTATION, 277, 284, 320, 322, 323, 338, 339}
"""The tags that are read: width, height, bits, compression, photometric interpretation,
orientation, samples, planes, colour map, width and height of a tile, extra samples, sample form."""
_MOST_VALUES: Final = 1024
"""The most values that one of these may have: a colour map of 8 bits has 768."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The first page of a TIFF file."""

    spec: ImageSpec
    """What it decodes to."""
    bits: int
    """Bits of a sample."""
    photometric: int
    """The photometric interpretation: what the samples mean."""
    planar: bool
    """Whether each channel is stored by itself."""
    colours: tuple[int, ...]
    """The palette: 2 ** bits values of red, then of green, then of blue, 0 to 65535; else empty."""
    more: bool
    """Whether there are more pages."""
    orientation: int
    """As in EXIF: how the image is to be turned."""


def page_of(data: bytes, check_size: Callable[[int, int], None]) -> Page:
    """Return what the tags of the first page of a TIFF file say.

    Args:
        data: the whole file.
        check_size: called with height and width of the image and of a tile; raises if too large.

    Raises:
        SampleError: damaged, too large, or of a kind that has no lossless uint8 or uint16 form.
    """
    try:
        tags, more = _tags(data)
        height, width = tags[257][0], tags[256][0]
    except (struct.error, KeyError, IndexError):
        raise SampleError("damaged", "the TIFF file is damaged or truncated: its tags") from None
    if not (height and width):
        raise SampleError("damaged", f"the TIFF header claims {width}x{height} pixels")
    check_size(height, width)
    if 322 in tags and 323 in tags:
        check_size(tags[323][0], tags[322][0])

    def one(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    compression, photometric, n = one(259, 1), one(262, _WHITE_IS_ZERO), one(277, 1)
    if compression not in _COMPRESSIONS:
        what = "the JPEG of TIFF 6.0, given up since" if compression == 6 else "not known here"
        raise _unsupported(f"compression {compression}, {what}")
    if photometric in _OTHERS or photometric > _YCBCR:
        raise _unsupported(_OTHERS.get(photometric, f"photometric interpretation {photometric}"))
    if photometric == _YCBCR and compression != _JPEG:
        raise _unsupported("YCbCr without JPEG, which has no exact RGB")
    bits = tags.get(258, (1,))
    bits = bits * n if len(bits) == 1 and n <= 4 else bits[:n]
    signs = set(tags.get(339, (1,)))
    if signs != {1}:
        kinds = ", ".join(f"{_FORMATS.get(sign, 'untyped ')}{bits[0]}" for sign in sorted(signs))
        raise _unsupported(f"{kinds} samples")
    n_colours = 3 if photometric in (_RGB, _YCBCR) else 1
    alpha = _has_alpha(n, n_colours, tags.get(338, ()))
    allowed = {8, 16} if alpha or n_colours == 3 else {1, 2, 4, 8, 12, 16}
    if photometric == _PALETTE:
        allowed -= {12, 16}
    if compression == _JPEG:
        allowed &= {8}
    if len(bits) != n or len(set(bits)) != 1 or bits[0] not in allowed:
        raise _unsupported(f"samples of {bits} bits in {n} channels")
    colours = tags.get(320, ()) if photometric == _PALETTE else ()
    if photometric == _PALETTE:
        n_colours = 3
        if len(colours) != 3 << bits[0]:
            raise SampleError("damaged", "the TIFF file has no palette of the right length")
    return Page(
        spec=ImageSpec(
            height=height,
            width=width,
            channels=n_colours + alpha,
            dtype="uint16" if bits[0] > 8 else "uint8",
        ),
        bits=bits[0],
        photometric=photometric,
        planar=one(284, 1) == 2 and n > 1,
        colours=colours,
        more=more,
        orientation=orientation.checked(one(_ORIENTATION, orientation.AS_STORED)),
    )


def pixels_of(data: bytes, page: Page, decode: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """Return (H, W) or (H, W, C) pixels of the whole file, as `page.spec` says.

    `decode` is `tiff_decode` of imagecodecs.
    """
    samples = decode(data, index=0)
    if page.planar and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, 2)
    if page.photometric == _PALETTE:
        table = np.array(page.colours, np.uint16).reshape(3, -1).T
        # Some programs write 0 to 255, against the specification: libtiff reads these too.
        table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
        if samples.ndim == 2:
            return table[samples.astype(np.uint8)]
        return np.concatenate([table[samples[:, :, 0]], samples[:, :, 1:]], axis=2)
    highest = 2**page.bits - 1
    samples = samples.astype(page.spec.dtype, copy=False)
    if page.photometric == _WHITE_IS_ZERO:
        colour = samples if samples.ndim == 2 else samples[:, :, 0]
        np.subtract(samples.dtype.type(highest), colour, out=colour)
    return samples if highest >= 255 else samples * samples.dtype.type(255 // highest)


def _has_alpha(n: int, n_colours: int, extra: tuple[int, ...]) -> bool:
    if n == n_colours:
        return False
    # 2: plain alpha. So is a fourth channel without this tag: many programs leave it out.
    if n == n_colours + 1 and (extra == (2,) or (n_colours == 3 and not extra)):
        return True
    if n == n_colours + 1 and extra == (1,):
        raise _unsupported("colours that are multiplied by their alpha")
    raise _unsupported(f"{n} channels instead of {n_colours}, and not an alpha channel alone")


def _unsupported(found: str) -> SampleError:
    return SampleError(
        "unsupported",
        f"expected unsigned 8- or 16-bit gray, RGB or a palette in a TIFF file, found {found}; "
        f"{REMEDY}",
    )


def _tags(data: bytes) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Return the tags in `_USED` of the first page, and whether there is a second page.

    Raises:
        struct.error: the file ends before them.
        KeyError: the value of one has a wrong type or length.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    word, n_form, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (n,) = struct.unpack_from(order + n_form, data, at)
    at += struct.calcsize(order + n_form)
    inline = struct.calcsize(word)  # bytes of a value that is stored in the entry itself
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(at, at + n * entry, entry):
        tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, start)
        if tag in tags or tag not in _USED:  # like libtiff, take the first of several
            continue
        if kind not in _TYPES or not 0 < count <= _MOST_VALUES:
            if tag == _ORIENTATION:  # which does no harm
                continue
            raise KeyError(tag)
        form = f"{order}{count}{_TYPES[kind]}"
        place = start + 4 + inline
        if struct.calcsize(form) > inline:
            (place,) = struct.unpack_from(order + word, data, place)
        tags[tag] = struct.unpack_from(form, data, place)
    (next_page,) = struct.unpack_from(order + word, data, at + n * entry)
    return tags, next_page != 0
