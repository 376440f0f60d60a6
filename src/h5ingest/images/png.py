"""The exact pixels of a PNG.

They are those of the PNG specification (ISO/IEC 15948): palettes become RGB, tRNS becomes an alpha
channel in every colour type, gray of 1, 2 and 4 bits is scaled to 0..255, 16 bits stay 16 bits, and
no gamma, colour profile or rotation is applied.

An image that libpng (in imagecodecs) refuses is refused. libpng is exact for all kinds of PNG, but
slow: so images that `png_fast` decodes, and proves to be intact, do not go through it.

May not: know files, ranks, datasets.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError, one_line
from h5ingest.core.layout import ImageSpec
from h5ingest.core.notes import BEYOND_PALETTE, EXPANDED, MORE_IMAGES
from h5ingest.images import png_fast
from h5ingest.images.png_chunks import (
    as_plain_gray,
    check,
    chunks,
    is_animated,
    matters,
    only_stream,
    palette,
    with_palette,
)

_MANY: Final = 64
"""Chunks of pixels, of which a file has one to a few dozen."""


def decoder_version() -> str:
    """Return names and versions of the PNG decoders."""
    import imagecodecs
    import kornia_rs

    from h5ingest.images import libpng

    return (
        f"kornia-rs {kornia_rs.__version__}, imagecodecs {imagecodecs.__version__}, "
        f"libpng {libpng.version()}"
    )


def decode_into(
    data: bytes, out: NDArray[Any], spec: ImageSpec, *, raw: bool = False
) -> tuple[str, ...]:
    """Decode a PNG; return the kinds of `core.notes` that hold for it.

    Args:
        data: the whole file.
        out: of the spec's shape and dtype; C-contiguous. On an error its content is undefined.
        spec: what `spec_of` returned.
        raw: as for `spec_of`.

    Raises:
        SampleError: damaged.
    """
    pixels = decode_fast(data, spec)
    if pixels is None:
        return decode_checked(data, out, raw=raw)
    out[...] = pixels
    return ()


def decode_checked(data: bytes, out: NDArray[Any], *, raw: bool = False) -> tuple[str, ...]:
    """Do what `decode_into` does, for a PNG that `decode_fast` has left: its chunks are right."""
    notes: tuple[str, ...] = (MORE_IMAGES,) if is_animated(data) else ()
    colours = palette(data)
    if colours and not raw:
        notes += (EXPANDED,)
    if colours and len(colours) // 3 < 2 ** data[24]:
        if _decode_few_colours(data, out, colours, raw=raw):
            notes += (BEYOND_PALETTE,)
    else:
        _decode_by_libpng(data, out, raw=raw)
    return notes


def decode_fast(data: bytes, spec: ImageSpec) -> NDArray[Any] | None:
    """Return the pixels of a PNG of which nothing is to be noted; None: it is for libpng.

    Args:
        data: the whole file.
        spec: what `spec_of` returned.

    Raises:
        SampleError: damaged.
    """
    kind = png_fast.kind_of(data[8:33], spec.channels)
    stream = only_stream(data, 33) if data[37:41] == b"IDAT" else None
    if stream is None:
        contents = check(data, 33)
        if contents.is_plain:
            # A view saves a copy, and takes 200 bytes: of a bomb there are hundreds of thousands.
            whole = memoryview(data) if len(contents.pixels) < _MANY else data
            stream = b"".join([whole[part] for part in contents.pixels])
    if kind is None or stream is None:
        return None
    plain = png_fast.without_compression(stream, kind)
    del stream  # what is large is given back before more is taken: fewer new pages
    pixels = plain and png_fast.undo_filters(plain, kind, kind.height, kind.width)
    return pixels.reshape(spec.shape) if isinstance(pixels, np.ndarray) else None


def decode_mixed(
    files: Sequence[bytes], images: Sequence[NDArray[Any]], templates: Sequence[PngTemplate | None]
) -> list[bool]:
    """Decode files, several of one kind and about one width in one go.

    Args:
        files: whole files.
        images: of the spec's shape and dtype each; C-contiguous.
        templates: that the files fit; None: there is none.

    Returns:
        For each image whether it holds the pixels of its file.
    """
    families: dict[object, list[tuple[int, bytes, png_fast.Kind]]] = {}
    for i, (data, image, template) in enumerate(zip(files, images, templates, strict=True)):
        kind = template and template.kind_for(image.shape, image.dtype)
        stream = only_stream(data, template.start) if template and kind else None
        if kind and stream is not None:
            families.setdefault(kind.family, []).append((i, stream, kind))
    done = [False] * len(files)
    for some in families.values():
        which, streams, kinds = zip(*some, strict=True)
        if len(some) > 1 and png_fast.decode_mixed(streams, [images[i] for i in which], kinds):
            for i in which:
                done[i] = True
    return done


class PngTemplate:
    """PNG files with the same bytes up to their pixels, which all have the same spec."""

    def __init__(self, data: bytes, spec: ImageSpec) -> None:
        """Take one of them.

        Args:
            data: its first bytes, as given to `spec_of`.
            spec: what `spec_of` returned.
        """
        self.spec = spec
        self.start = next(start for kind, start, _ in chunks(data, 33) if kind == b"IDAT")
        self._head = data[: self.start]
        plain = not any(matters(kind) for kind, *_ in chunks(self._head, 33))
        if data[28]:  # interlaced
            plain = False
        self._kind = png_fast.kind_of(data[8:33], spec.channels) if plain else None

    def fits(self, data: bytes) -> bool:
        """Return whether the file that begins with `data` is one of them."""
        return self.fit([data])

    def fit(self, files: Sequence[bytes]) -> bool:
        """Return whether all files that begin so are of them."""
        head, kind_at = self._head, self.start + 4
        for data in files:  # noqa: SIM110 - faster than `all`, and it is done for every file
            if not (data.startswith(head) and data.startswith(b"IDAT", kind_at)):
                return False
        return True

    def kind_for(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> png_fast.Kind | None:
        """Return how several are decoded in one go into arrays of this kind; None if they cannot.

        For small images this takes half of the time that `decode_into` needs.
        """
        return self._kind if shape == self.spec.shape and dtype == self.spec.dtype else None

    def decode_into(self, files: Sequence[bytes], out: NDArray[Any]) -> bool:
        """Decode several in one go; return whether `out` holds their pixels.

        Args:
            files: whole files, at least one.
            out: (n, *shape) of the spec's shape and dtype; C-contiguous.
        """
        kind = self.kind_for(out.shape[1:], out.dtype)
        if kind is None:
            return False
        head, start, streams = self._head, self.start, []
        for data in files:
            stream = only_stream(data, start) if data.startswith(head) else None
            if stream is None:
                return False
            streams.append(stream)
        return png_fast.decode_all(streams, out, kind)


def _decode_by_libpng(data: bytes, out: NDArray[Any], *, raw: bool) -> None:
    """Decode a PNG of any kind into `out`; its chunks have been checked."""
    scale = 1
    if raw and data[25] in (0, 3) and (data[24] < 8 or data[25] == 3):
        data, scale = as_plain_gray(data), 255 // (2 ** data[24] - 1)
    try:
        pixels = _libpng()(data, out=out)
    except (RuntimeError, ValueError) as error:  # PngError is a RuntimeError; a bad chunk name
        raise SampleError("damaged", one_line(error)) from None  # makes a UnicodeDecodeError
    if pixels is not out:
        raise AssertionError("the PNG decoder returned another array than the one to fill")
    if scale > 1:
        out //= out.dtype.type(scale)


def _decode_few_colours(data: bytes, out: NDArray[Any], colours: bytes, *, raw: bool) -> bool:
    """Decode an image whose palette has fewer colours than there can be indices.

    Returns:
        Whether there are indices without a colour: those pixels become black, as in libpng.
    """
    if raw:
        _decode_by_libpng(data, out, raw=True)
        return bool(out.max() >= len(colours) // 3)
    if any(
        kind == b"tRNS" and end - start - 12 > len(colours) // 3
        for kind, start, end in chunks(data, 33)
    ):
        raise SampleError("damaged", "its tRNS chunk has more entries than its palette")
    # libpng does not report such indices. So they are given a colour whose red no other colour has;
    # if possible, a value that no colour has in any channel.
    mark = min(set(range(256)) - set(colours) or set(range(256)) - set(colours[::3]))
    marked = with_palette(data, colours.ljust(3 * 2 ** data[24], bytes([mark])))
    _decode_by_libpng(marked, out, raw=False)
    if not (out == mark).any():  # several times as fast as looking at one channel
        return False
    beyond = out[:, :, 0] == mark
    out[:, :, :3][beyond] = 0
    return bool(beyond.any())


@functools.cache
def _libpng() -> Any:
    """Return imagecodecs' decoder; imported here because a usage error must not pay for it."""
    # libpng's warnings come as log records, and logging's last resort prints them on stderr.
    logger = logging.getLogger("imagecodecs")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    import imagecodecs

    return imagecodecs.png_decode
