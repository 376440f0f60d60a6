"""`ImageFiles`: the samples are the image files that a manifest names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from h5ingest.core.layout import Filter
from h5ingest.core.manifest import Manifest
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.schema import Attribute
from h5ingest.images.png_chunks import END
from h5ingest.images.prefetch import FileCache, Prefetcher
from h5ingest.pipeline.agree_on_images import REMEDY, ProbeResult
from h5ingest.pipeline.build_layout import build_layout
from h5ingest.pipeline.cache_share import cache_share
from h5ingest.pipeline.first_look import FirstLook
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.load_batch import FileLoader
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.look_at_images import look_at_images
from h5ingest.pipeline.output_checks import refuse_sources
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.seen_kinds import SeenKinds
from h5ingest.pipeline.source import Plan, Source
from h5ingest.storage.job_files import Earlier


class ImageFiles(Source):
    """Image files, named by a manifest."""

    argument = "MANIFEST"
    recompresses = False
    remedy = REMEDY

    _folder: bytes
    """The source folder: what relative paths are relative to."""
    _manifest: Manifest
    _cache: FileCache
    """Files that are kept from the look at the headers."""
    _known: ProbeResult | FirstLook
    """What was known of the images before the first one was stored."""
    _seen: SeenKinds | None
    """Counts their kinds, if that was not all. These five are there from the plan on."""

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`."""
        options, comm = job.options, job.comm
        self._folder = os.fsencode(os.path.abspath(options.root or self.path.parent))
        self._cache = FileCache(
            cache_share(comm) if options.cache_bytes is None else options.cache_bytes
        )
        with job.phase("manifest"):
            manifest, local = read_manifest(self.path, options, comm)
            self._manifest = manifest
        with job.phase("probe"):
            probed, known = look_at_images(job, self._folder, local, manifest, self._cache)
            self._known, self._seen = known, None
            if isinstance(known, FirstLook):
                self._seen = SeenKinds(known.kinds, known.outputs, options)
        with job.phase("layout"):
            layout, runs = build_layout(
                local, probed, manifest, known.outputs, filters, options, comm
            )
        return Plan(
            layout=layout,
            runs=runs,
            about={
                "manifest": manifest.sha256,
                "root": os.fsdecode(self._folder),
                "delimiter": manifest.dialect.delimiter.decode(),
            },
            n_bytes=known.n_bytes if isinstance(known, ProbeResult) else 0,
            palette=known.palette if isinstance(known, ProbeResult) else None,
            conversions=known.conversions if isinstance(known, ProbeResult) else (),
        )

    @property
    def cache_bytes(self) -> int:
        """See `Source.cache_bytes`."""
        return self._cache.n_bytes

    def confirm(self, job: Job, plan: Plan, stats: RankStats) -> Plan:
        """See `Source.confirm`."""
        refuse_sources(job, self._folder, stats.failures)
        if not isinstance(self._known, FirstLook) or self._seen is None:
            return plan
        found = self._known.confirm(self._seen, stats.n_read_bytes, job.options, job.comm)
        return replace(plan, n_bytes=found.n_bytes, conversions=found.conversions)

    @contextlib.contextmanager
    def loading(self, job: Job, stats: RankStats, heartbeat: Heartbeat) -> Iterator[Loader[Any]]:
        """See `Source.loading`."""
        options = job.options
        with Prefetcher(self._folder, options.readers, end=END, waiting=heartbeat.beat) as files:
            yield FileLoader(options, files, self._cache, stats, self._seen, heartbeat.beat_if_due)

    def count_changed(
        self, shards: Sequence[Shard], earlier: Sequence[Earlier], beat: Callable[[], None]
    ) -> int:
        """See `Source.count_changed`."""
        from h5ingest.pipeline.changed_sources import count_changed  # rarely needed

        return count_changed(shards, earlier, self._folder, beat)

    def columns(self) -> SampleColumns:
        """See `Source.columns`."""
        from h5ingest.core.manifest_columns import ManifestColumns  # on one rank

        return ManifestColumns(self._manifest)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`."""
        from h5ingest.pipeline.provenance import as_json, as_text, options_in_file  # on one rank

        return {
            Attribute.MANIFEST_NAME: as_text(self.path.name),
            Attribute.MANIFEST_SHA256: self._manifest.sha256,
            Attribute.OPTIONS: as_json(options_in_file(job.options)),
        }

    def lines_of(self, indices: Sequence[int]) -> Mapping[int, int]:
        """See `Source.lines_of`."""
        return self._manifest.lines_of(indices)
