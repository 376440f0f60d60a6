"""What the judge tells `verify`: plain values, which know nothing of HDF5.

May not: import h5py.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.digest import Parts
from h5ingest.core.layout import ImageSpec

_MOST_GAPS: Final = 20
"""Lines about what cannot be read of one dataset."""

Seen = Counter[tuple[str, ImageSpec]]
"""(prefix, spec) -> sources of this group that have this spec; of stacks only."""


class Sign(Protocol):
    """A sign of life of the judge, to whoever has asked it."""

    def allow(self, n_bytes: int) -> None:
        """Allow the next piece of work the computing time to decode so many bytes."""

    def beat(self, n_rows: int = 0, n_bytes: int = 0, n_bad: int = 0) -> None:
        """Say what is done of this question, if it is time to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """One row that is not as it should be."""

    dataset: str
    """HDF5 path of the group's images."""
    row: int
    """Row within the group."""
    path: str
    """Path of the source file, as in the manifest."""
    reason: str
    """What was expected and found."""


@dataclass(frozen=True, slots=True)
class Unread:
    """In the place of something that cannot be read."""

    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows of a dataset of which nothing is known."""

    name: str
    """HDF5 path of the dataset."""
    rows: range
    """Empty: it is not known which."""
    what: str
    """`cannot be read: ` and why, or `not looked at: ` and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a dataset says of itself."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy name, or `text`, which is UTF-8 of variable length."""
    chunk_rows: int
    """Rows that are read together, at least; 1 without chunks."""
    members: tuple[tuple[str, int], ...] = ()
    """Names of values, of an enum."""

    @property
    def kind(self) -> str:
        """As the content digest has it."""
        return f"{self.dtype}{self.shape}"

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of numbers."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape[1:], dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found of some consecutive rows."""

    bad: list[tuple[int, str, str]]
    """(row, path, reason) of those that are not as they should be."""
    sums: NDArray[np.uint64]
    """(n,) checksums of their images as read; 0 where that cannot be."""
    n_failed: int
    """Rows that the file itself calls failed."""
    n_bytes: int
    """Bytes of the images."""
    chunks: list[tuple[int, str]] = field(default_factory=list)
    """(row, what is wrong) of compressed chunks that begin in these rows, as they are stored."""
    n_sources: int = 0
    """Sources that were decoded again and compared."""
    n_other: int = 0
    """Of these, by another decoder than the one that wrote them."""
    seen: Seen = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """What was found of the values of some datasets."""

    parts: Parts
    """See `ContentDigest.parts`."""
    gaps: list[Gap]


def gap_lines(gaps: list[Gap]) -> list[str]:
    """Return a line for rows that lie together and of which the same is said."""
    joined: list[Gap] = []
    for gap in gaps:
        last = joined[-1] if joined else None
        if last and (last.name, last.what, last.rows.stop) == (gap.name, gap.what, gap.rows.start):
            joined[-1] = Gap(gap.name, range(last.rows.start, gap.rows.stop), gap.what)
        else:
            joined.append(gap)
    lines = []
    for name, of_one in itertools.groupby(joined, key=lambda gap: gap.name):
        told = list(of_one)
        for gap in told[:_MOST_GAPS]:
            where = f"rows {gap.rows.start:,} to {gap.rows.stop - 1:,}"
            where = f"row {gap.rows.start:,}" if len(gap.rows) == 1 else where
            lines.append(f"{name}: {f'{where} ' * bool(gap.rows)}{gap.what}")
        n_more = sum(len(gap.rows) for gap in told[_MOST_GAPS:])
        if n_more:
            lines.append(f"{name}: … and {n_more:,} rows more")
    return lines


def listed(answer: list[str] | Unread, what: str) -> list[str]:
    """Return what a judge says is wrong; or that it cannot say."""
    if isinstance(answer, Unread):
        return [f"{what}: cannot be checked: {answer.reason}"]
    return answer
