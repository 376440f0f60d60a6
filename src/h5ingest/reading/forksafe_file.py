"""The HDF5 file, open only while this process reads from it; and the same file as plain bytes.

HDF5 does not survive a fork: two processes then share file positions, have caches that do not know
of each other, and may return wrong data without an error. So no open file is ever carried across a
fork: `os.register_at_fork` closes all of them first, and each process opens its own when it needs
it. Plain bytes (`FileBytes`) have no such state: a read-only mapping and `pread` are the same in
every process.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import IngestError, OutputError, one_line
from h5ingest.reading.open_file import open_file

Identity = tuple[int, int, int, int]
"""Device, inode, bytes and time of change (ns): another file under the same name differs."""

_PREADV_BYTES: Final = 2**30
"""Bytes asked for at once; Linux never gives more than 2 GiB."""


class ForkSafeFile:
    """`with handle as file:` gives the open file, to one thread at a time; it stays open after.

    Raises:
        OutputError: on entering, if the file cannot be opened or is not the one it was; on leaving,
            in place of HDF5's own errors (OSError and RuntimeError).
    """

    def __init__(self, path: str) -> None:
        """Nothing is opened yet.

        Args:
            path: absolute.
        """
        self.path = path
        self.lock = threading.Lock()
        """For whoever uses the file."""
        self.cache_lock = threading.Lock()
        """For what is kept of the file in memory; whoever has it must not wait for `lock`. Both
        are taken before a fork, so that no process begins with a lock that nobody releases."""
        self.identity: Identity | None = None
        """Identity of the file as it was when it was first opened."""
        self._file: Any = None
        _handles.add(self)

    def __enter__(self) -> h5py.File:
        self.lock.acquire()
        try:
            if self._file is None:
                self._file = self._open()
        except BaseException:
            self.lock.release()
            raise
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.lock.release()
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, IngestError):
            raise OutputError(f"{self.path}: {one_line(error)}") from error

    def _open(self) -> h5py.File:
        file = open_file(self.path)
        identity = identity_of(file.id.get_vfd_handle())
        if self.identity not in (None, identity):
            file.close()
            raise OutputError(f"{self.path}: the file was replaced while it was read; open it anew")
        self.identity = identity
        return file

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        with self.lock:
            self.close_locked()

    def close_locked(self) -> None:
        """Close the file, by a caller who holds the lock."""
        if self._file is not None:
            self._file.close()
        self._file = None


_handles: weakref.WeakSet[ForkSafeFile] = weakref.WeakSet()
_locked: list[ForkSafeFile] = []
"""Files whose locks were taken before a fork."""


def _before_fork() -> None:
    for handle in list(_handles):
        handle.lock.acquire()
        handle.cache_lock.acquire()
        _locked.append(handle)
        handle.close_locked()


def _after_fork() -> None:
    while _locked:
        handle = _locked.pop()
        handle.cache_lock.release()
        handle.lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class FileBytes:
    """A file as bytes: mapped for what is small, read with `pread` for what is large.

    Raises:
        OutputError: it cannot be opened, or is not the file that `identity` says.
    """

    def __init__(self, path: str, identity: Identity | None) -> None:
        """Map the file.

        Args:
            path: absolute.
            identity: what the file must be.
        """
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd)
        if identity_of(self._fd) != identity:
            raise OutputError(f"{path}: the file was replaced while it was opened; open it anew")
        self._map = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
        self._path = path

    def array(self, offset: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Return (count,) of `dtype` from `offset` on, a read-only view; None beyond the end."""
        if offset + count * dtype.itemsize > len(self._map):
            return None
        return np.frombuffer(self._map, dtype, count, offset)

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill `out` (C-contiguous) with what the file has from byte `offset` on.

        Raises:
            OutputError: the file ends before, or the disk reports an error.
        """
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            part = view[done : done + _PREADV_BYTES]
            try:
                got = os.preadv(self._fd, [part], offset + done)
            except OSError as error:
                raise OutputError(f"{self._path}: {error.strerror}") from None
            if not got:
                raise OutputError(f"{self._path}: the file was cut off while it was read")
            done += got

    def __reduce__(self) -> Any:
        raise TypeError("FileBytes belongs to one process")


def identity_of(fd: int) -> Identity:
    """Return what distinguishes this file from another one of the same name."""
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype without what h5py hangs on it (the members of an enum)."""
    return np.dtype(dtype.str)
