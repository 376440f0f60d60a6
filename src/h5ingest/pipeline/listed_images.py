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

from h5ingest.core.errors import ManifestError, UsageError, agreed
from h5ingest.core.layout import Filter
from h5ingest.core.outfiles import MANIFEST, check
from h5ingest.core.schema import Attribute
from h5ingest.images.folder_manifest import describe
from h5ingest.images.scan import ScanOptions
from h5ingest.mpi.comm import agreeing
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.scan_folder import list_images, open_archive
from h5ingest.pipeline.source import Plan
from h5ingest.storage.job_files import about_left, refuse_other
from h5ingest.storage.shared_blocks import see_same_file

_OF_WRITING: Final = ("index", "absolute", "overwrite")
"""Options of a manifest that a job writes for itself in one way only."""
_REMEDY: Final = (
    "Nothing is stored, as there may be more in it than can be found. Get a whole copy; or take "
    "what is intact with --on-error blank."
)


class ListedImages(ImageFiles):
    """Images that are found in a folder or an archive; their paths are relative to it."""

    def __init__(self, folder: Path, scan: ScanOptions | None) -> None:
        """Look at nothing yet.

        Args:
            folder: the folder or archive; all ranks must see it.
            scan: which files are images, and what their labels are; None: by default.
        """
        super().__init__(folder)
        self._scan = replace(scan or ScanOptions(), index=False, absolute=False, overwrite=True)
        self._is_found = self._is_private = self._is_archive = False
        options = asdict(self._scan).items()
        self._about["scan"] = {name: value for name, value in options if name not in _OF_WRITING}

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`. Find the images, and say on rank 0 what there is.

        Where folders name groups, the job groups by them from now on.

        Raises:
            UsageError: an option goes with a manifest only.
            ManifestError: no image is found, or one whose name no manifest can hold.
            OutputError: the folder is not what it was when an unfinished job began.
            StoppedError: a rank was asked to stop.
        """
        if not self._is_found:
            with job.phase("find"):
                self._find(job)
            self._is_found = True
        return super().plan(job, filters)

    def _find(self, job: Job) -> None:
        comm, options = job.comm, job.options
        for flag, given in (("--root", options.root), ("--delimiter", options.delimiter)):
            if given is not None:
                raise agreed(UsageError(f"{flag} goes with a manifest, {self.path} is none"))
        group_by = options.group_by or ("group" if self._scan.group_level else None)
        job.options = replace(options, root=self.path, group_by=group_by)
        listed, goes_on = job.paths.scan, False
        with agreeing(comm):
            if comm.rank == 0 and options.dry_run:  # there is no lock: the name may be another's
                listed = job.paths.out.with_name(f".h5ingest-{os.urandom(8).hex()}.csv")
                self._is_private = True
            elif comm.rank == 0 and not options.restart:
                root = os.path.abspath(self.path)
                refuse_other(job.paths, {"root": root, **self._about})
                goes_on = bool(about_left(job.paths)) and os.path.lexists(listed)
            if comm.rank == 0:
                check(listed, MANIFEST)
        self._manifest_path = comm.bcast(listed)
        archive = open_archive(self.path, comm, job.interrupt)
        if archive is not None:
            self._is_archive = True
            if archive.archive.problem and options.on_error == "fail":
                said = f"{self.path} {archive.archive.problem}\n{_REMEDY}"
                raise agreed(ManifestError(said))
            if archive.archive.problem and comm.rank == 0:
                job.watch.notice(f"{self.path} {archive.archive.problem}")
            if archive.table is not None:
                self._tables[archive.archive.path] = archive.archive, archive.table
        listed = self._manifest_path
        tally = list_images(job, self.path, archive, listed, self._scan, goes_on=goes_on)
        job.has_scan = comm.rank == 0 and not self._is_private
        see_same_file(listed, comm)
        if comm.rank == 0:
            job.watch.notice(f"{self.path}: {describe(tally)}")

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        if self._is_private:
            self._manifest_path.unlink(missing_ok=True)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`."""
        from h5ingest.pipeline.provenance import as_json, as_text  # on one rank

        name = os.path.basename(os.path.abspath(self.path))
        return super().attributes(job, any_failed=any_failed) | {
            Attribute.MANIFEST_NAME: as_text(name if self._is_archive else f"{name}/"),
            Attribute.SCAN: as_json(self._about["scan"]),
        }
