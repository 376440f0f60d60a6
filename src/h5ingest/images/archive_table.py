"""What is in an archive: each member by its name, and where it lies.

May not: open a file.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import MEMBER

NOT_THERE, CUT, SPARSE, LINK, NO_FILE, ENCRYPTED, METHOD = range(200, 207)
"""`how` of a member that cannot be read; what is less is its format's own."""

_N_NUMBERS: Final = 5
_MOST_SHOWN: Final = 10
_MOST_BYTES: Final = 2**62
"""No file is as large."""
_WHY: Final = {
    NOT_THERE: ("missing", "no such member in the archive"),
    CUT: ("damaged", "the archive ends within it"),
    SPARSE: ("unsupported", "a sparse member: pack it anew, without --sparse"),
    LINK: ("missing", "a link to what is not in the archive"),
    NO_FILE: ("unreadable", "expected a file in the archive, found a folder or device"),
    ENCRYPTED: ("unsupported", "it is encrypted: unpack the archive, or pack it without password"),
    METHOD: ("unsupported", "packed by another method than deflate: unpack it, or pack it anew"),
}


def reason_of(how: int) -> SampleError | None:
    """Return why a member cannot be read; None: it can."""
    return SampleError(*_WHY[how]) if how in _WHY else None


def plain_name(name: bytes) -> bytes:
    """Return the name of a member as it is looked for.

    >>> plain_name(b"./cat/1.png")
    b'cat/1.png'
    """
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name


def _plain_names(names: Iterable[bytes]) -> list[bytes]:
    return [plain_name(name) if name.startswith(b"./") else name for name in names]


class Member(NamedTuple):
    """Where a file lies in an archive: `core.sample_table.MEMBER` as plain values."""

    archive: int
    how: int
    at: int
    stored: int
    size: int
    crc: int


class Table:
    """What is in an archive, as it is found."""

    def __init__(self) -> None:
        """Begin empty."""
        self.rows: dict[bytes, int] = {}
        """Name -> position of its last member."""
        self.repeated: list[bytes] = []
        """Some of the names that come again; all but the last member of a name cannot be had."""
        self.n_repeated = 0
        """Members that cannot be had."""
        self.problem = ""
        """Why there may be more; empty: there is not."""
        self._numbers = array("q")  # five for each member, as in `MEMBER`

    def add(
        self, name: bytes, how: int, at: int = 0, stored: int = 0, size: int = 0, crc: int = 0
    ) -> None:
        """Add a member, which comes behind the others; for the numbers see `MEMBER`."""
        name = plain_name(name)
        if not 0 <= min(at, stored, size) <= max(at, stored, size) < _MOST_BYTES:
            how, at, stored, size = CUT, 0, 0, 0
        if name in self.rows:
            self.n_repeated += 1
            if len(self.repeated) < _MOST_SHOWN:
                self.repeated.append(name)
        self.rows[name] = len(self._numbers) // _N_NUMBERS
        self._numbers.extend((how, at, stored, size, crc))

    def extend(
        self,
        names: Sequence[bytes],
        how: NDArray[np.integer[Any]],
        at: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        """Add members, as `add` does; none is packed, and no number is out of its range."""
        names = _plain_names(names)
        numbers = np.zeros((len(names), _N_NUMBERS), np.int64)
        for column, values in enumerate((how, at, sizes, sizes)):
            numbers[:, column] = values
        first = len(self._numbers) // _N_NUMBERS
        rows = dict(zip(names, range(first, first + len(names)), strict=True))
        if len(rows) == len(names) and self.rows.keys().isdisjoint(names):
            self.rows |= rows
            self._numbers.frombytes(numbers.tobytes())
        else:
            for name, row in zip(names, numbers.tolist(), strict=True):
                self.add(name, *row)

    def link(self, name: bytes, target: bytes) -> None:
        """Make a member what another one is; names as from `plain_name`."""
        row, other = self.rows[name] * _N_NUMBERS, self.rows.get(target)
        numbers = array("q", (LINK, 0, 0, 0, 0))
        if other is not None:
            numbers = self._numbers[other * _N_NUMBERS : (other + 1) * _N_NUMBERS]
        self._numbers[row : row + _N_NUMBERS] = numbers

    def find(self, names: Sequence[bytes], archive: int) -> NDArray[np.void]:
        """Return (n,) `MEMBER` of these names, in the archive of this number."""
        rows = [self.rows.get(name, -1) for name in _plain_names(names)]
        found = np.full((len(rows), _N_NUMBERS), (NOT_THERE, 0, 0, 0, 0))
        at = np.array(rows, np.int64)
        if len(self._numbers):
            numbers = np.frombuffer(self._numbers, np.int64).reshape(-1, _N_NUMBERS)
            found[at >= 0] = numbers[at[at >= 0]]
        members = np.empty(len(rows), MEMBER)
        members["archive"] = archive
        for column, field in enumerate(("how", "at", "stored", "size", "crc")):
            members[field] = found[:, column]
        return members


class Opened(ABC):
    """An archive that is open; one class for each format."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        """Read nothing yet.

        Args:
            fd: descriptor of the file, which stays open; only to be read from at offsets.
            size: of the file, in bytes.
            path: of the file; of the packed one, where this is what has been unpacked.
            inner: what of it is meant, where the user has said so: a column, an array.
        """
        self._fd = fd
        self._size = size
        self._path = path
        self._inner = inner

    @abstractmethod
    def table(self, beat: Callable[[], None]) -> Table:
        """Return what is in it; `beat` is called now and then, and may raise.

        What is damaged ends the table, with a `problem`.
        """

    @abstractmethod
    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        """Return the first `limit` bytes of a member (None: all of them), and its size.

        Threads may call this at once.

        Raises:
            SampleError: it cannot be read, or is not what its checksum says.
            OSError: the system says why not.
        """


def read_all(fd: int, at: int, n_bytes: int) -> bytes:
    """Return bytes of an archive.

    Raises:
        SampleError: it ends before.
        OSError: the system refuses.
    """
    data = os.pread(fd, n_bytes, at)
    while len(data) < n_bytes:  # a network file system, or beyond the 2 GiB of one call
        more = os.pread(fd, n_bytes - len(data), at + len(data))
        if not more:
            raise SampleError("damaged", "the archive ends within it")
        data += more
    return data
