"""What two hosts read of blocks that both write: in halves, and whole ones side by side."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from h5ingest.diagnostics.host_pair import Pair, until, write_file
from h5ingest.storage.shared_blocks import BLOCK

N_BLOCKS: Final = 64
"""That the two hosts share, and as many that lie side by side for each of them."""
_MARKS: Final = (b"a", b"b")
"""What the first and the second host write."""


def wrong_blocks(pair: Pair) -> dict[str, tuple[int, int]]:
    """Return way of reading -> wrong blocks: of those written in halves, of those written whole.

    Both have all of the file in their caches before they write, and hold it open: `pair.fd`. Of the
    two the worse; without ways that the file system refuses. Collective.
    """
    path, n_bytes = pair.scratch / "blocks", 3 * N_BLOCKS * BLOCK
    pair.both("writing", lambda: write_file(path, bytes(n_bytes)), None)
    pair.both("looking", None, lambda: until(lambda: path.stat().st_size == n_bytes))

    def have() -> None:
        pair.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.pread(pair.fd, n_bytes, 0)

    def write() -> None:
        half, mine = BLOCK // 2, _MARKS[pair.me]
        for block in range(N_BLOCKS):
            os.pwrite(pair.fd, mine * half, block * BLOCK + pair.me * half)
            whole = N_BLOCKS + 2 * block + pair.me
            os.pwrite(pair.fd, mine * BLOCK, whole * BLOCK)
        os.fsync(pair.fd)

    pair.both("opening", have, have)
    pair.both("writing", write, write)
    if pair.refused:
        return {}  # what was not written would seem to be lost
    wrong = {}
    for way, read in _WAYS.items():
        one, other = pair.both(way, *[lambda read=read: _compare(read(path, pair.fd, n_bytes))] * 2)
        if one and other:
            wrong[way] = max(one[0], other[0]), max(one[1], other[1])
    return wrong


def _compare(data: bytes) -> tuple[int, int]:
    """Return how many blocks are wrong: of those written in halves, of those written whole."""
    half = BLOCK // 2
    both = _MARKS[0] * half + _MARKS[1] * half
    blocks = [data[at : at + BLOCK] for at in range(0, 3 * N_BLOCKS * BLOCK, BLOCK)]
    parts, whole = blocks[:N_BLOCKS], blocks[N_BLOCKS:]
    return sum(block != both for block in parts), sum(
        block != _MARKS[k % 2] * BLOCK for k, block in enumerate(whole)
    )


def _read(path: Path, fd: int, n_bytes: int) -> bytes:
    return os.pread(fd, n_bytes, 0)


def _reopened(path: Path, fd: int, n_bytes: int) -> bytes:
    return path.read_bytes()


def _dropped(path: Path, fd: int, n_bytes: int) -> bytes:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, n_bytes, 0)


def _direct(path: Path, fd: int, n_bytes: int) -> bytes:
    around = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, n_bytes) as aligned:
            os.preadv(around, [aligned], 0)
            return bytes(aligned)
    finally:
        os.close(around)


_WAYS: Final = {
    "read": _read,
    "reopened": _reopened,
    "cache dropped": _dropped,
    "O_DIRECT": _direct,
}
"""The ways in which a host reads what the other has written."""
