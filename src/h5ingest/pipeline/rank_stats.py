"""What one rank notes of its work: counts, failures, and what is stored of each sample.

May not: know files, a writer, a communicator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import Failure
from h5ingest.core.moments import ByKind, PixelSums
from h5ingest.core.notes import Notes
from h5ingest.core.sample_table import Samples
from h5ingest.images.conversion import Losses


@dataclass(slots=True)
class RankStats:
    """What one rank has done so far."""

    n_done: int = 0
    """Images decoded, failed ones included."""
    n_kept: int = 0
    """Images whose batch has been written."""
    n_read_bytes: int = 0
    """Bytes of the files decoded."""
    n_written_bytes: int = 0
    """Bytes of pixels written."""
    failures: list[Failure] = field(default_factory=list)
    """Images that could not be stored."""
    n_misfits: int = 0
    """Images of another kind than the first look at some of them has it."""
    joints: list[tuple[int, int]] = field(default_factory=list)
    """(group, element) where a shard begins or ends inside an image, whose other part is decoded
    once more, by another rank or run."""
    sums: PixelSums = field(default_factory=PixelSums)
    """Of the pixels that have been loaded since the last span was noted as done."""
    moments: dict[int, ByKind | None] = field(default_factory=dict)
    """Position of a group -> sums of the pixels of its good images that this rank counts; None:
    they are not known, as of images that are copied as they are stored."""
    n_changed: int = 0
    """Files that changed after an earlier run had stored their images."""
    losses: Losses = field(default_factory=Losses)
    """What conversions dropped."""
    notes: Notes = field(default_factory=Notes)
    """What else is worth knowing of images that were stored."""
    read_s: float = 0.0
    """Seconds in waiting for files."""
    decode_s: float = 0.0
    """Seconds in decoding, converting and checksums."""
    write_s: float = 0.0
    """Seconds in writing."""


@dataclass(frozen=True, slots=True)
class SampleRecords:
    """What is stored of each sample of a shard besides its pixels."""

    checksums: NDArray[np.uint64]
    """(n,)"""
    status: NDArray[np.uint8]
    """(n,)"""
    again: NDArray[np.bool_]
    """(n,) whether it failed, so that a later run shall try it again."""
    sizes: NDArray[np.uint32]
    """(n, 2) height and width without padding; stored for a stack only."""
    chunk_checksums: NDArray[np.uint64]
    """(n,) of the bytes in the file, in a tree; in other layouts a chunk is no sample."""

    @classmethod
    def of(cls, samples: Samples) -> SampleRecords:
        """Return records of samples of which none is stored yet."""
        n = len(samples.rows)
        return cls(
            checksums=np.zeros(n, np.uint64),
            status=np.zeros(n, np.uint8),
            again=np.zeros(n, np.bool_),
            sizes=np.zeros((n, 2), np.uint32),
            chunk_checksums=np.zeros(n, np.uint64),
        )
