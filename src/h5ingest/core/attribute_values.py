"""Attributes of a file, each of the type that the format gives it: a text, a number, JSON."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from h5ingest.core.errors import OutputError

SHOWN: Final = 100
"""Letters of a text in a message."""
MOST_JSON: Final = 4 * 2**20
"""Letters: names of 200,000 groups. As Python's values they take twenty times as much memory."""

_T = TypeVar("_T", list[Any], dict[str, Any])


@dataclass(frozen=True, slots=True)
class AttributeValues:
    """Reads attributes.

    Raises:
        OutputError: one is of another type.
    """

    attributes: Mapping[str, Any]
    """As HDF5 gives them."""
    path: str | os.PathLike[str]
    """Path of the file, for messages."""

    def text(self, name: str) -> str:
        """Return a text; empty if there is no such attribute."""
        value = self.attributes.get(name, "")
        return value if isinstance(value, str) else self._refuse(name, "text", value)

    def count(self, name: str) -> int | None:
        """Return a number of things; None if there is no such attribute."""
        value = self.attributes.get(name)
        if value is None:
            return None
        try:
            number = operator.index(value)  # NumPy's integers too
        except TypeError:
            number = -1
        is_number = number >= 0 and not isinstance(value, bool)
        return number if is_number else self._refuse(name, "a number", value)

    def json(self, name: str, kind: type[_T]) -> _T:
        """Return what JSON says, a list or an object; empty if there is no such attribute."""
        text = self.text(name)
        if len(text) > MOST_JSON:
            self._refuse(name, f"at most {MOST_JSON:,} letters of JSON", f"{len(text):,}")
        try:
            value = json.loads(text) if text else kind()
        except (ValueError, RecursionError):
            return self._refuse(name, "JSON", text)
        if not isinstance(value, kind):
            return self._refuse(name, "an object" if kind is dict else "a list", text)
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Return a JSON list of names of HDF5 links, each there once."""
        names = self.json(name, list)
        for one in names:
            if not _is_link_name(one):
                self._refuse(name, "names of HDF5 groups", one)
        if len(set(names)) < len(names):
            self._refuse(name, "each name once", names[0])
        return tuple(names)

    def _refuse(self, name: str, expected: str, found: object) -> NoReturn:
        words = found if isinstance(found, str) else str(found)
        raise OutputError(
            f"{self.path}: attribute {name}: expected {expected}, found {words[:SHOWN]!r}"
        )


def _is_link_name(name: object) -> bool:
    """Return whether this can be the name of a link, and is not a path."""
    if not isinstance(name, str) or name in ("", ".") or "/" in name or "\0" in name:
        return False
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
