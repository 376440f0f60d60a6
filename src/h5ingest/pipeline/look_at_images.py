"""What is known of the images before the first one is stored: the headers of all, or of some."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError, SamplesFailedError
from h5ingest.core.manifest import Manifest
from h5ingest.images.header_index import index_of, load
from h5ingest.images.png_chunks import END
from h5ingest.images.prefetch import FileCache, Prefetcher, Reader
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline.agree_on_images import ProbeResult, agree_on_images
from h5ingest.pipeline.first_look import (
    KEPT_BYTES,
    agree_on_first,
    looked_at_first,
    may_begin,
)
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.output_checks import refuse_sources
from h5ingest.pipeline.probing import LocalProbe, probe_images
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.report import write_failures
from h5ingest.pipeline.seen_kinds import SeenKinds

if TYPE_CHECKING:
    from h5ingest.pipeline.recoding import Recoder


def look_at_images(
    job: Job,
    folder: bytes,
    read: Reader | None,
    local: LocalSamples,
    manifest: Manifest,
    cache: FileCache,
    recoder: Recoder | None,
) -> tuple[LocalProbe, ProbeResult, SeenKinds | None]:
    """Return what is known of the images: of some, if that is enough to begin. Collective.

    Returns:
        What this rank has found, what all know, and, if some have not been looked at, what they are
        compared with.

    Raises:
        OutputError, SamplesFailedError: see `_agree_on_images`.
    """
    options, comm, source = job.options, job.comm, (folder, read)
    known = _in_index(job, local, manifest) if recoder is None else None
    if known is not None or may_begin(manifest, options):
        if known is None:
            some = looked_at_first(local, manifest, comm)
            n_seen, n_kept = len(some), cache.n_bytes
            cache.spare = KEPT_BYTES // comm.size
        else:  # what it says of files need not be kept
            some = np.flatnonzero(known["height"] == 0).tolist()
            n_seen, n_kept = len(known), 0
        probed = _probe(job, source, local, some, cache, known, phase="look")
        cache.spare = 0
        if seen := agree_on_first(probed, n_seen, n_kept, manifest, options, comm):
            expected = ProbeResult(
                outputs=seen.outputs, conversions=(), n_bytes=0, palettes=(None,)
            )
            return probed, expected, seen
    probed = _probe(job, source, local, range(len(local.paths)), cache, recoder=recoder)
    return probed, _agree_on_images(job, folder, probed, local, manifest), None


def _in_index(job: Job, local: LocalSamples, manifest: Manifest) -> NDArray[np.void] | None:
    """Return what the manifest's index says of this rank's images, if all have it. Collective."""
    options = job.options
    if options.probe != "auto" or options.dry_run or len(manifest.images) > 1:
        return None
    if options.samples == "raw" or options.scale or options.orientation == "exif":
        return None  # it says what images are otherwise
    if not job.comm.bcast(os.path.exists(index_of(manifest.path))):
        return None
    rows = range(local.indices.start - manifest.first, local.indices.stop - manifest.first)
    known = load(manifest.path, manifest.sha256, manifest.n_rows, rows)
    if all(job.comm.allgather(known is not None)):
        return known
    if job.comm.rank == 0:
        job.watch.notice(
            f"{index_of(manifest.path)} is not used: it is damaged, or of another manifest"
        )
    return None


def _probe(
    job: Job,
    source: tuple[bytes, Reader | None],
    local: LocalSamples,
    which: Sequence[int],
    cache: FileCache,
    known: NDArray[np.void] | None = None,
    recoder: Recoder | None = None,
    *,
    phase: str = "probe",
) -> LocalProbe:
    """Return what this rank finds in headers of its images, when all ranks have. Collective."""
    stats, n_images = RankStats(), sum(job.comm.allgather(len(which)))
    heartbeat = Heartbeat(job, "recode" if recoder else phase, n_images, stats)
    probed: LocalProbe | None = None
    (folder, read), options = source, job.options
    with (
        contextlib.suppress(StopRequested),
        Prefetcher(
            folder, options.readers, end=END, read=read, slow=cache.slow, waiting=heartbeat.beat
        ) as files,
    ):
        probed = probe_images(local, which, known, files, options, cache, stats, heartbeat, recoder)
    heartbeat.finish()
    if recoder is not None:
        recoder.finish()
    job.stop_if_asked()
    assert probed is not None, "who stops early says so"
    return probed


def _agree_on_images(
    job: Job, folder: bytes, probed: LocalProbe, local: LocalSamples, manifest: Manifest
) -> ProbeResult:
    """Return what the images become; if they cannot be stored, list those that failed. Collective.

    Raises:
        OutputError: OUT is one of the source files.
        SamplesFailedError: see `agree_on_images`.
    """
    refuse_sources(job, folder, probed.failures)
    try:
        return agree_on_images(probed, local, manifest, folder, job.options, job.comm)
    except SamplesFailedError as error:
        kinds = {failure.kind for failure in error.failures}
        wrong_folder = kinds == {"missing"} and len(error.failures) == manifest.n_images
        if kinds and not wrong_folder and not job.options.dry_run:  # on rank 0: others know none
            with contextlib.suppress(OutputError):  # why the images failed matters more
                write_failures(job.paths.failed, error.failures)
        raise
