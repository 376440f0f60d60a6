"""`StandardInput`: the samples are the image files in a manifest that comes through a pipe.

A manifest is read several times, so it is copied into a temporary file first. One rank only: a
launcher gives its standard input to one of them, or to all a part.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from h5ingest.core.errors import ManifestError, UsageError, agreed
from h5ingest.core.manifest_dialect import STDIN
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.job import Job


class StandardInput(ImageFiles):
    """Image files that standard input names; their paths are relative to the current folder."""

    def __init__(self) -> None:
        """Read nothing yet."""
        super().__init__(Path(STDIN))
        self._copy = tempfile.NamedTemporaryFile(prefix="h5ingest-")  # noqa: SIM115
        self.manifest_path = Path(self._copy.name)

    def find(self, job: Job) -> None:
        """See `ImageFiles.find`.

        Raises:
            UsageError: there are several ranks.
            ManifestError: standard input is closed.
        """
        if job.comm.size > 1:
            said = f"MANIFEST {STDIN}: standard input is read by one rank, this job has"
            raise agreed(UsageError(f"{said} {job.comm.size}: write the manifest into a file"))
        if sys.stdin is None:
            said = f"MANIFEST {STDIN}: expected a list of images on standard input, found it closed"
            raise agreed(ManifestError(said))
        if not self._copy.tell():  # else it has been read
            shutil.copyfileobj(sys.stdin.buffer, self._copy)
            self._copy.flush()

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        self._copy.close()
