"""Headers of usual files in a tar, many at once: one by one they take longer than opening files.

May not: read a file.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 512
_HEADER: Final = re.compile(
    rb"[^\0].{123}([0-7]{11})[\0 ].{12}[0-7]{6}\0 ([0x\0]).{100}ustar.{83}\0.{166}", re.DOTALL
).match
"""Size and kind of a file with a short name, or of a pax header."""
_SUM: Final = slice(148, 156)
_DIGITS: Final = np.arange(15, -1, -3, dtype=np.uint16)
"""By how many bits each octal digit of a checksum is shifted."""
_FEW: Final = 8
"""Files for which NumPy does not pay."""


class Files(NamedTuple):
    """Usual files that follow each other in a piece of a tar."""

    names: list[bytes]
    starts: NDArray[np.int64]
    """Where the bytes of each begin in the piece."""
    sizes: NDArray[np.int64]
    end: int
    """Where the next header is."""


def usual_files(piece: bytes, at: int) -> Files | None:
    """Return the usual files that follow each other from a header on.

    Usual is a file with a short name, behind at most a pax header that only says when it was
    changed, as Python's tarfile writes them. What is unusual ends them.

    Args:
        piece: of a tar; begins with one of its blocks.
        at: where the header is.

    Returns:
        None: they are few, or one of them is damaged.
    """
    heads, sizes, pax, told, record = list[int](), list[int](), list[int](), b"", b""
    while header := _HEADER(piece, at):
        head, (size, kind) = at, header.groups()
        if kind == b"x":
            if size != told:
                told, record = size, b"%d mtime=" % int(size, 8)
            line = at + BLOCK
            end = line + int(size, 8)
            head = line + BLOCK
            header = _HEADER(piece, head)
            if not (piece.startswith(record, line) and piece.find(b"\n", line, head) == end - 1
                    and header and header[2] != b"x"):  # fmt: skip
                break
            pax.append(at)
            size = header[1]
        heads.append(head)
        sizes.append(int(size, 8))
        at = head + BLOCK + -(-sizes[-1] // BLOCK) * BLOCK
    if len(heads) < _FEW:
        return None
    blocks = np.frombuffer(piece, np.uint8, len(piece) // BLOCK * BLOCK).reshape(-1, BLOCK)
    headers = blocks[np.array(heads + pax) // BLOCK]
    # The sum of all bytes, with blanks in place of the sum itself. No text has more than 16 bits.
    sums = headers.sum(axis=1, dtype=np.uint16) - headers[:, _SUM].sum(axis=1, dtype=np.uint16)
    sums += 8 * ord(" ")
    digits = ((sums[:, np.newaxis] >> _DIGITS) & 7) + ord("0")
    names = [piece[head : head + 100].partition(b"\0")[0] for head in heads]
    if (digits != headers[:, _SUM][:, :6]).any() or any(name.endswith(b"/") for name in names):
        return None
    return Files(names, np.array(heads) + BLOCK, np.array(sizes), at)
