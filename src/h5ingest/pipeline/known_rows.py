"""Which rows of a file stay when images are added to it, and which of these are new to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.manifest import Manifest
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.schema import Attribute
from h5ingest.pipeline.held_parts import count_kept
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.kept_rows import KeptRows
from h5ingest.pipeline.known_paths import find_known
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.report import Added
from h5ingest.pipeline.stored_file import StoredFile
from h5ingest.pipeline.stored_parts import Part
from h5ingest.pipeline.without_lines import leave_out

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is known of a file and of images to be added."""

    kept: KeptRows
    total: NDArray[np.int64]
    """(groups of images, 3) as `count_kept`, of all ranks."""
    before: NDArray[np.int64]
    """(groups of images, 3) likewise, of the ranks before this one."""
    added: Added
    n_new: int
    """Lines that are not left out."""
    manifest: Manifest
    """Of the new images."""
    local: LocalSamples
    """Its lines that this rank has read."""
    is_private: bool
    """Whether it is a copy without some lines that goes with this run."""


def compare(job: Job, new: ImageFiles, parts: Sequence[Part], *, again: bool) -> Compared:
    """Find which rows are in the file, by the paths of their first images. Collective.

    What is not to be stored again is left out of the manifest from now on.

    Args:
        job: the run.
        new: the images to be added.
        parts: of all groups of images of the file.
        again: whether rows of the file go whose paths are in the manifest; else its lines are left
            out.

    Raises:
        IngestError: the manifest cannot be read, or written anew.
    """
    comm = job.comm
    manifest, local = new.read_manifest(job)
    n_each, firsts = local.n_each, parts[:: local.n_each]
    in_file, is_known = find_known(
        comm,
        PackedStrings.concatenate(part.samples.paths for part in firsts),
        local.paths if n_each == 1 else [*local.paths][::n_each],
    )
    gone: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
    known = np.flatnonzero(is_known)
    if again:
        known = known[:0]
        ends = np.cumsum([len(part.samples.paths) for part in firsts])
        for number, at in enumerate(np.split(in_file, ends[:-1])):
            samples, k = firsts[number].samples, np.flatnonzero(at)
            gone.append((number, samples.rows.start + k, samples.indices[k] // n_each))
    kept = KeptRows.of(len(parts), n_each, [*chain.from_iterable(comm.allgather(gone))])
    left_out = np.concatenate(comm.allgather(local.indices.start // n_each + known))
    n_new = manifest.n_rows - len(left_out)
    is_anew = 0 < n_new < manifest.n_rows
    if is_anew:
        new.lines_out, new.manifest_path = left_out, leave_out(job, manifest, left_out)
        manifest, local = new.read_manifest(job)
    counts = comm.allgather(count_kept(parts, kept))
    total = np.sum(counts, axis=0)
    return Compared(
        kept=kept,
        total=total,
        before=total - np.sum(counts[comm.rank :], axis=0),
        added=Added(
            n_before=sum(part.group.n_rows for part in firsts),
            n_skipped=len(left_out),
            n_replaced=len(kept.indices),
        ),
        n_new=n_new,
        manifest=manifest,
        local=local,
        is_private=is_anew and job.options.dry_run,
    )


def scan_of(stored: StoredFile) -> ScanOptions:
    """Return how a folder is scanned: as that which the file was made of, if it was one.

    Raises:
        OutputError: how that was says nothing here; or the file cannot be read.
    """
    from h5ingest.images.scan import ScanOptions  # an ingest of a manifest scans nothing

    told = stored.named.get(Attribute.SCAN)
    if told is None:
        labels, _ = stored.labels()
        return ScanOptions(label="none" if labels is None else "parent")
    try:
        return ScanOptions(**json.loads(told))
    except (TypeError, ValueError, UsageError) as error:
        raise OutputError(
            f"{stored.path}: its attribute {Attribute.SCAN} means nothing here: {error}"
        ) from None
