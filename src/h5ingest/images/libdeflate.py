"""libdeflate, by imagecodecs: inflating and checksums, several times as fast as Python's zlib.

May not: know what it is that is inflated or summed.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

FEW_BYTES: Final = 1024
"""With fewer, a checksum takes less time in Python's zlib than by a call of libdeflate."""


def crc32(part: bytes | memoryview, crc: int = 0) -> int:
    """Return the CRC-32 of what `crc` is that of, and then this."""
    return (zlib.crc32 if len(part) < FEW_BYTES else libdeflate().crc32)(part, crc)


class Libdeflate(NamedTuple):
    """Functions of libdeflate, by imagecodecs, which looks for a name at every use."""

    inflate: Callable[..., Any]
    crc32: Callable[..., int]
    adler32: Callable[..., int]


@functools.cache
def libdeflate() -> Libdeflate:
    """Import libdeflate: here, because a usage error must not pay for it."""
    import imagecodecs as ic

    return Libdeflate(ic.deflate_decode, ic.deflate_crc32, ic.deflate_adler32)
