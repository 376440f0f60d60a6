"""How much memory this process has held."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """The most so far, of this program alone.

    Not `ru_maxrss`: on Linux that begins with the memory of the process that started this one, and
    pytest's is so large that whatever a test allows would go unseen below it.
    """
    told = Path("/proc/self/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) * 1024
