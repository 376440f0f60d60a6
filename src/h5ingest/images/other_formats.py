"""All image formats except PNG, as far as their pixels are uint8 or uint16 without loss.

Formats are those of `core.signatures`, each with one decoder: TIFF is read by libtiff (see `tiff`),
JPEG 2000 of 16 bits by OpenJPEG, JPEG XL by libjxl, all through imagecodecs; others by Pillow. The
size is checked before a decoder allocates anything; a file of another format is refused by name.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError, one_line
from h5ingest.core.layout import ImageSpec
from h5ingest.core.notes import MORE_IMAGES
from h5ingest.core.signatures import READ, format_of, other_format_of
from h5ingest.images import headers, jpegxl, pillow_formats, tiff
from h5ingest.images.orientation import AS_STORED
from h5ingest.images.pillow_formats import REMEDY, Check, Header, silence, unsupported

_REFUSALS: Final = (
    "cannot handle",
    "not supported",
    "unsupported",
    "unknown",
    "unrecognized",
    "not installed",
)
"""Words in a decoder's error that mean unsupported, rather than damaged."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An image whose header has been read."""

    spec: ImageSpec
    """What it decodes to."""
    _format: str
    _load: Callable[[], tuple[NDArray[Any], bool]]
    orientation: int = AS_STORED
    """EXIF orientation: of what it decodes to."""

    def load(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Return (H, W) or (H, W, C) pixels as `spec` says, and kinds of `core.notes`.

        Raises:
            SampleError: damaged.
        """
        with _guarded(self._format):
            pixels, more = self._load()
        found = ImageSpec.of(pixels.shape, pixels.dtype)
        if found != self.spec:
            raise SampleError("damaged", f"the {self._format} header says {self.spec}, not {found}")
        return pixels, (MORE_IMAGES,) if more else ()


def open_image(data: bytes, check: Check) -> Opened:
    """Read the header of the whole file `data`.

    Args:
        data: an image, or anything else.
        check: called with height and width before anything of that size is allocated; may raise.

    Raises:
        SampleError: no image, damaged, or not supported; whatever `check` raises.
    """
    name = format_of(data)
    if name is None or name not in _OPENERS:
        other = other_format_of(data)
        if other is None:
            raise SampleError(
                "not an image",
                f"no image format that is read ({', '.join(READ)}), by its first bytes",
            )
        raise SampleError(
            "unsupported", f"expected one of {', '.join(READ)}, found {other}; {REMEDY}"
        )
    with _guarded(name):
        spec, load, orientation = _OPENERS[name](data, check)
    return Opened(spec, name, load, orientation)


def read_png(data: bytes, mode: str | None) -> NDArray[Any]:
    """Return the pixels of a PNG by Pillow, in a mode of Pillow's; None: as stored.

    Raises:
        SampleError: it cannot read the image.
    """
    with _guarded("PNG"):
        return pillow_formats.read_png(data, mode)


def _open_tiff(data: bytes, check: Check) -> Header:
    page = tiff.page_of(data, check)

    def load() -> tuple[NDArray[Any], bool]:
        return tiff.pixels_of(data, page, _imagecodecs().tiff_decode), page.more

    return page.spec, load, page.orientation


def _open_jpeg2000(data: bytes, check: Check) -> Header:
    header = headers.jpeg2000(data)
    check(header.height, header.width)
    if header.n_channels > 4:
        raise unsupported("JPEG 2000", f"{header.n_channels} channels")
    if header.samples == {"uint16"}:
        spec = ImageSpec(
            height=header.height,
            width=header.width,
            channels=header.n_channels,
            dtype="uint16",
        )
        return spec, lambda: (_imagecodecs().jpeg2k_decode(data), False), AS_STORED
    if header.samples != {"uint8"}:
        raise unsupported("JPEG 2000", f"{' and '.join(sorted(header.samples))} samples")
    return pillow_formats.open_image("JPEG 2000", data, check)


def _open_webp(data: bytes, check: Check) -> Header:
    check(*headers.webp_size(data))  # Pillow allocates the canvas at once
    return pillow_formats.open_image("WebP", data, check)


def _open_avif(data: bytes, check: Check) -> Header:
    depth = headers.avif_depth(data)
    if depth > 8:
        raise unsupported("AVIF", f"uint{depth} samples")
    return pillow_formats.open_image("AVIF", data, check)


def _open_pnm(data: bytes, check: Check) -> Header:
    header = headers.pnm(data)
    check(header.height, header.width)
    end = len(data) if header.n_bytes is None else header.start + header.n_bytes
    more = data[end : end + 64].lstrip()[:1] == b"P"
    if header.highest <= 255:
        spec, load, _ = pillow_formats.open_image("PNM", data, check)
        return spec, lambda: (load()[0], more), AS_STORED
    if header.highest != 65535 or header.n_bytes is None:
        how = "written as text" if header.n_bytes is None else "more than 8 bits, less than 16"
        raise unsupported("PNM", f"samples up to {header.highest} ({how})")
    spec = ImageSpec(
        height=header.height,
        width=header.width,
        channels=3 if header.kind == 6 else 1,
        dtype="uint16",
    )
    if len(data) < end:
        raise SampleError("damaged", f"the PNM file is truncated: {len(data)} of {end} bytes")
    samples = np.frombuffer(data, ">u2", header.n_bytes // 2, header.start).reshape(spec.shape)
    return spec, lambda: (samples.astype(np.uint16), more), AS_STORED


def _open_jpegxl(data: bytes, check: Check) -> Header:
    spec, is_jpeg = jpegxl.header(data)
    check(spec.height, spec.width)

    def check_again(height: int, width: int) -> None:
        if (height, width) != (spec.height, spec.width):
            raise SampleError("damaged", f"the JPEG XL header says {spec}, not {height}x{width}")

    def load() -> tuple[NDArray[Any], bool]:
        if is_jpeg:  # the pixels that the JPEG shows
            jpeg = bytes(_imagecodecs().jpegxl_decode_jpeg(data, numthreads=1))
            return pillow_formats.open_image("JPEG", jpeg, check_again)[1]()
        return _imagecodecs().jpegxl_decode(data, numthreads=1), False

    return spec, load, AS_STORED  # libjxl has turned it; a JPEG is stored as it lies there


_OPENERS: Final[dict[str, Callable[[bytes, Check], Header]]] = {
    "TIFF": _open_tiff,
    "JPEG 2000": _open_jpeg2000,
    "WebP": _open_webp,
    "AVIF": _open_avif,
    "PNM": _open_pnm,
    "JPEG XL": _open_jpegxl,
    **{
        name: functools.partial(pillow_formats.open_image, name)
        for name in ("JPEG", "GIF", "BMP", "QOI")
    },
}
"""Format -> what opens it."""


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Turn anything that a decoder raises into a `SampleError`, and silence its warnings."""
    try:
        with _quiet:
            yield
    except SampleError:
        raise
    except MemoryError:
        raise SampleError("too large", f"not enough memory to decode this {name} file") from None
    except Exception as error:
        # Decoders raise exceptions of any class; each means that this file cannot be read.
        text = one_line(error)
        if type(error).__name__ == "DecompressionBombError":
            raise SampleError("too large", f"{name}: {text}") from None
        if any(words in text.lower() for words in _REFUSALS):
            reason = f"a {name} file of a kind that is not read: {text}; {REMEDY}"
            raise SampleError("unsupported", reason) from None
        raise SampleError("damaged", f"the {name} file is damaged or truncated: {text}") from None


class _Quiet:
    """Turns Python's warnings off while at least one thread is inside; reentrant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._off = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._off.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._off.close()


_quiet: Final = _Quiet()


def _imagecodecs() -> Any:
    silence("imagecodecs")
    import imagecodecs

    return imagecodecs
