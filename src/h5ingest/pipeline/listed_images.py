"""`ListedImages`: the samples are the images in a folder or an archive.

They are those that `h5ingest manifest` finds. What is found is written as a manifest beside the
output, so that all ranks can read it, and a run that goes on can say what has changed. It goes with
the other files of the job.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np

from h5ingest.core.errors import ManifestError, OutputError, UsageError, agreed
from h5ingest.core.outfiles import MANIFEST, check, is_same
from h5ingest.core.sample_table import MEMBER
from h5ingest.core.schema import Attribute
from h5ingest.core.units import counted
from h5ingest.images.archives import Archive
from h5ingest.images.scan import ScanOptions, Tally
from h5ingest.images.scan_summary import describe
from h5ingest.images.several import Several
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import agreeing
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.locate_members import Located
from h5ingest.pipeline.manifest_draft import REMEDY, Draft
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.scan_folder import list_images, meant_by, open_archive
from h5ingest.storage.job_files import about_left, refuse_other
from h5ingest.storage.shared_blocks import see_same_file

_OF_WRITING: Final = ("index", "pair", "absolute", "overwrite")
"""Options of a manifest that a job writes for itself in one way only."""
_SAID: Final = ("label", "group_level", "hidden", "sniff")
"""Options that are said even if nobody has asked for them."""


class ListedImages(ImageFiles):
    """Images that are found in a folder or an archive; their paths are relative to it."""

    def __init__(self, folder: Path, scan: ScanOptions | None, *, names_file: bool = False) -> None:
        """Look at nothing yet.

        Args:
            folder: the folder or archive; all ranks must see it.
            scan: which files are images, and what their labels are; None: by default.
            names_file: whether paths of samples in a shard or container begin with its name, even
                if it is the only one.
        """
        super().__init__(folder)
        self._scan = replace(
            scan or ScanOptions(), index=False, absolute=False, overwrite=True, pair=()
        )
        self._names_file = names_file
        self._listing: Path | None = None
        """Where what was found is written."""
        self._is_private = self._is_archive = False
        self._listed_archives: tuple[Archive, ...] = ()
        self._left_out: tuple[str, ...] = ()
        """Warnings, if files that are named as images, or folders, were left out."""
        self._places_path: Path | None = None
        """Where it is written where the samples lie, if they lie in several files."""
        usual = asdict(ScanOptions())
        self.about["scan"] = {
            name: value
            for name, value in asdict(self._scan).items()
            if name in _SAID or (name not in _OF_WRITING and value != usual[name])
        }

    def find(self, job: Job) -> None:
        """See `ImageFiles.find`. Say on rank 0 what there is.

        Where folders name groups, the job groups by them from now on.

        Raises:
            UsageError: an option goes with a manifest only.
            ManifestError: no image is found, or one whose name no manifest can hold; or a folder
                cannot be read.
            OutputError: the folder is not what it was when an unfinished job began.
            StoppedError: a rank was asked to stop.
        """
        if self._listing is None:
            with job.phase("find"):
                self._find(job)

    def _find(self, job: Job) -> None:
        comm, options = job.comm, job.options
        for flag, given in (("--root", options.root), ("--delimiter", options.delimiter)):
            if given is not None:
                raise agreed(UsageError(f"{flag} goes with a manifest, {self.path} is none"))
        group_by = options.group_by or ("group" if self._scan.group_level else None)
        job.options = replace(options, root=self.path, group_by=group_by)
        listed, goes_on, meant = job.paths.scan, False, meant_by([self.path], comm)
        with agreeing(comm):
            if comm.rank == 0 and options.dry_run:  # there is no lock: the name may be another's
                listed = job.paths.out.with_name(f".h5ingest-{os.urandom(8).hex()}.csv")
                self._is_private = True
            elif comm.rank == 0 and not options.restart:
                root = os.path.abspath(self.path if meant is None else os.fsdecode(meant.base))
                refuse_other(job.paths, {"root": root, **self.about})
                goes_on = bool(about_left(job.paths)) and os.path.lexists(listed)
            if comm.rank == 0:
                check(listed, MANIFEST)
        self.manifest_path = self._listing = listed = comm.bcast(listed)
        unpacker = self._unpacker(job)
        archive = None
        if meant is None:
            archive = open_archive(self.path, unpacker, comm, job.interrupt)
            if comm.bcast(archive is not None and archive.is_shard):
                full = os.fsencode(os.path.abspath(self.path))
                meant = Several(base=full, files=(full,))
        self._is_archive = not os.path.isdir(self.path)
        if meant is not None:
            if self._names_file and meant.base in meant.files:
                meant = replace(meant, base=os.path.dirname(meant.base))
            self._list(job, meant, listed, goes_on=goes_on)
            return
        if archive is not None:
            if archive.archive.problem and options.on_error == "fail":
                said = f"{self.path} {archive.archive.problem}\n{REMEDY}"
                raise agreed(ManifestError(said))
            if archive.archive.problem and comm.rank == 0:
                job.watch.notice(f"{self.path} {archive.archive.problem}")
            if archive.table is not None:
                self._tables[archive.archive.path] = archive.archive, archive.table
        tally = list_images(job, self.path, archive, listed, self._scan, goes_on=goes_on)
        job.has_scan = comm.rank == 0 and not self._is_private
        self._tell(job, listed, tally)

    def _tell(self, job: Job, listed: Path, tally: Tally) -> None:
        """Say on rank 0 what has been found, when all see it. Collective."""
        see_same_file(listed, job.comm)
        if job.comm.rank == 0:
            job.watch.notice(f"{self.path}: {describe(tally)}")
        for what, (n, first) in (
            ("files with the ending of an image, but no image inside", tally.misnamed),
            ("folders that cannot be read", tally.unread),
        ):
            n, first = job.comm.bcast((n, first))
            if n:
                said = f"{counted(n, what)}: left out (first: {os.fsdecode(first)})"
                self._left_out = (*self._left_out, said)

    def _list(self, job: Job, meant: Several, listed: Path, *, goes_on: bool) -> None:
        """Find the samples in some files; see `_find`. Collective."""
        from h5ingest.pipeline import list_samples  # few jobs need it

        comm, places = job.comm, listed.with_suffix(".places")
        with agreeing(comm):
            if comm.rank == 0 and any(is_same(os.fsdecode(f), job.paths.out) for f in meant.files):
                raise OutputError(
                    f"{job.paths.out}: is one of the files that {self.path} stands for, and is not "
                    f"replaced: name another OUT"
                )
        job.has_scan = comm.rank == 0 and not self._is_private
        with Draft(self.path, listed, overwrite=True) as draft:
            found = list_samples.list_samples(
                meant,
                self._scan,
                draft,
                self._unpacker(job),
                comm,
                job.interrupt,
                takes_damaged=job.options.on_error != "fail",
            )
            with while_rank_0_works(comm) as beat:
                if comm.rank == 0:
                    job.check_lock()
                    if goes_on:
                        draft.compare(listed, beat)
                    else:
                        draft.publish(beat)
                    list_samples.publish_places(draft, places, found.tally.n_images, beat)
        base = Path(os.fsdecode(meant.base))
        group_by = job.options.group_by or ("group" if found.has_groups else None)
        job.options = replace(job.options, root=base, group_by=group_by)
        self._listed_archives, self._places_path = found.archives, places
        if comm.rank == 0:
            for archive in found.archives:
                if archive.problem:
                    job.watch.notice(f"{os.fsdecode(archive.path)} {archive.problem}")
        self._tell(job, listed, found.tally)
        see_same_file(places, comm)

    def _locate(self, job: Job, local: LocalSamples) -> tuple[LocalSamples, tuple[str, ...]]:
        """See `ImageFiles._locate`: where they lie has been written down."""
        if self._places_path is not None and self._located is None:
            from h5ingest.pipeline.list_samples import read_places

            members = np.zeros(0, MEMBER)
            lines = np.arange(local.indices.start, local.indices.stop) - self.held.n_samples
            lines += np.searchsorted(
                self.lines_out - np.arange(len(self.lines_out)), lines, side="right"
            )
            with agreeing(job.comm):
                members = read_places(self._places_path, lines)
            self._take(Located(archives=self._listed_archives, members=members, warnings=()))
        local, warnings = super()._locate(job, local)
        return local, self._left_out + warnings

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        if self._is_private and self._listing is not None:
            self._listing.unlink(missing_ok=True)
            self._listing.with_suffix(".places").unlink(missing_ok=True)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`."""
        from h5ingest.pipeline.provenance import as_json, as_text  # on one rank

        name = os.path.basename(os.path.abspath(self.path))
        return super().attributes(job, any_failed=any_failed) | {
            Attribute.MANIFEST_NAME: as_text(name if self._is_archive else f"{name}/"),
            Attribute.SCAN: as_json(self.about["scan"]),
        }
