"""`FileCache`: files that the probe has read whole, kept for the rank's own write loop.

May not: read files.
"""

from __future__ import annotations

from typing import Final

_OBJECT_BYTES: Final = 128
"""What a cached file takes besides its bytes: the object, its index, its place in the dict."""


class FileCache:
    """Bytes of files by global index of their sample, within a budget; each is taken once."""

    def __init__(self, n_bytes: int) -> None:
        """Begin empty.

        Args:
            n_bytes: the budget; 0: nothing is kept.
        """
        self._files: dict[int, bytes] = {}
        self._left = n_bytes

    def __contains__(self, index: int) -> bool:
        return index in self._files

    @property
    def full(self) -> bool:
        """Whether nothing more will be kept."""
        return self._left <= 0

    def keep(self, index: int, data: bytes) -> None:
        """Keep a file, if the budget allows it."""
        if len(data) <= self._left:
            self._files[index] = data
            self._left -= len(data) + _OBJECT_BYTES

    def take(self, index: int) -> bytes | None:
        """Return a file and keep it no longer; None if it is not here."""
        return self._files.pop(index, None)
