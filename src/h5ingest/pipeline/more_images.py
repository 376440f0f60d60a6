"""`MoreImages`: the samples are the rows of a finished file, and behind them images of a manifest.

What is made is what an ingest of both would have made, but that classes of the file keep their
numbers. It is a file of its own, which takes the name of the old one when it is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import Failure, NothingNewError, agreed
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import Manifest
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.sample_table import Samples
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.held_parts import (
    attributes_of_both,
    chosen,
    count_kept,
    held_rows,
    held_samples,
    refuse_other_images,
)
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.kept_rows import KeptRows
from h5ingest.pipeline.known_paths import find_known
from h5ingest.pipeline.load_more import MoreLoader
from h5ingest.pipeline.load_stored import StoredLoader
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.more_columns import MoreColumns, merged
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.report import Added
from h5ingest.pipeline.source import Plan
from h5ingest.pipeline.stored_file import BYTES, StoredFile
from h5ingest.pipeline.stored_parts import Part, warnings_of
from h5ingest.pipeline.without_lines import labels_of, leave_out
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.storage.earlier_runs import Earlier

if TYPE_CHECKING:
    from h5ingest.pipeline.stored_chunks import StoredChunks


class MoreImages(ImageFiles):
    """Images that come behind those of a file."""

    _parts: list[Part]
    """Of each group of the file, as this rank has looked at it."""
    _kept: KeptRows
    """Which rows of the file stay."""
    _total: NDArray[np.int64]
    """(groups, 3) as `count_kept`, of all ranks."""
    _before: NDArray[np.int64]
    """(groups, 3) likewise, of the ranks before this one. These are there from the plan on."""

    def __init__(self, manifest: Path, out: Path, *, again: bool) -> None:
        """Look at nothing yet.

        Args:
            manifest: of the new images.
            out: the file.
            again: whether an image whose path is in the file replaces that; else it is left out.
        """
        super().__init__(manifest)
        self._stored: Final = StoredFile(out)
        self._again: Final = again
        self._filters: tuple[Filter, ...] = ()
        self._is_ready = self._is_private = False
        self.n_bytes = self._n_failed = 0
        """Of the file; and images that had failed and stay."""
        self.content_digest = ""
        """Of the file."""
        self.added = Added(n_before=0)
        """What becomes of it."""
        self._merged: tuple[dict[str, str], tuple[bytes, ...] | None] = {}, None
        """On rank 0: kinds of columns, and names of classes, from now on."""
        self._old: dict[int, int] = {}
        """Position of a group from now on -> its position in the file, if rows of it stay."""

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        self._stored.close()
        if self._is_private and self._manifest_path != self.path:
            self._manifest_path.unlink(missing_ok=True)

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`. The options are the file's, from now on.

        Raises:
            IngestError: the file cannot be extended, or not by these; or there is nothing to add.
        """
        if not self._is_ready:
            with job.phase("open"):
                self._open(job)
            with job.phase("compare"):
                self._compare(job)
            if not job.options.is_auto:
                self._filters = job.filters(job.options.compression)
            self._is_ready = True
        plan = super().plan(job, self._filters)
        return replace(
            plan,
            n_bytes=plan.n_bytes + self.n_bytes,
            palettes=plan.palettes if self._held.palettes else (None,),
            warnings=plan.warnings + warnings_of(self._stored.path, self._parts, self._n_failed),
            n_failed=self._n_failed,
            added=self.added,
        )

    def _open(self, job: Job) -> None:
        """Look at the file; check all of it but the images. Collective."""
        comm, stored = job.comm, self._stored
        about = stored.open(comm)
        self.n_bytes = about[BYTES]
        self._about |= {name.replace("IN", "OUT"): value for name, value in about.items()}
        self._about["again"] = self._again
        self.content_digest = stored.header.content_digest
        with agreeing(comm):
            job.options, job.auto = chosen(job.options, stored.header)
        self._parts = stored.look(comm)
        stored.check_digest(comm)

    def _compare(self, job: Job) -> None:
        """Find which paths are in the file, and what stays of it. Collective."""
        comm, parts = job.comm, self._parts
        manifest, local = read_manifest(self.path, job.options, comm)
        in_file, is_known = find_known(
            comm, chain.from_iterable(part.samples.paths for part in parts), local.paths
        )
        gone: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
        known = np.flatnonzero(is_known)
        if self._again:
            known = known[:0]
            ends = np.cumsum([len(part.samples.paths) for part in parts])
            for number, at in enumerate(np.split(in_file, ends[:-1])):
                samples, k = parts[number].samples, np.flatnonzero(at)
                gone.append((number, samples.rows.start + k, samples.indices[k]))
        n_skipped = sum(comm.allgather(len(known)))
        self._kept = KeptRows.of(len(parts), list(chain.from_iterable(comm.allgather(gone))))
        self.added = Added(
            n_before=sum(part.group.n_rows for part in parts),
            n_skipped=n_skipped,
            n_replaced=len(self._kept.indices),
        )
        if n_skipped == manifest.n_rows:
            raise agreed(NothingNewError(f"{self.path}: all its images are in the file already"))
        if n_skipped:
            lines, self._is_private = local.indices.start + known, job.options.dry_run
            self._manifest_path = leave_out(job, manifest, lines)
            manifest = read_manifest(self._manifest_path, job.options, comm, self.path)[0]
        counts = comm.allgather(count_kept(parts, self._kept))
        self._total = np.sum(counts, axis=0)
        self._before = self._total - np.sum(counts[comm.rank :], axis=0)
        self._n_failed = int(self._total[:, 2].sum())
        self._held = held_rows(parts, self._kept, self._total)
        self._merge_columns(comm, manifest)

    def _merge_columns(self, comm: Comm, manifest: Manifest) -> None:
        """Compare the columns of both. Collective.

        Raises:
            ManifestError: they are not the same.
        """
        labels = labels_of(manifest, comm)
        with agreeing(comm):
            if comm.rank == 0:
                self._merged = merged(self._stored.columns(), manifest, labels)

    def _with_held(self, job: Job, layout: Layout, runs: list[Samples]) -> list[Samples]:
        """Return the runs, behind those of the file.

        Raises:
            UsageError: its images would become something else.
        """
        numbers = {group.name: number for number, group in enumerate(layout.groups)}
        left = np.flatnonzero(self._total[:, 0]).tolist()
        self._old = {numbers[self._parts[old].group.name]: old for old in left}
        with agreeing(job.comm):
            for new, old in self._old.items():
                refuse_other_images(self._parts[old], layout.groups[new], self._stored.path)
        of_trees = KINDS[layout.kind].dataset_per_image
        has_labels = "label" in self._manifest.dialect.columns
        held = [
            held_samples(
                self._parts[old],
                self._kept,
                (old, new),
                int(self._before[old, 1]),
                in_folders=of_trees and has_labels and job.options.group_by is None,
                recoded=job.options.recode is not None and not job.options.dry_run,
                with_members=self._located is not None,
            )
            for new, old in self._old.items()
        ]
        if of_trees:
            runs = [replace(run, names=PackedStrings.pack([b""] * len(run.rows))) for run in runs]
        return [run for run in held if run.rows] + runs

    @contextlib.contextmanager
    def loading(self, job: Job, stats: RankStats, heartbeat: Heartbeat) -> Iterator[Loader[Any]]:
        """See `Source.loading`."""
        with super().loading(job, stats, heartbeat) as files:
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
        if len(dropped := self._kept.dropped[old]):
            return int(dropped[0]) if is_stack else 0  # else it is not known where they began
        return int(self._total[old, 0 if is_stack else 1])

    def _open_group(self, number: int) -> StoredGroup:
        return self._stored.open_group(self._old[number])

    def _rows_of(self, samples: Samples) -> Iterator[int]:
        """Return which rows of the file these samples are."""
        if not samples.rows:
            return iter(())
        return iter(self._kept.old_rows(self._old[samples.group], samples.rows).tolist())

    def _n_held(self, number: int) -> int:
        """Return how many rows of a group are in the file."""
        old = self._old.get(number)
        return 0 if old is None else int(self._total[old, 0])

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
        return super().count_changed(new, earlier, beat)

    def columns(self) -> SampleColumns:
        """See `Source.columns`."""
        numbers = {old: new for new, old in self._old.items()}
        stored = self._stored.columns()
        return MoreColumns(stored, self._manifest, self._kept, numbers, *self._merged)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`. Names and digests of all manifests, the last one last."""
        new = super().attributes(job, any_failed=any_failed)
        options = dict(self._stored.header.options)
        if any_failed:
            options["on_error"] = job.options.on_error
        return attributes_of_both(self._stored.named, new, options)

    def check(self, digest: str, failures: Sequence[Failure]) -> None:
        """See `Source.check`."""
        self._stored.look_again()
