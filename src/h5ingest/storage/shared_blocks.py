"""Blocks of the file that have one writer, whatever the hosts' caches do.

Hosts that share a file do not share their caches. A host that has changed a part of a page may
write back all of it, with what it takes the rest to be (`nfs_can_extend_write` of Linux's NFS
client); and one that has read a page may see it unchanged for minutes (GlusterFS). So where ranks
run on several hosts, each writes only blocks that it fills. Bytes that fill a block in part go to
rank 0, which writes them as it does HDF5's metadata (`Checkpoints.keep_whole`); and rank 0 drops
what its host has cached before it reads what others wrote (`forget_cached`).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError
from h5ingest.mpi.comm import Comm, agreeing

BLOCK: Final = max(4096, mmap.PAGESIZE)
"""Bytes. Caches work in pages, and every other unit (block, stripe) is a multiple of them."""

_LONGEST_S: Final = 90.0
"""Longer than any host usually remembers names (GlusterFS: 1 s, tuned mounts: 60 s)."""
_LOOK_EVERY_S: Final = 0.1

Bytes = bytes | bytearray | memoryview


def as_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of an array as the file has them, little-endian; if possible, no copy."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def whole_blocks(offset: int, n_bytes: int, block: int = BLOCK) -> range:
    """Return which of the bytes at an offset fill blocks; maybe none.

    >>> whole_blocks(BLOCK - 96, 2 * BLOCK) == range(96, 96 + BLOCK)
    True
    >>> len(whole_blocks(1, BLOCK))
    0
    """
    start = min(-offset % block, n_bytes)
    return range(start, start + (n_bytes - start) // block * block)


def split(
    offset: int, parts: Sequence[Bytes]
) -> tuple[list[tuple[int, bytes]], int, list[memoryview]]:
    """Return what rank 0 writes, (offset, bytes), and what is left: its offset and its parts.

    Args:
        offset: of the first part in the file, in bytes.
        parts: lie there one after the other.
    """
    views = [memoryview(part).cast("B") for part in parts]
    n_bytes = sum(map(len, views))
    whole = whole_blocks(offset, n_bytes)
    ends = [range(whole.start), range(whole.stop, n_bytes)]
    for_rank_0 = [(offset + end.start, b"".join(_cut(views, end))) for end in ends if end]
    return for_rank_0, offset + whole.start, list(_cut(views, whole))


def _cut(views: Sequence[memoryview], wanted: range) -> Iterator[memoryview]:
    """Yield what lies between two positions of parts that follow each other."""
    start = 0
    for view in views:
        if part := view[max(0, wanted.start - start) : max(0, wanted.stop - start)]:
            yield part
        start += len(view)


def boxes(
    first: int, last: int, shape: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (start, count) of the hyperslabs that the elements from `first` to `last` make up.

    Elements are counted in C order; so are those of each hyperslab, without a gap.

    >>> list(boxes(2, 9, (3, 4)))
    [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if len(shape) == 1:
        yield (first,), (last - first,)
        return
    inner = math.prod(shape[1:])
    while first < last:
        row, begin = divmod(first, inner)
        n_rows = (last - first) // inner
        if begin or not n_rows:  # a part of one row
            stop = min(inner, begin + last - first)
            for start, count in boxes(begin, stop, shape[1:]):
                yield (row, *start), (1, *count)
            first += stop - begin
        else:
            yield (row, *(0 for _ in shape[1:])), (n_rows, *shape[1:])
            first += n_rows * inner


def forget_cached(path: Path) -> None:
    """Have this host read the file anew: what it remembers of it may be older than the file.

    Not collective; all hosts have brought to the disk what they wrote (fsync).
    """
    from h5ingest.storage.file_systems import fresh_mtime_s  # for jobs on several hosts

    with contextlib.suppress(OSError):  # whoever reads the file says what is wrong with it
        fresh_mtime_s(path)  # and its size
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def see_same_file(path: Path, comm: Comm) -> None:
    """Wait until all hosts see the file that rank 0 sees under this name, at its size. Collective.

    A host that has looked at an earlier file of this name may take the name for that one as long as
    it remembers names, a minute on some mounts; what it wrote would go into the earlier file.

    Raises:
        OutputError: some host does not see it (on all ranks).
    """
    if comm.n_hosts == 1:
        return
    expected = comm.bcast(_number_and_size(path) if comm.rank == 0 else None)
    end_s, seen = time.monotonic() + _LONGEST_S, None
    with agreeing(comm):
        while seen != expected:
            if seen is not None:
                if time.monotonic() > end_s:
                    raise OutputError(
                        f"{path}: expected all hosts to see the same file, rank {comm.rank} on "
                        f"{os.uname().nodename} sees another one after {_LONGEST_S:.0f} s: is the "
                        f"folder one file system on all hosts? `h5ingest doctor`, on the job's "
                        f"hosts, tries it."
                    )
                time.sleep(_LOOK_EVERY_S)
            forget_cached(path)
            seen = _number_and_size(path)


def _number_and_size(path: Path) -> tuple[int, int]:
    """Return what tells a file from others of its name; zeros if there is none."""
    try:
        seen = path.stat()
    except OSError:
        return 0, 0
    return seen.st_ino, seen.st_size
