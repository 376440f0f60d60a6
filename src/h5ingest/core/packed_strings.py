"""`PackedStrings`: many short byte strings as one text and an array of offsets.

A Python list of a million paths takes 100 MB; this takes the text itself and 8 bytes for each path,
so that a rank can hold its share of a manifest of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class PackedStrings:
    """An immutable sequence of byte strings.

    >>> paths = PackedStrings.pack([b"a.png", b"", b"b/c.png"])
    >>> len(paths), paths[2], list(paths.slice(range(0, 2)))
    (3, b'b/c.png', [b'a.png', b''])
    """

    text: bytes
    """All strings, one after the other."""
    ends: NDArray[np.int64]
    """(n,) int64, non-decreasing: where each string ends in `text`; the last one is its length."""

    def __post_init__(self) -> None:
        last = int(self.ends[-1]) if len(self.ends) else 0
        if last != len(self.text):
            raise ValueError(f"expected ends to finish at {len(self.text)}, got {last}")

    @classmethod
    def pack(cls, strings: Sequence[bytes]) -> PackedStrings:
        """Return the strings, packed."""
        lengths = np.fromiter(map(len, strings), dtype=np.int64, count=len(strings))
        return cls(b"".join(strings), np.cumsum(lengths, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Iterable[PackedStrings]) -> PackedStrings:
        """Return the strings of all parts in order."""
        parts = list(parts)
        lengths = [np.diff(part.ends, prepend=0) for part in parts]
        ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]), dtype=np.int64)
        return cls(b"".join(part.text for part in parts), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:
        start = int(self.ends[i - 1]) if i else 0
        return self.text[start : int(self.ends[i])]

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for first in range(0, len(self.ends), _BLOCK):  # a list of all would take 40 bytes each
            for end in self.ends[first : first + _BLOCK].tolist():
                yield self.text[start:end]
                start = end

    def slice(self, rows: range) -> PackedStrings:
        """Return the strings of the half-open interval `rows` (0-based, step 1)."""
        start = int(self.ends[rows.start - 1]) if rows.start else 0
        ends = self.ends[rows.start : rows.stop] - start
        return PackedStrings(self.text[start : start + (int(ends[-1]) if len(ends) else 0)], ends)
