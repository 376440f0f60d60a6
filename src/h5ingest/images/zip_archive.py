"""zip: members lie in it stored or deflated; what is where stands at its end, read by `zipfile`."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Final

from h5ingest.core.errors import SampleError, one_line
from h5ingest.images.archive_table import (
    CUT,
    ENCRYPTED,
    METHOD,
    NO_FILE,
    Member,
    Opened,
    Table,
    read_all,
)

MOST_INFLATED: Final = 2**30
"""Bytes of a deflated member, at most. One that inflates to more than it says is damaged anyway."""

_STORED: Final = zipfile.ZIP_STORED
_DEFLATED: Final = zipfile.ZIP_DEFLATED
_ENCRYPTED: Final = 0x2041
"""Flags: encrypted, strongly, or with a hidden table."""
_SIZES_FOLLOW: Final = 0x08
_UTF_8: Final = 0x800
_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
"""Before each member: signature, version, flags, method, time, date, CRC-32, sizes, and the lengths
of the name and of the extra field."""
_SIGNATURE: Final = b"PK\x03\x04"
_NAMES_BYTES: Final = 194
"""Read with the header: name and extra field are mostly no longer."""
_BEAT_MEMBERS: Final = 1024
_PIECE: Final = 64 * 1024
_ZIP64: Final = 0xFFFFFFFF
_DAMAGED: Final = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, MemoryError)


class ZipArchive(Opened):
    """A zip file, by its table; by the headers of its members if that is damaged."""

    def table(self, beat: Callable[[], None]) -> Table:
        found = Table()
        file = open(os.dup(self._fd), "rb")  # noqa: SIM115 - closed by the next
        try:
            with file, zipfile.ZipFile(file) as archive:
                for number, info in enumerate(archive.infolist()):
                    if number % _BEAT_MEMBERS == 0:
                        beat()
                    name = info.filename.encode("utf-8", "surrogateescape")
                    if info.is_dir():
                        found.add(name.rstrip(b"/"), NO_FILE)
                        continue
                    self._add(
                        found, name, info.flag_bits, info.compress_type, info.header_offset,
                        info.compress_size, info.file_size, info.CRC,
                    )  # fmt: skip
        except _DAMAGED as error:
            found = self._without_table(beat)
            found.problem = f"has no table that can be read, cut off maybe ({one_line(error)})"
        return found

    def _add(
        self, found: Table, name: bytes, flags: int, method: int, at: int, stored: int, size: int,
        crc: int,
    ) -> None:  # fmt: skip
        """Add a member that is a file."""
        how = method
        if flags & _ENCRYPTED:
            how = ENCRYPTED
        elif method not in (_STORED, _DEFLATED):
            how = METHOD
        elif at + _LOCAL.size + len(name) + stored > self._size:
            how = CUT
        found.add(name, how, at, stored, size, crc)

    def _without_table(self, beat: Callable[[], None]) -> Table:
        """Return what is found by going from member to member, as long as they say their sizes."""
        found, at = Table(), 0
        while at + _LOCAL.size <= self._size:
            if len(found.rows) % _BEAT_MEMBERS == 0:
                beat()
            head = read_all(self._fd, at, _LOCAL.size)
            signature, _, flags, method, _, _, crc, stored, size, n_name, n_extra = _LOCAL.unpack(
                head
            )
            start = at + _LOCAL.size
            if signature != _SIGNATURE or flags & _SIZES_FOLLOW or _ZIP64 in (stored, size):
                break
            if start + n_name > self._size:
                break
            raw = read_all(self._fd, start, n_name)
            name = raw if flags & _UTF_8 else raw.decode("cp437").encode()
            if name.endswith(b"/"):
                found.add(name.rstrip(b"/"), NO_FILE)
            else:
                self._add(found, name, flags, method, at, stored, size, crc)
            at = start + n_name + n_extra + stored
        return found

    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        whole = limit is None or limit >= member.size
        wanted = member.size if limit is None else min(limit, member.size)
        if member.how == _DEFLATED and member.size > MOST_INFLATED:
            raise SampleError(
                "too large",
                f"it says that it inflates to {member.size:,} bytes, at most {MOST_INFLATED:,} are "
                f"taken from a deflated member: store it without compression, or unpack it",
            )
        stored = member.stored if whole else min(member.stored, wanted + _PIECE)
        first = min(self._size - member.at, _LOCAL.size + _NAMES_BYTES + stored)
        data = read_all(self._fd, member.at, first)
        signature, *_, n_name, n_extra = _LOCAL.unpack_from(data)
        if signature != _SIGNATURE:
            raise SampleError("damaged", "expected its header in the archive, found something else")
        start = _LOCAL.size + n_name + n_extra
        data = data[start : start + stored]
        if len(data) < stored:
            at = member.at + start + len(data)
            data += read_all(self._fd, at, min(stored - len(data), max(0, self._size - at)))
        if len(data) < stored:
            raise SampleError("damaged", "the archive ends within it")
        if member.how == _DEFLATED:
            data = self._inflate(data, member, wanted, whole=whole)
        elif whole and len(data) != member.size:
            raise SampleError("damaged", f"expected {member.size:,} bytes, found {len(data):,}")
        if whole and zlib.crc32(data) != member.crc:
            raise SampleError("damaged", "its checksum in the archive is that of other bytes")
        return data[:wanted], member.size

    def _inflate(self, data: bytes, member: Member, wanted: int, *, whole: bool) -> bytes:
        """Return what comes out of the first bytes of a stream: all of it, or what is wanted."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            found = stream.decompress(data, max(1, wanted + whole))  # one more is one too many
        except zlib.error as error:
            raise SampleError("damaged", f"it cannot be inflated ({error})") from None
        if whole and (len(found) != member.size or not stream.eof):
            raise SampleError("damaged", f"expected {member.size:,} bytes, inflated {len(found):,}")
        return found
