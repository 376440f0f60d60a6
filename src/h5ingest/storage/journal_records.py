"""The records of a journal: 32 bytes each, with a checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.moments import ByKind, Kind, Moments

BODY: Final = struct.Struct("<IIQQI")
RECORD: Final = np.dtype(
    [("kind", "<u4"), ("small", "<u4"), ("first", "<u8"), ("second", "<u8"), ("last", "<u4"),
     ("crc", "<u4")]
)  # fmt: skip
BLOCK: Final = 4096
"""Records that are looked at together."""
IMAGES: Final = 2**32 - 4
"""In place of a dataset's position: all images of a tree, and a hash for an offset."""
_SUMS: Final = 2**32 - 6
_RUN: Final = 2**32 - 5
_UNDONE: Final = 2**32 - 3
_BEGINS: Final = 2**32 - 2
_DONE: Final = 2**32 - 1
"""In place of a dataset's position: kinds of records."""


BEGINS_INSIDE: Final = 1
"""Of a span that is done: the image in which it begins was decoded once more for it."""
ENDS_INSIDE: Final = 2
"""Of a span that is done: another run, or rank, decodes the image in which it ends once more."""


class Run(NamedTuple):
    """A run begins."""

    time_ns: int
    """Nanoseconds since 1970, before it read any image."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_RUN, 0, self.time_ns, 0, 0)


class Placement(NamedTuple):
    """Where one chunk lies."""

    dataset: int
    """Position of the dataset in `Layout.datasets`; images of a tree follow those."""
    chunk: int
    """Position of the chunk on axis 0, in chunks."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int
    """Bytes in the file."""
    filter_mask: int
    """Bit k set: filter k of the pipeline declined this chunk."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(self.dataset, self.filter_mask, self.chunk, self.offset, self.n_bytes)


class Begins(NamedTuple):
    """Where an unfiltered dataset lies."""

    dataset: int
    """As in `Placement`; `IMAGES`: all of a tree."""
    offset: int
    """Bytes from the start of the file; a hash of them."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_BEGINS, self.dataset, 0, self.offset, 0)


class Sums(NamedTuple):
    """Sums of pixels of one kind: of one channel; or how many pixels there are."""

    group: int
    """Position of the group in `Layout.groups`."""
    what: int
    """Channels, bytes of a value, and which channel: from 0; that number of channels: counts.
    0: the sums of what follows are known, be there any or not."""
    first: int
    """Sum; number of images."""
    second: int
    """Sum of squares; number of pixels in a channel."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_SUMS, self.group, self.first, self.second, self.what)


class Done(NamedTuple):
    """What is on the disk."""

    group: int
    """Position of the group in `Layout.groups`."""
    start: int
    """First position on axis 0 of the group's `pixels`."""
    stop: int
    """Behind the last."""
    joints: int = 0
    """`BEGINS_INSIDE` an image, `ENDS_INSIDE` one, both, or 0."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_DONE, self.group, self.start, self.stop, self.joints)


class Undone(NamedTuple):
    """What is to be made again."""

    group: int
    """Position of the group in `Layout.groups`."""
    start: int
    """First position on axis 0 of the group's `pixels`; whole chunks."""
    stop: int
    """Behind the last."""

    def pack(self) -> bytes:
        """Return the record."""
        return _pack(_UNDONE, self.group, self.start, self.stop, 0)


Record = Run | Placement | Begins | Sums | Done | Undone


def _pack(kind: int, small: int, first: int, second: int, last: int) -> bytes:
    body = BODY.pack(kind, small, first, second, last)
    return body + zlib.crc32(body).to_bytes(4, "little")


class Records(Sequence[Record]):
    """What a journal says: 32 bytes a record, each made an object only when it is looked at."""

    def __init__(self, packed: NDArray[np.void]) -> None:
        """Take (n,) packed records."""
        self._packed = packed

    @classmethod
    def none(cls) -> Records:
        """Return those of a new journal."""
        return cls(np.zeros(0, RECORD))

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._packed[index])
        return _unpack(*self._packed[index].item())

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), BLOCK):
            yield from starmap(_unpack, self._packed[start : start + BLOCK].tolist())

    def spans(self) -> Records:
        """Return those that say what is done, and undone, by which run, and the sums of it."""
        return Records(self._packed[np.isin(self._packed["kind"], (_RUN, _SUMS, _DONE, _UNDONE))])

    def joints(self) -> list[tuple[int, int]]:
        """Return (group, element) where parts of an image meet that were decoded each for itself.

        Of a span that is done: with what lies before it, and behind it.
        """
        done = self._packed[self._packed["kind"] == _DONE]
        found: list[tuple[int, int]] = []
        for which, at in ((BEGINS_INSIDE, "first"), (ENDS_INSIDE, "second")):
            some = done[(done["last"] & which) != 0]
            found += zip(some["small"].tolist(), some[at].tolist(), strict=True)
        return found


def _unpack(kind: int, small: int, first: int, second: int, last: int, crc: int) -> Record:
    if kind == _DONE:
        return Done(small, first, second, last)
    if kind == _UNDONE:
        return Undone(small, first, second)
    if kind == _SUMS:
        return Sums(small, last, first, second)
    if kind == _BEGINS:
        return Begins(small, second)
    if kind == _RUN:
        return Run(first)
    return Placement(kind, first, second, last, small)


def pack(records: Iterable[Record]) -> bytes:
    """Return the records, 32 bytes each."""
    return b"".join(record.pack() for record in records)


def sums_of(group: int, sums: ByKind | None) -> list[Sums]:
    """Return the records of sums; they are to be noted right before what they belong to.

    Args:
        group: position of the group.
        sums: of its pixels; None, not known: no record.
    """
    if sums is None:
        return []
    found = [Sums(group, 0, 0, 0)]
    for kind, moments in sums.items():
        what = kind.channels << 8 | np.dtype(kind.dtype).itemsize << 4
        found.append(Sums(group, what | kind.channels, moments.n_images, moments.n_pixels))
        found += [
            Sums(group, what | channel, *sums_of_one)
            for channel, sums_of_one in enumerate(zip(moments.sums, moments.squares, strict=True))
        ]
    return found


def moments_of(sums: Iterable[Sums]) -> ByKind | None:
    """Return what `sums_of` was given.

    >>> one = {Kind(1, "uint8"): Moments(n_images=1, n_pixels=4, sums=(6,), squares=(14,))}
    >>> moments_of(sums_of(0, one)) == one
    True
    >>> moments_of([]) is moments_of(sums_of(0, None)) is None
    True
    """
    known = False
    found: dict[int, dict[int, tuple[int, int]]] = {}
    for one in sums:
        known = True
        if one.what:
            found.setdefault(one.what >> 4, {})[one.what & 15] = one.first, one.second
    by_kind = {}
    for kind, values in found.items():
        channels, width = kind >> 4, kind & 15
        by_kind[Kind(channels, f"uint{8 * width}")] = Moments(
            n_images=values[channels][0],
            n_pixels=values[channels][1],
            sums=tuple(values[channel][0] for channel in range(channels)),
            squares=tuple(values[channel][1] for channel in range(channels)),
        )
    return by_kind if known else None
