"""Sizes of scaled images, rounded as in `PIL.ImageOps.cover` and `contain`; at least 1.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # whoever has options needs no arrays
    from numpy.typing import NDArray

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How each image is scaled before anything else, keeping its proportions."""

    longest: int | None = None
    """What its longer side becomes; None: that does not matter."""
    shortest: int | None = None
    """What its shorter side becomes; with `longest` None too, images keep their sizes."""

    def __bool__(self) -> bool:
        return bool(self.longest or self.shortest)

    def __str__(self) -> str:
        which = "longer" if self.longest else "shorter"
        return f"scaled to {self.longest or self.shortest} pixels on the {which} side"

    def of(self, size: Size) -> Size:
        """Return the size that an image of this size is scaled to.

        >>> Scale(longest=100).of((300, 200)), Scale(shortest=100).of((300, 200))
        ((100, 67), (150, 100))
        """
        side = max(size) if self.longest else min(size)
        wanted = self.longest or self.shortest or side
        height, width = (max(1, round(n / side * wanted)) for n in size)
        return height, width

    def of_shapes(self, shapes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return (n, k) shapes, height and width in front, as they are after scaling.

        Rows of zeros, of images that cannot be read, stay.
        """
        if not self:
            return shapes
        import numpy as np

        scaled = shapes.copy()
        sizes, where = np.unique(shapes[:, :2], axis=0, return_inverse=True)
        new = [self.of((h, w)) if h and w else (h, w) for h, w in sizes.tolist()]
        scaled[:, :2] = np.array(new, np.int32).reshape(-1, 2)[where.reshape(-1)]
        return scaled


def covering(size: Size, wanted: Size) -> Size:
    """Return the least size of the same proportions that is nowhere smaller than another.

    >>> covering((300, 200), (100, 100)), covering((10, 10), (30, 40))
    ((150, 100), (40, 40))
    """
    (h, w), (height, width) = size, wanted
    if height * w >= width * h:
        return height, round(w / h * height)
    return round(h / w * width), width


def contained(size: Size, wanted: Size) -> Size:
    """Return the greatest size of the same proportions that is nowhere larger than another.

    >>> contained((300, 200), (100, 100)), contained((1, 900), (30, 40))
    ((100, 67), (1, 40))
    """
    (h, w), (height, width) = size, wanted
    if height * w <= width * h:
        return height, max(1, round(w / h * height))
    return max(1, round(h / w * width)), width
