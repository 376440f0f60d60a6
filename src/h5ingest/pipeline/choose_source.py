"""What an ingest reads, by what the user has given as its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from h5ingest.core.manifest_dialect import STDIN
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.image_files import ImageFiles
from h5ingest.pipeline.output_checks import is_listed

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions


def choose_source(
    path: Path, scan: ScanOptions | None, comm: Comm, *, is_more: bool = False
) -> ImageFiles:
    """Return the source: a manifest, standard input, or where images lie. Collective.

    Args:
        path: what the user has given.
        scan: how a folder is scanned, if the user has said so.
        comm: all ranks.
        is_more: whether the images are added to others, which say how a folder is scanned: those of
            a container, which may have no names but numbers, are then called by it, too.
    """
    if str(path) == STDIN:
        from h5ingest.pipeline.standard_input import StandardInput  # few jobs read it

        return StandardInput()
    if (scan is not None and not is_more) or comm.bcast(comm.rank == 0 and is_listed(path)):
        from h5ingest.pipeline.listed_images import ListedImages  # few jobs list a folder

        return ListedImages(path, scan, names_file=is_more)
    return ImageFiles(path)
