"""Members of archives, written one after the other: tar, zip and LMDB, the same bytes every time.

Times are those of SOURCE_DATE_EPOCH, or the earliest that the format knows; owners are nobody.
May not: know what the members are.
"""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO, Final, Protocol

Cells = Sequence[Any]
"""Of one row, its values in the columns beside its images."""
Member = tuple[bytes, bytes]
"""Name and content."""

_MODE: Final = 0o644
_FIRST_YEAR: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time of a zip file."""
_ON_UNIX: Final = 3
"""`create_system` of a zip file whose members have modes."""


class Archive(Protocol):
    """An archive that is being written."""

    def add(self, row: Sequence[Member], cells: Cells = ()) -> None:
        """Add the images of a row, with what a table has of it.

        Others have a manifest, which comes last.
        """

    def close(self) -> None:
        """End the archive."""

    def give_up(self) -> None:
        """Write nothing more, whatever becomes of this object."""


class Tar:
    """A tar file; names are written as they are, long ones as GNU tar does."""

    def __init__(self, file: BinaryIO, time_s: int, comment: str = "") -> None:
        """Begin.

        Args:
            file: to write to.
            time_s: of all members, in seconds since 1970.
            comment: which programs that know tar skip; empty: none.
        """
        self._file, self._time_s, self._n_bytes = file, time_s, 0
        if comment:
            self._write(tarfile.TarInfo.create_pax_global_header({"comment": comment}))

    def add(self, row: Sequence[Member], cells: Cells = ()) -> None:
        for name, data in row:
            member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            member.size, member.mtime, member.mode = len(data), self._time_s, _MODE
            self._write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            self._write(data)

    def close(self) -> None:
        end = bytes(2 * tarfile.BLOCKSIZE)
        self._file.write(end + bytes(-(self._n_bytes + len(end)) % tarfile.RECORDSIZE))

    def give_up(self) -> None:
        """Do nothing: what ends the file is written by `close` alone."""

    def _write(self, data: bytes) -> None:
        """Write data and what fills its last block."""
        fill = bytes(-len(data) % tarfile.BLOCKSIZE)
        self._file.write(data)
        self._file.write(fill)
        self._n_bytes += len(data) + len(fill)


class Zip:
    """A zip file; members are stored: what is in them is compressed already. Names are UTF-8."""

    def __init__(self, file: BinaryIO, time_s: int) -> None:
        """Begin; see `Tar`."""
        self._date = max(_FIRST_YEAR, time.gmtime(time_s)[:6])
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

    def add(self, row: Sequence[Member], cells: Cells = ()) -> None:
        for name, data in row:
            member = zipfile.ZipInfo(name.decode(), self._date)
            member.create_system, member.external_attr = _ON_UNIX, (0o100000 | _MODE) << 16
            self._zip.writestr(member, data)

    def close(self) -> None:
        self._zip.close()

    def give_up(self) -> None:
        self._zip.fp = None  # else it would be ended when this object goes


def utf8(name: bytes) -> bytes:
    r"""Return a name as zip files can have it: other bytes than UTF-8, and `\`, are spelled out.

    >>> utf8(b"caf\xe9/a.png"), utf8("café".encode()).decode()
    (b'caf%E9/a.png', 'café')
    """
    text = name.replace(b"\\", b"%5C").decode("utf-8", "surrogateescape")
    spelled = (f"%{os.fsencode(c)[0]:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)
    return "".join(spelled).encode()
