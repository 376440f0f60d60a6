"""A file that rank 0 has open in HDF5, and every rank as bytes; and the writer for its rows.

Rank 0 creates the datasets and learns from HDF5 where they lie; the ranks write the bytes there, by
`pwrite` and not through MPI-IO: its errors say what happened (ENOSPC), its data is brought to the
disk by one rank without the others, and it has none of the known bugs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from h5ingest.core.layout import Layout
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.direct_io import write_all
from h5ingest.storage.journal_records import Record
from h5ingest.storage.shared_blocks import Bytes, as_bytes, see_same_file
from h5ingest.storage.writer import Writer

if TYPE_CHECKING:
    from h5ingest.storage.chunk_placer import ChunkPlacer


class PlacedFile:
    """One rank's view of it."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        comm: Comm,
        checkpoints: Checkpoints,
        known: Sequence[Record] = (),
        *,
        more_follow: bool = False,
    ) -> None:
        """Create the file with all datasets, or take it up: see `open_writer`. Collective.

        Where `more_follow`, more datasets are created before anything is placed; the caller then
        compares the file with the journal (`ChunkPlacer.replay`).
        """
        self.path = path
        self.layout = layout
        self.comm = comm
        self.checkpoints = checkpoints
        self.placer: ChunkPlacer | None = None
        """On rank 0."""
        offsets: list[int | None] = []
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                from h5ingest.storage.chunk_placer import ChunkPlacer  # not on the others

                written = checkpoints.begin_blocks(fresh=not known)
                self.placer = ChunkPlacer(path, layout, known, beat, written=written)
                offsets = self.placer.offsets
                if not more_follow:
                    checkpoints.enter(self.placer.replay(beat))
        starts = zip(layout.datasets, comm.bcast(offsets), strict=True)
        self._rows = {s.name: (start, s.row_bytes) for s, start in starts if start is not None}
        see_same_file(path, comm)
        checkpoints.open()
        with agreeing(comm), output_errors(f"{path}: cannot be opened by rank {comm.rank}"):
            self.fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def offset(self, name: str, row: int) -> int:
        """Return where a row of an unfiltered dataset lies, in bytes."""
        start, row_bytes = self._rows[name]
        return start + row * row_bytes

    def write(self, offset: int, parts: Sequence[Bytes]) -> None:
        """Write parts one after the other, or have rank 0 write some of it. Not collective.

        Raises:
            OutputError: no space, or another error of the file system; or the output is another
                job's by now.
        """
        self.checkpoints.guard()
        offset, parts = self.checkpoints.keep_whole(offset, parts)
        with self.errors(offset):
            write_all(self.fd, parts, offset)

    def errors(self, offset: int) -> AbstractContextManager[None]:
        """Say of an error of the block that it came of writing there."""
        return output_errors(f"{self.path}: writing at byte {offset} on rank {self.comm.rank}")

    def close(self) -> None:
        """Make the last checkpoint and close the file. Collective.

        Raises:
            OutputError: what was written could not reach the file (on all ranks).
        """
        self.checkpoints.finish()
        os.close(self.fd)
        with agreeing(self.comm):
            if self.placer is not None:
                self.placer.close()


class RowWriter(Writer):
    """Writes unfiltered rows at their offsets; the other writers for such a file build on it."""

    def __init__(self, file: PlacedFile) -> None:
        """Begin. Not collective."""
        super().__init__(file.layout, file.checkpoints)
        self._file = file

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """See `Writer.write`."""
        if rows:
            self._file.write(self._file.offset(name, rows.start), [as_bytes(values)])

    def close(self) -> None:
        """See `Writer.close`."""
        self._file.close()
