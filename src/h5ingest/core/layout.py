"""What the file looks like: a function of the manifest, the image specs and the options.

The number of ranks is not an argument of anything here, so it cannot show in the file.

What differs between stack, ragged, tree and encoded is in `layout_kinds`. May not: know a rank,
import h5py.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from h5ingest.core import schema
from h5ingest.core.geometry import Scale
from h5ingest.core.image_columns import FIRST


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
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize

    @property
    def colour(self) -> str:
        """Channels and depth in words."""
        names = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
        return f"{names[self.channels]} {self.dtype}"

    @classmethod
    @functools.lru_cache(maxsize=1024)  # asking NumPy for a dtype's name takes some µs
    def of(cls, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ImageSpec:
        """Return the spec of pixels of this shape, (H, W) or (H, W, C).

        >>> print(ImageSpec.of((512, 768, 3), np.dtype("uint8")))
        512x768 RGB uint8
        """
        height, width, channels = (*shape, 1)[:3]
        return cls(height=height, width=width, channels=channels, dtype=dtype.name)

    def __str__(self) -> str:
        return f"{self.height}x{self.width} {self.colour}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """What the images of a group become: an image spec with gaps."""

    channels: int | None
    """Channels; None: each image keeps its own."""
    dtype: str | None
    """`uint8` or `uint16`; None: each image keeps its own."""
    size: tuple[int, int] | None
    """(height, width); None: each image keeps its own, or what `scale` makes of it."""
    scale: Scale = Scale()  # noqa: RUF009 - immutable
    """How each image is scaled first."""

    @property
    def n_bytes(self) -> int:
        """Bytes of a value; 0 where each image keeps its own."""
        return np.dtype(self.dtype).itemsize if self.dtype else 0

    @property
    def image(self) -> ImageSpec:
        """The one spec of a stack's images."""
        if self.channels is None or self.dtype is None or self.size is None:
            raise ValueError("only the images of a stack have one spec")
        return ImageSpec(
            height=self.size[0], width=self.size[1], channels=self.channels, dtype=self.dtype
        )

    def apply(self, spec: ImageSpec) -> ImageSpec:
        """Return what an image of this spec becomes."""
        height, width = self.size or self.scale.of((spec.height, spec.width))
        return ImageSpec(
            height=height,
            width=width,
            channels=self.channels or spec.channels,
            dtype=self.dtype or spec.dtype,
        )


HTJ2K: Final = 32033
"""Number of the filter that holds a codestream of High-Throughput JPEG 2000."""
CODED_CHANNELS: Final = (1, 3)
"""Of the images that it takes: gray and RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter of an HDF5 pipeline."""

    id: int
    """As registered with the HDF Group."""
    options: tuple[int, ...]
    """Its `cd_values`."""

    @property
    def codes_images(self) -> bool:
        """Whether it codes images: a chunk has to be one, of `CODED_CHANNELS`."""
        return self.id == HTJ2K


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
    dims: tuple[str, ...] = ("sample",)
    """Dimension labels."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def n_chunks(self) -> int:
        """Number of chunks, the last one included; 0 where there are none."""
        return -(-self.shape[0] // self.chunk_rows) if self.chunk_rows else 0

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file: whole chunks, the last one included."""
        rows = self.n_chunks * self.chunk_rows if self.chunk_rows else self.shape[0]
        return rows * self.row_bytes

    def __str__(self) -> str:
        parts = [f"{self.shape} {self.dtype}"]
        if self.chunk_rows:
            parts.append(f"chunks of {self.chunk_rows:,}")
        parts += [f"filter {filter_.id} {filter_.options}" for filter_ in self.filters]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The datasets of one group of samples that the ranks fill."""

    name: str
    """As the manifest has it; empty where samples are not grouped."""
    prefix: str
    """HDF5 path that its datasets begin with: empty, or `/train`."""
    n_rows: int
    """Number of its samples."""
    image: ImageSpec | None
    """What each row of `pixels` holds, in a stack; else None."""
    pixels: DatasetSpec
    """stack: (N, H, W[, C]), chunked. ragged, encoded: (total,). tree: (total bytes,), without a
    name: it stands for the datasets of the images, which are not known yet, but for filters."""
    status: DatasetSpec
    """(N,) enum."""
    checksums: DatasetSpec
    """(N,) uint64: xxh3-64 of the stored bytes of each image, row-major, little-endian."""
    offsets: DatasetSpec | None = None
    """ragged, encoded: (N + 1,) int64, where each image begins in `pixels`, in elements."""
    shapes: DatasetSpec | None = None
    """ragged, encoded: (N, 3) int32, height, width, channels."""
    sizes: DatasetSpec | None = None
    """stack with padding: (N, 2) uint32, height and width without the padding."""
    chunk_checksums: DatasetSpec | None = None
    """Where the images are filtered: uint64, xxh3-64 of each chunk of `pixels` as it is stored; of
    each image in a tree."""

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """All of them, in the order in which they are created."""
        every = (
            self.pixels, self.status, self.checksums, self.offsets, self.shapes, self.sizes,
            self.chunk_checksums,
        )  # fmt: skip
        return tuple(spec for spec in every if spec is not None and spec.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the file looks like before rank 0 adds labels, names and paths."""

    kind: str
    """Its name in `layout_kinds.KINDS`."""
    groups: tuple[Group, ...]
    """At least one."""
    grouped: bool
    """Whether the groups are HDF5 groups; else there is one, with an empty prefix."""
    alignment: int = 0
    """Bytes: datasets and chunks of that size and more begin at multiples of it; 0: anywhere."""
    images: tuple[str, ...] = (FIRST,)
    """Columns of images. Each has groups of its own: of every group of samples come first that of
    the first column, then those of the others, with the same rows."""

    @property
    def schema(self) -> str:
        """The `schema` attribute of the file: layout name and version."""
        return schema.schema_text(self.kind)

    @property
    def is_filtered(self) -> bool:
        """Whether the pixels of some group have filters; those of each may have their own."""
        return any(group.pixels.filters for group in self.groups)

    @property
    def n_images(self) -> int:
        """Over all groups."""
        return sum(group.n_rows for group in self.groups)

    @property
    def n_samples(self) -> int:
        """Over all groups: a sample is a row of images."""
        return self.n_images // len(self.images)

    @property
    def rows(self) -> str:
        """What samples of several images are, in words; empty where each is one image."""
        n_each = len(self.images)
        if n_each == 1:
            return ""
        parts = []
        for number, column in enumerate(self.images):
            of_column = self.groups[number::n_each]
            specs = dict.fromkeys(str(group.image) for group in of_column if group.image)
            name = schema.IMAGES.name if column == FIRST else column
            parts.append(f"{name} of {' or '.join(specs)}" if specs else name)
        return f"rows of {n_each} images ({', '.join(parts)})"

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """Of all groups, in the order in which they are created."""
        return tuple(spec for group in self.groups for spec in group.datasets)

    @property
    def image_bytes(self) -> int:
        """Bytes of all images, without what fills the last chunks."""
        return sum(group.pixels.shape[0] * group.pixels.row_bytes for group in self.groups)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the file is going to have uncompressed, apart from what rank 0 adds."""
        images = sum(group.pixels.stored_bytes for group in self.groups)
        return images + sum(
            spec.stored_bytes
            for group in self.groups
            for spec in group.datasets
            if spec is not group.pixels
        )

    @property
    def digest(self) -> str:
        """SHA-256 of every field, in hexadecimal: equal for equal layouts only."""
        import hashlib  # on rank 0 only

        found = hashlib.sha256(f"{self.schema}\n{replace(self, groups=())!r}".encode())
        for group in self.groups:
            found.update(repr(group).encode())
        return found.hexdigest()
