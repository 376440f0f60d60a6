"""What two hosts see of each other's files on the output's file system, tried in some seconds.

Collective; changes nothing but a folder of its own, which it removes whatever happens.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from h5ingest.core.errors import OutputError, agreed
from h5ingest.diagnostics.host_blocks import wrong_blocks
from h5ingest.diagnostics.host_pair import LONGEST_S, MEASURE_S, Pair, counted, until, write_file
from h5ingest.mpi.comm import Comm
from h5ingest.mpi.signals import Interrupt
from h5ingest.storage.file_systems import fresh_mtime_s
from h5ingest.storage.shared_blocks import BLOCK

_N_NAMES: Final = 50
_PIECE: Final = 2**20
_MOST_PIECES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was seen. Numbers of names and blocks; seconds; of two hosts the worse."""

    hosts: tuple[str, str]
    shared: bool = False
    """Whether the second host sees what the first one makes."""
    wrong_parts: dict[str, int] = field(default_factory=dict)
    """Way -> blocks read wrong of those that both hosts wrote half of; without ways refused."""
    wrong_neighbours: dict[str, int] = field(default_factory=dict)
    """The same of whole blocks of the one host between those of the other."""
    exclusive: tuple[int, int] = (0, 0)
    """Names that both hosts tried to create with O_EXCL; those that not exactly one created."""
    linked: tuple[int, int] = (0, 0)
    """The same by hard links."""
    looks: tuple[int, int] = (0, 0)
    """Looks at a name while it was replaced; those that found nothing there."""
    rename_s: float | None = None
    """Until the other host sees a new name that it missed before; None: not in time."""
    size_s: float | None = None
    """Until it sees that a file has grown."""
    clocks_s: float = 0.0
    """How far the second host's clock is ahead of the first one's."""
    dates_s: float = 0.0
    """How far the dates are that its files get."""
    locks: dict[str, bool] = field(default_factory=dict)
    """Kind of lock -> whether it keeps the other host out; without kinds refused."""
    fsync_s: float = 0.0
    made_per_s: float = 0.0
    opened_per_s: float = 0.0
    """Files."""
    written_per_s: float = 0.0
    """Bytes."""
    refused: tuple[str, ...] = ()
    """What the file system would not do, and why."""


def try_hosts(folder: Path, comm: Comm, interrupt: Interrupt) -> Trial:
    """Let rank 0 and the first rank on another host, or rank 1, try the folder. Collective.

    Args:
        folder: where the output is to be.
        comm: two ranks or more; those that are not needed wait.
        interrupt: asks to stop.

    Raises:
        OutputError: nothing can be made there (on all ranks).
        StoppedError: asked to stop (on all ranks).
    """
    return _Steps(Pair(folder, comm, interrupt)).run()


class _Steps:
    """The steps of a trial. All collective."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._both = pair.both
        self._scratch = pair.scratch

    def run(self) -> Trial:
        hosts = self._pair.hosts
        try:
            self._both("making a folder", self._scratch.mkdir, None)
            if self._pair.refused:
                raise agreed(OutputError(f"{self._scratch.parent}: {self._pair.refused[0]}"))
            _, seen_s = self._both("looking", None, lambda: until(self._scratch.is_dir))
            if seen_s is None:
                self._pair.finish()
                return Trial(hosts=hosts)
            wrong = wrong_blocks(self._pair)
            rename_s, size_s = self._delays()
            clocks_s, dates_s = self._clocks()
            locks = self._locks()
            made_per_s, opened_per_s = self._small_files()
            fsyncs = self._both("fsync", self._fsync, self._fsync)
            written = self._both("writing", self._write_much, self._write_much)
            trial = Trial(
                hosts=hosts,
                shared=True,
                wrong_parts={way: parts for way, (parts, _) in wrong.items()},
                wrong_neighbours={way: whole for way, (_, whole) in wrong.items()},
                exclusive=self._race("O_EXCL", lambda name, _: _create(name)),
                linked=self._race("hard links", lambda name, own: os.link(own, name)),
                looks=self._replaced(),
                rename_s=rename_s,
                size_s=size_s,
                clocks_s=clocks_s,
                dates_s=dates_s,
                locks=locks,
                fsync_s=max((each for each in fsyncs if each), default=0.0),
                made_per_s=made_per_s,
                opened_per_s=opened_per_s,
                written_per_s=sum(each for each in written if each),
                refused=tuple(self._pair.refused),
            )
            self._pair.finish()
        except BaseException:
            self._pair.give_up()
            raise
        return trial

    def _delays(self) -> tuple[float | None, float | None]:
        """Return after how long the second host sees a new name, and a new size."""
        early, late = self._scratch / "early", self._scratch / "late"
        self._both("writing", lambda: write_file(early, b"0"), None)

        def miss() -> None:
            with suppress(FileNotFoundError):
                late.stat()
            until(lambda: early.stat().st_size == 1)

        self._both("looking", None, miss)
        _, rename_s = self._both("renaming", lambda: early.rename(late), lambda: until(late.exists))
        _, size_s = self._both(
            "writing",
            lambda: write_file(late, b"12345"),
            lambda: until(lambda: late.stat().st_size == 5),
        )
        return rename_s, size_s

    def _clocks(self) -> tuple[float, float]:
        """Return how far clock, and dates of files, of the second host are ahead of the first's."""

        def look() -> tuple[float, float]:
            now_s, own = time.time(), self._scratch / f"date{self._pair.me}"
            write_file(own, b"")
            os.utime(own)
            return now_s, fresh_mtime_s(own)

        one, other = self._both("dates", look, look)
        return (other[0] - one[0], other[1] - one[1]) if one and other else (0.0, 0.0)

    def _locks(self) -> dict[str, bool]:
        kept_out = {}
        for kind, lock in (("fcntl", fcntl.lockf), ("flock", fcntl.flock)):

            def take(lock: Callable[[int, int], None] = lock) -> bool:
                with suppress(BlockingIOError, PermissionError):
                    lock(self._pair.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                return False

            def release(lock: Callable[[int, int], None] = lock) -> None:
                lock(self._pair.fd, fcntl.LOCK_UN)

            has, _ = self._both(kind, take, None)
            _, got = self._both(kind, None, take)
            if has and got is not None:
                kept_out[kind] = not got
            self._both(kind, release, release)
        return kept_out

    def _race(self, what: str, make: Callable[[Path, Path], object]) -> tuple[int, int]:
        """Return how many names both tried to make, and how many not exactly one of them made."""
        own = self._scratch / f"{what}.own{self._pair.me}"

        def run() -> tuple[int, list[int]]:
            write_file(own, b"")
            tried, made, end_s = 0, [], time.monotonic() + LONGEST_S
            while tried < _N_NAMES and time.monotonic() < end_s:
                with suppress(FileExistsError):
                    make(self._scratch / f"{what}{tried}", own)
                    made.append(tried)
                tried += 1
            return tried, made

        one, other = self._both(what, run, run)
        if not (one and other):
            return 0, 0
        tried = range(min(one[0], other[0]))
        return len(tried), sum((k in one[1]) == (k in other[1]) for k in tried)

    def _replaced(self) -> tuple[int, int]:
        """Return looks at a name while it is replaced, and those that found nothing there."""
        name, new = self._scratch / "name", self._scratch / "new"
        self._both("writing", lambda: write_file(name, b"0"), None)
        self._both("looking", None, lambda: until(name.exists))

        def replace() -> None:
            end_s = time.monotonic() + MEASURE_S
            while time.monotonic() < end_s:
                write_file(new, b"1", sync=False)
                new.replace(name)

        def look() -> tuple[int, int]:
            n_looks, n_missed, end_s = 0, 0, time.monotonic() + MEASURE_S
            while time.monotonic() < end_s:
                n_looks += 1
                try:
                    os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
                except OSError:
                    n_missed += 1
            return n_looks, n_missed

        _, looks = self._both("renaming", replace, look)
        return looks or (0, 0)

    def _small_files(self) -> tuple[float, float]:
        """Return files that the first host makes, and that the second opens, per second."""

        def make() -> tuple[int, float]:
            return counted(lambda k: write_file(self._scratch / f"s{k}", b"x" * 100, sync=False))

        made, _ = self._both("making files", make, None)
        n_files = made[0] if made else 0
        _, opened = self._both(
            "opening files",
            None,
            lambda: counted(lambda k: (self._scratch / f"s{k}").read_bytes(), n_files),
        )
        return (made[0] / made[1] if made else 0.0), (opened[0] / opened[1] if opened else 0.0)

    def _fsync(self) -> float:
        def write(_: int) -> None:
            os.pwrite(self._pair.fd, bytes(BLOCK), self._pair.me * BLOCK)
            os.fsync(self._pair.fd)

        n_times, seconds = counted(write, 20)
        return seconds / n_times

    def _write_much(self) -> float:
        """Return bytes per second, with an fsync at the end."""
        piece = os.urandom(_PIECE)
        start_s = time.monotonic()
        n_pieces, _ = counted(
            lambda k: os.pwrite(self._pair.fd, piece, (2 * k + self._pair.me) * _PIECE),
            _MOST_PIECES,
        )
        os.fsync(self._pair.fd)
        return n_pieces * _PIECE / (time.monotonic() - start_s)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
