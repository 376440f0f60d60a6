"""Units of bytes, and how a number of them is written."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3


def size(n_bytes: float) -> str:
    """Return a number of bytes for people.

    >>> size(999), size(47_040_000)
    ('999 B', '44.9 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n_bytes < 1024 or unit == "TiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError("unreachable")


def counted(n: int, what: str) -> str:
    """Return a number with a noun, given as plural that comes first.

    >>> counted(1, "images of 2x3 gray"), counted(2000, "ranks"), counted(1, "classes")
    ('1 image of 2x3 gray', '2,000 ranks', '1 class')
    """
    if n == 1:
        noun, space, rest = what.partition(" ")
        what = noun.removesuffix("es" if noun.endswith("sses") else "s") + space + rest
    return f"{n:,} {what}"
