"""Samples of several images each: what is read of them, by the names of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from h5ingest.reading.contents import Contents
from h5ingest.reading.images import Images
from h5ingest.reading.rows import Indices


@dataclass(frozen=True, slots=True)
class _Rows:
    """The images of such samples; see `Images`: in place of each is a dict of all by name."""

    _parts: Mapping[str, Images]

    def one(self, row: int) -> Any:
        """Return {name: (H, W) or (H, W, C)}."""
        return {name: images.one(row) for name, images in self._parts.items()}

    def many(self, rows: Indices | slice) -> Any:
        """Return {name: the images in the order asked}."""
        return {name: images.many(rows) for name, images in self._parts.items()}


def as_rows(parts: Mapping[str, Contents]) -> Contents:
    """Return what a group holds whose samples have several images.

    Args:
        parts: name -> what is held of these images; the first has labels, texts and so on.
    """
    first, *others = parts.values()
    if not others:
        return first
    images = _Rows({name: part.images for name, part in parts.items()})
    return replace(first, images=images, row_shape=None, dtype=None)
