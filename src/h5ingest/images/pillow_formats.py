"""The formats that Pillow decodes, each by its own class: `Image.open` would try many.

Pillow takes 0.1 s to import: only ranks that find such an image do. May not: know files, ranks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.images.orientation import of_exif

REMEDY: Final = "convert it to PNG"
"""What to do about an image that is not read."""
Check = Callable[[int, int], None]
"""Called with height and width; raises if they are too large."""
Loader = Callable[[], tuple[NDArray[Any], bool]]
"""Returns the pixels, and whether the file has more images."""

Header = tuple[ImageSpec, Loader, int]
"""What an image decodes to, its loader, and its EXIF orientation."""

_CLASSES: Final = {
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "JPEG": ("JpegImagePlugin", "jpeg_factory"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "WebP": ("WebPImagePlugin", "WebPImageFile"),
    "PNM": ("PpmImagePlugin", "PpmImageFile"),
    "QOI": ("QoiImagePlugin", "QoiImageFile"),
    "JPEG 2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}
"""Format -> Pillow's module and class."""
_MODES: Final = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Modes of Pillow whose pixels are taken as they are -> number of channels."""
_CONVERTED: Final = {
    ("P", False): "RGB", ("P", True): "RGBA", ("PA", False): "RGBA", ("PA", True): "RGBA",
    ("1", True): "LA", ("L", True): "LA", ("RGB", True): "RGBA",
}  # fmt: skip
"""(mode, whether a colour is transparent) -> the mode that says the same without a palette."""
_OTHERS: Final = {
    "CMYK": "CMYK (inks)", "LAB": "CIELAB", "YCbCr": "YCbCr", "HSV": "HSV", "I": "32-bit samples",
    "F": "samples of floats", "RGBX": "a fourth channel of unknown meaning",
}  # fmt: skip


def open_image(name: str, data: bytes, check: Check) -> Header:
    """Read the header of the whole file `data`.

    Args:
        name: its format.
        data: the file.
        check: called before Pillow allocates the pixels (except those of WebP: check them first).

    Raises:
        SampleError: too large, or without a lossless uint8 form.
        Exception: anything that Pillow raises.
    """
    image = _opened(name, data, check)
    if name == "GIF":
        image.load()  # before that its mode may be another one
    mode = image.mode
    transparent = "transparency" in image.info or (mode == "P" and image.palette.mode == "RGBA")
    wanted = _CONVERTED.get((mode, transparent), mode)
    if wanted not in _MODES:
        raise unsupported(name, _OTHERS.get(mode, f"what Pillow calls mode {mode}"))
    spec = ImageSpec(
        height=image.height,
        width=image.width,
        channels=_MODES[wanted],
        dtype="uint8",
    )

    def load() -> tuple[NDArray[Any], bool]:
        image.load()
        pixels = _plain(image if wanted == mode else image.convert(wanted))
        return pixels, _has_more(image)

    return spec, load, of_exif(image.info.get("exif") or b"")


def read_png(data: bytes, mode: str | None) -> NDArray[Any]:
    """Return the pixels of a PNG in a mode of Pillow's; None: as stored.

    Raises:
        Exception: whatever Pillow raises.
    """
    image = _opened("PNG", data, lambda *_: None)
    return _plain(image if mode is None else image.convert(mode))


def unsupported(name: str, found: str) -> SampleError:
    """Return the error for a file of a known format with content that has no exact pixels here."""
    return SampleError(
        "unsupported",
        f"expected unsigned 8- or 16-bit samples in gray, RGB or a palette, found {name} with "
        f"{found}; {REMEDY}",
    )


@functools.cache
def silence(logger: str) -> None:
    """Keep a library's log records from being printed on stderr, logging's last resort."""
    logging.getLogger(logger).addHandler(logging.NullHandler())


def _opened(name: str, data: bytes, check: Check) -> Any:
    import PIL.Image

    silence("PIL")
    module, opener = _CLASSES[name]
    try:
        image = getattr(importlib.import_module(f"PIL.{module}"), opener)(io.BytesIO(data))
    except ImportError:
        raise unsupported(name, "a Pillow that has no decoder for it") from None
    check(image.height, image.width)
    # Pillow's own limit stays, except for an image that --max-pixels allows.
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and image.height * image.width > limit:
        PIL.Image.MAX_IMAGE_PIXELS = image.height * image.width
    return image


def _plain(image: Any) -> NDArray[Any]:
    """Return the pixels: bilevel ones as 0 and 255, 16 bits in this machine's byte order."""
    pixels = np.asarray(image)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _has_more(image: Any) -> bool:
    """Return whether the file has more images; damage to one of those does not matter."""
    with contextlib.suppress(OSError, SyntaxError, ValueError, IndexError):
        return bool(getattr(image, "is_animated", False))
    return True
