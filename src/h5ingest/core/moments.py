"""Sums of pixels and of their squares by channel: exact, and cheap enough to be always made.

Sums of whole numbers do not depend on their order: they are the same for any number of ranks, and
for a job that was ended and gone on with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.schema import STATUS_OK

_COLUMNS: Final = 768
"""Values in a row of what is summed at once: a multiple of every number of channels."""
_ROWS: Final = 252
"""Rows, so few that 16 bits hold the sum of a column of uint8."""


class Kind(NamedTuple):
    """What values are summed together."""

    channels: int
    """Of the images: 1 to 4."""
    dtype: str
    """`uint8` or `uint16`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over the pixels of images of one kind."""

    n_images: int
    n_pixels: int
    """Of each channel."""
    sums: tuple[int, ...]
    """Of each channel."""
    squares: tuple[int, ...]
    """Sums of squares of each channel."""

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            n_images=self.n_images + other.n_images,
            n_pixels=self.n_pixels + other.n_pixels,
            sums=tuple(map(sum, zip(self.sums, other.sums, strict=True))),
            squares=tuple(map(sum, zip(self.squares, other.squares, strict=True))),
        )

    @property
    def mean(self) -> list[float]:
        """Mean of each channel, in the units of the pixels; nan if there are none."""
        return [_quotient(one, self.n_pixels) for one in self.sums]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, that of all pixels (NumPy's `ddof=0`)."""
        n = self.n_pixels
        return [
            math.sqrt(_quotient(n * squares - one * one, n * n))
            for one, squares in zip(self.sums, self.squares, strict=True)
        ]


def _quotient(above: int, below: int) -> float:
    return above / below if below else math.nan  # of integers of any size, rounded once


ByKind = dict[Kind, Moments]


def joined(parts: Iterable[ByKind]) -> ByKind:
    """Return the sums of all parts together.

    >>> one = Moments(n_images=1, n_pixels=4, sums=(6,), squares=(14,))
    >>> joined([{Kind(1, "uint8"): one}, {Kind(1, "uint8"): one}])[Kind(1, "uint8")].mean
    [1.5]
    """
    found: ByKind = {}
    for part in parts:
        for kind, moments in part.items():
            found[kind] = found[kind] + moments if kind in found else moments
    return found


def joined_if_known(parts: Iterable[ByKind | None]) -> ByKind | None:
    """Return the sums of all parts together; None if they are not known of one of them."""
    every = list(parts)
    known = [part for part in every if part is not None]
    return joined(known) if len(known) == len(every) else None


class PixelSums:
    """Sums up pixels of images; failed ones may be among them, which are zeros and do not count."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sums: dict[tuple[int, np.dtype[Any]], _ChannelSums] = {}
        self._missed = False

    def add_images(
        self, images: NDArray[Any] | Sequence[NDArray[Any]], status: NDArray[np.uint8]
    ) -> None:
        """Add images, those of them that are good; image files, (n,), are not looked at.

        Args:
            images: (n, H, W) or (n, H, W, C), or n of any size; where one is not good: zeros.
            status: (n,) of each.
        """
        if isinstance(images, np.ndarray) and images.ndim > 2:
            n_pixels = images.shape[1] * images.shape[2]
            n_good = int(np.count_nonzero(status == STATUS_OK))
            self.add(images, (*images.shape, 1)[3], n_good, n_good * n_pixels)
            return
        for image, each in zip(images, status.tolist(), strict=True):
            if each == STATUS_OK and image.ndim > 1:
                height, width, channels = (*image.shape, 1)[:3]
                self.add(image, channels, 1, height * width)

    def add(self, values: NDArray[Any], channels: int, n_images: int, n_pixels: int) -> None:
        """Add images.

        Args:
            values: (n, H, W), (n, H, W, C) or (n,): all values of the images one after the other;
                C-contiguous, uint8 or uint16.
            channels: of each image.
            n_images: of them that count; the values of the others are zeros.
            n_pixels: of those that count.
        """
        key = channels, values.dtype  # whose name takes longer than to look for it
        if key not in self._sums:
            self._sums[key] = _ChannelSums(Kind(channels, values.dtype.name))
        self._sums[key].add(values.reshape(-1), n_images, n_pixels)

    def miss(self) -> None:
        """Note that images belong to the sums that nobody has seen the pixels of."""
        self._missed = True

    def take(self) -> ByKind | None:
        """Return the sums since the last time; None: not known, as some images were missed."""
        missed, self._missed = self._missed, False
        found = {sums.kind: sums.take() for sums in self._sums.values()}
        return None if missed else {kind: each for kind, each in found.items() if each.n_images}


class _ChannelSums:
    """Sums of one kind, of what lies one after the other in a block that is now and then full.

    A block is summed in the narrowest integers that hold a square. The sum of squares overflows;
    that of their upper halves does not, and tells how often.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        n_bytes = np.dtype(kind.dtype).itemsize
        self._block = np.empty(_ROWS * _COLUMNS, f"u{2 * n_bytes}")
        self._half = 8 * n_bytes
        """Bits of half a square."""
        self._sums = np.zeros((3, _COLUMNS), np.int64)
        """Of values, of lower halves of squares, of upper halves."""
        self._n_filled = self._n_images = self._n_pixels = 0

    def add(self, values: NDArray[Any], n_images: int, n_pixels: int) -> None:
        self._n_images += n_images
        self._n_pixels += n_pixels
        start = 0
        while start < len(values):
            some = values[start : start + len(self._block) - self._n_filled]
            end = self._n_filled + len(some)
            self._block[self._n_filled : end] = some
            start, self._n_filled = start + len(some), end
            if end == len(self._block):
                self._sum_block()

    def _sum_block(self) -> None:
        n_rows = -(-self._n_filled // _COLUMNS)
        self._block[self._n_filled : n_rows * _COLUMNS] = 0
        rows = self._block.reshape(_ROWS, _COLUMNS)[:n_rows]
        self._sums[0] += np.add.reduce(rows, axis=0, dtype=rows.dtype)
        rows *= rows
        squares = np.add.reduce(rows, axis=0, dtype=rows.dtype)
        rows >>= self._half
        uppers = np.add.reduce(rows, axis=0, dtype=rows.dtype)
        self._sums[1] += squares - (uppers << self._half)
        self._sums[2] += uppers
        self._n_filled = 0

    def take(self) -> Moments:
        """Return the sums, and begin again."""
        if self._n_filled:
            self._sum_block()
        sums, lowers, uppers = self._sums.reshape(3, -1, self.kind.channels).sum(axis=1)
        found = Moments(
            n_images=self._n_images,
            n_pixels=self._n_pixels,
            sums=tuple(sums.tolist()),
            squares=tuple((lowers + (uppers << self._half)).tolist()),
        )
        self._sums[:] = 0
        self._n_images = self._n_pixels = 0
        return found
