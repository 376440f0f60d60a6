"""What HDF5 sees as the file while chunks are placed (`chunk_placer`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from h5ingest.storage.gathered_writes import WrittenBlocks
from h5ingest.storage.raw_file import RawFile

TOKEN_BYTES: Final = 32
"""Random ones that a payload begins with."""


class Metadata(RawFile):
    """Everything passes but the payload, whose offset is noted.

    The payload is told apart by its length and its first bytes, a random token. Not by its address
    alone: h5py before 3.16 hands out a copy.
    """

    def __init__(self, path: Path, *, keep: bool, written: WrittenBlocks | None) -> None:
        """Open the file: see `RawFile`."""
        super().__init__(path, create=True, written=written)
        self.keep = keep
        """Whether others have written there, maybe behind HDF5's end of the file: that is kept."""
        if not keep:
            os.ftruncate(self.fd, 0)
        self.token = os.urandom(TOKEN_BYTES)
        self.expected: int | None = None
        """Length of the payload that is to come, while one is."""
        self.noted: int | None = None
        """Where HDF5 wanted it."""

    def store(self, data: Any) -> None:  # noqa: D102 - see RawFile
        length = len(data)
        head = memoryview(data)[:TOKEN_BYTES]
        if length == self.expected and head == self.token[:length]:
            self.noted, self.expected = self.position, None
        else:
            super().store(data)

    def resize(self, size: int) -> None:  # noqa: D102
        if not self.keep or size > os.fstat(self.fd).st_size:
            super().resize(size)
