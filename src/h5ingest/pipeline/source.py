"""`Source`: where the samples of a job come from, and all that only this decides.

A job asks its source for a plan, for a loader of pixels, and at the end for what goes with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from h5ingest.core.errors import Failure
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.sample_table import Samples
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.report import Added
from h5ingest.storage.earlier_runs import Earlier

if TYPE_CHECKING:
    from h5ingest.pipeline.stored_chunks import StoredChunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job is going to make, and from what."""

    layout: Layout
    """The datasets; the same on all ranks."""
    runs: list[Samples]
    """The samples that this rank has now, in runs of rows of a group."""
    about: Mapping[str, object]
    """What the source must be for the work of an unfinished job to be of use; plain values."""
    n_bytes: int
    """Size of all that is read."""
    image: str = ""
    """What the images are in the file, in words; empty: what their layout says."""
    palettes: tuple[bytes | None, ...] = (None,)
    """Of each column of images, RGB entries that samples are indices of, if it is one palette."""
    conversions: tuple[str, ...] = ()
    """What is converted without loss, a line for each kind."""
    changes: tuple[str, ...] = ()
    """The same in three lines at most, for the summary."""
    warnings: tuple[str, ...] = ()
    """What the user should know."""
    n_failed: int = 0
    """Samples that have failed before this job, and stay as they are."""
    added: Added | None = None
    """What was there before, if images are added to a file."""


class Source(ABC):
    """Where the samples of one job come from; an object on each rank."""

    argument: ClassVar[str]
    """What the command line calls it."""
    recompresses: ClassVar[bool] = False
    """Whether the samples are in a file of h5ingest already."""
    remedy: ClassVar[str]
    """What to do about samples that cannot be read."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet.

        Args:
            path: the file that names or holds the samples.
        """
        self.path = path

    def close(self) -> None:  # noqa: B027
        """Let go of what is open. Not collective."""

    @abstractmethod
    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """Return what is to be made, with these filters of the pixels. Collective, first.

        Raises:
            IngestError: it cannot be.
        """

    @abstractmethod
    def loading(
        self, job: Job, stats: RankStats, heartbeat: Heartbeat
    ) -> AbstractContextManager[Loader[Any]]:
        """Give the block a loader of pixels. Not collective."""

    def chunks(self, layout: Layout, beat: Callable[[], None]) -> StoredChunks | None:
        """Return what can be copied as it is stored already; None: nothing. Not collective."""
        return None

    @property
    def refused(self) -> Sequence[Failure]:
        """Samples of several images that fail by the headers that this rank has read."""
        return ()

    @property
    def cache_bytes(self) -> int:
        """What this rank may keep of files in memory, from the plan on."""
        return 0

    def confirm(self, job: Job, plan: Plan, stats: RankStats) -> Plan:
        """Return the plan with what is known now that all is stored. Collective.

        Raises:
            MisfitError: the samples are not what the plan was made for (on all ranks).
        """
        return plan

    def count_changed(
        self, shards: Sequence[Shard], earlier: Sequence[Earlier], beat: Callable[[], None]
    ) -> int:
        """Return how many samples may have changed since an earlier run. Not collective.

        Args:
            shards: what this rank would have stored, had there been no other run.
            earlier: what other runs stored.
            beat: called now and then.
        """
        return 0

    @abstractmethod
    def columns(self) -> SampleColumns:
        """Return what goes with the samples. Rank 0 only."""

    @abstractmethod
    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """Return the attributes of the file that are the source's. Rank 0 only."""

    def lines_of(self, indices: Sequence[int]) -> Mapping[int, int]:
        """Return the line of text of each of these samples, where there is one. Rank 0 only."""
        return {}

    def check(self, digest: str, failures: Sequence[Failure]) -> None:  # noqa: B027
        """Raise if this content digest of what has been made cannot be. Rank 0 only.

        Raises:
            OutputError: it cannot, or the source has been changed.
        """
