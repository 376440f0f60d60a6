"""What the tests on SLURM and on several hosts share: images, and the check of their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.support import make_pixels, read_file, write_images, write_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A manifest of small images, and what must be stored of it."""

    manifest: Path
    pixels: NDArray[Any]

    def check(self, file: Path) -> dict[str, Any]:
        """Assert that the file holds exactly these images; return its attributes."""
        stored = read_file(file)
        np.testing.assert_array_equal(stored.arrays["images"], self.pixels)
        assert stored.arrays["labels"].tolist() == labels_of(len(self.pixels))
        assert (stored.arrays["status"] == 1).all()
        assert stored.attrs["status"] == "complete"
        assert not leftovers(file)
        return stored.attrs


def leftovers(file: Path) -> list[Path]:
    """What a run leaves beside its output that is not its output."""
    beside = [file.with_name(file.name + end) for end in (".partial", ".journal", ".lock")]
    return [path for path in beside if path.exists()]


def labels_of(n: int) -> list[int]:
    """The labels of so many images."""
    return [row % 10 for row in range(n)]


def make_images(folder: Path, n: int, *, first: int = 0) -> Images:
    """Write n images and their manifest; another `first` makes other pixels."""
    pixels = make_pixels(first + n, (7, 5, 3))[first:]
    names = write_images(folder / "images", pixels)
    rows = [(f"images/{name}", label) for name, label in zip(names, labels_of(n), strict=True)]
    manifest = write_manifest(folder / "all.csv", [("path", "label"), *rows])
    return Images(manifest=manifest, pixels=pixels)
