"""The rows that one rank has judged, block by block, and what is found of them.

May not: import h5py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.schema import IMAGES, FileHeader
from h5ingest.inspect.findings import BadRow, Checked, Gap, Seen, Unread
from h5ingest.inspect.inventory import GroupFacts, in_parts
from h5ingest.inspect.judge_process import Died, Judge, NotAsked
from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.job import ProgressListener

_BLOCK_BYTES: Final = 16 * 1024**2
_BLOCK_ROWS: Final = 4096
"""Of images that are read one by one."""


@dataclass(slots=True)
class Found:
    """What one rank has found of its rows."""

    bad: list[BadRow] = field(default_factory=list)
    sums: list[tuple[int, NDArray[np.uint64]]] = field(default_factory=list)
    """(first row, counted over all groups; checksums of the images from it on, as read)."""
    chunks: list[tuple[int, str]] = field(default_factory=list)
    """(row, counted over all groups; what is wrong) of compressed chunks as they are stored."""
    gaps: list[Gap] = field(default_factory=list)
    """What was not looked at."""
    seen: Seen = field(default_factory=Counter)
    n_done: int = 0
    n_failed: int = 0
    n_sources: int = 0
    n_other: int = 0
    n_bytes: int = 0

    def counts(self) -> tuple[int, int, int, int]:
        """Return rows, failed rows, sources compared, and those by another decoder."""
        return self.n_done, self.n_failed, self.n_sources, self.n_other

    def add(self, prefix: str, first: int, rows: range, checked: Checked) -> None:
        """Add what was found of rows, of which the first of their group is that of the file."""
        self.bad += [
            BadRow(dataset=IMAGES.at(prefix), row=row, path=path, reason=reason)
            for row, path, reason in checked.bad
        ]
        self.sums.append((first + rows.start, checked.sums))
        self.chunks += [(first + row, problem) for row, problem in checked.chunks]
        self.seen += checked.seen
        self.n_done += len(rows)
        self.n_failed += checked.n_failed
        self.n_sources += checked.n_sources
        self.n_other += checked.n_other
        self.n_bytes += checked.n_bytes


class Share:
    """The rows that one rank has judged."""

    def __init__(
        self, judge: Judge, header: FileHeader, comm: Comm, watch: ProgressListener, *, again: bool
    ) -> None:
        self._judge = judge
        self._kind = KINDS[header.layout]
        self._n_images = (header.n_samples or 0) * (1 + len(header.images))
        self._comm = comm
        self._watch = watch
        self._again = again
        """Whether sources are decoded again."""
        self.found = Found()

    def run(self, groups: list[GroupFacts]) -> None:
        """Have this rank's share of all groups judged. Collective."""
        self._watch.phase("verify", self._n_images)
        progress = AsyncSum(
            self._comm, 3, on_sum=lambda total: self._watch.advance(*total.tolist())
        )
        found = self.found
        self._judge.on_beat = lambda counts: progress.beat(
            *(np.add((found.n_done, found.n_bytes, len(found.bad)), counts).tolist())
        )
        first = 0
        for group in groups:
            for rows, step, n_bytes in self._blocks(group):
                self._check(group.prefix, first, rows, step, n_bytes)
            first += group.n_rows
        progress.finish(lambda: (found.n_done, found.n_bytes, len(found.bad)))

    def _blocks(self, group: GroupFacts) -> Iterator[tuple[range, int, int]]:
        """Yield (rows, rows that are read together, bytes of all) of this rank's share."""
        step, block, row_bytes = 1, _BLOCK_ROWS, 0
        if group.n_rows and self._kind.uniform:
            images = group.datasets[IMAGES.name]
            step, row_bytes = images.chunk_rows, images.row_bytes
            block = max(1, _BLOCK_BYTES // (row_bytes * step)) * step
        n_chunks, comm = -(-group.n_rows // step), self._comm
        ends = (n_chunks * rank // comm.size * step for rank in (comm.rank, comm.rank + 1))
        start, stop = (min(group.n_rows, end) for end in ends)
        for first in range(start, stop, block):
            rows = range(first, min(first + block, stop))
            yield rows, step, len(rows) * row_bytes

    def _check(self, prefix: str, first: int, rows: range, step: int, n_bytes: int) -> None:
        """Have rows judged; those that no judge survives are bad, all of a chunk."""
        again = self._again
        for part, answer in in_parts(self._judge, "rows", prefix, rows, step, n_bytes, again):
            if isinstance(answer, Checked):
                self.found.add(prefix, first, part, answer)
            elif isinstance(answer, NotAsked):
                self.found.gaps.append(Gap(IMAGES.at(prefix), part, answer.what))
            elif again:
                self._blame(prefix, first, part, n_bytes, answer)
            else:
                self._lose(prefix, first, part, answer.what)

    def _blame(self, prefix: str, first: int, rows: range, n_bytes: int, died: Died) -> None:
        """Find out whether it is the file or the source of a row that no judge survives."""
        alone = self._judge.try_ask("rows", prefix, rows, n_bytes, False)
        if isinstance(alone, Unread):
            self._lose(prefix, first, rows, died.what)
            return
        for row in rows:
            one = range(row, row + 1)
            answer = self._judge.try_ask("rows", prefix, one, n_bytes, True)
            if isinstance(answer, Unread):
                self._lose(prefix, first, one, f"its source cannot be compared: {answer.reason}")
            else:
                self.found.add(prefix, first, one, answer)

    def _lose(self, prefix: str, first: int, rows: range, reason: str) -> None:
        paths = self._judge.try_ask("paths", prefix, rows)
        known = ["?"] * len(rows) if isinstance(paths, Unread) else paths
        bad = [(row, path, reason) for row, path in zip(rows, known, strict=True)]
        none = np.zeros(len(rows), np.uint64)
        self.found.add(prefix, first, rows, Checked(bad=bad, sums=none, n_failed=0, n_bytes=0))
