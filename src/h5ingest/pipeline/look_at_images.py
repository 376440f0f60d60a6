"""What is known of the images before the first one is stored: the headers of all, or of some."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from h5ingest.core.errors import OutputError, SamplesFailedError
from h5ingest.core.manifest import Manifest
from h5ingest.images.prefetch import FileCache
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline.agree_on_images import ProbeResult, agree_on_images
from h5ingest.pipeline.first_look import FirstLook, looked_at_first, may_begin
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.output_checks import refuse_sources
from h5ingest.pipeline.probing import LocalProbe, probe_images
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.report import write_failures


def look_at_images(
    job: Job, local: LocalSamples, manifest: Manifest, cache: FileCache
) -> tuple[LocalProbe, ProbeResult | FirstLook]:
    """Return what is known of the images: of some, if that is enough to begin. Collective.

    Raises:
        OutputError, SamplesFailedError: see `_agree_on_images`.
    """
    options, comm = job.options, job.comm
    if may_begin(manifest, options):
        some = looked_at_first(local, manifest, comm)
        probed = _probe(job, local, some, cache)
        if look := FirstLook.agree(probed, len(some), cache.n_bytes, manifest, options, comm):
            return probed, look
    probed = _probe(job, local, range(len(local.paths)), cache)
    return probed, _agree_on_images(job, probed, local, manifest)


def _probe(job: Job, local: LocalSamples, which: Sequence[int], cache: FileCache) -> LocalProbe:
    """Return what this rank finds in headers of its images, when all ranks have. Collective."""
    stats, n_images = RankStats(), sum(job.comm.allgather(len(which)))
    heartbeat = Heartbeat(job, "probe", n_images, stats)
    probed: LocalProbe | None = None
    with contextlib.suppress(StopRequested):
        probed = probe_images(local, which, job.source_folder, job.options, cache, stats, heartbeat)
    heartbeat.finish()
    job.stop_if_asked()
    assert probed is not None, "who stops early says so"
    return probed


def _agree_on_images(
    job: Job, probed: LocalProbe, local: LocalSamples, manifest: Manifest
) -> ProbeResult:
    """Return what the images become; if they cannot be stored, list those that failed. Collective.

    Raises:
        OutputError: OUT is one of the source files.
        SamplesFailedError: see `agree_on_images`.
    """
    refuse_sources(job, probed.failures)
    try:
        return agree_on_images(probed, local, manifest, job.source_folder, job.options, job.comm)
    except SamplesFailedError as error:
        kinds = {failure.kind for failure in error.failures}
        wrong_folder = kinds == {"missing"} and len(error.failures) == manifest.n_rows
        if kinds and not wrong_folder and not job.options.dry_run:  # on rank 0: others know none
            with contextlib.suppress(OutputError):  # why the images failed matters more
                write_failures(job.paths.failed, error.failures)
        raise
