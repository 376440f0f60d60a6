"""Who writes which rows, and when: a function of the layout and the number of ranks.

The plan cannot change the file: it hands out whole chunks, so no chunk has two owners.

May not: touch a file, a buffer, a communicator.
"""

from __future__ import annotations

from dataclasses import dataclass

from h5ingest.layout import DatasetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The division of rows among ranks, and of each rank's rows into batches.

    >>> plan = Plan(n_rows=10, chunk_rows=3, size=2, batch_rows=3)
    >>> [plan.rows(rank) for rank in range(2)]
    [range(0, 6), range(6, 10)]
    >>> plan.batches(1)
    [range(6, 9), range(9, 10)]
    """

    n_rows: int
    """Global rows."""
    chunk_rows: int
    """Rows in a chunk."""
    size: int
    """Ranks."""
    batch_rows: int
    """Rows in a batch: whole chunks."""

    def __post_init__(self) -> None:
        if self.n_rows < 0 or self.chunk_rows < 1 or self.size < 1:
            raise ValueError(f"not a plan: {self}")
        if self.batch_rows < 1 or self.batch_rows % self.chunk_rows:
            raise ValueError(
                f"expected batches of whole chunks of {self.chunk_rows} rows, got {self.batch_rows}"
            )

    @classmethod
    def of(cls, dataset: DatasetSpec, *, size: int, batch_bytes: int) -> Plan:
        """Return the plan for a chunked dataset and `size` ranks.

        A batch is as many whole chunks as `batch_bytes` hold, but at least one.
        """
        if dataset.chunk_rows is None:
            raise ValueError(f"expected a chunked dataset, got {dataset}")
        chunks = max(1, batch_bytes // (dataset.chunk_rows * dataset.row_bytes))
        return cls(
            n_rows=dataset.shape[0],
            chunk_rows=dataset.chunk_rows,
            size=size,
            batch_rows=chunks * dataset.chunk_rows,
        )

    @property
    def n_chunks(self) -> int:
        """Chunks, the ragged last one included."""
        return -(-self.n_rows // self.chunk_rows)

    def rows(self, rank: int) -> range:
        """Return the rows of one rank: whole chunks, shares that differ by at most one chunk."""
        start, stop = (self.n_chunks * r // self.size * self.chunk_rows for r in (rank, rank + 1))
        return range(min(start, self.n_rows), min(stop, self.n_rows))

    def batches(self, rank: int) -> list[range]:
        """Return the rows of one rank a batch at a time, in order."""
        rows = self.rows(rank)
        return [
            range(start, min(start + self.batch_rows, rows.stop))
            for start in range(rows.start, rows.stop, self.batch_rows)
        ]


def overlap(a: range, b: range) -> range:
    """Return the rows in both intervals; empty, and within `a`, if there are none.

    >>> overlap(range(0, 5), range(3, 9)), overlap(range(0, 2), range(4, 6))
    (range(3, 5), range(2, 2))
    """
    start = min(max(a.start, b.start), a.stop)
    return range(start, max(start, min(a.stop, b.stop)))
