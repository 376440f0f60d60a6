"""tar: members lie in it as they are, each behind its header.

Usual headers, of files with a short name, are taken apart here, which takes a tenth of the time;
many that are close to each other, at once (`tar_blocks`). Every other is left to `tarfile`.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np

from h5ingest.core.errors import one_line
from h5ingest.images.archive_table import (
    CUT,
    NO_FILE,
    SPARSE,
    Member,
    Opened,
    Table,
    plain_name,
    read_all,
)
from h5ingest.images.tar_blocks import BLOCK, Files, usual_files

_PLAIN: Final = 0
_AHEAD: Final = 256 * 1024
"""Bytes read at once where headers lie close to each other."""
_SMALL: Final = 32 * 1024
"""Bytes of a member, and between two that are read one after the other, for which that pays."""
_BEAT_MEMBERS: Final = 256
_MOST_HEADER: Final = 16 * 1024**2
"""Bytes of a name or other header, at most."""
_ADLER: Final = 65521
_DAMAGED: Final = (
    tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, LookupError,
)  # fmt: skip
_IRRELEVANT: Final = re.compile(rb"([1-9]\d{0,3}) (?:[acm]time|[ug]id|[ug]name)=[^\n]*\n").match
"""A record of a pax header that changes neither name nor bytes of a member."""
_MOST_LINKS: Final = 40
"""Links that are followed one after the other, as in the system."""


class TarArchive(Opened):
    """A tar file, gone through from header to header."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        self._end = -1  # of the member that was read last
        self._piece = 0, b""

    def table(self, beat: Callable[[], None]) -> Table:
        found, links = Table(), dict[bytes, bytes]()
        file = _Window(self._fd, self._size)
        offset, before, n_members = 0, -1, 0
        try:
            tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            while True:
                if n_members % _BEAT_MEMBERS == 0:
                    beat()
                if offset <= before:
                    raise ValueError("a size below zero")
                n_members, before = n_members + 1, offset
                is_usual = tar.pax_headers.keys() <= {"comment"}
                if is_usual and (files := file.usual_files(offset)) is not None:
                    beat()
                    self._add_many(files, found, links)
                    offset = files.end
                    continue
                header, at = file.at(offset), offset
                if header[156:157] == b"x" and _tells_nothing(header, file.at(offset + BLOCK)):
                    at += 2 * BLOCK
                simple = _simple(file.at(at), b"0\0") if is_usual else None
                if simple is not None:
                    name, size = simple
                    self._add(name, at + BLOCK, size, found, links)
                    offset = at + BLOCK + -(-size // BLOCK) * BLOCK
                    continue
                if len(header) == 0:
                    found.problem = "has no mark at its end: it may have been cut off"
                    if offset > self._size:
                        found.problem = "ends within a member: it has been cut off"
                    break
                if not header.strip(b"\0") and len(header) == BLOCK:
                    break
                file.seek(offset)
                info = tarfile.TarInfo.fromtarfile(tar)
                offset = tar.offset
                self._add_any(info, found, links)
        except _DAMAGED as error:
            why = "no tar archive" if not n_members else f"damaged at byte {offset:,}"
            found.problem = f"is {why} ({one_line(error)})"
        for name, target in links.items():
            for _ in range(_MOST_LINKS):
                if target not in links:
                    break
                target = links[target]
            found.link(name, target)
        return found

    def _add(
        self, name: bytes, start: int, size: int, found: Table, links: dict[bytes, bytes]
    ) -> None:
        """Add a file."""
        found.add(name, _PLAIN if start + size <= self._size else CUT, start, size, size)
        if links:
            links.pop(plain_name(name), None)

    def _add_many(self, files: Files, found: Table, links: dict[bytes, bytes]) -> None:
        """Add files."""
        is_whole = files.starts + files.sizes <= self._size
        found.extend(files.names, np.where(is_whole, _PLAIN, CUT), files.starts, files.sizes)
        for name in files.names if links else ():
            links.pop(plain_name(name), None)

    def _add_any(self, info: tarfile.TarInfo, found: Table, links: dict[bytes, bytes]) -> None:
        """Add a member that `tarfile` has read."""
        name = plain_name(info.name.encode("utf-8", "surrogateescape"))
        links.pop(name, None)
        if info.issparse():
            found.add(name, SPARSE)
        elif info.isreg():
            self._add(name, info.offset_data, info.size, found, links)
        elif info.islnk() or info.issym():
            target = info.linkname.encode("utf-8", "surrogateescape")
            if info.issym():  # relative to the folder of the link
                target = os.path.normpath(os.path.join(os.path.dirname(name), target))
            found.add(name, NO_FILE)
            links[name] = plain_name(target)
        else:
            found.add(name, NO_FILE)

    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        """Where small members are read in order, a piece of the archive has many."""
        wanted = member.size if limit is None else min(limit, member.size)
        start, piece = self._piece
        place = member.at - start
        if not 0 <= place <= len(piece) - wanted:
            if not (wanted <= _SMALL and 0 <= member.at - self._end < _SMALL):
                self._end = member.at + wanted
                return read_all(self._fd, member.at, wanted), member.size
            place, piece = 0, os.pread(self._fd, _AHEAD, member.at)
            self._piece = member.at, piece
            if len(piece) < wanted:
                piece = read_all(self._fd, member.at, wanted)
        self._end = member.at + wanted
        return piece[place : place + wanted], member.size


def _tells_nothing(header: bytes, records: bytes) -> bool:
    """Return whether a header before a member's own only says more exactly whose and when it was.

    Python's tarfile writes one for each file, for the fraction of a second of its time.
    """
    found = _simple(header, b"x")
    if found is None or not 0 < found[1] <= len(records):
        return False
    left = records[: found[1]]
    while (record := _IRRELEVANT(left)) and int(record[1]) == record.end():
        left = left[record.end() :]
    return not left


def _simple(header: bytes, kinds: bytes) -> tuple[bytes, int] | None:
    """Return name and size of a member of one of these kinds, if its header is a usual one."""
    if header[156:157] not in kinds or header[257:262] != b"ustar":
        return None
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    if prefix and header[262:265] != b"\x0000":  # GNU has something else there
        return None
    try:
        size = int(header[124:136].rstrip(b" \0"), 8)
        checksum = int(header[148:156].strip(b" \0"), 8)
    except ValueError:  # a size beyond 8 GiB, or damaged: tarfile knows
        return None
    # The sum of all bytes, with blanks in place of the sum itself. Adler-32 has it, modulo a prime.
    total = checksum - 8 * 32 + sum(header[148:156])
    if zlib.adler32(header) & 0xFFFF != (1 + total) % _ADLER or name[-1:] in (b"", b"/"):
        return None
    return (prefix + b"/" + name if prefix else name), size


class _Window(io.RawIOBase):
    """An archive as a file that is read: through offsets, and never beyond its end."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__()
        self._fd = fd
        self._size = size
        self._position = 0
        self._start, self._data = 0, b""

    def at(self, offset: int) -> bytes:
        """Return the block at an offset; less at the end."""
        place = offset - self._start
        if not 0 <= place <= len(self._data) - BLOCK:
            near = 0 <= place < 2 * _AHEAD
            self._start, self._data = offset, os.pread(self._fd, _AHEAD if near else BLOCK, offset)
            place = 0
        return self._data[place : place + BLOCK]

    def usual_files(self, offset: int) -> Files | None:
        """Return the usual files from a header on, in what has been read ahead."""
        self.at(offset)
        found = usual_files(self._data, offset - self._start)
        if found is None:
            return None
        start = self._start
        return found._replace(starts=found.starts + start, end=found.end + start)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if size > _MOST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        left = max(0, self._size - self._position)
        data = read_all(self._fd, self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset from the beginning."""
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the offset."""
        return self._position
