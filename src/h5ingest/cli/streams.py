"""Standard output and standard error whose loss ends no job.

A reader that has gone away (`| head`), a log on a full disk, a descriptor that the shell has closed
(`>&-`): none of them is an error of the job that prints. What cannot be written is dropped.
"""

from __future__ import annotations

import codecs
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


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Keep the bytes of odd names, as `surrogateescape` does, and escape other letters."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


_ESCAPED: Final = "h5ingest-escaped"
codecs.register_error(_ESCAPED, _escaped)


def keep() -> None:
    """Replace standard output and standard error by streams that drop what they cannot write.

    To be called before any file is opened: the first one would be given the number of a standard
    descriptor that is closed, and what a library prints on standard error would end up in it.
    """
    for fd in range(_N_STANDARD):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    sys.stdout = sys.__stdout__ = _kept(1, sys.stdout)  # type: ignore[misc]  # declared Final
    sys.stderr = sys.__stderr__ = _kept(2, sys.stderr)  # type: ignore[misc]


def check_output() -> None:
    """Check that all that was printed has been written, or that its reader wanted no more of it.

    For verbs that do nothing but print.

    Raises:
        OutputError: something was dropped, and not because its reader had gone.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Lossy) and raw.lost is not None and raw.lost.errno != errno.EPIPE:
        raise OutputError(f"standard output cannot be written: {raw.lost.strerror}")


class _Lossy(io.FileIO):
    """A file that raises no error: it drops what it cannot write."""

    lost: OSError | None = None
    """The first error, after which something was dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (n_bytes := super().write(data)) is None:  # it does not block, and is full
                select.select([], [self], [])
        except OSError as error:
            self.lost = self.lost or error
            return memoryview(data).nbytes
        return n_bytes


def _kept(fd: int, given: TextIO | None) -> io.TextIOWrapper:
    """Return a stream that drops, with the settings of Python's own; None: it was closed."""
    errors = getattr(given, "errors", None) or "strict"
    # Odd names end no job either.
    errors = {"strict": "backslashreplace", "surrogateescape": _ESCAPED}.get(errors, errors)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lossy(fd, "wb", closefd=False)),
        encoding=getattr(given, "encoding", "utf-8"),
        errors=errors,
        line_buffering=getattr(given, "line_buffering", fd == 2),
        write_through=getattr(given, "write_through", False),
    )
