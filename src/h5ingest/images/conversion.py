"""Converting one image to the channels, depth and size of its dataset.

Every conversion is either lossless or counted: `Losses` says what was dropped.

May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.geometry import Scale, contained, covering
from h5ingest.core.layout import ImageSpec
from h5ingest.core.units import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How an image of another size than the dataset's is fitted."""

    how: str = "error"
    """`error`, `pad` (bottom and right), `crop` (the centre), `resize` (Pillow), `cover` (resize,
    then crop) or `contain` (resize, then pad)."""
    pad_value: int = 0
    """Value of the padding, in every channel."""
    resample: str = "bicubic"
    """Pillow's filter, in lower case, for whatever is scaled."""
    scale: Scale = Scale()  # noqa: RUF009 - immutable
    """How images are scaled first."""
    raw: bool = False
    """Whether samples are labels, which keep their values at any depth."""


@dataclass(slots=True)
class Losses:
    """How many images lost information in a conversion."""

    alpha: int = 0
    """Transparency: an alpha channel that was not opaque everywhere was dropped."""
    colour: int = 0
    """Colour: made gray although the channels differed somewhere."""
    depth: int = 0
    """Depth: 16 bits became 8 although some values were no multiples of 257."""

    def add(self, other: Losses) -> None:
        """Add the counts of `other`."""
        self.alpha += other.alpha
        self.colour += other.colour
        self.depth += other.depth

    def describe(self) -> tuple[str, ...]:
        """Return a line for each kind of loss that happened."""
        kinds = (
            (self.alpha, "lost their transparency"),
            (self.colour, "lost their colour"),
            (self.depth, "lost depth (16 to 8 bits)"),
        )
        return tuple(f"{counted(count, 'images')} {what}" for count, what in kinds if count)


def convert_into(
    pixels: NDArray[Any], out: NDArray[Any], fit: Fit, losses: Losses
) -> tuple[int, int]:
    """Convert `pixels` into `out`; return the (height, width) of `out` that the image covers.

    Args:
        pixels: (H, W) or (H, W, C) uint8 or uint16, C from 2 to 4.
        out: (h, w) or (h, w, c) uint8 or uint16; filled.
        fit: what to do if H, W differ from h, w.
        losses: counts what is dropped.

    Raises:
        SampleError: a size that `fit` does not allow.
    """
    channels = out.shape[2] if out.ndim == 3 else 1
    pixels = change_depth(pixels, out.dtype, losses, raw=fit.raw)
    pixels = change_channels(pixels, channels, losses)
    height, width = out.shape[:2]
    h, w = _scaled_size(pixels.shape[:2], (height, width), fit)
    if (h, w) != pixels.shape[:2]:
        pixels = resize(pixels, (h, w), fit.resample)
    if (h, w) == (height, width):
        out[...] = pixels
        return height, width
    if fit.how in ("crop", "cover") and h >= height and w >= width:
        top, left = (h - height) // 2, (w - width) // 2
        out[...] = pixels[top : top + height, left : left + width]
        return height, width
    if fit.how in ("pad", "contain") and h <= height and w <= width:
        out[...] = fit.pad_value
        out[:h, :w] = pixels
        return h, w
    raise SampleError("changed", f"expected {height}x{width} pixels, found {h}x{w}")


def _scaled_size(size: tuple[int, ...], wanted: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """Return the (height, width) that an image is scaled to before it is cropped or padded."""
    size = fit.scale.of((size[0], size[1]))
    if fit.how == "resize":
        return wanted
    if fit.how == "cover":
        return covering(size, wanted)
    return contained(size, wanted) if fit.how == "contain" else size


def change_depth(
    pixels: NDArray[Any], dtype: np.dtype[Any], losses: Losses, *, raw: bool = False
) -> NDArray[Any]:
    """Return the pixels as uint8 or uint16: 255 and 65535 are the same white.

    To 16 bits every value is multiplied by 257, which is exact (`raw`: it stays); to 8 bits it is
    the nearest.
    """
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.uint16:
        return pixels.astype(np.uint16) * np.uint16(1 if raw else 257)
    reduced: NDArray[Any] = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    losses.depth += bool((reduced.astype(np.uint16) * np.uint16(257) != pixels).any())
    return reduced


def change_channels(pixels: NDArray[Any], channels: int, losses: Losses) -> NDArray[Any]:
    """Return (H, W) for one channel, else (H, W, channels).

    Gray becomes colour by repetition, a missing alpha channel is opaque. Colour becomes gray by
    the luminance of ITU-R BT.601, in the integer arithmetic of Pillow's `convert("L")`.
    """
    present = pixels.shape[2] if pixels.ndim == 3 else 1
    if present == channels:
        return pixels
    alpha = pixels[..., -1] if present in (2, 4) else None
    base = pixels if present == 1 else pixels[..., : present - (present in (2, 4))]
    if base.ndim == 3 and base.shape[2] == 1:
        base = base[..., 0]
    if channels <= 2 and present >= 3:
        losses.colour += bool((base != base[..., :1]).any())
        r, g, b = (base[..., i].astype(np.uint64) for i in range(3))
        base = ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(pixels.dtype)
    if channels in (1, 3) and alpha is not None:
        losses.alpha += bool((alpha != np.iinfo(pixels.dtype).max).any())
    if channels == 1:
        return base
    out = np.empty((*pixels.shape[:2], channels), pixels.dtype)
    n_base = channels - (channels in (2, 4))
    out[..., :n_base] = base[..., None] if base.ndim == 2 else base
    if channels in (2, 4):
        out[..., -1] = np.iinfo(pixels.dtype).max if alpha is None else alpha
    return out


def resize(pixels: NDArray[Any], size: tuple[int, int], resample: str) -> NDArray[Any]:
    """Return the pixels at the size (height, width), by Pillow.

    Pillow resizes 8-bit images as they are, colour weighted by alpha. 16 bits go channel by channel
    through its 32-bit floats, which hold them exactly, and are rounded at the end.
    """
    import PIL.Image

    filter_ = PIL.Image.Resampling[resample.upper()]
    height, width = size
    if pixels.dtype == np.uint8:
        return np.asarray(PIL.Image.fromarray(pixels).resize((width, height), filter_))
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    resized = [
        np.asarray(
            PIL.Image.fromarray(np.ascontiguousarray(planes[..., c], np.float32)).resize(
                (width, height), filter_
            )
        )
        for c in range(planes.shape[2])
    ]
    limit = np.iinfo(pixels.dtype).max
    result: NDArray[Any] = np.clip(np.rint(np.stack(resized, axis=-1)), 0, limit).astype(
        pixels.dtype
    )
    return result.reshape(*size) if pixels.ndim == 2 else result


def holds(channels: int, spec: ImageSpec) -> bool:
    """Return whether so many channels hold an image of this spec without loss."""
    alpha_fits = spec.channels in (1, 3) or channels in (2, 4)
    colour_fits = spec.channels <= 2 or channels >= 3
    return alpha_fits and colour_fits


def lossless_channels(channels: Collection[int]) -> int:
    """Return the fewest channels that hold images of all these numbers of channels without loss.

    >>> lossless_channels({1, 3}), lossless_channels({2, 3})
    (3, 4)
    """
    colour = any(n >= 3 for n in channels)
    alpha = any(n in (2, 4) for n in channels)
    return (3 if colour else 1) + alpha
