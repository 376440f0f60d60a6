"""Images for a benchmark where there are none: drawn, and written as PNG files.

Not noise and not flat colour: how fast a PNG is decoded depends on how far it could be compressed.

May not: measure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import UsageError

_STROKES_SIDE: Final = 64
"""Gray images up to so many pixels a side are strokes on black; all others are like photographs."""
_GRAIN: Final = 2.5
"""Standard deviation of the noise of a photograph, in values."""
_MOST_FILES: Final = 20_000
_MOST_BYTES: Final = 256 * 1024**2
"""Of pixels in different files: beyond them a manifest lists the same files again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape of images to draw: height, width, channels."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return self.height * self.width * self.channels

    @property
    def array_shape(self) -> tuple[int, ...]:
        """(H, W), or (H, W, C) if there are several channels."""
        return (self.height, self.width, self.channels)[: 2 + (self.channels > 1)]


def parse_shape(text: str) -> Shape:
    """Return the shape that `text` names.

    >>> str(parse_shape("28x28x1")), str(parse_shape(" 480X360x3 "))
    ('28x28x1', '480x360x3')

    Raises:
        UsageError: it names none.
    """
    match = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})x([134])\s*", text, re.IGNORECASE)
    if match is None or min(map(int, match.groups())) < 1:
        raise UsageError(
            f"--sizes: expected HEIGHTxWIDTHxCHANNELS with 1, 3 or 4 channels, such as "
            f"28x28x1,480x360x3, got {text!r}"
        )
    return Shape(*map(int, match.groups()))


def draw(shape: Shape, seed: int) -> NDArray[np.uint8]:
    """Return one image, uint8, of `shape.array_shape`; the same for the same seed."""
    random = np.random.default_rng(seed)
    if shape.channels == 1 and max(shape.height, shape.width) <= _STROKES_SIDE:
        return _strokes(shape, random)
    return _photograph(shape, random)


def _strokes(shape: Shape, random: np.random.Generator) -> NDArray[np.uint8]:
    """Two bent lines with soft edges, as a handwritten digit has."""
    along = np.linspace(0, 1, 24)[:, None]
    ends = random.uniform(0.2, 0.8, (2, 3, 1, 2)) * (shape.height, shape.width)
    curves = ends[:, 0] * (1 - along) ** 2 + ends[:, 1] * 2 * along * (1 - along)
    points = (curves + ends[:, 2] * along**2).reshape(-1, 2)
    y, x = np.arange(shape.height)[:, None, None], np.arange(shape.width)[None, :, None]
    distance = np.sqrt(((y - points[:, 0]) ** 2 + (x - points[:, 1]) ** 2).min(axis=2))
    image: NDArray[np.uint8] = np.clip(255 * (2 - distance), 0, 255).astype(np.uint8)
    return image


def _photograph(shape: Shape, random: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth shades of different sizes, channels that resemble each other, and grain."""
    image = np.full((shape.height, shape.width, shape.channels), 128.0)
    for step, amplitude in ((32, 60.0), (8, 25.0), (3, 8.0)):
        coarse = (shape.height // step + 2, shape.width // step + 2)
        shade = random.normal(0, amplitude, (*coarse, 1))
        tint = random.normal(0, amplitude / 4, (*coarse, shape.channels))
        image += _enlarged(shade + tint, shape, step)
    image += random.normal(0, _GRAIN, image.shape)
    if shape.channels == 4:
        image[:, :, 3] = 255
    pixels: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return pixels.reshape(shape.array_shape)


def _enlarged(coarse: NDArray[Any], shape: Shape, step: int) -> NDArray[Any]:
    """Interpolate linearly along both axes, to (H, W, C)."""
    for axis, length in ((0, shape.height), (1, shape.width)):
        at = np.arange(length) / step
        low = at.astype(int)
        part = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = coarse.take(low, axis) * (1 - part) + coarse.take(low + 1, axis) * part
    return coarse


def write_images(folder: Path, shape: Shape, n_images: int) -> tuple[Path, int]:
    """Draw images into a new folder, and a manifest that lists so many.

    Args:
        folder: made here.
        shape: of the images.
        n_images: lines of the manifest; if they are many, files are listed again and again.

    Returns:
        The manifest, and the number of files.
    """
    from PIL import Image

    n_files = max(1, min(n_images, _MOST_FILES, _MOST_BYTES // shape.n_bytes))
    folder.mkdir(parents=True)
    for i in range(n_files):
        Image.fromarray(draw(shape, i)).save(folder / f"{i}.png")
    manifest = folder / "manifest.txt"
    with manifest.open("w") as file:
        file.writelines(f"{i % n_files}.png\n" for i in range(n_images))
    return manifest, n_files
