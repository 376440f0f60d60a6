"""Every image format but PNG, through imageio: only what has a lossless uint8 or uint16 form.

imageio takes 0.2 s and hundreds of files to import: only a rank that meets such an image does.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.errors import SampleError, one_line
from h5ingest.layout import ImageSpec


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise if a header claims more pixels than are allowed.

    Raises:
        SampleError: it does.
    """
    if height * width > max_pixels:
        raise SampleError(
            "too large",
            f"the header claims {width}x{height} = {height * width:,} pixels, more than "
            f"--max-pixels {max_pixels:,}",
        )


def spec_of(data: bytes, max_pixels: int) -> ImageSpec:
    """Return what the whole file `data` decodes to.

    Raises:
        SampleError: no image, damaged, too large, or of a kind that has no lossless uint8 or
            uint16 form.
    """
    with _open(data) as file:
        properties = _guarded(lambda: file.properties(index=0))  # from the header alone
        if len(properties.shape) > 1:
            check_pixels(properties.shape[0], properties.shape[1], max_pixels)
        mode = _mode(file, data)
        if mode in ("L", "RGB", "RGBA"):  # imageio hands these out as they are
            return _spec_of(properties.shape, properties.dtype)
        pixels = _read(file, mode)
    return _spec_of(pixels.shape, pixels.dtype)


def read(data: bytes) -> NDArray[Any]:
    """Return (H, W) or (H, W, C) pixels as stored: bilevel images scaled to 0..255.

    Raises:
        SampleError: as for `spec_of`.
    """
    with _open(data) as file:
        return _read(file, _mode(file, data))


def read_as(data: bytes, mode: str | None) -> NDArray[Any]:
    """Return the pixels in a mode of Pillow's; None: as stored.

    Raises:
        SampleError: it cannot read the image.
    """
    with _open(data) as file:
        wanted = {} if mode is None else {"mode": mode}
        return _plain(np.asarray(_guarded(lambda: file.read(index=0, **wanted))))


def _open(data: bytes) -> Any:
    import imageio.v3 as iio
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
        raise SampleError("damaged", one_line(error)) from None


def _mode(file: Any, data: bytes) -> str | None:
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


def _read(file: Any, mode: str | None) -> NDArray[Any]:
    wanted = {"mode": "RGBA"} if mode == "P+A" else {}
    return _plain(np.asarray(_guarded(lambda: file.read(index=0, **wanted))))


def _plain(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return bilevel pixels as 0 and 255, and others in this machine's byte order."""
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
