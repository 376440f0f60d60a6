"""A file as HDF5 sees it through Python, whose failure can be survived.

HDF5 crashes, at the latest when the process ends, if it cannot close what it has open, as on a full
disk; and h5py prints tracebacks of its own after an exception in a driver. So what rank 0 does
alone goes through this: the first write that fails is remembered, to be asked for (`check`); after
it nothing is written any more, and to HDF5 all is well.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from h5ingest.storage.datasets import output_errors
from h5ingest.storage.gathered_writes import GatheredWrites, WrittenBlocks
from h5ingest.storage.shared_blocks import Bytes


class RawFile(io.RawIOBase):
    """What h5py's driver for file objects needs. Small writes are held back and joined."""

    def __init__(
        self, path: Path, *, create: bool = False, written: WrittenBlocks | None = None
    ) -> None:
        """Open an existing file, or an empty one.

        Args:
            path: the file.
            create: let HDF5 begin with an empty file, whatever is there.
            written: what has been written of blocks that no other process writes; None if others
                may write anywhere.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(path, flags | os.O_CREAT if create else flags, 0o666)
        self.position = 0
        self._end = 0 if create else os.fstat(self.fd).st_size
        """Where the file ends as far as HDF5 knows."""
        self._error: OSError | None = None
        """The first that came."""
        self._written = written
        self._held = GatheredWrites(self._write, written)

    def check(self) -> None:
        """Raise what has gone wrong so far, with what is not held back (`flush`).

        Raises:
            OSError: a write failed.
        """
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Write nothing any more; HDF5 can still close the file."""
        self._error = self._error or OSError("given up")
        self._held.drop()

    def store(self, data: Any) -> None:
        """Write the bytes at the position."""
        self._change(lambda: self._held.put(self.position, data))

    def resize(self, size: int) -> None:
        """Set the size of the file."""
        self._change(self._held.flush, lambda: os.ftruncate(self.fd, size))

    def flush(self) -> None:
        """Write what is held back. HDF5 has it done in `H5Fflush`, but not in `H5Fclose`."""
        self._change(self._held.flush)

    def _write(self, offset: int, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            n_written = os.pwrite(self.fd, view, offset)
            view, offset = view[n_written:], offset + n_written

    def _change(self, *steps: Callable[[], None]) -> None:
        """Change the file, unless that has failed before."""
        try:
            for step in steps if self._error is None else ():
                step()
        except OSError as error:
            self._error = error

    def seekable(self) -> bool:  # noqa: D102 - from here on see io.RawIOBase
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        self.position = position + (self._end if whence == os.SEEK_END else 0)
        return self.position

    def tell(self) -> int:  # noqa: D102
        return self.position

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        if self._held.holds(self.position, len(buffer)):
            self.flush()
        stop = self.position + len(buffer)
        data = (self._written and self._written.get(self.position, stop, all_written=True)) or b""
        while missing := len(buffer) - len(data):
            more = os.pread(self.fd, missing, stop - missing)
            if not more:
                break
            data += more  # a network file system may give less at once
        # Behind the end lie zeros. h5py does not ask how much was read, and HDF5 2.0 would take
        # what it had in the buffer for references to older texts, and crash as it frees these.
        buffer[:] = data.ljust(len(buffer), b"\0")
        self.position = stop
        return len(buffer)

    def write(self, data: Any) -> int:  # noqa: D102
        self.store(data)
        self.position += len(data)
        self._end = max(self._end, self.position)
        return len(data)

    def truncate(self, size: int | None = None) -> int:  # noqa: D102
        self._end = self.position if size is None else size
        self.resize(self._end)
        return self._end

    def close(self) -> None:  # noqa: D102
        if not self.closed:
            os.close(self.fd)
        super().close()


@contextlib.contextmanager
def reopened(path: Path, what: str) -> Iterator[h5py.File]:
    """Open a finished file to be changed. Not collective.

    Raises:
        OutputError: something could not be written, or HDF5 refuses.
    """
    raw_file = RawFile(path, written=WrittenBlocks(fresh=False))
    with output_errors(f"{path}: {what}"), contextlib.closing(raw_file) as raw:
        try:
            with h5py.File(raw, "r+", libver=("v110", "v110")) as file:
                yield file
        finally:
            raw.flush()
            raw.check()  # HDF5, which did not notice, may have been puzzled by what it read back
            os.fsync(raw.fd)
