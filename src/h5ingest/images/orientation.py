"""The EXIF orientation of an image: how it has to be turned to be seen as its camera meant it.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import ImageSpec
from h5ingest.core.notes import ORIENTED, TURNED

AS_STORED: Final = 1
"""The orientation of an image that has not to be turned, and of one that says none."""
_TAG: Final = 274
_SHORT: Final = 3


def of_exif(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 if they say none, or are damaged."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return AS_STORED
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (n,) = struct.unpack_from(f"{order}H", data, at)
        for start in range(at + 2, at + 2 + 12 * n, 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", data, start)
            if tag == _TAG:
                return checked(value) if (kind, count) == (_SHORT, 1) else AS_STORED
    except struct.error:
        pass
    return AS_STORED


def checked(value: int) -> int:
    """Return an orientation; 1 for a number that is none."""
    return value if 1 <= value <= 8 else AS_STORED


def turned_spec(spec: ImageSpec, orientation: int) -> ImageSpec:
    """Return the spec of an image once it is turned: from 5 on, height and width change places."""
    if orientation < 5:
        return spec
    return replace(spec, height=spec.width, width=spec.height)


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a view of (H, W) or (H, W, C) pixels, turned as `PIL.ImageOps.exif_transpose` does."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def kinds_of_notes(orientation: int, upright: bool) -> tuple[str, ...]:
    """Return the kinds of notes (see `notes`) on an image; `upright`: it has been turned."""
    if orientation == AS_STORED:
        return ()
    return (TURNED,) if upright else (ORIENTED,)
