"""Reading the source files: regular files only, each failure with its reason, never a hang.

May not: know what an image is, know ranks.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from h5ingest.errors import SampleError

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: opening a FIFO that nobody writes would wait for ever."""

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(path: bytes, limit: int | None = None) -> tuple[bytes, int]:
    """Return the first `limit` bytes of a file (None: all of them) and the file's size in bytes.

    Raises:
        SampleError: missing, not a regular file, or the system says why it cannot be read.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise _explain(error) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            raise SampleError("unreadable", f"expected a file, found {kind}")
        size = status.st_size
        wanted = size if limit is None else min(limit, size)
        data = os.read(fd, wanted)
        while len(data) < wanted:  # a network file system, or beyond the 2 GiB of one read()
            more = os.read(fd, wanted - len(data))
            if not more:
                raise SampleError("changed", f"the file shrank to {len(data)} bytes as it was read")
            data += more
    except OSError as error:
        raise _explain(error) from None
    except (MemoryError, OverflowError):
        raise SampleError("too large", f"no memory for a file of {size:,} bytes") from None
    finally:
        os.close(fd)
    return data, size


def _explain(error: OSError) -> SampleError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SampleError("missing", "no such file")
    return SampleError("unreadable", error.strerror or str(error))
