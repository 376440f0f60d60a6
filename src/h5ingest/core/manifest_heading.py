"""The first line of a manifest: whether it names the columns, and which.

May not: read a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

from h5ingest.core.errors import ManifestError

PATH_COLUMNS: Final = ("path", "filepath", "file", "filename", "image")
"""Names, in any case, that make a first line a header (see `path_column`)."""
SEPARATOR: Final = "|"
"""Between the classes of a label, unless the heading says another: `label[;]`."""
_SEPARATORS: Final = b"|;~^&#!"
_SEVERAL: Final = re.compile(r"label\[([!-~])\]", re.IGNORECASE)
LONGEST_NAME: Final = 1024
"""Bytes of the name of a column. An HDF5 name has to fit into 64 KiB with all that is beside it."""


def path_column(names: list[str], *, may_lack_header: bool) -> int | None:
    """Return where the column of the paths is, if the first line gives names; None: it does not.

    Such a name makes a header where it comes first. Elsewhere it may as well be a class that is
    called image: so nothing beside it may look like a file's name, and of two columns, where the
    first line may be a sample, the other has to be the label.
    """
    lower = [name.lower() for name in names]
    if lower[0] in PATH_COLUMNS:
        return 0
    known = [lower.index(name) for name in PATH_COLUMNS if name in lower]
    if not known or any("." in name or "/" in name for name in names):
        return None
    if may_lack_header and len(names) == 2 and lower[0] != "label":
        return None
    return known[0]


def check_header(names: list[str], at: int, where: str) -> tuple[str, ...]:
    """Return the columns, of which the one at `at` has the paths."""
    columns = tuple(n.lower() if n.lower() in ("label", "group") else n for n in names)
    columns = (*columns[:at], "path", *columns[at + 1 :])
    for i, column in enumerate(columns):
        if not column or "/" in column or "\0" in column or column in (".", ".."):
            raise ManifestError(
                f"{where}: expected a name for each column, which becomes the name of a dataset; "
                f"column {i + 1} is {column!r}"
            )
        if not _is_text(column):
            raise ManifestError(
                f"{where}: expected names of columns in UTF-8, as they become names of datasets; "
                f"column {i + 1} is {show(os.fsencode(column))}. Write this line in UTF-8; the "
                f"other lines may have any bytes"
            )
        if len(column.encode()) > LONGEST_NAME:
            raise ManifestError(
                f"{where}: expected names of columns of at most {LONGEST_NAME:,} bytes, column "
                f"{i + 1} has {len(column.encode()):,}"
            )
        if column in columns[:i]:
            raise ManifestError(f"{where}: expected distinct column names, found {column!r} twice")
    return columns


def find_labels(
    columns: tuple[str, ...], chosen: str | None, delimiter: bytes, where: str, *, several: bool
) -> tuple[tuple[str, ...], bytes]:
    """Return the columns, that of the labels called `label`, and what separates classes in these.

    Args:
        columns: as they are called; `label[;]` has labels of several classes.
        chosen: that of the labels, if the user has said so.
        delimiter: between columns.
        where: for messages.
        several: whether the user says that labels name several classes.

    Raises:
        ManifestError: there are none, or too many; or classes could not be told from each other.
    """
    found = ", ".join(columns)
    marks = [match[1] for name in columns if (match := _SEVERAL.fullmatch(name))]
    named = ["label" if _SEVERAL.fullmatch(name) else name for name in columns]
    if chosen is not None:
        if chosen == "path" or chosen not in named:
            raise ManifestError(f"{where}: expected a column {chosen!r} of labels, found {found}")
        named = ["label" if name == chosen else name for name in named]
    if several and "label" not in named:
        raise ManifestError(f"{where}: expected a column 'label' for --multi-label, found {found}")
    if named.count("label") > 1:
        raise ManifestError(f"{where}: expected one column of labels, found {found}")
    separator = (marks[0] if marks else SEPARATOR * several).encode()
    if separator and separator == delimiter != b",":  # which quotes can enclose
        raise ManifestError(f"{where}: {separator.decode()!r} separates columns and classes alike")
    return tuple(named), separator


def separator_for(classes: Iterable[bytes]) -> bytes:
    """Return what can stand between these classes in a label: none of them has it.

    Raises:
        ManifestError: nothing can.
    """
    used = {*b"".join(classes)}
    for mark in _SEPARATORS:
        if mark not in used:
            return bytes([mark])
    raise ManifestError(
        f"expected names of classes without one of {_SEPARATORS.decode()}, to stand between them"
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that were none
        return False
    return True


def show(line: bytes) -> str:
    """Return a line, or the beginning of a long one, as a message has it."""
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    return repr(text if len(text) <= 80 else text[:77] + "…")
