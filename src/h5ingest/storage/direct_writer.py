"""The writer for unfiltered rows on a local disk: around the system's cache (`direct_io`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from h5ingest.mpi.comm import agreeing
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.direct_io import DirectFile
from h5ingest.storage.placed_file import PlacedFile, RowWriter
from h5ingest.storage.shared_blocks import as_bytes

if TYPE_CHECKING:
    from concurrent.futures import Future


class DirectWriter(RowWriter):
    """A thread writes rows while the next are decoded."""

    def __init__(self, file: PlacedFile) -> None:
        """Open it for direct I/O, too. Collective.

        Raises:
            OutputError: there is no direct I/O here (on all ranks).
        """
        super().__init__(file)
        self._given_out: NDArray[Any] | None = None
        """The buffer that was given out last."""
        self._under_way: deque[tuple[Future[None], int]] = deque()
        """What the thread writes, oldest first, and at which offset."""
        what = f"{file.path}: cannot be written directly, --direct-io off does without that"
        with agreeing(file.comm), output_errors(what):
            self._direct = DirectFile(file.path, file.fd)

    def get_buffer(self, name: str, rows: range) -> NDArray[Any]:
        self._note_written()
        spec, offset = self._specs[name], self._file.offset(name, rows.start)
        shape = (len(rows), *spec.shape[1:])
        self._given_out = self._direct.get_buffer(shape, spec.dtype, offset)
        return self._given_out

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        if not rows:
            return
        offset = self._file.offset(name, rows.start)
        self._checkpoints.guard()
        write = self._direct.write if values is self._given_out else self._direct.write_copy
        offset, parts = self._checkpoints.keep_whole(offset, [as_bytes(values)])
        for part in parts:  # one, unless it fills no block
            self._under_way.append((write(part, offset), offset))
            self._checkpoints.begin_write()

    def advance(self) -> bool:
        self._note_written()
        return super().advance() and not self._under_way

    def _note_written(self, *, wait: bool = False) -> None:
        """Note what the thread has written by now, or, if need be, wait for all of it.

        Raises:
            OutputError: it could not write something.
        """
        while self._under_way and (wait or self._under_way[0][0].done()):
            written, offset = self._under_way[0]
            with self._file.errors(offset):
                written.result()
            self._under_way.popleft()
            self._checkpoints.end_write()

    def give_up(self) -> None:
        self._direct.close()

    def close(self) -> None:
        with agreeing(self._file.comm):
            self._note_written(wait=True)
        self.give_up()
        super().close()
