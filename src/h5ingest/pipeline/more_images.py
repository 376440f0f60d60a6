"""`MoreImages`: the samples are the rows of a finished file, and behind them those of an ingest.

What is made is what an ingest of both would have made, but that classes of the file keep their
numbers. It is a file of its own, which takes the name of the old one when it is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from h5ingest.core.errors import Failure, NothingNewError, agreed
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.sample_table import Samples
from h5ingest.mpi.comm import agreeing
from h5ingest.pipeline.choose_source import choose_source
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.held_parts import (
    attributes_of_both,
    chosen,
    held_rows,
    held_samples,
    refuse_other_images,
)
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.known_rows import Compared, compare, scan_of
from h5ingest.pipeline.load_more import MoreLoader
from h5ingest.pipeline.load_stored import StoredLoader
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.more_columns import MoreColumns, merged
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import behind
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.report import Added
from h5ingest.pipeline.source import Plan, Source
from h5ingest.pipeline.stored_file import BYTES, StoredFile
from h5ingest.pipeline.stored_parts import Part, warnings_of
from h5ingest.pipeline.without_lines import labels_of
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.storage.earlier_runs import Earlier

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions
    from h5ingest.pipeline.stored_chunks import StoredChunks


class MoreImages(Source):
    """Images that come behind those of a file."""

    argument = ImageFiles.argument
    remedy = ImageFiles.remedy

    _new: ImageFiles
    """The new ones."""
    _parts: list[Part]
    """Of each group of images of the file, as this rank has looked at it."""
    _found: Compared
    """What stays of it. These are there from the plan on."""

    def __init__(self, path: Path, out: Path, *, again: bool) -> None:
        """Look at nothing yet.

        Args:
            path: of the new images: what an ingest takes.
            out: the file.
            again: whether an image whose path is in the file replaces that; else it is left out.
        """
        super().__init__(path)
        self._stored: Final = StoredFile(out)
        self._again: Final = again
        self._filters: tuple[Filter, ...] = ()
        self._is_ready = False
        self._lines: Path | None = None
        """Of a manifest without what is in the file, if it is this run's alone."""
        self._scan: ScanOptions | None = None
        """How a folder is scanned."""
        self._about: dict[str, object] = {}
        """What makes it this file."""
        self.n_bytes = self._n_failed = 0
        """Of the file; and rows that had failed and stay."""
        self.content_digest = ""
        """Of the file."""
        self.added = Added(n_before=0)
        """What becomes of it."""
        self._merged: tuple[dict[str, str], tuple[bytes, ...] | None] = {}, None
        """On rank 0: kinds of columns, and names of classes, from now on."""
        self._old: dict[int, int] = {}
        """Position of a group of images from now on -> in the file, if rows of it stay."""

    def close(self) -> None:
        """See `Source.close`."""
        if self._is_ready:
            self._new.close()
        self._stored.close()
        if self._lines is not None:
            self._lines.unlink(missing_ok=True)

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`. The options are the file's, from now on.

        Raises:
            IngestError: the file cannot be extended, or not by these; or there is nothing to add.
        """
        if not self._is_ready:
            with job.phase("open"):
                self._open(job)
            self._new = choose_source(self.path, self._scan, job.comm, is_more=True)
            self._new.about |= self._about
            self._new.with_held = self._with_held
            self._is_ready = True
            self._new.find(job)
            with job.phase("compare"):
                self._compare(job)
            if not job.options.is_auto:
                self._filters = job.filters(job.options.compression)
        plan = self._new.plan(job, self._filters)
        return replace(
            plan,
            n_bytes=plan.n_bytes + self.n_bytes,
            palettes=tuple(
                found if held else None
                for found, held in zip(plan.palettes, self._new.held.palettes, strict=True)
            ),
            warnings=plan.warnings + warnings_of(self._stored.header, self._parts, self._n_failed),
            n_failed=self._n_failed,
            added=self.added,
        )

    def _open(self, job: Job) -> None:
        """Look at the file; check all of it but the images. Collective."""
        comm, stored = job.comm, self._stored
        about = stored.open(comm)
        self.n_bytes = about[BYTES]
        self._about = {name.replace("IN", "OUT"): value for name, value in about.items()}
        self._about["again"] = self._again
        self.content_digest = stored.header.content_digest
        with agreeing(comm):
            job.options, job.auto = chosen(job.options, stored.header)
            self._scan = scan_of(stored)
        self._parts = stored.look(comm)
        stored.check_digest(comm)

    def _compare(self, job: Job) -> None:
        """Find what stays of the file, and which lines are new. Collective.

        Raises:
            NothingNewError: none is.
            ManifestError: the columns are not those of the file.
        """
        comm, new = job.comm, self._new
        self._found = found = compare(job, new, self._parts, again=self._again)
        self.added = found.added
        if not found.n_new:
            raise agreed(NothingNewError(f"{self.path}: all its images are in the file already"))
        if found.is_private and comm.rank == 0:
            self._lines = new.manifest_path
        n_each = found.local.n_each
        self._n_failed = int(self._found.total[::n_each, 2].sum())
        labels = frozenset[bytes]()
        if self._stored.labels()[1] is not None:
            labels = labels_of(found.manifest, comm)
        with agreeing(comm):
            if comm.rank == 0:
                self._merged = merged(self._stored.columns(), found.manifest, labels)
        new.held = held_rows(self._parts, self._found.kept, self._found.total)
        new.given = behind(new.held, found.manifest, found.local)

    def _with_held(self, job: Job, layout: Layout, runs: list[Samples]) -> list[Samples]:
        """Return the runs, behind those of the file. Collective.

        Raises:
            UsageError: its images would become something else.
        """
        numbers = {group.prefix: number for number, group in enumerate(layout.groups)}
        left = np.flatnonzero(self._found.total[:, 0]).tolist()
        self._old = {numbers[self._parts[old].group.prefix]: old for old in left}
        with agreeing(job.comm):
            for new, old in self._old.items():
                refuse_other_images(self._parts[old], layout.groups[new], self._stored.path)
        of_trees = KINDS[layout.kind].dataset_per_image
        has_labels = self._new.manifest.dialect.has_one_label
        held = [
            held_samples(
                self._parts[old],
                self._found.kept,
                (old, new),
                int(self._found.before[old, 1]),
                in_folders=of_trees and has_labels and job.options.group_by is None,
                recoded=job.options.recode is not None and not job.options.dry_run,
                with_members=self._new.is_located,
            )
            for new, old in self._old.items()
        ]
        if of_trees:
            runs = [replace(run, names=PackedStrings.pack([b""] * len(run.rows))) for run in runs]
        return [run for run in held if run.rows] + runs

    @contextlib.contextmanager
    def loading(self, job: Job, stats: RankStats, heartbeat: Heartbeat) -> Iterator[Loader[Any]]:
        """See `Source.loading`."""
        with self._new.loading(job, stats, heartbeat) as files:
            stored = StoredLoader(
                self._open_group, self._stored.look_again, stats, heartbeat.beat_if_due
            )
            yield MoreLoader(stored, files, self._rows_of, self._n_held)

    def chunks(self, layout: Layout, beat: Callable[[], None]) -> StoredChunks | None:
        """See `Source.chunks`."""
        if not layout.is_filtered:
            return None
        from h5ingest.pipeline.stored_chunks import StoredChunks  # compresses, too

        return StoredChunks(layout, self._open_group, self._extent, beat)

    def _extent(self, number: int) -> int:
        """Return how many positions of a group's pixels are where they were in the file."""
        old = self._old.get(number)
        if old is None:
            return 0
        is_stack = self._parts[old].group.output.size is not None
        if len(dropped := self._found.kept.dropped[old]):
            return int(dropped[0]) if is_stack else 0  # else it is not known where they began
        return int(self._found.total[old, 0 if is_stack else 1])

    def _open_group(self, number: int) -> StoredGroup:
        return self._stored.open_group(self._old[number])

    def _rows_of(self, samples: Samples) -> Iterator[int]:
        """Return which rows of the file these samples are."""
        if not samples.rows:
            return iter(())
        return iter(self._found.kept.old_rows(self._old[samples.group], samples.rows).tolist())

    def _n_held(self, number: int) -> int:
        """Return how many rows of a group are in the file."""
        old = self._old.get(number)
        return 0 if old is None else int(self._found.total[old, 0])

    def count_changed(
        self, shards: Sequence[Shard], earlier: Sequence[Earlier], beat: Callable[[], None]
    ) -> int:
        """See `Source.count_changed`. What the file has cannot have changed."""
        new = [
            replace(
                shard,
                owned=range(max(shard.owned.start, self._n_held(shard.group)), shard.owned.stop),
            )
            for shard in shards
        ]
        return self._new.count_changed(new, earlier, beat)

    @property
    def refused(self) -> Sequence[Failure]:
        """See `Source.refused`."""
        return self._new.refused

    @property
    def cache_bytes(self) -> int:
        """See `Source.cache_bytes`."""
        return self._new.cache_bytes

    def confirm(self, job: Job, plan: Plan, stats: RankStats) -> Plan:
        """See `Source.confirm`."""
        return self._new.confirm(job, plan, stats)

    def lines_of(self, indices: Sequence[int]) -> Mapping[int, int]:
        """See `Source.lines_of`."""
        return self._new.lines_of(indices)

    def columns(self) -> SampleColumns:
        """See `Source.columns`."""
        numbers = {old: new for new, old in self._old.items()}
        stored = self._stored.columns()
        return MoreColumns(stored, self._new.manifest, self._found.kept, numbers, *self._merged)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`. Names and digests of all manifests, the last one last."""
        new = self._new.attributes(job, any_failed=any_failed)
        options = dict(self._stored.header.options)
        if any_failed:
            options["on_error"] = job.options.on_error
        return attributes_of_both(self._stored.named, new, options)

    def check(self, digest: str, failures: Sequence[Failure]) -> None:
        """See `Source.check`."""
        self._stored.look_again()
