"""What is typed for an option, and the value that it means."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Final

from h5ingest.core.errors import UsageError
from h5ingest.core.units import KIB, MIB

_UNITS: Final = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": 1024**3, "gib": 1024**3, "gb": 1000**3,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` names.

    >>> parse_size("4MiB"), parse_size("64k"), parse_size("1.5 GB"), parse_size("100")
    (4194304, 65536, 1500000000, 100)

    Raises:
        UsageError: not a number with an optional unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"expected a size such as 4MiB, 512k or 1GB, got {text!r}")
    return int(Fraction(match[1]) * unit)


def as_typed(form: str, value: Any) -> str | None:
    """Return the shortest text of a form of `PARSERS` that means this value; None if none does.

    >>> as_typed("SIZE", 4194304), as_typed("SIZE", 1536), as_typed("auto|N", None)
    ('4MiB', '1536', 'auto')
    """
    if value is None:
        return "auto" if form.startswith("auto|") else None
    if form == "SIZE" and value:
        for unit, n in (("GiB", 1024**3), ("MiB", MIB), ("KiB", KIB)):
            if value % n == 0:
                return f"{value // n}{unit}"
    return str(value)


def _height_and_width(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)
    if match is None:
        raise UsageError(f"expected HEIGHTxWIDTH such as 224x224, or 224, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def _number(of: str, text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"expected auto or a number of {of}, got {text!r}")
    return int(text)


PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "SIZE": parse_size,
    "HxW": _height_and_width,
    "KEY=VALUE": _key_and_value,
    "CHAR": lambda text: {"\\t": "\t", "tab": "\t"}.get(text, text),  # a tab is hard to type
    "auto|SIZE": lambda text: None if text == "auto" else parse_size(text),
    "auto|ROWS": partial(_number, "images"),
    "auto|N": partial(_number, "threads"),
}
"""How text becomes a value, for each `Option.form` whose text is not the value itself."""
