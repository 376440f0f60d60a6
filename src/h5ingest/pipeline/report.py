"""`IngestReport`: what a run did, as a value that is printed, written as JSON, or looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from h5ingest.core.errors import Failure, OutputError
from h5ingest.core.notes import Note
from h5ingest.core.outfiles import FAILURES, check, write

if TYPE_CHECKING:
    from h5ingest.storage.auto_codec import AutoCodec

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSeconds:
    """Seconds that a phase took, over all ranks."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> PhaseSeconds:
        """Return the spread of one value per rank."""
        ordered, half = sorted(seconds), (len(seconds) - 1) / 2
        # np.median imports all of numpy.ma first, on every rank.
        median = (ordered[math.floor(half)] + ordered[math.ceil(half)]) / 2
        return cls(min=ordered[0], median=median, max=ordered[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of a file to which images were added."""

    n_before: int
    """Rows that it had."""
    n_skipped: int = 0
    """Images that were left out, as their paths were in it."""
    n_replaced: int = 0
    """Rows that gave way to a new image of the same path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What a run did; on a dry run, what it would do."""

    out: str
    """Path of the file."""
    n_samples: int
    """Rows of the file: lines of the manifest."""
    n_each: int = 1
    """Images of each."""
    groups: tuple[str, ...] = ()
    """Names of the groups; empty: the file has none."""
    n_resumed: int = 0
    """Samples that an earlier run had stored already."""
    n_changed: int = 0
    """Of these, images whose files were changed after the run that stored them began: the file may
    hold what they were before."""
    image: str
    """What the images are in the file, in words."""
    conversions: tuple[str, ...] = ()
    """What was converted without loss, a line for each kind."""
    changes: tuple[str, ...] = ()
    """The same in three lines at most, with the reasons: for the summary alone."""
    losses: tuple[str, ...] = ()
    """What conversions dropped, a line for each kind; of the images that this run stored."""
    warnings: tuple[str, ...] = ()
    """What the user should know of the cost."""
    notes: tuple[Note, ...] = ()
    """What the user should know of images, a note for each kind; of those that this run stored."""
    n_ranks: int
    """Processes that worked."""
    writer: str
    """How the pixels were written."""
    auto: AutoCodec | None = None
    """What `--compression auto` has chosen."""
    bytes_in: int
    """Bytes of the image files, or of the file that was recompressed."""
    bytes_out: int
    """Bytes of the finished file; on a dry run, of its preallocated datasets."""
    bytes_images: int = 0
    """Bytes of all images in it, before compression."""
    bytes_cache: int = 0
    """Files that all ranks together could keep in memory from the header check on."""
    recompressed: bool = False
    """Whether the images came from one file of h5ingest, not from a file each."""
    added: Added | None = None
    """What was there before, if images were added to a file."""
    dry_run: bool = False
    """Whether nothing was written."""
    failures: tuple[Failure, ...] = ()
    """Images that failed and are stored as zeros."""
    content_digest: str = ""
    """The file's own; empty on a dry run."""
    seconds: float = 0.0
    """Wall time from start to end."""
    phases: dict[str, PhaseSeconds]
    """Phase -> seconds over the ranks."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds of all ranks together: `start` until the work began, `work` from then on."""

    @property
    def images_per_s(self) -> float:
        """Samples that this run stored by wall time, everything included."""
        return (self.n_samples - self.n_resumed) / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values, but for those that say the same in other words."""
        plain = asdict(self)
        del plain["changes"]
        return {
            **plain,
            "n_failed": len(self.failures),
            "images_per_s": self.images_per_s,
            "files_before": 1 if self.recompressed else self.n_samples * self.n_each,
            "files_after": 1,
        }


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    r"""Write a table of the images that failed; take away that of an earlier run if none did.

    Columns index, path, kind and reason, tab-separated, UTF-8 with undecodable bytes as they are;
    tabs, line ends and backslashes in a path are written \t, \n, \r and \\.

    Raises:
        OutputError: it cannot be written.
    """
    if failures:
        lines = ["index\tpath\tkind\treason"]
        lines += [
            f"{f.index}\t{f.path.translate(_ESCAPES)}\t{f.kind}\t{f.reason.translate(_ESCAPES)}"
            for f in sorted(failures, key=lambda failure: failure.index)
        ]
        write(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), FAILURES)
        return
    check(path, FAILURES)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from None
