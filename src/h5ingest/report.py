"""`IngestReport`: what a run did, as a value that is printed, written as JSON, or looked at."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from h5ingest.errors import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Seconds that a phase took, over all ranks."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of one value per rank."""
        return cls(min=min(seconds), median=statistics.median(seconds), max=max(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What a run did; on a dry run, what it would do."""

    out: str
    """Path of the file."""
    n_samples: int
    """Rows of the file: lines of the manifest."""
    image: str
    """The one size and type, in words."""
    n_ranks: int
    """Processes that worked."""
    writer: str
    """How the pixels were written."""
    bytes_in: int
    """Bytes of the image files."""
    bytes_out: int
    """Bytes of the finished file; on a dry run, of its preallocated datasets."""
    dry_run: bool = False
    """Whether nothing was written."""
    failures: tuple[Failure, ...] = ()
    """Images that failed and are stored as zeros."""
    content_digest: str = ""
    """The file's own; empty on a dry run."""
    seconds: float = 0.0
    """Wall time from start to end."""
    phases: dict[str, Spread]
    """Phase -> seconds over the ranks."""

    @property
    def images_per_s(self) -> float:
        """Samples by wall time, everything included."""
        return self.n_samples / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values."""
        return {
            **asdict(self),
            "n_failed": len(self.failures),
            "images_per_s": self.images_per_s,
            "files_before": self.n_samples,
            "files_after": 1,
        }
