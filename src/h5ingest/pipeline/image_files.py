"""`ImageFiles`: the samples are the image files that a manifest names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import Failure
from h5ingest.core.held_rows import NOTHING
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.manifest import Manifest
from h5ingest.core.recoding import Recoding, in_words, of_dry_run
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.sample_table import Samples, may_be_within
from h5ingest.core.schema import Attribute
from h5ingest.images.png_chunks import END
from h5ingest.images.prefetch import FileCache, Prefetcher, Reader
from h5ingest.mpi.comm import agreeing
from h5ingest.pipeline.agree_on_images import REMEDY
from h5ingest.pipeline.build_layout import build_layout
from h5ingest.pipeline.cache_share import cache_share
from h5ingest.pipeline.first_look import confirm
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.load_batch import FileLoader
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.look_at_images import look_at_images
from h5ingest.pipeline.manifest_warnings import lists_in_words, manifest_warnings
from h5ingest.pipeline.output_checks import is_left_by_another_look, refuse_sources
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples, behind, read_manifest
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.seen_kinds import SeenKinds
from h5ingest.pipeline.source import Plan, Source
from h5ingest.storage.earlier_runs import Earlier

if TYPE_CHECKING:
    from h5ingest.images.archive_table import Table
    from h5ingest.images.archives import Archive, Archives
    from h5ingest.images.unpacked import Unpacker
    from h5ingest.pipeline.locate_members import Located
    from h5ingest.pipeline.recoding import Recoder


class ImageFiles(Source):
    """Image files, named by a manifest."""

    argument = "MANIFEST"
    recompresses = False
    remedy = REMEDY
    held = NOTHING
    """What the file has already, before these images."""
    with_held: Callable[[Job, Layout, list[Samples]], list[Samples]] | None = None
    """Returns the runs, with those of rows that the file has already. Collective."""
    lines_out: NDArray[np.int64] = np.zeros(0, np.int64)
    """(k,) of the lines that were found first, those that the manifest is without, ascending."""
    given: tuple[Manifest, LocalSamples] | None = None
    """What `read_manifest` would return; taken by the next plan."""
    refused: Sequence[Failure] = ()
    """See `Source.refused`."""

    _folder: bytes
    """The source folder: what relative paths are relative to."""
    manifest: Manifest
    _cache: FileCache
    """Files that are kept from the look at the headers."""
    _seen: SeenKinds | None
    """Counts the kinds of images, if not all were known. These four are there from the plan on."""
    _recoder: Recoder | None = None
    """With `--recode`: has coded the images anew, and reads them."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet; `path` is that of the manifest, mostly."""
        super().__init__(path)
        self.manifest_path = path
        """Of the manifest that is read."""
        self.about: dict[str, object] = {}
        """What a plan says about the source, beside the manifest."""
        self._located: Located | None = None
        self._archives: Archives | None = None
        """Reads files that lie in archives, if there are any."""
        self._unpacks: Unpacker | None = None
        self._tables: dict[bytes, tuple[Archive, Table]] = {}
        """Archives whose tables this rank has made already, by their paths."""

    def close(self) -> None:
        """See `Source.close`."""
        self._archives = None
        if self._unpacks is not None:
            self._unpacks.close()

    def find(self, job: Job) -> None:
        """Have a manifest of the images, if there is none yet. Collective; once is enough.

        Raises:
            IngestError: they cannot be found.
        """

    def read_manifest(self, job: Job) -> tuple[Manifest, LocalSamples]:
        """Return the manifest, and the lines that this rank has read. Collective.

        Raises:
            ManifestError: with the file, the line, what was expected and what was found.
        """
        listed = self.path if self.path != self.manifest_path else None
        found = read_manifest(self.manifest_path, job.options, job.comm, listed)
        return found if self.held is NOTHING else behind(self.held, *found)

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`."""
        self.find(job)
        options, comm = job.options, job.comm
        self._folder = os.fsencode(os.path.abspath(options.root or self.path.parent))
        self._cache = FileCache(
            cache_share(comm) if options.cache_bytes is None else options.cache_bytes
        )
        if options.recode is not None:
            from h5ingest.images.recode import check_available  # few jobs need it

            with agreeing(comm):
                check_available(Recoding.parse(options.recode))
        with job.phase("manifest"):
            manifest, local = self.given or self.read_manifest(job)
            self.given = None
            self.manifest = manifest
            local, warnings = self._locate(job, local)
            warnings += manifest_warnings(manifest, local, comm)
        about = {
            "manifest": manifest.sha256,
            "root": os.fsdecode(self._folder),
            "delimiter": manifest.dialect.delimiter.decode(),
            **self.about,
        }
        if options.label_column:
            about["column of labels"] = options.label_column
        if separator := manifest.dialect.separator:
            about["separator of classes"] = separator.decode()
        with job.phase("probe"), job.explaining_space(0):
            if options.recode is not None and not options.dry_run:
                from h5ingest.pipeline.recoding import begin_recoding  # few jobs need it

                self._recoder = begin_recoding(job, options.recode, local, manifest, about)
            probed, known, self._seen = look_at_images(
                job, self._folder, self._read, local, manifest, self._cache, self._recoder
            )
        self.refused = probed.failures if local.n_each > 1 else ()
        if options.is_auto:
            if not self.held.groups:
                from h5ingest.pipeline.auto_compression import choose_codec  # seldom needed

                with job.phase("sample"):
                    job.auto = choose_codec(
                        job, self._folder, self._read, manifest, local, probed, known.outputs
                    )
            assert job.auto is not None, "it is chosen, or the file's"
            by_codec = {codec: job.filters(codec) for codec in job.auto.codecs}
            of_groups = [by_codec[job.auto.codec_of(name)] for name in manifest.part_names]
        else:
            of_groups = [filters] * len(manifest.parts)
        with job.phase("layout"):
            layout, runs = build_layout(
                local, probed, manifest, known.outputs, of_groups, options, comm
            )
            if self.with_held is not None:
                runs = self.with_held(job, layout, runs)
        if self._seen is not None and is_left_by_another_look(job, about, layout, runs):
            job.options = replace(options, probe="all")
            return self.plan(job, filters)
        return Plan(
            layout=layout,
            runs=runs,
            about=about,
            n_bytes=known.n_bytes,
            palettes=known.palettes,
            conversions=known.conversions + lists_in_words(manifest),
            changes=known.changes + lists_in_words(manifest),
            warnings=warnings + of_dry_run(options.recode, dry_run=options.dry_run),
            image=in_words(options.recode) or layout.rows,
        )

    @property
    def is_located(self) -> bool:
        """Whether some of the images lie in archives."""
        return self._located is not None

    @property
    def _read(self) -> Reader | None:
        """How files are read, if not from the file system."""
        return None if self._archives is None else self._archives.read

    def _locate(self, job: Job, local: LocalSamples) -> tuple[LocalSamples, tuple[str, ...]]:
        """Return the samples, with where in archives they lie, and warnings. Collective."""
        if self._located is None:
            is_possible = may_be_within(self._folder + b"/") or may_be_within(local.paths.text)
            if not any(job.comm.allgather(is_possible)):
                return local, ()
            from h5ingest.pipeline.locate_members import locate_members  # few read from archives

            located = locate_members(
                local.paths, self._folder, job, self._tables, self._unpacker(job)
            )
            self._tables.clear()
            if located is None:
                return local, ()
            self._take(located)
        assert self._located is not None, "it has just been taken"
        return replace(local, members=self._located.members), self._located.warnings

    def _take(self, located: Located) -> None:
        """Read samples from archives from now on."""
        from h5ingest.images.archives import Archives  # few jobs read from one

        self._located, self._archives = located, Archives(located.archives, self._folder)
        self.about["archives"] = located.about

    def _unpacker(self, job: Job) -> Unpacker:
        """Return what unpacks compressed archives: beside the output, or, if none is made, near."""
        if self._unpacks is None:
            from h5ingest.images.unpacked import Unpacker  # few jobs need it

            folder = None if job.options.dry_run else os.fsencode(job.paths.unpacked)
            self._unpacks = Unpacker(folder, near=os.fsencode(job.paths.out.parent))
        return self._unpacks

    @property
    def cache_bytes(self) -> int:
        """See `Source.cache_bytes`."""
        return self._cache.n_bytes

    def confirm(self, job: Job, plan: Plan, stats: RankStats) -> Plan:
        """See `Source.confirm`."""
        refuse_sources(job, self._folder, stats.failures)
        with agreeing(job.comm):
            if self._archives is not None:
                self._archives.check()
        if self._seen is None:
            return plan
        found = confirm(self._seen, stats.n_read_bytes, job.comm)
        return replace(
            plan, n_bytes=found.n_bytes, conversions=found.conversions, changes=found.changes
        )

    @contextlib.contextmanager
    def loading(self, job: Job, stats: RankStats, heartbeat: Heartbeat) -> Iterator[Loader[Any]]:
        """See `Source.loading`."""
        options = job.options
        recoder = self._recoder
        if recoder is not None:
            for note in recoder.notes.to_plain():
                stats.notes.add(*note)
        folder, cache, read = self._folder, self._cache, self._read
        with Prefetcher(
            folder, options.readers, end=END, read=read, slow=cache.slow, waiting=heartbeat.beat
        ) as files:
            yield FileLoader(
                options,
                files,
                cache,
                stats,
                self._seen,
                heartbeat.beat_if_due,
                recoder.read if recoder else None,
            )
        if recoder is not None:
            recoder.close()

    def count_changed(
        self, shards: Sequence[Shard], earlier: Sequence[Earlier], beat: Callable[[], None]
    ) -> int:
        """See `Source.count_changed`."""
        from h5ingest.pipeline.changed_sources import count_changed  # rarely needed

        return count_changed(shards, earlier, self._folder, beat)

    def columns(self) -> SampleColumns:
        """See `Source.columns`."""
        from h5ingest.core.manifest_columns import ManifestColumns  # on one rank

        return ManifestColumns(self.manifest)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`."""
        from h5ingest.pipeline.provenance import as_json, as_text  # on one rank

        return {
            Attribute.MANIFEST_NAME: as_text(self.path.name),
            Attribute.MANIFEST_SHA256: self.manifest.sha256,
            Attribute.OPTIONS: as_json(job.content()),
        }

    def lines_of(self, indices: Sequence[int]) -> Mapping[int, int]:
        """See `Source.lines_of`."""
        return self.manifest.lines_of(indices)
