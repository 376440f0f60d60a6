"""What a user may have meant with a column of the manifest that is stored as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from h5ingest.core.manifest_dialect import Dialect, LineError, parse

_LOOKED_AT: Final = 64 * 1024
"""Bytes of lines, from the first on."""


def hints_on(path: Path, dialect: Dialect, images: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each column that looks like images and is not taken so.

    Args:
        path: the manifest.
        dialect: how to read it.
        images: the columns that are taken for images.
    """
    columns = [name for name in dialect.columns if name not in ("path", *images, "label")]
    if not columns:
        return ()
    from h5ingest.images.scan import EXTENSIONS  # few manifests have such columns

    endings = tuple(EXTENSIONS)
    found = []
    for name, cells in zip(dialect.columns, _first_rows(path, dialect), strict=True):
        if name in columns and cells and all(cell.lower().endswith(endings) for cell in cells):
            found.append(
                f"column {name!r} names image files and is stored as text: --image {name} stores "
                f"the images beside the others, --image {name}:raw label masks"
            )
    return tuple(found)


def _first_rows(path: Path, dialect: Dialect) -> list[Sequence[bytes]]:
    """Return the columns of the first lines; empty ones if they cannot be read: others say so."""
    try:
        with path.open("rb") as file:
            file.seek(dialect.body_start)
            data = file.read(_LOOKED_AT)
        if len(data) == _LOOKED_AT:
            data = data[: data.rfind(b"\n") + 1]
        return parse(data, dialect)
    except (OSError, LineError):
        return [()] * len(dialect.columns)
