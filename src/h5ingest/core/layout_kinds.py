"""The four layouts: one object for each, with all that is arithmetic about it.

Code elsewhere asks an object of `KINDS` instead of comparing names. May not: know a rank, import
h5py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import UsageError
from h5ingest.core.layout import CODED_CHANNELS, DatasetSpec, Filter, Group, ImageSpec, OutputSpec
from h5ingest.core.options import MIB

MANY_DATASETS: Final = 100_000
"""Images from which a tree is warned about."""

EXTENT_CHUNK_BYTES: Final = MIB // 2
"""Filtered pixels in a chunk of `ragged`: a reader has to decode that much to see any image."""
_LARGE_IMAGE: Final = 64 * 1024
"""Bytes from which an image of a stack gets a chunk of its own."""
_CHUNK_LIMIT: Final = 2**32 - 1
"""Bytes in an HDF5 chunk (HDF5 specification, IV.A.2.i: dataset chunk sizes are 32 bits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """What is known of a group before its datasets are."""

    name: str
    """As the manifest has it."""
    prefix: str
    """HDF5 path that its datasets begin with."""
    n_rows: int
    """Number of its samples."""
    n_elements: int
    """Sum of their `LayoutKind.lengths`."""
    output: OutputSpec
    """What its images become."""
    filters: tuple[Filter, ...] = ()
    """Filters of the pixels."""
    chunk_rows: int | None = None
    """Images per chunk of a stack; None: chosen from the image size."""
    padded: bool = False
    """Whether the images of a stack are padded to one size."""


class LayoutKind(ABC):
    """What is special about one layout. Stateless."""

    __slots__ = ()

    name: ClassVar[str]
    """Value of `--layout`."""
    description: ClassVar[str]
    """The images, in words."""
    uniform: ClassVar[bool] = False
    """All images of a group have one `ImageSpec`, and axis 0 of its `pixels` counts samples."""
    one_dtype: ClassVar[bool] = False
    """All images of a group have one dtype."""
    keeps_files: ClassVar[bool] = False
    """The bytes of the image files are stored, not pixels."""
    dataset_per_image: ClassVar[bool] = False
    """Each image has a dataset of its own, in an HDF5 group for its label."""

    def describe(self, groups: Sequence[Group]) -> str:
        """Return what the images are, in words."""
        return self.description

    def warnings(self, n_samples: int) -> tuple[str, ...]:
        """Return what the user should know of the cost."""
        return ()

    def lengths(
        self, shapes: NDArray[np.int32], file_sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return (n,) what each sample takes on axis 0 of its group's `pixels`.

        Args:
            shapes: (n, 4) height, width, channels, bytes of a value, as stored.
            file_sizes: (n,) bytes.

        Returns:
            (0,) for a uniform kind, whose arguments are empty: a sample is one row.
        """
        lengths: NDArray[np.int64] = shapes[:, :3].astype(np.int64).prod(axis=1)
        return lengths

    @abstractmethod
    def group(self, plan: GroupPlan) -> Group:
        """Return the datasets of one group.

        Raises:
            UsageError: a chunk would be larger than HDF5 allows.
        """


class _Stack(LayoutKind):
    name = "stack"
    description = "images of one size"
    uniform = True
    one_dtype = True

    def describe(self, groups: Sequence[Group]) -> str:
        specs = dict.fromkeys(str(group.image) for group in groups)
        return "images of " + " or ".join(list(specs)[:3]) + (" or ..." if len(specs) > 3 else "")

    def group(self, plan: GroupPlan) -> Group:
        return stack_group(
            plan.name, plan.prefix, plan.n_rows, plan.output.image,
            chunk_rows=plan.chunk_rows, filters=plan.filters, padded=plan.padded,
        )  # fmt: skip


class _Ragged(LayoutKind):
    name = "ragged"
    description = "images of any size, one after the other"
    one_dtype = True

    def group(self, plan: GroupPlan) -> Group:
        return extent_group(
            self.name, plan.name, plan.prefix, plan.n_rows, plan.n_elements,
            plan.output.dtype or "uint8", filters=plan.filters,
        )  # fmt: skip


class _Encoded(LayoutKind):
    name = "encoded"
    description = "image files, as they are"
    keeps_files = True

    def lengths(
        self, shapes: NDArray[np.int32], file_sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        return file_sizes

    def group(self, plan: GroupPlan) -> Group:
        return extent_group(
            self.name, plan.name, plan.prefix, plan.n_rows, plan.n_elements, "uint8",
            filters=plan.filters,
        )  # fmt: skip


class _Tree(LayoutKind):
    name = "tree"
    description = "images, one dataset each"
    dataset_per_image = True

    def warnings(self, n_samples: int) -> tuple[str, ...]:
        if n_samples <= MANY_DATASETS:
            return ()
        return (
            f"--layout tree makes {n_samples:,} datasets, which one process alone creates, at "
            f"about 0.1 ms and 0.5 KiB each, and which readers look up and open one by one; "
            f"--layout stack and --layout ragged have no such cost",
        )

    def lengths(
        self, shapes: NDArray[np.int32], file_sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = shapes.astype(np.int64).prod(axis=1)  # dtypes differ: in bytes
        return lengths

    def group(self, plan: GroupPlan) -> Group:
        return tree_group(
            plan.name, plan.prefix, plan.n_rows, plan.n_elements, filters=plan.filters
        )


KINDS: Final[Mapping[str, LayoutKind]] = MappingProxyType(
    {kind.name: kind for kind in (_Stack(), _Ragged(), _Tree(), _Encoded())}
)
"""Name -> the kind: all that there are."""


def default_chunk_rows(image: ImageSpec, n_samples: int, filters: tuple[Filter, ...] = ()) -> int:
    """Return the images per chunk: one if it has 64 KiB or more, else about 1 MiB of them.

    Filtered chunks hold 512 KiB: a reader has to decode a whole one for any image in it, and
    smaller ones would make the chunk index, whose cost is per chunk, count. Where a filter codes
    images, a chunk is one.

    >>> default_chunk_rows(ImageSpec(height=28, width=28, channels=1, dtype="uint8"), 60_000)
    1337
    >>> default_chunk_rows(ImageSpec(height=512, width=768, channels=3, dtype="uint8"), 24)
    1
    """
    if image.n_bytes >= _LARGE_IMAGE or any(each.codes_images for each in filters):
        return 1
    wanted = MIB // 2 if filters else MIB
    return min(wanted // image.n_bytes, n_samples)


def not_coded(what: str) -> UsageError:
    """Return the error that images are not of `CODED_CHANNELS`; `what` says which, and of what."""
    return UsageError(
        f"--compression htj2k takes gray and RGB images only; {what}. --channels rgb drops an "
        f"alpha channel; zstd:9 and blosc2:zstd:9 take any"
    )


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
    default = default_chunk_rows(image, n_rows, filters)
    rows = min(chunk_rows or default, n_rows)
    if any(each.codes_images for each in filters):
        if image.channels not in CODED_CHANNELS:
            raise not_coded(f"the images{f' of group {name}' * bool(name)} are {image.colour}")
        if rows > 1:
            raise UsageError(
                f"--chunk: expected 1, as a chunk of --compression htj2k is one image, got {rows}"
            )
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
        **_records(prefix, n_rows, pixels.n_chunks, filters),
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
        **_records(prefix, n_rows, pixels.n_chunks, filters),
    )  # fmt: skip


def tree_group(
    name: str, prefix: str, n_rows: int, n_bytes: int, *, filters: tuple[Filter, ...] = ()
) -> Group:
    """Return the datasets beside images that have a dataset each."""
    return Group(
        name=name, prefix=prefix, n_rows=n_rows, image=None,
        pixels=DatasetSpec(name="", shape=(n_bytes,), dtype="uint8"),
        **_records(prefix, n_rows, n_rows, filters),
    )  # fmt: skip


def _records(
    prefix: str, n_rows: int, n_chunks: int, filters: tuple[Filter, ...]
) -> dict[str, Any]:
    chunks = _per_row(prefix, schema.CHUNK_CHECKSUMS, n_chunks)
    return {
        "chunk_checksums": chunks if filters else None,  # else those of the images say as much
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
