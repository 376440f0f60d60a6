"""What COCO or YOLO files say of images: see `annotations`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from h5ingest.core.errors import ManifestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """What is known of one image."""

    classes: Sequence[str]
    """Name of the class of each box; one may come several times."""
    cells: Sequence[Any]
    """Of the further columns: a list of numbers, with one for each box, or a number or text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What is known of all images."""

    source: str
    """Where it comes from, for messages."""
    columns: tuple[str, ...]
    """Names of the further columns."""
    of: Callable[[bytes], Annotated | None]
    """From the path of an image, below the scanned folder; None: nothing is known of it."""
    finish: Callable[[], None] = lambda: None
    """Notes what is left over. All raise ManifestError."""


def check_class(name: object, where: str) -> str:
    """Return the name of a class.

    Raises:
        ManifestError: it is none.
    """
    if not isinstance(name, str) or not name.strip() or {*name} & {*"\n\r\t\0"}:
        raise ManifestError(f"{where}: expected the name of a class, found {name!r}")
    return name
