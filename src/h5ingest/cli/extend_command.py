"""The verb `extend`: from what is typed to a request. Rank 0 only."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import check_files, takes_options
from h5ingest.cli.requests import IngestRequest
from h5ingest.core.options import IngestOptions

OF_EXTEND: Final = (
    "root", "delimiter", "label_column", "multi_label", "batch_bytes", "cache_bytes",
    "stripe_count", "stripe_size", "alignment", "hints", "direct_io", "probe", "readers",
    "on_error", "trust_palettes", "checkpoint_s", "peer_timeout_s", "restart", "dry_run",
)  # fmt: skip
"""Options of an ingest that do not decide what is in the file."""


@takes_options(*OF_EXTEND, in_panels=True)
def extend(
    ctx: typer.Context,
    manifest: opt.MoreManifest,
    out: opt.Extended,
    *,
    options: IngestOptions,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Store images whose paths are in OUT anew, behind all others; their old rows go.",
        ),
    ] = False,
    progress: opt.IngestProgress = "auto",
    report: opt.Report = None,
    croissant: opt.Croissant = None,
    quiet: opt.IngestQuiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Add the images of MANIFEST to OUT, behind those that it has.

    MANIFEST may be a folder or archive, or whatever else an ingest takes. It is looked through as
    that which OUT was made of, and images have the paths that an ingest gives them; but in a shard
    or container that has no names for them they are called by it, as FILE.npy/00000.png.

    A new file is made beside OUT and takes its name when it is complete: until then OUT is what it
    was, whatever happens. What OUT has is copied, and compared with its checksums; compressed
    chunks are copied as they are. Images whose paths are in OUT are left out, and counted. Layout,
    compression and what else decides the content are those of OUT. Labels are merged by name:
    classes of OUT keep their numbers, new ones come behind.

    Runs on any number of ranks; a job that was killed or stopped goes on when the same command is
    started again.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 OUT, 6
    environment (MPI, HDF5), 75 stopped by a signal: the same command goes on.
    """
    check_files(("MANIFEST", manifest), out, report, croissant)
    ctx.obj.request = IngestRequest(
        source=manifest, out=out, options=options, extends=True, again=again, progress=progress,
        report=report, croissant=croissant, quiet=quiet, verbose=verbose,
    )  # fmt: skip
