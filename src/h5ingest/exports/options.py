"""`ExportOptions`: which images are exported, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from h5ingest.core.errors import UsageError

SHARD_ROWS: Final = 10_000
"""Samples in a shard by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What of a file is exported, and how.

    Raises:
        UsageError: a value that cannot be.
    """

    rows: tuple[int, int | None] | None = None
    """First row of the group, and the one after the last (None: all); None: every row."""
    where: tuple[tuple[str, str], ...] = ()
    """(column, value): only rows for which all of these hold; `label`, `path` and others."""
    group: str | None = None
    """Only this group."""
    keep_names: bool = False
    """Whether a PNG made of pixels keeps a name such as `a.jpg`."""
    skip_damaged: bool = False
    """Whether images that are damaged are left out; else nothing is published."""
    shard_rows: int | None = None
    """Samples in a WebDataset shard; None: `SHARD_ROWS`, or there are no shards."""
    peer_timeout_s: float = 300.0
    """Seconds without a sign of life, after which another host's job is gone."""

    @property
    def rows_of_a_shard(self) -> int:
        """Samples in a shard."""
        return self.shard_rows or SHARD_ROWS

    def __post_init__(self) -> None:
        if self.rows is not None:
            start, stop = self.rows
            if start < 0 or (stop is not None and stop <= start):
                said = f"{start}:{'' if stop is None else stop}"
                raise UsageError(f"--rows: expected an END beyond FIRST, as in 10:20, got {said}")
        if self.shard_rows is not None and self.shard_rows < 1:
            raise UsageError(f"--shard-rows: expected at least 1, got {self.shard_rows}")
        if not self.peer_timeout_s > 0:
            raise UsageError(f"--peer-timeout: expected seconds, got {self.peer_timeout_s}")
