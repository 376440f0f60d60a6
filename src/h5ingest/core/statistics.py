"""`Statistics`: what a file says of the images of a group, as JSON in an attribute.

Over good images only: a failed one has no pixels, no class and no copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.moments import ByKind, Kind, Moments

MOST_CLASSES: Final = 10_000
"""Classes up to which a file says how many images each has; beyond, labels do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of one group."""

    n_images: int
    """Good ones."""
    pixels: ByKind | None
    """Sums by kind of image; None: not known, as where image files are stored as they are."""
    classes: Mapping[int, int] | None
    """Label -> good images; None: no labels, or more than `MOST_CLASSES` of them."""
    n_copies: int
    """Images that have the pixels of an earlier one of the group."""
    n_elsewhere: int
    """Images that another group has, too."""

    def to_json(self) -> str:
        """Return the value of the attribute: equal for equal statistics."""
        plain: dict[str, Any] = {
            "images": self.n_images,
            "copies": self.n_copies,
            "in_other_groups": self.n_elsewhere,
        }
        if self.pixels is not None:
            plain["pixels"] = [
                {
                    **kind._asdict(),
                    "images": moments.n_images,
                    "pixels": moments.n_pixels,
                    "sums": moments.sums,
                    "sums_of_squares": moments.squares,
                    "mean": moments.mean,
                    "std": moments.std,
                }
                for kind, moments in sorted(self.pixels.items())
            ]
        if self.classes is not None:
            labels = sorted(self.classes)
            counts = np.array([self.classes[label] for label in labels], np.int64)
            plain["classes"] = {
                "labels": labels,
                "images": counts.tolist(),
                "weights": weights(counts).tolist(),
            }
        return json.dumps(plain, sort_keys=True)


def from_plain(plain: Mapping[str, Any]) -> Statistics:
    """Return the statistics that JSON says, as `Statistics.to_json` has it.

    Raises:
        ValueError: it is something else.
    """
    try:
        classes = plain.get("classes")
        found = Statistics(
            n_images=_count(plain["images"]),
            pixels=_pixels(plain["pixels"]) if "pixels" in plain else None,
            classes=None
            if classes is None
            else dict(
                zip(map(_whole, classes["labels"]), map(_count, classes["images"]), strict=True)
            ),
            n_copies=_count(plain["copies"]),
            n_elsewhere=_count(plain["in_other_groups"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no statistics: {error!r}") from None
    return found


def _pixels(plain: Sequence[Mapping[str, Any]]) -> ByKind:
    found = {}
    for one in plain:
        kind = Kind(_count(one["channels"]), str(one["dtype"]))
        moments = Moments(
            n_images=_count(one["images"]),
            n_pixels=_count(one["pixels"]),
            sums=tuple(map(_count, one["sums"])),
            squares=tuple(map(_count, one["sums_of_squares"])),
        )
        if not len(moments.sums) == len(moments.squares) == kind.channels:
            raise ValueError(f"expected sums of {kind.channels} channels")
        if any(
            moments.n_pixels * squares < total * total
            for total, squares in zip(moments.sums, moments.squares, strict=True)
        ):
            raise ValueError("sums that no pixels have")
        found[kind] = moments
    return found


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, found {value!r}")
    return value


def _count(value: object) -> int:
    number = _whole(value)
    if number < 0:
        raise ValueError(f"expected a number of things, found {number}")
    return number


def weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what to multiply the loss of each class with, so that all count alike.

    The mean over all images is 1; a class without images has 0.

    >>> weights(np.array([30, 10, 0])).tolist()
    [0.6666666666666666, 2.0, 0.0]
    """
    n_classes = np.count_nonzero(counts) or 1
    found = np.zeros(len(counts))
    np.divide(counts.sum() / n_classes, counts, out=found, where=counts > 0)
    return found
