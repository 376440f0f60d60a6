"""What the file looks like: a function of the manifest, the image specs and the options.

The number of ranks is not an argument of anything here, which is why it cannot show in the file.

May not: know a rank, import h5py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from h5ingest.errors import UsageError
from h5ingest.options import MIB

SCHEMA: Final = "h5ingest stack 1"
"""The `schema` attribute of the file: layout name and version."""

STATUS_MISSING: Final = 0
STATUS_OK: Final = 1
STATUS_FAILED: Final = 2
STATUS_NAMES: Final = {"missing": STATUS_MISSING, "ok": STATUS_OK, "failed": STATUS_FAILED}
"""Members of the enum type of `/status`."""

_LARGE_IMAGE: Final = 64 * 1024
"""Bytes from which an image gets a chunk of its own."""
_CHUNK_LIMIT: Final = 2**32 - 1
"""Bytes in an HDF5 chunk (HDF5 specification, IV.A.2.i: dataset chunk sizes are 32 bits)."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ImageSpec:
    """The shape and type of one decoded image.

    >>> ImageSpec(height=28, width=28, channels=1, dtype="uint8").shape
    (28, 28)
    """

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int
    """1 gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
    dtype: str
    """`uint8` or `uint16`."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"expected a positive size, got {self.height}x{self.width}")
        if self.channels not in (1, 2, 3, 4) or self.dtype not in ("uint8", "uint16"):
            raise ValueError(
                f"expected 1-4 channels of uint8 or uint16, got {self.channels} of {self.dtype}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of one channel, else (H, W, C)."""
        size = (self.height, self.width)
        return size if self.channels == 1 else (*size, self.channels)

    @property
    def n_bytes(self) -> int:
        """Bytes of the decoded pixels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        colour = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}[self.channels]
        return f"{self.height}x{self.width} {colour} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter of an HDF5 pipeline."""

    id: int
    """As registered with the HDF Group."""
    options: tuple[int, ...]
    """Its `cd_values`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One dataset that exists, with its full size, before the first pixel is written."""

    name: str
    """Absolute HDF5 path."""
    shape: tuple[int, ...]
    """Extent; axis 0 counts samples."""
    dtype: str
    """NumPy name; little-endian in the file."""
    chunk_rows: int | None = None
    """Rows in a chunk (a chunk is whole in every other axis); None: contiguous."""
    enum: dict[str, int] | None = None
    """Members, where the type in the file is an enum."""
    filters: tuple[Filter, ...] = ()
    """Applied to each chunk, in order."""
    zeroed: bool = False
    """Whether rows nobody writes must read as zeros (else they hold what the disk gives)."""
    dims: tuple[str, ...] = ("sample",)
    """Dimension labels."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file: whole chunks, the last one included."""
        rows = self.shape[0]
        if self.chunk_rows:
            rows = -(-rows // self.chunk_rows) * self.chunk_rows
        return rows * self.row_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The datasets of a file of schema 1 that the ranks fill."""

    n_samples: int
    """Rows of every dataset."""
    image: ImageSpec
    """What each row of `images` holds."""
    images: DatasetSpec
    """(N, H, W) or (N, H, W, C), chunked."""
    status: DatasetSpec
    """(N,) enum."""
    checksums: DatasetSpec
    """(N,) uint64: xxh3-64 of the stored bytes of each image, row-major, little-endian."""

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """All of them, in the order in which they are created."""
        return self.images, self.status, self.checksums

    @property
    def stored_bytes(self) -> int:
        """Bytes that the file is going to have, apart from names, labels and metadata."""
        return sum(dataset.stored_bytes for dataset in self.datasets)


def default_chunk_rows(image: ImageSpec, n_samples: int, *, filtered: bool = False) -> int:
    """Return the images per chunk: one if it has 64 KiB or more, else about 1 MiB of them.

    Filtered chunks hold 512 KiB: a reader has to decode a whole one for any image in it, and
    smaller ones would make the chunk index, whose cost is per chunk, count.

    >>> default_chunk_rows(ImageSpec(height=28, width=28, channels=1, dtype="uint8"), 60_000)
    1337
    >>> default_chunk_rows(ImageSpec(height=512, width=768, channels=3, dtype="uint8"), 24)
    1
    """
    if image.n_bytes >= _LARGE_IMAGE:
        return 1
    wanted = MIB // 2 if filtered else MIB
    return min(wanted // image.n_bytes, n_samples)


def stack(
    n_samples: int,
    image: ImageSpec,
    *,
    chunk_rows: int | None = None,
    filters: tuple[Filter, ...] = (),
) -> Layout:
    """Return the layout of `n_samples` images that all have the same spec.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    default = default_chunk_rows(image, n_samples, filtered=bool(filters))
    rows = min(chunk_rows or default, n_samples)
    if image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(f"an image of {image} is larger than an HDF5 chunk may be (4 GiB)")
    if rows * image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(
            f"--chunk: expected at most {_CHUNK_LIMIT // image.n_bytes} images of {image} in a "
            f"chunk (HDF5 allows 4 GiB), got {rows}"
        )
    dims = ("sample", "y", "x", "channel")
    return Layout(
        n_samples=n_samples,
        image=image,
        images=DatasetSpec(
            name="/images", shape=(n_samples, *image.shape), dtype=image.dtype,
            chunk_rows=rows, filters=filters,
            dims=dims[: 1 + len(image.shape)],
        ),
        status=DatasetSpec(
            name="/status", shape=(n_samples,), dtype="uint8", enum=STATUS_NAMES, zeroed=True
        ),
        checksums=DatasetSpec(
            name="/checksums", shape=(n_samples,), dtype="uint64", zeroed=True
        ),
    )  # fmt: skip
