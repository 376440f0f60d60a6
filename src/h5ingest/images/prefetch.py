"""`Prefetcher`: source files in order, read ahead by threads where they are slow to open.

On a parallel file system, opening a file takes milliseconds, in which a rank could decode hundreds
of small images. Where files open in microseconds, threads only add overhead: so the first files are
read without threads, a few at a time, and the time that this takes decides.

May not: know what an image is, know ranks.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.images import source_files

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

READERS: Final = 16
"""Threads, if files turn out to be slow."""
SLOW_S: Final = 250e-6
"""Seconds per file above which threads read ahead; below a quarter of it they stop."""
AHEAD_BYTES: Final = 16 * 1024**2
"""Bytes of files read ahead, roughly; one file per thread in any case."""

_FILES: Final = 64
_BYTES: Final = 1024**2
_SECONDS: Final = 0.02
"""Most files read at once without threads."""
_TASK_FILES: Final = 4
"""Most files that a thread reads at once: several, since handing over takes some 50 µs."""
_TASKS: Final = 2
_MOST_TASKS: Final = 8
"""Tasks for each thread, handed over before they are needed: more of small files, so that threads
go on while a batch is decoded and written."""
_NAP_S: Final = 0.02

Reader = Callable[..., tuple[bytes, int]]
Read = tuple[bytes, int] | SampleError
"""The result for a file: its bytes and its size, or why it cannot be read."""

_OBJECT_BYTES: Final = 128
"""What a cached file takes besides its bytes: the object, its index, its place in the dict."""


class Prefetcher:
    """Reads files below a folder, ahead of need where that pays."""

    def __init__(
        self,
        source_folder: bytes,
        readers: int | None = None,
        *,
        end: bytes = b"",
        limit: int | None = None,
        read: Reader | None = None,
        slow: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; reads nothing.

        Args:
            source_folder: that relative paths are relative to.
            readers: threads that read ahead; 0: none; None: a default number, if files are slow.
            end: see `source_files.read`.
            limit: see `source_files.read`; may be set anew while files are read.
            read: reads one file, as `source_files.read` does; None: that.
            slow: whether files are known to be slow to open: then threads read from the first on.
            waiting: called every 20 ms while this waits for a thread.
        """
        self._source_folder = source_folder
        self._end = end
        self._read = read
        self._waiting = waiting
        self._readers = readers
        self._n_threads = readers or READERS
        self._ahead = slow if readers is None else readers > 0
        self._asks_ahead = False
        self._pool: ThreadPoolExecutor | None = None
        self._folder: int | None = None
        with contextlib.suppress(OSError):  # each file will give the error
            self._folder = os.open(source_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.limit = limit
        self.seconds = 0.0
        """Seconds that this rank has waited for files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._folder is not None:
            os.close(self._folder)

    @property
    def slow(self) -> bool:
        """Whether files have turned out to be slow to open, so that threads read them."""
        return self._ahead

    def read(self, paths: Iterable[Any]) -> Iterator[Read]:
        """Return the results that `read_some` yields, one by one."""
        return chain.from_iterable(self.read_some(paths))

    def read_whole(self, path: Any) -> tuple[bytes, int]:
        """Return all of one file, and its size; see `source_files.read`."""
        read = self._read or source_files.read
        return read(self._full(path), None, folder=self._folder)

    def _full(self, path: Any) -> Any:
        """Return a path as it is read where the source folder cannot be opened."""
        if self._folder is not None or self._read is not None:
            return path
        return os.path.join(self._source_folder, path)

    def read_some(self, paths: Iterable[Any]) -> Iterator[list[Read]]:
        """Yield the results for all files, in order, as many at a time as were read at once.

        Args:
            paths: relative to the source folder, or absolute; or what else `read` takes. Consumed
                ahead of need.
        """
        left = iter(paths) if self._folder is not None else map(self._full, paths)
        tasks: deque[tuple[list[Any], Future[_Some]]] = deque()
        n_files, n_tasks = 1, _TASKS * self._n_threads
        while True:
            while self._ahead and len(tasks) < n_tasks:
                if not (task := list(islice(left, n_files))):
                    break
                tasks.append((task, self._start(task)))
            started_s = time.perf_counter()
            some = self._finish(*tasks.popleft()) if tasks else self._some(left)
            self.seconds += time.perf_counter() - started_s
            if not some.files:
                return
            yield some.files
            if self._readers is None:
                limit_s = SLOW_S / 4 if self._ahead else SLOW_S
                self._ahead = some.seconds > len(some.files) * limit_s
            room = AHEAD_BYTES * len(some.files) // (self._n_threads * max(1, some.n_bytes))
            n_files = min(max(1, room // _TASKS), _TASK_FILES)
            n_tasks = min(max(_TASKS, room // n_files), _MOST_TASKS) * self._n_threads

    def each(self, ask: Callable[[bytes], T], paths: Sequence[bytes]) -> list[T]:
        """Return what `ask` says of each path; threads ask once it has turned out to be slow."""
        found: list[T] = []
        while len(found) < len(paths) and not self._asks_ahead:
            started_s = time.perf_counter()
            some = [ask(path) for path in paths[len(found) : len(found) + _TASK_FILES]]
            self._asks_ahead = time.perf_counter() - started_s > len(some) * SLOW_S
            found += some
        if len(found) < len(paths):
            found += self._threads().map(ask, paths[len(found) :])
        return found

    def _some(self, paths: Iterator[Any], most_s: float = _SECONDS) -> _Some:
        """Read the next few files, and no more after so many seconds."""
        found: list[Read] = []
        read, folder = self._read or source_files.read, self._folder
        end, limit = self._end, self.limit
        n_bytes, started_s = 0, time.perf_counter()
        for path in islice(paths, _FILES):
            try:
                file = read(path, limit, folder=folder, end=end)
                n_bytes += len(file[0])
                found.append(file)
            except SampleError as error:
                found.append(error)
            if n_bytes >= _BYTES or time.perf_counter() - started_s >= most_s:
                break
        seconds = time.perf_counter() - started_s
        return _Some(found, n_bytes, seconds)

    def _start(self, paths: list[Any]) -> Future[_Some]:
        return self._threads().submit(self._some, iter(paths), math.inf)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # 15 files; few ranks need it

            self._pool = ThreadPoolExecutor(self._n_threads, "read ahead")
        return self._pool

    def _finish(self, paths: list[Any], future: Future[_Some]) -> _Some:
        """Wait for a thread's results; files it left out, to save memory, are read here."""
        while True:
            try:
                some = future.result(_NAP_S)
                break
            except TimeoutError:
                self._waiting()
        left = iter(paths[len(some.files) :])
        while (more := self._some(left)).files:
            some = _Some(
                some.files + more.files, some.n_bytes + more.n_bytes, some.seconds + more.seconds
            )
        return some


class _Some(NamedTuple):
    """The results of a few files that were read at once."""

    files: list[Read]
    n_bytes: int
    """Total size of these files."""
    seconds: float
    """Seconds it took to read them."""


class FileCache:
    """Bytes of files by global index of their sample, within a budget; each is taken once."""

    def __init__(self, n_bytes: int) -> None:
        """Begin empty.

        Args:
            n_bytes: the budget; 0: nothing is kept.
        """
        self._files: dict[int, bytes] = {}
        self._left = self.n_bytes = n_bytes
        self.spare = 0
        """What is kept for the time being although the budget is used up, in bytes."""
        self.slow = False
        """Whether the files that have been read were slow to open."""

    def lacks(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each index whether its file is not here."""
        here = np.fromiter(self._files, np.int64, len(self._files))
        return np.isin(indices, here, invert=True)

    @property
    def full(self) -> bool:
        """Whether nothing more will be kept."""
        return self._left <= 0

    def keep(self, indices: Iterable[int], files: Iterable[tuple[bytes, int]]) -> None:
        """Keep files, as far as the budget allows it.

        Args:
            indices: of their samples.
            files: the bytes and the size of each; one of which only the first bytes are given is
                not kept. One that does not fit has been read in vain: a few of them, and nothing
                more will be kept.
        """
        left, spare = self._left, self.spare
        for index, (data, size) in zip(indices, files, strict=True):
            if len(data) == size <= left:
                self._files[index] = data
                left -= size + _OBJECT_BYTES
            elif len(data) == size <= spare:
                self._files[index] = data
                spare -= size + _OBJECT_BYTES
            elif len(data) == size:
                left //= 2
        self._left, self.spare = left, spare

    def get(self, index: int) -> bytes:
        """Return a file that is here."""
        return self._files[index]

    def take(self, index: int) -> bytes:
        """Return a file that is here, and keep it no longer."""
        return self._files.pop(index)
