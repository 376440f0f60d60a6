"""The writer for unfiltered rows: their place is known from the start, so a rank just writes them.

For files that do not go through HDF5's own MPI-IO: of many groups, or without a parallel h5py.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from h5ingest.storage.placed_file import PlacedFile
from h5ingest.storage.writer import Writer


class RowWriter(Writer):
    """Writes rows at known offsets; the writers for placed files build on it."""

    def __init__(self, file: PlacedFile) -> None:
        """Begin. Not collective."""
        super().__init__(file.layout, file.checkpoints)
        self._file = file

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """See `Writer.write`."""
        if rows:
            self._file.write_values(self._file.offset(name, rows.start), values)

    def close(self) -> None:
        """See `Writer.close`."""
        self._file.close()
