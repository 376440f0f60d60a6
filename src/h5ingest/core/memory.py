"""How the C library deals with memory that is freed."""

from __future__ import annotations

import contextlib

import numpy as np


def keep_freed_memory() -> None:
    """Make malloc keep freed memory, instead of returning it to the system after each image.

    glibc raises its limits for that to the largest block that was freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD); other C libraries ignore this. The block is never touched, so it takes no
    memory. Otherwise the page faults of a photograph (its file, its pixels, what its decoder needs)
    take as long as decoding it (docs/performance.md, docs/codecs.md).
    """
    with contextlib.suppress(MemoryError):  # where so little is allowed, it stays as it is
        np.empty(32 * 1024**2 - 64 * 1024, np.uint8)
