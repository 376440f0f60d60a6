"""What the file looks like: a function of the manifest, the image specs and the options.

The number of ranks is not an argument of anything here, which is why it cannot show in the file.

May not: know a rank, import h5py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from h5ingest.core import schema
from h5ingest.core.errors import UsageError
from h5ingest.core.options import MIB

KINDS: Final = schema.LAYOUTS
"""The layouts."""

MANY_DATASETS: Final = 100_000
"""Images from which a tree is warned about."""

EXTENT_CHUNK_BYTES: Final = MIB // 2
"""Of filtered pixels of images of any size: what a reader decodes at least, to see any of them."""
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

    @property
    def colour(self) -> str:
        """Channels and depth in words."""
        names = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
        return f"{names[self.channels]} {self.dtype}"

    @classmethod
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
    """Its samples."""
    image: ImageSpec | None
    """What each row of `pixels` holds, in a stack; else None."""
    pixels: DatasetSpec
    """stack: (N, H, W[, C]), chunked. ragged, encoded: (total,). tree: (total bytes,), and it
    stands for the datasets of the images, which are not known yet."""
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

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """All of them, in the order in which they are created."""
        every = self.pixels, self.status, self.checksums, self.offsets, self.shapes, self.sizes
        return tuple(spec for spec in every if spec is not None and spec.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the file looks like before root adds labels, names and paths."""

    kind: str
    """`stack`, `ragged`, `tree` or `encoded`."""
    groups: tuple[Group, ...]
    """At least one."""
    grouped: bool
    """Whether the groups are HDF5 groups; else there is one, at the root."""
    filters: tuple[Filter, ...] = ()
    """Of the pixels."""
    alignment: int = 0
    """Bytes: what is as large begins at multiples of it; 0: anywhere."""

    @property
    def schema(self) -> str:
        """The `schema` attribute of the file: layout name and version."""
        return schema.schema_text(self.kind)

    @property
    def n_samples(self) -> int:
        """Over all groups."""
        return sum(group.n_rows for group in self.groups)

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
        """Bytes that the file is going to have uncompressed, apart from what root adds."""
        images = sum(group.pixels.stored_bytes for group in self.groups)
        return images + sum(
            spec.stored_bytes
            for group in self.groups
            for spec in group.datasets
            if spec is not group.pixels
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that it says, in hexadecimal: equal for equal layouts only."""
        import hashlib  # on root only

        found = hashlib.sha256(f"{self.schema}\n{replace(self, groups=())!r}".encode())
        for group in self.groups:
            found.update(repr(group).encode())
        return found.hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the cost."""
        if self.kind != "tree" or self.n_samples <= MANY_DATASETS:
            return ()
        return (
            f"--layout tree makes {self.n_samples:,} datasets, which one process alone creates, at "
            f"about 0.1 ms and 0.5 KiB each, and which readers look up and open one by one; "
            f"--layout stack and --layout ragged have no such cost",
        )

    @property
    def description(self) -> str:
        """The images, in words."""
        if self.kind != "stack":
            kinds = {
                "ragged": "images of any size, one after the other",
                "tree": "images, one dataset each",
                "encoded": "image files, as they are",
            }
            return kinds[self.kind]
        specs = dict.fromkeys(str(group.image) for group in self.groups)
        return "images of " + " or ".join(list(specs)[:3]) + (" or ..." if len(specs) > 3 else "")


def group_prefix(name: str) -> str:
    r"""Return an HDF5 path for any group name: one level deep, never empty, reversible.

    What has a meaning in HDF5 paths, or cannot be seen, is percent-encoded, as in URLs.

    >>> group_prefix("train"), group_prefix("a/b"), group_prefix(".."), group_prefix("")
    ('/train', '/a%2Fb', '/%2E%2E', '/%')
    >>> group_prefix("a\tb"), group_prefix("a\u2028b")
    ('/a%09b', '/a%E2%80%A8b')
    """
    if name in ("", ".", ".."):
        return "/" + ("%2E" * len(name) or "%")
    quoted = name.replace("%", "%25").replace("/", "%2F")
    return "/" + "".join(c if c.isprintable() else _quote(c) for c in quoted)


def _quote(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


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


def stack_group(
    name: str,
    prefix: str,
    n_rows: int,
    image: ImageSpec,
    *,
    chunk_rows: int | None = None,
    filters: tuple[Filter, ...] = (),
    padded: bool = False,
) -> Group:
    """Return the datasets of images that all have the same spec.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    default = default_chunk_rows(image, n_rows, filtered=bool(filters))
    rows = min(chunk_rows or default, n_rows)
    if image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(f"an image of {image} is larger than an HDF5 chunk may be (4 GiB)")
    if rows * image.n_bytes > _CHUNK_LIMIT:
        raise UsageError(
            f"--chunk: expected at most {_CHUNK_LIMIT // image.n_bytes} images of {image} in a "
            f"chunk (HDF5 allows 4 GiB), got {rows}"
        )
    pixels = DatasetSpec(
        name=schema.IMAGES.at(prefix),
        shape=(n_rows, *image.shape),
        dtype=image.dtype,
        chunk_rows=rows,
        filters=filters,
        dims=schema.IMAGES.dims[: 1 + len(image.shape)],
    )
    sizes = _per_row(prefix, schema.SIZES, n_rows) if padded else None
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=image, pixels=pixels, sizes=sizes,
        **_bookkeeping(prefix, n_rows),
    )  # fmt: skip


def extent_group(
    kind: str,
    name: str,
    prefix: str,
    n_rows: int,
    n_elements: int,
    dtype: str,
    *,
    filters: tuple[Filter, ...] = (),
) -> Group:
    """Return the datasets of images of any size, or of files, one after the other."""
    if not n_elements:  # HDF5 has no chunk of nothing
        filters = ()
    chunk = EXTENT_CHUNK_BYTES // np.dtype(dtype).itemsize if filters else None
    pixels = DatasetSpec(
        name=schema.PIXELS[kind].at(prefix),
        shape=(n_elements,),
        dtype=dtype,
        chunk_rows=min(chunk, n_elements) if chunk else None,
        filters=filters,
        dims=schema.PIXELS[kind].dims,
    )
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=None, pixels=pixels,
        offsets=_per_row(prefix, schema.OFFSETS, n_rows),
        shapes=_per_row(prefix, schema.SHAPES, n_rows),
        **_bookkeeping(prefix, n_rows),
    )  # fmt: skip


def tree_group(name: str, prefix: str, n_rows: int, n_bytes: int) -> Group:
    """Return the datasets beside images that have a dataset each."""
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=None,
        pixels=DatasetSpec(name="", shape=(n_bytes,), dtype="uint8"),
        **_bookkeeping(prefix, n_rows),
    )  # fmt: skip


def _bookkeeping(prefix: str, n_rows: int) -> dict[str, Any]:
    return {
        "status": replace(_per_row(prefix, schema.STATUS, n_rows), enum=schema.STATUS_NAMES),
        "checksums": _per_row(prefix, schema.CHECKSUMS, n_rows),
    }


def _per_row(prefix: str, dataset: schema.StandardDataset, n_rows: int) -> DatasetSpec:
    return DatasetSpec(
        name=dataset.at(prefix),
        shape=(n_rows + dataset.extra_rows, *dataset.row_shape),
        dtype=dataset.dtype,
        dims=dataset.dims,
    )
