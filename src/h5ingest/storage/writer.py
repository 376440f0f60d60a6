"""`Writer`: what the work loop needs of a file being written."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class Writer(Protocol):
    """A file whose datasets exist at their full size and are being filled."""

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """Write `values` (len(rows), …) to the rows of a dataset. Not collective.

        The rows of two calls do not overlap, on whichever ranks; rows of a chunked dataset are
        whole chunks.

        Raises:
            OutputError: no space, or another error of the file system, on this rank.
        """

    def advance(self) -> bool:
        """Move on what is under way; return whether nothing is. Not collective, never waits.

        To be called often: other ranks may depend on it.
        """

    def close(self) -> None:
        """End the file. Collective.

        Raises:
            OutputError: what was written could not reach the file.
        """
