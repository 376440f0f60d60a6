"""What the pictures are made of: stored pixels as a screen shows them, and text.

May not: read a file of h5ingest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from h5ingest.core import outfiles

INK, DIM = (25, 25, 30), (120, 120, 128)
_LINE, _PAPER = (205, 205, 210), (255, 255, 255)
_LOW_RANGE: Final = 32
"""8-bit gray that stays below it is a mask of class numbers, black to the eye: stretched."""


# --- from stored values to a screen ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Which stored values become black and white."""

    low: int
    """Black."""
    high: int
    """White."""
    stretched: bool
    """Whether that is not all that the type can hold."""

    @classmethod
    def full(cls, dtype: np.dtype[Any]) -> Scale:
        """All values that the type can hold."""
        return cls(low=0, high=int(np.iinfo(dtype).max), stretched=False)

    @classmethod
    def of(cls, *images: NDArray[Any]) -> Scale:
        """Return what shows these images well, all of them on one scale."""
        colours = [_split(image)[0] for image in images]
        high = max(int(colour.max()) for colour in colours)
        if all(image.dtype == np.uint8 for image in images):
            gray = all(colour.ndim == 2 for colour in colours)
            if gray and 0 < high < _LOW_RANGE:
                return cls(low=0, high=high, stretched=True)
            return cls.full(np.dtype(np.uint8))
        step = max(1, sum(colour.size for colour in colours) // 10**6)
        pool = np.concatenate([colour.reshape(-1)[::step] for colour in colours])
        low, top = np.percentile(pool, (0.5, 99.5)).astype(int).tolist()
        return cls(low=low, high=max(top, low + 1), stretched=True)

    def __str__(self) -> str:
        return f"{self.low:,} to {self.high:,} shown as black to white"

    def to_screen(self, image: NDArray[Any]) -> Any:
        """Return a Pillow image, RGB or RGBA, of (H, W) or (H, W, C) values."""
        colour, alpha = _split(image)
        unit = np.clip((colour.astype(np.float32) - self.low) / (self.high - self.low), 0, 1)
        shown = (unit * 255 + 0.5).astype(np.uint8)
        if shown.ndim == 2:
            shown = np.repeat(shown[..., np.newaxis], 3, axis=2)
        if alpha is not None:
            opaque = (alpha >> 8 if alpha.dtype == np.uint16 else alpha).astype(np.uint8)
            shown = np.concatenate([shown, opaque[..., np.newaxis]], axis=2)
        return Image.fromarray(np.ascontiguousarray(shown))


def _split(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colour, (H, W) or (H, W, 3), and alpha, (H, W)."""
    if image.ndim == 2:
        return image, None
    if image.shape[2] == 2:
        return image[..., 0], image[..., 1]
    return image[..., :3], image[..., 3] if image.shape[2] == 4 else None


def fitted(picture: Any, longest: int) -> Any:
    """Return the picture with its longer side near `longest`, over a checkerboard if it has alpha.

    Grown by a whole factor, each pixel a square; or reduced smoothly.
    """
    side = max(picture.size)
    factor = max(1, longest // side) if side <= longest else longest / side
    size = [max(1, round(length * factor)) for length in picture.size]
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    fitted = picture.resize(size, method)
    if fitted.mode != "RGBA":
        return fitted
    y, x = np.indices((size[1], size[0])) // 8
    squares = np.where((x + y) % 2, 225, 245).astype(np.uint8)
    board = Image.fromarray(squares).convert("RGBA")
    return Image.alpha_composite(board, fitted).convert("RGB")


# --- drawing -----------------------------------------------------------------------------------


def canvas(width: int, height: int) -> Any:
    """Return white paper, a Pillow image of so many pixels."""
    return Image.new("RGB", (width, height), _PAPER)


def place(paper: Any, picture: Any, x: int, y: int, width: int, height: int) -> None:
    """Paste the picture into the middle of a cell, with a thin line around it."""
    x, y = x + (width - picture.width) // 2, y + (height - picture.height) // 2
    paper.paste(picture, (x, y))
    frame = (x - 1, y - 1, x + picture.width, y + picture.height)
    ImageDraw.Draw(paper).rectangle(frame, outline=_LINE)


def write(paper: Any, at: tuple[int, int], text: str, size: int, ink: tuple[int, ...]) -> None:
    """Write a line of text, its upper left corner at `at`."""
    text = _drawable(text)
    ImageDraw.Draw(paper).text(at, text, font=_font(size, _is_latin(text)), fill=ink)


@cache
def _font(size: int, latin: bool) -> Any:
    """Return Pillow's own font; for other letters, one that has them if the system does."""
    if not latin:
        for name in ("NotoSans-Regular.ttf", "DejaVuSans.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Return the text without what a font cannot show: undecodable bytes, control characters."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _is_latin(text: str) -> bool:
    return max(text, default="") < "\u0100"


def text_width(text: str, size: int) -> int:
    """Return the pixels that a line of text takes."""
    text = _drawable(text)
    return int(_font(size, _is_latin(text)).getlength(text)) + 1


def cut(text: str, width: int, size: int) -> str:
    """Return the text, shortened to so many pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text + "..."


def save(paper: Any, file: Path) -> None:
    """Write a PNG, complete or not at all; an earlier one of h5ingest is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    outfiles.write(
        file,
        lambda stream: paper.save(stream, format="PNG", optimize=True, pnginfo=signed()),
        outfiles.PICTURE,
    )


def signed() -> Any:
    """Return what Pillow has to write into a PNG, so that it is known as one of h5ingest."""
    info = PngInfo()
    for name, text in outfiles.PNG_TEXT.items():
        info.add_text(name, text)
    return info
