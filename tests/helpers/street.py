"""Drawn street scenes: photographs, and masks whose palette indices are classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from helpers.support import write_manifest

CLASSES = (0, 1, 2, 3, 4, 5, 6, 255)
"""Of the masks: 255 is what nobody has labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """A folder with images, masks and a manifest of both."""

    manifest: Path
    images: list[NDArray[Any]]
    """As a decoder gives them."""
    masks: list[NDArray[Any]]
    """Their classes."""

    def path(self, row: int, column: str = "path") -> Path:
        cells = self.manifest.read_text().splitlines()[row + 1].split(",")
        return self.manifest.parent / cells[0 if column == "path" else 1]


def draw_street(folder: Path, n: int = 12) -> Street:
    """Draw n scenes of different sizes: PNGs and JPEGs, each with a palette PNG for its mask."""
    dice = np.random.default_rng(7)
    colours = dice.integers(0, 256, (256, 3)).astype(np.uint8)
    for name in ("images", "masks"):
        os.makedirs(folder / name)
    images, masks, rows = [], [], []
    for row in range(n):
        height, width = dice.integers(40, 90, 2).tolist()
        mask = np.full((height, width), 1, np.uint8)
        mask[: height // 3] = 6
        for value in (2, 3, 4, 5, 255):
            y, x = dice.integers(0, height - 8), dice.integers(0, width - 8)
            h, w = dice.integers(4, 30, 2)
            mask[y : y + h, x : x + w] = value
        noise = dice.integers(-20, 20, (height, width, 3))
        scene = Image.fromarray((colours[mask] + noise).clip(0, 255).astype(np.uint8))
        image = f"images/{row}.{'jpg' if row % 2 else 'png'}"
        scene.save(folder / image)
        drawn = Image.fromarray(mask)
        drawn.putpalette(colours.tobytes())
        drawn.save(folder / f"masks/{row}.png")
        images.append(np.asarray(Image.open(folder / image)))
        masks.append(mask)
        split = "test" if row % 4 == 3 else "train"
        rows.append((image, f"masks/{row}.png", ("day", "night")[row % 3 == 0], split))
    manifest = write_manifest(folder / "m.csv", [("path", "mask", "label", "split"), *rows])
    return Street(manifest=manifest, images=images, masks=masks)
