"""Which samples of a group a store has, by its policy for failed ones; and which an index means."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.lists import Lists
from h5ingest.core.schema import STATUS_OK

Labels = NDArray[np.int64] | Lists
"""The class of each sample; or any number of classes of each."""

ValuesT = TypeVar("ValuesT", bound=NDArray[Any] | Lists)
Failed = Literal["include", "skip", "mask"]
"""What becomes of failed samples: see `ImageStore`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The samples of a store."""

    n_samples: int
    """How many there are, without skipped ones."""
    rows: NDArray[np.intp] | None
    """(n_samples,) row of each in the file; None: all rows."""
    labels: Labels | None
    """(n_samples,) read-only."""
    each_label: Sequence[int] | Lists | None
    """The same as Python integers, which is faster one by one."""

    @classmethod
    def every(cls, n_rows: int) -> Selection:
        """Return the selection of all rows, without labels."""
        return cls(n_rows, None, None, None)

    @classmethod
    def of(
        cls,
        status: NDArray[np.uint8],
        labels: Labels | None,
        failed: Failed,
        masked_label: int,
    ) -> Selection:
        """Apply a policy.

        Args:
            status: (n_rows,) of all rows.
            labels: (n_rows,) of all rows, read-only.
            failed: the policy.
            masked_label: of failed samples under `mask`.
        """
        good = status == STATUS_OK
        if failed == "include" or good.all():
            return cls(len(status), None, labels, _one_by_one(labels))
        rows = np.flatnonzero(good) if failed == "skip" else None
        if isinstance(labels, Lists):
            labels = labels if rows is None else labels[rows]
        elif labels is not None:
            labels = np.where(good, labels, masked_label) if rows is None else labels[rows]
            labels.flags.writeable = False
        n_samples = len(status) if rows is None else len(rows)
        return cls(n_samples, rows, labels, _one_by_one(labels))

    def per_sample(self, values: ValuesT) -> ValuesT:
        """Return those of the values of all rows, (n_rows, ...), that belong to samples."""
        return values if self.rows is None else cast("ValuesT", values[self.rows])

    def blocks(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bounds of runs of rows as bounds of runs of samples, none of them empty."""
        if self.rows is None:
            return bounds
        return np.unique(np.searchsorted(self.rows, bounds)).astype(np.int64)

    def chosen(self, index: Any) -> NDArray[np.intp]:
        """Return the samples that a list, an array or a mask asks for.

        Raises:
            TypeError: it asks for none.
            IndexError: a mask has another length; or a number is far beyond all samples.
        """
        array = np.asarray(index)
        if array.ndim != 1:
            raise TypeError(f"expected an integer, a slice or one row of them, got {index!r}")
        kind = array.dtype.kind
        if kind == "b":
            if len(array) != self.n_samples:
                raise IndexError(
                    f"a mask of {len(array):,} does not fit {self.n_samples:,} samples"
                )
            return np.flatnonzero(array)
        if kind not in "iu" and len(array):
            raise TypeError(f"expected integers, got {array.dtype}")
        if kind == "u" and len(array) and array.max() >= 2**63:
            raise IndexError(f"an index is out of range for {self.n_samples:,} samples")
        return array.astype(np.intp, copy=False)


def flat(labels: Labels) -> NDArray[np.int64]:
    """Return the classes of all samples, one after the other."""
    return labels.values if isinstance(labels, Lists) else labels


def _one_by_one(labels: Labels | None) -> Sequence[int] | Lists | None:
    if isinstance(labels, Lists):
        return labels
    return None if labels is None else np.ascontiguousarray(labels).data


def is_integer(index: Any) -> bool:
    """Return whether this asks for one sample, not for a batch; a bool does not."""
    if getattr(index, "ndim", 0) or isinstance(index, (list, bool, np.bool_)):
        return False
    try:
        operator.index(index)
    except TypeError:
        return False
    return True
