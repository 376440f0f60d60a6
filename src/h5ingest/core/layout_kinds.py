"""The four layouts: one object for each, with all that is arithmetic about it.

Code elsewhere asks an object of `KINDS` instead of comparing names. May not: know a rank, import
h5py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.group_datasets import extent_group, stack_group, tree_group
from h5ingest.core.layout import Filter, Group, OutputSpec

MANY_DATASETS: Final = 100_000
"""Images from which a tree is warned about."""


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
