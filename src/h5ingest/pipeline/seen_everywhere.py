"""After the file has its name: whether the other hosts see it, whole.

A host remembers names, sizes and pages of a file system that it shares with others: mostly for a
second, on some mounts for a minute. Who reads the file there as soon as the job has ended would
find none, or one that ends too soon. So the job ends when one rank of each host has seen the file,
or says which host has not. Only that host's own seconds are counted: clocks may differ.

May not: change anything.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from h5ingest.mpi.comm import Comm

_LONGEST_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.05
_HEAD_BYTES: Final = 4096
"""The superblock is in them."""


class Seen(NamedTuple):
    """What a host sees of a file."""

    n_bytes: int
    head: int
    """CRC-32 of the first bytes."""


def unseen(out: Path, comm: Comm, peer_timeout_s: float) -> tuple[str, ...]:
    """Wait until every host sees the file; return a warning for each that does not. Collective.

    Args:
        out: the file, which rank 0 has given its name.
        comm: the ranks.
        peer_timeout_s: how long others may wait for one rank.
    """
    if comm.n_hosts == 1:
        return ()
    expected = Seen(-1, 0)
    if comm.rank == 0:
        with contextlib.suppress(OSError):  # something took it away: that is no matter of caches
            expected = _look(out)
    expected = comm.bcast(expected)
    saw, is_first = "", comm.hosts.index(comm.hosts[comm.rank]) == comm.rank
    if is_first and comm.rank > 0 and expected.n_bytes >= 0:
        saw = _wait(out, expected, min(_LONGEST_S, peer_timeout_s / 2))
    return tuple(
        f"{out} is complete, but {comm.hosts[rank]} {text}. A reader there may have to wait."
        for rank, text in enumerate(comm.allgather(saw))
        if text
    )


def _look(out: Path) -> Seen:
    """Return what any reader on this host would see now.

    Its size is asked of the file system itself at first, which mends what the host remembers of it:
    else a look that comes too early would keep the wrong size for as long as that is remembered.
    """
    from h5ingest.storage.file_systems import fresh_mtime_s  # for jobs on several hosts

    fresh_mtime_s(out)
    fd = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return Seen(os.fstat(fd).st_size, zlib.crc32(os.pread(fd, _HEAD_BYTES, 0)))
    finally:
        os.close(fd)


def _wait(out: Path, expected: Seen, limit_s: float) -> str:
    """Return what this host still sees at the end of its time instead of the file; or nothing."""
    end_s = time.monotonic() + limit_s
    while True:
        try:
            seen = _look(out)
            if seen == expected:
                return ""
            wrong = f"sees {seen.n_bytes:,} bytes of {expected.n_bytes:,}"
            if seen.n_bytes == expected.n_bytes:
                wrong = "reads other bytes at its beginning"
        except OSError as error:
            wrong = f"does not see it ({error.strerror})"
        if time.monotonic() > end_s:
            return f"{wrong} after {limit_s:.0f} s: {_caches(out)}"
        time.sleep(_LOOK_EVERY_S)


def _caches(out: Path) -> str:
    """Return what is known of the caches of this host's mount."""
    from h5ingest.storage.file_systems import look  # rarely needed

    mount = None
    with contextlib.suppress(OSError):
        mount = look(out.parent, with_stripes=False).mount
    if mount is None:
        return "its mount is not known"
    told = mount.cache_options or dict.fromkeys(sorted(mount.options), "")
    options = ",".join(name + f"={value}" * bool(value) for name, value in told.items())
    cached = f" caches attributes for {mount.attribute_cache_s:.0f} s" * (
        mount.attribute_cache_s > 0
    )
    return f"{mount.name} on {mount.point}{cached} ({options})"
