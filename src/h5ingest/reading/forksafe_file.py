"""The HDF5 file, open only while this process reads from it; and the same file as plain bytes.

HDF5 does not survive a fork: two processes then share file positions, have caches that do not know
of each other, and may return wrong data without an error. So no open file is ever carried across a
fork: `os.register_at_fork` closes all of them first, and each process opens its own when it needs
it. Plain bytes (`FileBytes`) have no such state: a read-only mapping and `pread` are the same in
every process.
"""

from __future__ import annotations

import functools
import mmap
import os
import threading
import weakref
from time import monotonic
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import IngestError, OutputError, one_line
from h5ingest.reading.dataset_rule import HDF5_ERRORS, StoredDataset
from h5ingest.reading.open_file import open_file

Identity = tuple[int, int, int, int]
"""Device, inode, bytes and time of change (ns): another file under the same name differs, and so
does this one when somebody has written into it. (Not the time of change of the inode: a new link or
new permissions change no pixel.)"""

SIZE: Final = 2
"""Place of the bytes in an identity."""
_MOMENT_S: Final = 0.001
LARGE_BYTES: Final = 256 * 1024
"""Bytes read at once, beside which it costs nothing to look at the identity."""
_PATIENCE_S: Final = 5.0
"""How long a thread may go on with a file that was changed, before a new store gives up."""


class ForkSafeFile:
    """`with handle as file:` gives the open file, to one thread at a time; it stays open after.

    `dataset(name)` gives a dataset of it, which stays open too.

    What was read within is of the file as it was when the store was opened, or else leaving raises.

    Raises:
        OutputError: on entering and on leaving, if the file cannot be opened or is not the one that
            it was; on leaving, in place of HDF5's own errors.
    """

    def __init__(self, path: str) -> None:
        """Nothing is opened yet.

        Args:
            path: absolute.
        """
        self.path = path
        self.lock = threading.RLock()
        """For whoever uses the file; who has entered it may do so once more."""
        self.cache_lock = threading.Lock()
        """For what is kept of the file in memory; whoever has it must not wait for `lock`. Both
        are taken before a fork, so that no process begins with a lock that nobody releases."""
        self.identity: Identity | None = None
        """Identity of the file as it was when it was first opened."""
        self._file: Any = None
        self._datasets: dict[str, StoredDataset] = {}
        self._fd = -1
        """HDF5's own, while the file is open."""
        _handles.add(self)

    def __enter__(self) -> h5py.File:
        self.lock.acquire()
        try:
            if self._file is None:
                self._file = self._open()
            else:
                self._check()
        except BaseException:
            self.lock.release()
            raise
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None or isinstance(error, Exception):
                self._check()  # an error may be due to it
        finally:
            self.lock.release()
        if isinstance(error, HDF5_ERRORS) and not isinstance(error, IngestError):
            raise OutputError(f"{self.path}: {one_line(error)}") from error

    def _check(self) -> None:
        if identity_of(self._fd) != self.identity:
            self.close_locked()
            raise changed(self.path)

    def _open(self) -> h5py.File:
        now = self._close_what_was_changed()
        file = open_file(self.path)
        self._fd = file.id.get_vfd_handle()
        if identity_of(self._fd) != now:
            file.close()
            raise changed(self.path)
        self.identity = now
        return file

    def _close_what_was_changed(self) -> Identity | None:
        """Close what other stores have open of this file as it was before somebody wrote into it.

        HDF5 knows files by their inodes, and takes what it remembers for what is there now. Those
        stores open it again when they need it, and then see that it is another.

        Returns:
            What the file is now; None: it cannot be seen.
        """
        try:
            now = _identity(os.stat(self.path))
        except OSError:
            return None  # as `open_file` is going to say
        if self.identity not in (None, now):
            raise changed(self.path)
        for other in list(_handles):
            was = other.identity
            if other._file is None or was is None or was[:2] != now[:2] or was == now:
                continue
            if not other.lock.acquire(timeout=_PATIENCE_S):
                raise OutputError(f"{self.path}: another thread still reads what it was before")
            other.close_locked()
            other.lock.release()
        return now

    def dataset(self, name: str) -> StoredDataset:
        """Return a dataset that was found to be as it should, in this very file, when that was new.

        Args:
            name: HDF5 path. Whoever asks has entered the file.
        """
        found = self._datasets.get(name)
        if found is None:
            opened = h5py.h5d.open(self._file.id, name.encode("utf-8", "surrogateescape"))
            found = self._datasets[name] = StoredDataset(opened)
        return found

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        with self.lock:
            self.close_locked()

    def close_locked(self) -> None:
        """Close the file, by a caller who holds the lock."""
        self._datasets.clear()
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
    """A file as bytes, without HDF5: read with `pread`, or mapped.

    A mapping is faster for many small pieces, but the kernel ends a process that touches what was
    cut off from the file meanwhile. `pread` then reads less, which is an error like others.

    Raises:
        OutputError: it cannot be opened, or is not the file that `identity` says.
    """

    def __init__(self, path: str, identity: Identity) -> None:
        """Open the file.

        Args:
            path: absolute.
            identity: what the file must be, whenever it is looked at.
        """
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd)
        self.path, self._identity = path, identity
        self.n_bytes = identity[SIZE]
        """Size of the file."""
        self.sure_until_s = 0.0
        """Until when, by `monotonic`, nobody need look again: it takes as long as reading a row."""
        self.check()

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._fd, self.n_bytes, prot=mmap.PROT_READ)

    def check(self) -> None:
        """Look whether the file is still the one that was opened.

        Raises:
            OutputError: somebody has written into it.
        """
        if identity_of(self._fd) != self._identity:
            raise changed(self.path)
        self.sure_until_s = monotonic() + _MOMENT_S

    def mapped(self, offset: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return (count,) of `dtype` from byte `offset` on, a read-only view of the mapping."""
        self._check_end(offset, count * dtype.itemsize)
        return np.frombuffer(self._map, dtype, count, offset)

    def read(self, offset: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return (count,) of `dtype` from byte `offset` on, a copy."""
        self._check_end(offset, count * dtype.itemsize)
        out = np.empty(count, dtype)
        self.read_into(out, offset)
        return out

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill `out` (C-contiguous) with what the file has from byte `offset` on.

        Raises:
            OutputError: the file ends before, the disk reports an error, or it is another file.
        """
        n_bytes, done = out.nbytes, 0
        part: Any = out
        try:
            while done < n_bytes:  # once, mostly: Linux gives 2 GiB at most, and may give less
                got = os.preadv(self._fd, [part], offset + done)
                if not got:
                    raise changed(self.path)
                done += got
                part = out.reshape(-1).view(np.uint8)[done:] if done < n_bytes else None
        except OutputError:
            raise
        except OSError as error:
            self.check()
            raise OutputError(f"{self.path}: {error.strerror}") from None
        if n_bytes >= LARGE_BYTES or monotonic() > self.sure_until_s:
            self.check()

    def read_bytes(self, offset: int, n_bytes: int) -> bytes:
        """Return what the file has from byte `offset` on; see `read_into`."""
        try:
            found = os.pread(self._fd, n_bytes, offset)
        except OSError:
            found = b""
        if len(found) < n_bytes:  # rarely
            out = np.empty(n_bytes, np.uint8)
            self.read_into(out, offset)
            return out.tobytes()
        if n_bytes >= LARGE_BYTES or monotonic() > self.sure_until_s:
            self.check()
        return found

    def _check_end(self, offset: int, n_bytes: int) -> None:
        if offset + n_bytes > self.n_bytes:
            raise OutputError(f"{self.path}: the file ends before a dataset does")

    def __reduce__(self) -> Any:
        raise TypeError("FileBytes belongs to one process")


def changed(path: str) -> OutputError:
    """Return the error for a file that is not what it was."""
    return OutputError(f"{path}: the file was replaced or changed while it was read; open it anew")


def identity_of(fd: int) -> Identity:
    """Return what distinguishes this file from another one, and from what it was before."""
    return _identity(os.fstat(fd))


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype without what h5py hangs on it (the members of an enum)."""
    return np.dtype(dtype.str) if dtype.metadata else dtype
