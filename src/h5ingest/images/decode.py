"""Everything about image bytes: what they are (`probe`) and their exact pixels (`decode_into`).

PNG is in `png`, other formats are in `other_formats`.

May not: know ranks, datasets, labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.options import MAX_PIXELS
from h5ingest.images import png, png_chunks
from h5ingest.images.orientation import AS_STORED, kinds_of_notes, of_exif, turned, turned_spec

HEAD_BYTES: Final = 4096
"""Bytes a header probe reads first: IHDR and, mostly, everything that precedes the pixels."""
_MOST_KNOWN: Final = 1024
"""PNG headers that are remembered, each with what lies between it and the pixels."""


def probe(
    data: bytes,
    *,
    whole: bool = True,
    max_pixels: int = MAX_PIXELS,
    raw: bool = False,
    upright: bool = False,
) -> ImageSpec | None:
    """Return what the image decodes to, judged by its header alone.

    Args:
        data: the file's first bytes.
        whole: whether `data` is all of the file.
        max_pixels: height times width beyond which the header is refused.
        raw: whether palette indices and low-bit gray are to be kept as they are (PNG only).
        upright: whether it is turned as its EXIF orientation says.

    Returns:
        The spec; None if `data` is only the beginning of the file and more is needed.

    Raises:
        SampleError: no image, damaged, too large, or of a kind that has no lossless uint8 or
            uint16 form.
    """
    if data.startswith(png_chunks.SIGNATURE):
        spec = png_chunks.spec_of(data, whole=whole, raw=raw)
        if spec is not None:
            _check_pixels(spec.height, spec.width, max_pixels)
            if upright:
                spec = turned_spec(spec, of_exif(png_chunks.exif(data)))
        return spec
    if not data:
        raise SampleError("damaged", "the file is empty")
    if not whole:
        return None
    from h5ingest.images import other_formats  # slow to import, and rarely needed

    image = other_formats.open_image(data, partial(_check_pixels, max_pixels=max_pixels))
    return turned_spec(image.spec, image.orientation) if upright else image.spec


class Prober:
    """`probe` for many images: PNGs with the same bytes up to their pixels are parsed only once.

    One such beginning is remembered for each header.
    """

    def __init__(
        self,
        max_pixels: int = MAX_PIXELS,
        *,
        raw: bool = False,
        any_palette: bool = True,
        upright: bool = False,
    ) -> None:
        """Take what `probe` takes.

        Args:
            max_pixels: as for `probe`.
            raw: as for `probe`.
            any_palette: whether to take palettes also where libpng must not expand them.
            upright: as for `probe`.
        """
        self._max_pixels = max_pixels
        self._raw = raw
        self._upright = upright
        self._any_palette = any_palette or raw  # indices are not expanded
        self._known: dict[bytes, png.PngTemplate] = {}

    def _template(self, data: bytes) -> png.PngTemplate | None:
        """Return the template that a file fits, if one is known."""
        template = self._known.get(data[8:33])  # IHDR
        return template if template is not None and template.fits(data) else None

    def _template_of(self, data: bytes) -> png.PngTemplate | None:
        """Return the template that a whole file fits, a new one if need be; None: no sound PNG."""
        template = self._template(data)
        if template is None and data.startswith(png_chunks.SIGNATURE):
            try:
                self(data)
            except SampleError:
                return None
            template = self._template(data)
        return template

    def __call__(self, data: bytes, *, whole: bool = True) -> ImageSpec | None:
        """See `probe`."""
        template = self._template(data)
        if template is not None:
            return template.spec
        spec = probe(
            data, whole=whole, max_pixels=self._max_pixels, raw=self._raw, upright=self._upright
        )
        if spec is not None and data.startswith(png_chunks.SIGNATURE):
            if data[25] == png_chunks.PALETTE and not self._any_palette:
                from h5ingest.images import libpng  # few jobs need it

                libpng.check_palettes()
            if of_exif(png_chunks.exif(data)) != AS_STORED:  # it is turned, or a note is made
                return spec
            template = png.PngTemplate(data, spec)
            if len(self._known) >= _MOST_KNOWN or template.start > HEAD_BYTES:  # for its memory
                self._known.clear()
            self._known[data[8:33]] = template
        return spec

    def alike(self, files: Sequence[bytes]) -> ImageSpec | None:
        """Return what `probe` returns for each of these files, if that can be said of all at once.

        Args:
            files: whole, or their first bytes.

        Returns:
            None: they are not PNGs with the same bytes up to their pixels, of a kind that is known.
        """
        template = self._template(files[0]) if files else None
        return template.spec if template is not None and template.fit(files) else None

    def check_intact(self, data: bytes) -> None:
        """See `check_intact`; for the file of a kind that is known, in half of its time."""
        template = self._template_of(data)
        if template is None or png_chunks.only_stream(data, template.start) is None:
            check_intact(data)

    def decode_alike(self, files: Sequence[bytes], out: NDArray[Any]) -> bool:
        """Decode whole files in one go, if they are alike.

        Args:
            files: at least one.
            out: (n, H, W) or (n, H, W, C) uint8 or uint16, C-contiguous.

        Returns:
            Whether `out` holds the pixels. If not, its content is undefined: one of the files is
            different or damaged, or they are not of a kind that can be decoded so.
        """
        template = self._template_of(files[0])
        return template is not None and template.decode_into(files, out)

    def decode_mixed(self, files: Sequence[bytes], images: Sequence[NDArray[Any]]) -> list[bool]:
        """Decode whole files that may differ in all, as many in one go as can be.

        Args:
            files: of the images.
            images: (H, W) or (H, W, C) uint8 or uint16 each, C-contiguous.

        Returns:
            For each whether it holds the pixels. If not, its content is undefined: the file is not
            like any other, or damaged, or of a kind that cannot be decoded so.
        """
        return png.decode_mixed(files, images, [self._template_of(data) for data in files])


def decode_into(
    data: bytes,
    out: NDArray[Any],
    *,
    raw: bool = False,
    spec: ImageSpec | None = None,
    upright: bool = False,
) -> tuple[str, ...]:
    """Decode the whole file `data` into `out`; return kinds of notes on it (see `notes`).

    Args:
        data: all bytes of an image file.
        out: (H, W) or (H, W, C) uint8 or uint16, C-contiguous, as `probe` returned; on an error its
            content is undefined.
        raw: as for `probe`.
        spec: what `probe` returned for these very bytes, if it fits `out`; None: probed here.
        upright: as for `probe`.

    Raises:
        SampleError: the image is damaged, or is not what `out` was made for.
    """
    if not data.startswith(png_chunks.SIGNATURE):
        from h5ingest.images import other_formats  # see `probe`, which has judged the size

        image = other_formats.open_image(data, lambda *_: None)
        turns = image.orientation if upright else AS_STORED
        spec = turned_spec(image.spec, turns)
        _check_fit(spec.shape, spec.dtype, out)
        pixels, notes = image.load()
        out[...] = turned(pixels, turns)
        return notes + kinds_of_notes(image.orientation, upright)
    orientation = of_exif(png_chunks.exif(data))
    turns = orientation if upright else AS_STORED
    if spec is None:
        spec = png_chunks.spec_of(data, raw=raw)
        assert spec is not None, "the whole file was given"
        spec = turned_spec(spec, turns)
        _check_fit(spec.shape, spec.dtype, out)
    if turns == AS_STORED:
        notes = png.decode_into(data, out, spec, raw=raw)
    else:
        spec = turned_spec(spec, turns)  # turned back
        pixels = np.empty(spec.shape, spec.dtype)
        notes = png.decode_into(data, pixels, spec, raw=raw)
        out[...] = turned(pixels, turns)
    return notes + kinds_of_notes(orientation, upright)


def decode(data: bytes, spec: ImageSpec, *, raw: bool = False) -> NDArray[Any]:
    """Return the pixels of the whole file `data`.

    Args:
        data: as for `decode_into`.
        spec: what `probe` returned for these very bytes.
        raw: as for `probe`.

    Raises:
        SampleError: the image is damaged.
    """
    is_plain = data.startswith(png_chunks.SIGNATURE) and not raw
    pixels = png.decode_fast(data, spec) if is_plain else None
    if pixels is None:
        pixels = np.empty(spec.shape, spec.dtype)
        if is_plain:
            png.decode_checked(data, pixels)
        else:
            decode_into(data, pixels, raw=raw, spec=spec)
    return pixels


def decode_otherwise(data: bytes) -> NDArray[Any] | None:
    """Return the pixels by a second decoder, independent of `decode_into`; None if there is none.

    For PNG that is Pillow, where it is exact and accepts the file. Other formats have no second
    decoder.

    Raises:
        SampleError: damaged.
    """
    if not data.startswith(png_chunks.SIGNATURE) or not png_chunks.is_exact_in_pillow(data):
        return None
    png_chunks.check(data)
    mode = None
    if data[25] == png_chunks.PALETTE:
        mode = "RGBA" if png_chunks.has_transparency(data) else "RGB"
    from h5ingest.images import other_formats  # see `probe`

    try:
        # Pillow refuses some files for texts, profiles and animations, which do not matter here.
        return other_formats.read_png(png_chunks.only_pixels(data), mode)
    except SampleError:
        return None


def check_intact(data: bytes) -> None:
    """Check a file that is stored as it is: every checksum of a PNG; others are taken as they are.

    Raises:
        SampleError: damaged or truncated.
    """
    if data.startswith(png_chunks.SIGNATURE):
        png_chunks.check(data)


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise if a header claims more pixels than are allowed."""
    if height * width > max_pixels:
        raise SampleError(
            "too large",
            f"the header claims {width}x{height} = {height * width:,} pixels, more than "
            f"--max-pixels {max_pixels:,}",
        )


def _check_fit(shape: tuple[int, ...], dtype: str, out: NDArray[Any]) -> None:
    if shape != out.shape or out.dtype != dtype:
        raise SampleError("changed", f"expected {out.shape} {out.dtype}, found {shape} {dtype}")
