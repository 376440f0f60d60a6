"""How many images of which kind there are, in arrays that add up exactly over any number of ranks.

A kind is a group, a size, the channels and the depth. One row of 30 bytes each: a folder in which
every image has its own size has a million of them.

May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.geometry import Scale
from h5ingest.core.layout import ImageSpec

KIND: Final = np.dtype(
    [("group", "i4"), ("height", "i4"), ("width", "i4"), ("channels", "i1"), ("bytes", "i1"),
     ("count", "i8"), ("first", "i8")]
)  # fmt: skip
"""A kind of images: its group, height, width, channels and bytes a value; how many there are, and
the global index of the first."""

STORED: Final = -1
"""In place of the index of the first image, where that is in the file already."""

_SIZE: Final = ("group", "height", "width")
_DTYPES: Final = {1: "uint8", 2: "uint16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """All that decides what the images of a group become."""

    n_sizes: int
    """Different pairs of height and width."""
    smallest: tuple[int, int]
    """The least height and the least width, maybe of two images."""
    largest: tuple[int, int]
    """The greatest height and the greatest width."""
    commonest: tuple[int, int]
    """(height, width) that most images have; of several, the largest."""
    channels: frozenset[int]
    """Those that occur."""
    dtypes: frozenset[str]
    """`uint8`, `uint16` or both."""


def count(groups: NDArray[np.int32], shapes: NDArray[np.int32], first: int) -> NDArray[np.void]:
    """Return the kinds of consecutive images, (k,) KIND in order.

    Args:
        groups: (n,) of each image.
        shapes: (n, 4) height, width, channels, bytes a value; zeros for what cannot be read, which
            is not counted.
        first: global index of the first image.
    """
    readable = np.flatnonzero(shapes[:, 0])
    if len(readable) < len(groups):
        groups, shapes = groups[readable], shapes[readable]
    if not len(groups):
        return np.zeros(0, KIND)
    new = (np.diff(shapes, axis=0) != 0).any(axis=1) | (np.diff(groups) != 0)
    starts = np.append(0, np.flatnonzero(new) + 1)  # of runs: mostly neighbours are alike
    kinds = np.empty(len(starts), KIND)
    kinds["group"] = groups[starts]
    for column, name in enumerate(("height", "width", "channels", "bytes")):
        kinds[name] = shapes[starts, column]
    kinds["count"] = np.diff(starts, append=len(groups))
    kinds["first"] = first + readable[starts]
    return merge([kinds])


def merge(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Return each kind of all parts once, (k,) KIND, in order of group, size, channels and depth.

    >>> image = np.array([[2, 3, 1, 1]], np.int32)
    >>> one, other = (count(np.zeros(1, np.int32), image, first) for first in (7, 4))
    >>> merge([one, other]).tolist()
    [(0, 2, 3, 1, 1, 2, 4)]
    """
    every = np.concatenate([np.zeros(0, KIND), *parts])
    names = (*_SIZE, "channels", "bytes")
    every = every[np.lexsort([every[name] for name in reversed(names)])]
    starts = _runs(every, names)
    kinds = every[starts]
    if len(kinds):
        kinds["count"] = np.add.reduceat(every["count"], starts)
        kinds["first"] = np.minimum.reduceat(every["first"], starts)
    return kinds


def scaled(kinds: NDArray[np.void], scale: Scale) -> NDArray[np.void]:
    """Return merged kinds as they are once each image is scaled, merged."""
    if not scale:
        return kinds
    kinds = kinds.copy()
    sizes = scale.of_shapes(np.stack([kinds["height"], kinds["width"]], axis=1))
    kinds["height"], kinds["width"] = sizes.T
    return merge([kinds])


def of_group(kinds: NDArray[np.void], group: int) -> NDArray[np.void]:
    """Return the kinds of one group, of merged ones, the commonest first."""
    begin, end = np.searchsorted(kinds["group"], [group, group + 1])
    mine = kinds[begin:end]
    return mine[np.lexsort([mine["first"], -mine["count"]])]


def censuses(kinds: NDArray[np.void], n_groups: int) -> list[Census | None]:
    """Return the census of each group, of merged kinds; None: it has no readable image."""
    found: list[Census | None] = [None] * n_groups
    if not len(kinds):
        return found
    of_sizes = _runs(kinds, _SIZE)
    sizes = kinds[of_sizes]
    sizes["count"] = np.add.reduceat(kinds["count"], of_sizes)
    begin = _runs(sizes, ("group",))
    order = np.lexsort([sizes[name] for name in ("width", "height", "count", "group")])
    commonest = sizes[order[np.append(begin[1:], len(sizes)) - 1]]
    every = _runs(kinds, ("group",))
    columns = (
        sizes["group"][begin],
        np.diff(begin, append=len(sizes)),
        np.minimum.reduceat(sizes["height"], begin),
        np.minimum.reduceat(sizes["width"], begin),
        np.maximum.reduceat(sizes["height"], begin),
        np.maximum.reduceat(sizes["width"], begin),
        commonest["height"],
        commonest["width"],
        np.bitwise_or.reduceat(1 << kinds["channels"].astype(np.int64), every),
        np.bitwise_or.reduceat(kinds["bytes"], every),
    )
    for group, n_sizes, h, w, h_most, w_most, h_common, w_common, channels, depths in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        found[group] = Census(
            n_sizes=n_sizes,
            smallest=(h, w),
            largest=(h_most, w_most),
            commonest=(h_common, w_common),
            channels=frozenset(c for c in range(1, 5) if channels & 1 << c),
            dtypes=frozenset(dtype for n, dtype in _DTYPES.items() if depths & n),
        )
    return found


def spec_of(kind: Any) -> ImageSpec:
    """Return the spec of one kind."""
    return ImageSpec(
        height=int(kind["height"]),
        width=int(kind["width"]),
        channels=int(kind["channels"]),
        dtype=_DTYPES[int(kind["bytes"])],
    )


def numbers_of(spec: ImageSpec) -> tuple[int, int, int, int]:
    """Return height, width, channels, bytes of a value: what a kind has of a spec."""
    return spec.height, spec.width, spec.channels, np.dtype(spec.dtype).itemsize


def in_words(kind: Any) -> str:
    """Return what the images of a kind are; their colour alone where height and width are 0."""
    if kind["height"]:
        return str(spec_of(kind))
    sized = kind.copy()
    sized["height"] = sized["width"] = 1
    return spec_of(sized).colour


def _runs(rows: NDArray[np.void], names: Sequence[str]) -> NDArray[np.intp]:
    """Return where rows begin that differ, in one of these fields, from the one before."""
    new = np.zeros(len(rows), np.bool_)
    new[:1] = True
    for name in names:
        new[1:] |= rows[name][1:] != rows[name][:-1]
    return np.flatnonzero(new)
