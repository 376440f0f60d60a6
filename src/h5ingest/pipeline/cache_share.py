"""How much memory a rank may take to keep files from the header check until they are stored.

May not: allocate.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from h5ingest.mpi.comm import Comm

_PART: Final = 8
"""All ranks of a host together keep this part of what is free: the rest is for their work, and for
whoever starts after them."""
_MIB: Final = 1024**2


def cache_share(comm: Comm) -> int:
    """Return the bytes of files that this rank may keep. Not collective."""
    n_here = list(comm.hosts).count(comm.hosts[comm.rank])
    return free_bytes(os.environ) // _PART // n_here


def free_bytes(environment: Mapping[str, str], root: Path = Path("/")) -> int:
    """Return the memory of this host that is free for this job: the least of what limits it.

    What the system has available, what the control groups leave that this process is in, and what
    SLURM has given to the job on this host.

    Args:
        environment: of the process: SLURM_MEM_PER_NODE, or SLURM_MEM_PER_CPU and
            SLURM_CPUS_ON_NODE, in MiB.
        root: of the file system, with /proc and /sys/fs/cgroup.
    """
    found = [*_available(root), *_left_in_groups(root)]
    with contextlib.suppress(KeyError, ValueError):
        found.append(int(environment["SLURM_MEM_PER_NODE"]) * _MIB)
    with contextlib.suppress(KeyError, ValueError):
        n_cpus = int(environment["SLURM_CPUS_ON_NODE"])
        found.append(int(environment["SLURM_MEM_PER_CPU"]) * n_cpus * _MIB)
    return max(0, min((each for each in found if each), default=0))


def _available(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what each control group leaves, version 2 and 1, from the innermost outward."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, inner = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if not controllers:
            names = ("memory.max", "memory.current")
        folder = top / inner.strip("/")
        for each in (folder, *folder.parents):
            limit, used = ("".join(_lines(each / name)) for name in names)
            if limit.isdigit() and used.isdigit():
                yield max(1, int(limit) - int(used))
            if each == top:
                break


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace").splitlines()
    return []
