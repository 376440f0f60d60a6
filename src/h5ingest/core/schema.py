"""The names that are ours in a file, by its layout; every other name is the user's.

- Groups: the attribute `groups` names them. A file that has it has nothing of ours in its root.
- Columns lie below `columns`, where nothing of ours is.
- Images and classes of a tree lie beside ours, and never get a name of `IN_TREES`.

So whoever reads a file asks for these names only and takes nothing else for ours, however it looks:
not `sizes` in a tree, which is an image, nor a column `data`. All files of schema version 1 are so.
"""

from __future__ import annotations

from typing import Final

PIXELS: Final = {"stack": "images", "ragged": "images/pixels", "encoded": "images/data"}
"""Layout -> the dataset of all pixels; a tree has none."""

COLUMNS: Final = "columns"
"""The HDF5 group of the manifest's further columns."""

_ALWAYS: Final = ("paths", "status", "checksums")
_MAYBE: Final = ("labels", "label_names", "samples")
_WHERE: Final = ("images/offsets", "images/shapes")
_REQUIRED: Final = {
    "stack": ("images",),
    "ragged": ("images/pixels", *_WHERE),
    "encoded": ("images/data", *_WHERE),
    "tree": ("datasets",),
}


def required(layout: str) -> tuple[str, ...]:
    """Return the datasets that a group of a file of this layout has."""
    return *_REQUIRED[layout], *_ALWAYS


def known(layout: str) -> tuple[str, ...]:
    """Return those that it may have, `columns` apart."""
    return *required(layout), *_MAYBE, *(("sizes",) if layout == "stack" else ())


IN_TREES: Final = frozenset({*known("tree"), COLUMNS})
"""Names that neither an image nor a class of a tree is given."""
