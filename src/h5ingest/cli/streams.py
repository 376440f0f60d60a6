"""Standard output and standard error whose loss ends no job.

A reader that has gone away (`| head`), a full disk under a log, a descriptor that the shell has
closed (`>&-`): none of them is an error of the work that is told of. What cannot be said is lost.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

from h5ingest.core.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_N_STANDARD: Final = 3


def keep() -> None:
    """Replace this process's standard output and error by those whose loss ends nothing.

    To be called first: the next file to be opened would be given the number of a descriptor that
    is closed, and what a library says on standard error would end up in the output.
    """
    for fd in range(_N_STANDARD):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    sys.stdout = sys.__stdout__ = _kept(1, sys.stdout)  # type: ignore[misc]  # declared Final
    sys.stderr = sys.__stderr__ = _kept(2, sys.stderr)  # type: ignore[misc]


def check_output() -> None:
    """Raise if something that was printed is lost; not if its reader has gone, who wanted no more.

    For verbs whose output is what they are for.

    Raises:
        OutputError: it is.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Lossy) and raw.lost is not None and raw.lost.errno != errno.EPIPE:
        raise OutputError(f"standard output cannot be written: {raw.lost.strerror}")


class _Lossy(io.FileIO):
    """A descriptor that takes everything, and drops what it cannot write."""

    lost: OSError | None = None
    """Why it first did so."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (n_bytes := super().write(data)) is None:  # it does not block, and is full
                select.select([], [self], [])
        except OSError as error:
            self.lost = self.lost or error
            return memoryview(data).nbytes
        return n_bytes


def _kept(fd: int, given: TextIO | None) -> io.TextIOWrapper:
    """Return a stream of the same kind as the one that Python has made; None: it was closed."""
    errors = getattr(given, "errors", None) or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(_Lossy(fd, "wb", closefd=False)),
        encoding=getattr(given, "encoding", "utf-8"),
        errors="backslashreplace" if errors == "strict" else errors,  # nor do odd names end a job
        line_buffering=getattr(given, "line_buffering", fd == 2),
        write_through=getattr(given, "write_through", False),
    )
