"""LMDB: values by their keys, in a tree of pages that is read here as a file.

The library maps the file into memory, where a damaged page ends the process, and it writes a lock
file beside it. What is needed is little: to go through the tree once. After that a value is bytes
at an offset, like the member of a tar. The format is that of LMDB 0.9 (`mdb.c`), data version 1.

A value is an image file, or a pickle as of the notebooks that compare ways to store images: of an
array, or of an object with the bytes of pixels, their size and a label. Keys are names; those that
are no text are in hexadecimal.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import MEMBER
from h5ingest.core.signatures import format_of
from h5ingest.images.archive_table import Member, read_all
from h5ingest.images.containers.container import (
    PIXELS,
    Container,
    Listing,
    Stack,
    as_png,
    is_stack,
    text_of,
)
from h5ingest.images.scan import HEAD_BYTES, Noted, note

_META: Final = struct.Struct("<IIQQIHHQQQQQIHHQQQQQQQ")
"""Behind a page's header: magic, version, address, size of the map; twice (page size, flags, depth,
branch, leaf and overflow pages, entries, root); last page, transaction."""
_MAGIC: Final = 0xBEEFC0DE
_PAGE: Final = struct.Struct("<QHHHH")
"""Number, unused, flags, end of the pointers, begin of the nodes."""
_NODE: Final = struct.Struct("<HHHH")
"""Low and high half of a size, flags, bytes of the key."""
_BRANCH, _LEAF = 1, 2
_BIG, _SUB, _DUP = 1, 2, 4
"""Flags of a node: its value lies in pages of its own; is a database; is several values."""
_NONE: Final = 2**64 - 1
_PICKLE: Final = b"\x80"
_FILE: Final = 0
_BEAT: Final = 256
_MOST_DEPTH: Final = 32


class _Damaged(Exception):
    pass


class Lmdb(Container):
    """The main database of an LMDB file."""

    def samples(self, beat: Callable[[], None]) -> Listing:
        names, members, labels = list[bytes](), list[tuple[int, ...]](), list[bytes]()
        noted: Noted = {}
        problem = ""
        try:
            for number, (key, at, size) in enumerate(self._values()):
                if number % _BEAT == 0:
                    beat()
                name = key if key.isascii() and key.decode().isprintable() else key.hex().encode()
                if at + size > self._size:
                    raise _Damaged(f"a value ends at byte {at + size:,}")
                head = os.pread(self._fd, min(size, HEAD_BYTES), at)
                label = b""
                if head[:1] == _PICKLE:
                    try:
                        label = _unpickled(read_all(self._fd, at, size))[1]
                    except SampleError as error:
                        note(noted, f"value that is no image ({error.reason})", name)
                        continue
                elif format_of(head) is None:
                    note(noted, "value that is no image", name)
                    continue
                names.append(name)
                labels.append(label)
                members.append((0, PIXELS if head[:1] == _PICKLE else _FILE, at, size, size, 0))
        except _Damaged as error:
            problem = f"is damaged or cut off: {error}"
        columns = {"label": labels} if any(labels) else {}
        return Listing(
            names=names,
            members=np.array(members, MEMBER),
            columns=columns,
            problem=problem,
            noted=noted,
        )

    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        if member.how == PIXELS:
            data = as_png(_unpickled(read_all(self._fd, member.at, member.size))[0])
            return data[:limit], len(data)
        wanted = member.size if limit is None else min(limit, member.size)
        return read_all(self._fd, member.at, wanted), member.size

    def _values(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield key, first byte and bytes of each value, in the order of the keys."""
        page_bytes, root = self._newest()
        if root == _NONE:
            return
        n_pages, seen = self._size // page_bytes, 0
        stack = [(root, 0)]
        while stack:
            number, depth = stack.pop()
            seen += 1
            if seen > n_pages or number >= n_pages or depth > _MOST_DEPTH:
                raise _Damaged(f"page {number:,} of {n_pages:,}")
            start = number * page_bytes
            page = os.pread(self._fd, page_bytes, start)
            found, _, flags, lower, _ = _PAGE.unpack_from(page)
            if found != number or not 16 <= lower <= page_bytes:
                raise _Damaged(f"page {number:,} is something else")
            places = struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16)
            if flags & _BRANCH:
                below = [_below(page, at) for at in places]
                stack.extend((each, depth + 1) for each in reversed(below))
            elif flags & _LEAF:
                for at in places:
                    yield self._value(page, at, start, page_bytes)
            else:
                raise _Damaged(f"page {number:,} is something else")

    def _value(self, page: bytes, at: int, start: int, page_bytes: int) -> tuple[bytes, int, int]:
        low, high, flags, n_key = _node(page, at)
        size, first = low | high << 16, at + _NODE.size + n_key
        key = page[at + _NODE.size : first]
        if flags & (_SUB | _DUP):
            raise SampleError("unsupported", "expected one database of keys and values, found more")
        if not flags & _BIG:
            if first + size > page_bytes:
                raise _Damaged(f"a value in the page at byte {start:,}")
            return key, start + first, size
        if first + 8 > page_bytes:
            raise _Damaged(f"a value in the page at byte {start:,}")
        return key, int.from_bytes(page[first : first + 8], "little") * page_bytes + 16, size

    def _newest(self) -> tuple[int, int]:
        """Return bytes of a page, and the root of the newest whole transaction."""
        first = self._meta(0)
        if first is None:
            raise SampleError(
                "unsupported", "expected a file of LMDB 0.9, of a machine with 64 bits"
            )
        page_bytes = first[4]
        if page_bytes < 256 or page_bytes > 65536 or page_bytes & (page_bytes - 1):
            raise SampleError("damaged", "the LMDB file has pages of no size")
        metas = [meta for meta in (first, self._meta(page_bytes)) if meta is not None]
        newest = max(metas, key=lambda meta: int(meta[-1]))
        return page_bytes, newest[19]

    def _meta(self, at: int) -> tuple[Any, ...] | None:
        data = os.pread(self._fd, _META.size, at + 16)
        if len(data) < _META.size:
            return None
        found = _META.unpack(data)
        return found if found[:2] == (_MAGIC, 1) else None


def _node(page: bytes, at: int) -> tuple[int, int, int, int]:
    if at + _NODE.size > len(page) or at < 16:
        raise _Damaged("a node out of its page")
    found: tuple[int, int, int, int] = _NODE.unpack_from(page, at)
    return found


def _below(page: bytes, at: int) -> int:
    low, high, more, _ = _node(page, at)
    return low | high << 16 | more << 32


def _unpickled(data: bytes) -> tuple[NDArray[Any], bytes]:
    """Return the pixels in a pickle, and their label, which may be empty.

    Raises:
        SampleError: it is of something else.
    """
    from h5ingest.images.containers import safe_pickle

    try:
        found = safe_pickle.load(data)
        label = b""
        if isinstance(found, list | tuple) and len(found) == 2:  # (image, label)
            found, label = found[0], text_of(found[1])
        if isinstance(found, dict) and "image" in found:
            label = text_of(found.get("label"))
            pixels, size = found["image"], found.get("size", ())
            if isinstance(pixels, bytes | bytearray):
                shape = *size, *([found["channels"]] if found.get("channels", 1) != 1 else ())
                pixels = np.frombuffer(pixels, np.uint8).reshape(shape)
            found = pixels
    except (ValueError, TypeError, KeyError) as error:
        raise SampleError("unsupported", str(error)) from None
    if not isinstance(found, np.ndarray) or not is_stack((1, *found.shape)):
        raise SampleError("unsupported", "a pickle that is not of one image")
    Stack(shape=(1, *found.shape), dtype=found.dtype).check()
    return found, label
