"""Several images a row: what `--image COLUMN[:HOW]` says of each column of images.

The first image of a row is always that of the column `path`. May not: read a manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.schema import FileHeader

FIRST: Final = "path"
"""The column of the first image of a row."""
FILTERS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Pillow's filters for scaling."""
_RAW: Final = {
    "samples": "raw", "channels": "auto", "dtype": "auto", "reduce_depth": False, "resample": None,
}  # fmt: skip
"""What `raw` says: values are kept as they are, whatever the other images become."""
_HOW: Final[dict[str, dict[str, Any]]] = {
    "raw": _RAW,
    **{name: {"channels": name} for name in ("gray", "rgb", "rgba")},
    **{name: {"dtype": name} for name in ("uint8", "uint16")},
    **{name: {"resample": name} for name in FILTERS},
}
"""Word -> the options that it changes, for the images of this column."""
_PAD: Final = "pad="
_TAKEN: Final = frozenset(
    {
        *(name.split("/")[0] for layout in schema.LAYOUTS for name in schema.known(layout)),
        schema.COLUMNS,
        "label",
    }
)
"""Names of standard datasets."""

OptionsT = TypeVar("OptionsT")


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Return the column that is meant, and the options that are other for its images.

    >>> parse("mask:nearest:pad=255")
    ('mask', {'resample': 'nearest', 'pad_value': 255})

    Raises:
        UsageError: the text means nothing.
    """
    column, *words = text.split(":")
    changes: dict[str, Any] = {}
    for word in words:
        number = word.removeprefix(_PAD)
        if word.startswith(_PAD) and number.isdecimal() and int(number) < 2**16:
            changes["pad_value"] = int(number)
        elif word in _HOW:
            changes |= _HOW[word]
        else:
            known = ", ".join(f":{each}" for each in _HOW)
            raise UsageError(
                f"--image: expected COLUMN, or COLUMN with {known} or :pad=VALUE, got {text!r}"
            )
    if not column or column in _TAKEN:
        raise UsageError(
            f"--image: expected the name of a column of the manifest that is not that of a dataset "
            f"of h5ingest, got {column!r}; rename it"
        )
    return column, changes


def columns_of(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return column -> what is other for its images, for all columns of images, in their order.

    Args:
        texts: as `--image` was given; empty: there is one image a row.

    Raises:
        UsageError: one of them means nothing, or names a column twice.
    """
    if isinstance(texts, str):
        raise UsageError(f"--image: expected several texts, such as ({texts!r},), got one")
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        column, changes = parse(text)
        if column in found:
            raise UsageError(f"--image: expected each column once, got {column!r} twice")
        found[column] = changes
    first = found.pop(FIRST, {})
    return {FIRST: first, **found}


def options_of_images(options: OptionsT) -> list[OptionsT]:
    """Return the options of each of the images of a row: mostly of one, the options themselves.

    Raises:
        UsageError: options of one of them contradict each other.
    """
    texts: tuple[str, ...] = options.image  # type: ignore[attr-defined]
    if not texts:
        return [options]
    return [
        replace(options, image=(), **changes)  # type: ignore[type-var]
        for changes in columns_of(texts).values()
    ]


def columns_in(header: FileHeader) -> tuple[str, ...]:
    """Return the columns of images, `path` first, of the manifest that a file was made of.

    Raises:
        OutputError: the file has other images than its options say.
    """
    columns = tuple(columns_of(header.options.get("image") or ()))
    if tuple(image_group(each)[1:] for each in columns[1:]) != header.images:
        raise OutputError(
            f"{header.path}: expected images {', '.join(columns)}, as its options say, found "
            f"{', '.join((FIRST, *header.images))}"
        )
    return columns


def image_group(column: str) -> str:
    """Return where the images of a column lie, below the HDF5 group of their samples.

    >>> image_group("path"), image_group("mask")
    ('', '/mask')
    """
    return "" if column == FIRST else group_prefix(column)


def content_of_image(content: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Return the options that hold for the images of column `number`, of a file's `options`."""
    return {**content, **list(columns_of(content.get("image") or ()).values())[number]}
