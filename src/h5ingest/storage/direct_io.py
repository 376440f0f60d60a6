"""Pixels on their way to the disk while the next are decoded, around the system's cache.

Written in the ordinary way, a byte is copied into a page of the system's cache, which first has to
be found and often faulted in, and to the disk later; and ranks that write one file take turns for
the copy. With O_DIRECT the disk fetches it from our memory, if its place there, its place in the
file and the number of bytes are multiples of a block (open(2)). So a buffer begins as far behind
the beginning of a block as its bytes do in the file. What is left of its first and last block,
which others may share, goes through the cache.

A direct write lasts as long as the disk takes, and a write through the cache waits for it, on any
rank: a thread does both, and there are two buffers.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from h5ingest.storage.buffer import Buffer
from h5ingest.storage.shared_blocks import Bytes, whole_blocks

if TYPE_CHECKING:
    from concurrent.futures import Future

_N_BUFFERS: Final = 2
_MOST_BLOCK: Final = 64 * 1024
"""Bytes; some file systems tell what they prefer, a megabyte and more, and not what they need."""


class DirectFile:
    """A file that one rank writes, at any offset."""

    def __init__(self, path: Path, fd: int) -> None:
        """Open a file once more that is open for writing as `fd`, which stays open.

        Raises:
            OSError: EINVAL: there is no direct I/O here.
        """
        from concurrent.futures import ThreadPoolExecutor  # 15 files; not every job needs it

        if not hasattr(os, "O_DIRECT"):  # not Linux
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._fd = fd
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._direct_fd = os.open(path, flags | os.O_DIRECT)
        self._block = max(mmap.PAGESIZE, min(os.fstatvfs(fd).f_bsize, _MOST_BLOCK))
        self._buffers = [Buffer() for _ in range(_N_BUFFERS)]
        self._written: list[Future[None] | None] = [None] * _N_BUFFERS
        """For each buffer, the last write since it was given out."""
        self._turn = 0
        """Which buffer was given out last."""
        self._thread = ThreadPoolExecutor(1, "direct")

    def get_buffer(self, shape: tuple[int, ...], dtype: str, offset: int) -> NDArray[Any]:
        """Return an array to be filled for the bytes at an offset, its content undefined.

        Its memory is that of the array before the last: waits until that is written.
        """
        self._turn = (self._turn + 1) % _N_BUFFERS
        if (written := self._written[self._turn]) is not None:
            written.exception()
        return self._buffers[self._turn].array(shape, dtype, offset % self._block)

    def write(self, data: Bytes, offset: int) -> Future[None]:
        """Begin to write from the array that was given out last; its result may be an OSError."""
        return self._begin(self._write, memoryview(data).cast("B"), offset)

    def write_copy(self, data: Bytes, offset: int) -> Future[None]:
        """Begin to write bytes that may be reused at once, through the cache."""
        return self._begin(write_all, self._fd, [bytes(data)], offset)

    def _begin(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        written = self._written[self._turn] = self._thread.submit(function, *arguments)
        return written

    def _write(self, data: memoryview, offset: int) -> None:
        whole = whole_blocks(offset, len(data), self._block)
        first = done = whole.start
        if whole:
            try:
                done += os.pwritev(self._direct_fd, [data[first : whole.stop]], offset + first)
            except OSError as error:
                if error.errno != errno.EINVAL:  # else the disk wants larger blocks
                    raise
        write_all(self._fd, [data[:first]], offset)
        write_all(self._fd, [data[done:]], offset + done)

    def close(self) -> None:
        """Wait for the write that goes on, drop those that have not begun, and end the thread.

        Once more, it does nothing.
        """
        self._thread.shutdown(cancel_futures=True)
        if self._direct_fd >= 0:
            os.close(self._direct_fd)
            self._direct_fd = -1


def write_all(fd: int, parts: Sequence[Bytes], offset: int) -> None:
    """Write parts one after the other, in as few calls as the system lets us.

    Raises:
        OSError: not all could be written.
    """
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    while views:
        n_written = os.pwritev(fd, views, offset)
        offset += n_written
        while views and n_written >= len(views[0]):
            n_written -= len(views.pop(0))
        if n_written:
            views[0] = views[0][n_written:]
