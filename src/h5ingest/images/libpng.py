"""Whether libpng may expand palettes on this machine.

CVE-2026-33636: before 1.6.56, its code for ARM's vector unit (NEON) may access memory outside of
its buffers when it turns a palette image into RGB. imagecodecs from 2026.10.10 on has a later one.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Final

from h5ingest.core.errors import SampleError

MACHINE: Final = os.uname().machine
_FIXED: Final = (1, 6, 56)

REMEDY: Final = "use Python 3.12 or later, and imagecodecs 2026.10.10 or later"


def version() -> str:
    """Return the version of the libpng in imagecodecs."""
    import imagecodecs

    found = re.search(r"\d+(\.\d+)+", imagecodecs.png_version())
    return found[0] if found else ""


def problem(machine: str, libpng: str) -> str:
    """Return why this libpng must not expand palettes on a machine; empty if it may.

    >>> problem("aarch64", "1.6.56"), problem("x86_64", "1.6.55")
    ('', '')
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", libpng)[:3])
    if not machine.startswith(("aarch64", "arm")) or numbers >= _FIXED:
        return ""
    return f"libpng {libpng} on {machine} may leave its buffers at a palette (CVE-2026-33636)"


@functools.cache
def _problem_here(machine: str) -> str:
    return problem(machine, version()) if problem(machine, "") else ""


def check_palettes() -> None:
    """Refuse palette images if libpng must not expand them here.

    Raises:
        SampleError: it must not.
    """
    found = _problem_here(MACHINE)
    if found:
        raise SampleError(
            "unsupported", f"{found}: {REMEDY}; or --trust-palettes if you know where it is from"
        )
