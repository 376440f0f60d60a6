"""What a container is: a file with many samples in it, each a file's bytes or pixels.

A new kind is a class with `samples` and `read`; of a stack of pixels, one with `stack` and
`pixels`. Pixels are handed on as PNGs that are not compressed, so that all that is done with an
image file can be done with them, and what is stored is what a PNG of theirs would become.

May not: know ranks.
"""

from __future__ import annotations

import struct
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import MEMBER
from h5ingest.images.archive_table import Member, Opened, Table
from h5ingest.images.scan import Noted

PIXELS: Final = 1
"""`how` of a member that is no file."""
_COLOUR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}
"""Of PNG, by the number of channels."""
_BEAT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The samples in a container or archive, in order."""

    names: Sequence[bytes]
    """n names, as paths there; mostly different ones."""
    members: NDArray[np.void]
    """(n,) `MEMBER`, of archive 0."""
    columns: dict[str, list[bytes]] = field(default_factory=dict)
    """`label` and others, with n cells each; an empty cell: it is not known."""
    paths: Sequence[bytes] = ()
    """What samples are called in their data set, where that is known: n, or none; each may be
    empty."""
    problem: str = ""
    """Why there may be more; empty: there is not."""
    noted: Noted = field(default_factory=dict)
    """What the user should know, by reason."""


class Container(Opened):
    """Samples are known by their numbers; names are made where there are none."""

    @abstractmethod
    def samples(self, beat: Callable[[], None]) -> Listing:
        """Return what is in it; `beat` is called now and then, and may raise.

        Raises:
            SampleError: it cannot be read at all, or is something else.
            OSError: the system refuses.
            SetupError: a package is not installed.
        """

    def table(self, beat: Callable[[], None]) -> Table:
        listing, table = self.samples(beat), Table()
        for name, member in zip(listing.names, listing.members.tolist(), strict=True):
            table.add(name, *member[1:])
        table.problem = listing.problem
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What is known of a stack of images."""

    shape: tuple[int, ...]
    """(n, H, W), (n, H, W, C) with C from 1 to 4, or (n, C, H, W) with C 1, 3 or 4."""
    dtype: np.dtype[Any]
    """uint8 or uint16."""
    columns: dict[str, list[bytes]] = field(default_factory=dict)
    """See `Listing`."""
    problem: str = ""
    """See `Listing`."""

    def check(self) -> None:
        """Raise if these are no images.

        Raises:
            SampleError: that is so.
        """
        if self.dtype.kind != "u" or self.dtype.itemsize > 2:
            raise SampleError(
                "unsupported",
                f"expected pixels of type uint8 or uint16, found {self.dtype}: nothing is "
                f"converted on the way",
            )
        if not is_stack(self.shape):
            raise SampleError(
                "unsupported",
                f"expected a stack of images, (n, H, W) or (n, H, W, 1 to 4), found {self.shape}",
            )


def is_stack(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape may be a stack of images.

    >>> is_stack((10, 28, 28)), is_stack((10, 3, 32, 32)), is_stack((10, 28, 28, 9))
    (True, True, False)
    """
    if not all(shape[1:]):
        return False
    return len(shape) == 3 or (len(shape) == 4 and (shape[3] <= 4 or shape[1] in (1, 3, 4)))


class StackContainer(Container):
    """A container of pixels."""

    @abstractmethod
    def stack(self) -> Stack:
        """Return what is in it. See `samples` for what it raises."""

    @abstractmethod
    def pixels(self, k: int) -> NDArray[Any]:
        """Return the k-th image, (H, W), (H, W, C) or (C, H, W). Threads may call this at once.

        Raises:
            SampleError, OSError: it cannot be read.
        """

    def samples(self, beat: Callable[[], None]) -> Listing:
        beat()
        stack = self.stack()
        stack.check()
        n, width = stack.shape[0], max(5, len(str(stack.shape[0] - 1)))
        members = np.zeros(n, MEMBER)
        members["at"], members["how"] = np.arange(n), PIXELS
        names = [b"%0*d.png" % (width, k) for k in range(n)]
        return Listing(names=names, members=members, columns=stack.columns, problem=stack.problem)

    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        data = as_png(self.pixels(member.at))
        return data[:limit], len(data)


def as_png(pixels: NDArray[Any]) -> bytes:
    """Return a PNG, not compressed, of (H, W), (H, W, C) or (C, H, W) uint8 or uint16."""
    if pixels.ndim == 3 and pixels.shape[2] > 4:
        pixels = np.moveaxis(pixels, 0, 2)
    height, width, channels = (*pixels.shape, 1)[:3]
    itemsize = pixels.dtype.itemsize
    rows = np.zeros((height, 1 + width * channels * itemsize), np.uint8)  # 0: no PNG filter
    big = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">"))
    rows[:, 1:] = big.reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 8 * itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.data, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def text_of(value: Any) -> bytes:
    """Return a value as the cell of a column.

    >>> text_of(3), text_of(True), text_of(0.5), text_of(None)
    (b'3', b'1', b'0.5', b'')
    """
    if value is None or value != value:  # NaN
        return b""
    if isinstance(value, bool | np.bool_):
        return b"%d" % value
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    return str(value).encode("utf-8", "surrogateescape")


def cells_of(values: NDArray[Any]) -> list[bytes]:
    """Return (n,) values as the cells of a column."""
    return [text_of(value) for value in values.tolist()]
