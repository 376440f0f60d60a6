"""Reading the source files: regular files only, each failure with its reason, never a hang.

May not: know what an image is, know ranks.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from h5ingest.core.errors import SampleError

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: opening a FIFO that nobody writes would wait for ever."""

_SMALL: Final = 64 * 1024
"""Bytes asked for at first of a file whose size is not known."""

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(
    path: bytes, limit: int | None = None, *, folder: int | None = None, end: bytes = b""
) -> tuple[bytes, int]:
    """Return the first `limit` bytes of a file (None: all of them) and the file's size in bytes.

    Args:
        path: absolute, or relative to `folder`.
        limit: in bytes.
        folder: file descriptor of a folder; None: the current one.
        end: what whole files end with, mostly: one that does is not asked for its size, which
            saves a fifth of the time for a small one.

    Raises:
        SampleError: missing, not a regular file, or the system says why it cannot be read.
    """
    try:
        fd = os.open(path, _FLAGS, dir_fd=folder)
    except OSError as error:
        raise explained(error) from None
    try:
        if end:
            most = _SMALL if limit is None else limit
            try:
                data = os.read(fd, most)
            except OSError:
                data = b""  # maybe no regular file, which says more
            if len(data) < most and data.endswith(end):
                return data, len(data)
        return _read_known(fd, limit)
    except OSError as error:
        raise explained(error) from None
    finally:
        os.close(fd)


def _read_known(fd: int, limit: int | None) -> tuple[bytes, int]:
    """Return what `read` promises, of an open file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise SampleError("unreadable", f"expected a file, found {kind}")
    size = status.st_size
    wanted = size if limit is None else min(limit, size)
    try:
        data = os.pread(fd, wanted, 0)
        while len(data) < wanted:  # a network file system, or beyond the 2 GiB of one read()
            more = os.pread(fd, wanted - len(data), len(data))
            if not more:
                raise SampleError("changed", f"the file shrank to {len(data)} bytes as it was read")
            data += more
    except (MemoryError, OverflowError):
        raise SampleError("too large", f"no memory for a file of {size:,} bytes") from None
    return data, size


def explained(error: OSError) -> SampleError:
    """Return the failure of a sample whose file the system does not give."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SampleError("missing", "no such file")
    return SampleError("unreadable", error.strerror or str(error))
