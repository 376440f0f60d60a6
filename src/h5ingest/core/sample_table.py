"""`Samples`: what a rank holds of the samples that it works on, in a few arrays.

May not: know a communicator, a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.packed_strings import PackedStrings

_BLOCK: Final = 4096
PACKED_TARS: Final = (
    b".tar.gz", b".tgz", b".tar.zst", b".tzst", b".tar.bz2", b".tar.xz",
)  # fmt: skip
ARCHIVES: Final = (b".tar", b".zip", *PACKED_TARS)
"""What the names of archives end in, in any case."""
CONTAINERS: Final = (
    b".parquet", b".lmdb", b".npy", b".npz", b"idx3-ubyte", b"idx3-ubyte.gz",
)  # fmt: skip
"""What the names of other files end in that have many images in them."""
WITHIN: Final = re.compile(
    rb"(?:%s)/" % b"|".join(map(re.escape, ARCHIVES + CONTAINERS)), re.IGNORECASE
)
"""Matches in the path of a file in an archive, and in few others."""
_IN_PATHS: Final = tuple(end + b"/" for end in ARCHIVES + CONTAINERS)
_MOST_ENDING: Final = max(map(len, _IN_PATHS))
_TEXT_BYTES: Final = 1024**2

PLACE: Final = np.dtype([("spool", "<i4"), ("at", "<i8"), ("checksum", "<u8")])
"""Where the recoded bytes of an image lie until they are stored: the number of the spool, the first
byte in it, and xxh3-64 of the bytes."""
NOWHERE: Final = np.array((-1, 0, 0), PLACE)
"""Of an image that is not recoded."""


def no_places() -> NDArray[np.void]:
    """Return (0,) `PLACE`, where no image is recoded."""
    return np.zeros(0, PLACE)


MEMBER: Final = np.dtype(
    [("archive", "<i4"), ("how", "u1"), ("at", "<i8"), ("stored", "<i8"), ("size", "<i8"),
     ("crc", "<u4")]
)  # fmt: skip
"""Where the file of a sample lies: the number of the archive, -1 if it lies in none; in which form;
the first byte; bytes there, and as a file; CRC-32 of the file, where the archive has it."""

IN_NONE: Final = np.array((-1, 0, 0, 0, 0, 0), MEMBER)
"""Of a file that lies in no archive."""

Within = tuple[bytes, tuple[int, int, int, int, int, int]]
"""The path of a file, and its `MEMBER`: what is read for a sample where there are archives."""


def may_be_within(text: bytes) -> bool:
    """Return whether one of these paths, one after the other, may be that of a file in an archive.

    >>> may_be_within(b"a.png" b"train.tar/a.png"), may_be_within(b"a.tar.png")
    (True, False)
    """
    for start in range(0, len(text), _TEXT_BYTES):  # one expression for all takes 4 µs a path
        part = text[start : start + _TEXT_BYTES + _MOST_ENDING].lower()
        if any(end in part for end in _IN_PATHS):
            return True
    return False


def without_ending(name: bytes) -> bytes:
    """Return the name of an archive as that of a folder.

    >>> without_ending(b"photos.tar.gz"), without_ending(b"photos.d")
    (b'photos', b'photos.d')
    """
    ends = [end for end in ARCHIVES + CONTAINERS if name.lower().endswith(end)]
    return name[: -len(max(ends, key=len))] if ends else name


def no_members() -> NDArray[np.void]:
    """Return (0,) `MEMBER`, where there are no archives."""
    return np.zeros(0, MEMBER)


def files_of(paths: PackedStrings, members: NDArray[np.void]) -> Iterable[bytes | Within]:
    """Return what is read for samples: (n,) paths, or, if there are (n,) `MEMBER`, with those."""
    if not len(members):
        return paths
    blocks = (members[k : k + _BLOCK].tolist() for k in range(0, len(members), _BLOCK))
    return zip(paths, chain.from_iterable(blocks), strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Consecutive rows of one group."""

    group: int
    """Position of the group in the layout."""
    rows: range
    """Rows within the group."""
    indices: NDArray[np.int64]
    """(n,) global index of each image: that of its sample, its data line in the manifest, but where
    a sample has several: see `n_each`."""
    paths: PackedStrings
    """(n,) as in the manifest."""
    shapes: NDArray[np.int32]
    """(n, 4) height, width, channels, bytes of a value, as stored; zeros for what cannot be read.
    (0, 4) in a stack, where all are the same."""
    starts: NDArray[np.int64]
    """(n,) where each begins in its group's `pixels`, in elements; (0,) in a stack."""
    lengths: NDArray[np.int64]
    """(n,) elements of each; (0,) in a stack."""
    folders: PackedStrings
    """(n,) name of the HDF5 group that an image belongs in; empty but in a tree."""
    names: PackedStrings = PackedStrings.pack([])  # noqa: RUF009 - immutable
    """(n,) HDF5 path of the image's dataset, where it is given; else empty."""
    places: NDArray[np.void] = field(default_factory=no_places)
    """(n,) `PLACE`; (0,) without `--recode`."""
    members: NDArray[np.void] = field(default_factory=no_members)
    """(n,) `MEMBER`; (0,) if no sample's file lies in an archive."""
    n_each: int = 1
    """Images of a sample, whose indices follow each other: i * n_each, i * n_each + 1 ..."""

    def sample(self, k: int) -> int:
        """Return the global index of the sample of an image, by its position in these arrays."""
        return int(self.indices[k]) // self.n_each

    def image_shape(self, k: int) -> tuple[int, ...]:
        """Return (H, W) or (H, W, C) of an image as stored, by its position in these arrays."""
        height, width, channels = self.shapes[k, :3].tolist()
        return (height, width) if channels <= 1 else (height, width, channels)

    def image_dtype(self, k: int) -> str:
        """Return the dtype of an image as stored, by its position in these arrays."""
        return "uint16" if self.shapes[k, 3] == 2 else "uint8"

    def slice(self, rows: range) -> Samples:
        """Return some of the rows: those of a subinterval."""
        local = range(rows.start - self.rows.start, rows.stop - self.rows.start)
        cut = slice(local.start, local.stop)
        return Samples(
            group=self.group,
            rows=rows,
            indices=self.indices[cut],
            paths=self.paths.slice(local),
            shapes=self.shapes[cut],
            starts=self.starts[cut],
            lengths=self.lengths[cut],
            folders=self.folders.slice(local) if len(self.folders) else self.folders,
            names=self.names.slice(local) if len(self.names) else self.names,
            places=self.places[cut],
            members=self.members[cut],
            n_each=self.n_each,
        )

    def fingerprint(self) -> int:
        """Return a number, to be summed modulo 2**64, that says which sample lies where.

        The sum does not depend on how samples are divided among ranks.
        """
        starts = self.starts if len(self.starts) else np.arange(self.rows.start, self.rows.stop)
        with np.errstate(over="ignore"):
            mixed = self.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            for values in (starts, *(self.shapes.T if len(self.shapes) else ())):
                mixed ^= values.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
                mixed ^= mixed >> np.uint64(31)
                mixed *= np.uint64(0x94D049BB133111EB)
            return int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))

    @classmethod
    def concatenate(cls, parts: Sequence[Samples]) -> Samples:
        """Return all rows of parts that follow each other; at least one part."""
        for one, next_ in pairwise(parts):
            if one.group != next_.group or one.rows.stop != next_.rows.start:
                raise ValueError(f"expected parts in order, got {one.rows} and {next_.rows}")
        return cls(
            group=parts[0].group,
            rows=range(parts[0].rows.start, parts[-1].rows.stop),
            indices=np.concatenate([part.indices for part in parts]),
            paths=PackedStrings.concatenate(part.paths for part in parts),
            shapes=np.concatenate([part.shapes for part in parts]),
            starts=np.concatenate([part.starts for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            folders=PackedStrings.concatenate(part.folders for part in parts),
            names=PackedStrings.concatenate(part.names for part in parts),
            places=np.concatenate([part.places for part in parts]),
            members=np.concatenate([part.members for part in parts]),
            n_each=parts[0].n_each,
        )
