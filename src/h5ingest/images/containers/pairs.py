"""Which of several arrays in a file are the images, and which their labels.

May not: read a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.images.containers.container import cells_of, is_stack

_LABELS: Final = ("label", "labels", "target", "targets", "y", "class", "classes")
_PAIRS: Final = (("images", "labels"), ("image", "label"), ("x", "y"), ("data", "labels"))
_MOST_BYTES: Final = 2**31


class Array(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def choose_stack(arrays: Mapping[str, Array], wanted: str) -> str:
    """Return the name of the stack of images.

    Args:
        arrays: all of the file, by their names.
        wanted: the name that the user has given; empty: none.

    Raises:
        SampleError: there is none, or more than one; names them.
    """
    if wanted:
        for name in (wanted, wanted.strip("/")):
            if name in arrays:
                return name
        raise SampleError("missing", f"no array {wanted!r}; there are: {_listed(arrays)}")
    found = [
        name
        for name, (shape, dtype) in arrays.items()
        if dtype.kind == "u" and dtype.itemsize <= 2 and is_stack(shape)
    ]
    if len(found) != 1:
        what = "several stacks" if found else "no stack"
        ask = ": name one behind a colon, FILE:NAME" if found else ""
        raise SampleError(
            "unsupported",
            f"{what} of images, (n, H, W) or (n, H, W, C) uint8 or uint16, in it{ask}; there are: "
            f"{_listed({name: arrays[name] for name in found} if found else arrays)}",
        )
    return found[0]


def labels_of(
    arrays: Mapping[str, Array], stack: str, load: Callable[[str], NDArray[Any]]
) -> dict[str, list[bytes]]:
    """Return the column `label`, if an array beside the stack is that by its name and length."""
    n = arrays[stack].shape[0]
    for name in _candidates(stack):
        if name not in arrays:
            continue
        shape, dtype = arrays[name]
        is_flat = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        is_small = n * dtype.itemsize <= _MOST_BYTES
        if is_flat and shape[0] == n and is_small and dtype.kind in "iubSUO":
            return {"label": cells_of(load(name).reshape(n))}
    return {}


def _candidates(stack: str) -> Iterator[str]:
    """Yield the names that the labels of a stack may have, the likeliest first."""
    folder, slash, name = stack.rpartition("/")
    for of_images, of_labels in _PAIRS:
        if of_images in name.lower():
            at = name.lower().index(of_images)
            yield folder + slash + name[:at] + of_labels + name[at + len(of_images) :]
    for other in _LABELS:
        yield folder + slash + other


def _listed(arrays: Mapping[str, Array]) -> str:
    some = [f"{name} {shape} {dtype}" for name, (shape, dtype) in list(arrays.items())[:20]]
    return ", ".join(some) or "none"
