"""Clocks, disks and caches: what the benchmarks measure with."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """One thing, measured several times."""

    runs: tuple[float, ...]
    """In the order measured; at least one."""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)

    @property
    def low(self) -> float:
        """The lowest run."""
        return min(self.runs)

    @property
    def high(self) -> float:
        """The highest run."""
        return max(self.runs)

    def in_words(self, form: Callable[[float], str]) -> str:
        r"""Return two lines for a table: the median, and the range beneath it.

        >>> Spread((0.5, 2.0, 1.0)).in_words(seconds)
        '1.00 s\n500ms..2.00s'
        """
        low, high = (form(value).replace(" ", "") for value in (self.low, self.high))
        return f"{form(self.median)}\n{low}..{high}"


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """Return what the action returns, and the seconds that it took."""
    started_s = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started_s


def usage(place: Path) -> tuple[int, int]:
    """Return the bytes and inodes that a file, or a folder with all that is in it, takes of a disk.

    As `du` counts: whole blocks, and a file of two names once.
    """
    told = [path.lstat() for path in (place, *place.rglob("*"))]
    blocks = {(each.st_dev, each.st_ino): each.st_blocks for each in told}
    return 512 * sum(blocks.values()), len(blocks)


def files_of(place: Path) -> list[Path]:
    """Return the file, or all files of a folder."""
    if not place.is_dir():
        return [place]
    return [path for path in place.rglob("*") if path.is_file()]


def flush(place: Path) -> None:
    """Let the system write what it has not written yet to the file system of `place`."""
    fd = os.open(place, os.O_RDONLY)
    try:
        # Not os.sync(): that waits for every other file system too, network mounts among them.
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), f"syncfs {place}")
    finally:
        os.close(fd)


def evict(place: Path) -> None:
    """Ask the system to forget what it holds in memory of a file, or of a folder's files.

    What has not been written yet stays: `flush` first.
    """
    for path in files_of(place):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def resident(place: Path) -> float:
    """Return the share of the pages of a file, or of a folder's files, that is in memory."""
    n_pages = n_resident = 0
    for path in files_of(place):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                continue
            mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        view = np.frombuffer(mapped, np.uint8)
        if ctypes.CDLL(None).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), pages
        ):
            raise OSError(f"mincore {path}")
        n_pages += len(pages)
        n_resident += sum(page & 1 for page in pages)
    return n_resident / n_pages if n_pages else 0.0


def plain(value: Any, **names: str) -> Any:
    """Return a dataclass, or what holds some, as plain values for JSON.

    Args:
        value: the value.
        names: field -> key in the JSON, where it has another name.

    >>> plain({"seconds": (Spread((3.0, 1.0, 2.0)),)})
    {'seconds': [{'median': 2.0, 'min': 1.0, 'max': 3.0, 'runs': [3.0, 1.0, 2.0]}]}
    """
    if isinstance(value, Spread):
        found = {"median": value.median, "min": value.low, "max": value.high}
        return {**found, "runs": list(value.runs)}
    if is_dataclass(value):
        return {
            names.get(field.name, field.name): plain(getattr(value, field.name), **names)
            for field in fields(value)
        }
    if isinstance(value, dict):
        return {name: plain(one, **names) for name, one in value.items()}
    return [plain(one, **names) for one in value] if isinstance(value, tuple | list) else value


def seconds(value: float) -> str:
    """Return a time for people, three digits or so.

    >>> seconds(83.21), seconds(1.234), seconds(0.0123), seconds(0.00004567)
    ('83.2 s', '1.23 s', '12.3 ms', '45.7 µs')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{digits(value * factor)} {unit}"
    return f"{digits(value * 1e6)} µs"


def digits(value: float) -> str:
    """Return a number with three significant digits.

    >>> digits(1234567.8), digits(83.21), digits(1.5)
    ('1,230,000', '83.2', '1.50')
    """
    if value >= 1000:
        step = 10 ** (len(f"{value:.0f}") - 3)
        return f"{round(value / step) * step:,}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
