"""The verbs that all ranks carry out together: from what is typed to a request. Rank 0 only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import (
    OF_EXTEND,
    OF_RECOMPRESS,
    OTHER_LAYOUT,
    check_files,
    raising_bad_parameter,
    takes,
    takes_options,
)
from h5ingest.cli.messages import check_target
from h5ingest.cli.requests import DoctorRequest, IngestRequest, ManifestRequest, VerifyRequest
from h5ingest.cli.scan_options import flags_of, scan_options
from h5ingest.core.errors import ManifestError, OutputError, UsageError
from h5ingest.core.manifest_dialect import STDIN
from h5ingest.core.options import IngestOptions
from h5ingest.core.outfiles import RESULTS, check_distinct


@takes_options(in_panels=True)
@takes(opt.found)
@takes(opt.told)
def ingest(
    ctx: typer.Context,
    manifest: opt.Manifest,
    out: opt.Out,
    *,
    options: IngestOptions,
    found: dict[str, Any],
    told: dict[str, Any],
) -> None:
    """Store all images of MANIFEST in one HDF5 file OUT.

    Images are changed only as you ask: those that do not fit together are refused before anything
    is written, with the options that help. Any number of ranks makes the same file. OUT appears
    only when it is complete; a job that was killed or stopped goes on when the same command is
    started again, on any number of ranks.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 output,
    6 environment (MPI, HDF5), 75 stopped by SIGTERM, SIGINT or SIGUSR1: the same command goes on.
    """
    check_files(("MANIFEST", manifest), out, told)
    from h5ingest.images.several import is_listed

    is_found = is_listed(manifest)
    if not is_found:
        try:
            if str(manifest) != STDIN:
                manifest.stat()
        except OSError as error:  # before anything is said of OUT
            raise ManifestError(f"{manifest}: cannot be read: {error.strerror}") from None
    scan = scan_options(found)
    if scan is not None and not is_found:
        raise UsageError(f"{flags_of(found)} go with a folder or archive, which {manifest} is not")
    ctx.obj.request = IngestRequest(source=manifest, out=out, options=options, scan=scan, **told)


@takes_options(*OF_EXTEND, in_panels=True)
@takes(opt.told)
def extend(
    ctx: typer.Context,
    manifest: opt.MoreManifest,
    out: opt.Extended,
    *,
    options: IngestOptions,
    told: dict[str, Any],
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Store images whose paths are in OUT again, after all others; their old rows "
            "are removed.",
        ),
    ] = False,
) -> None:
    """Add the images of MANIFEST to OUT, after those that it has.

    MANIFEST may be a folder or archive, or whatever else an ingest takes. A folder is searched with
    the options with which OUT was made, and images get the paths that an ingest gives them; in a
    shard or container without names, paths begin with its own, as in FILE.npy/00000.png.

    A new file is made beside OUT and takes its name when it is complete: until then OUT stays as it
    was, whatever happens. The rows of OUT are copied and compared with their checksums; compressed
    chunks are copied as they are. Images whose paths are in OUT already are left out, and counted.
    Layout, compression and everything else that decides the content are those of OUT. Labels are
    merged by name: classes of OUT keep their numbers, new ones follow.

    Runs on any number of ranks; a job that was killed or stopped goes on when the same command is
    started again.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 OUT, 6
    environment (MPI, HDF5), 75 stopped by a signal: the same command goes on.
    """
    check_files(("MANIFEST", manifest), out, told)
    ctx.obj.request = IngestRequest(
        source=manifest, out=out, options=options, extends=True, again=again, **told
    )


@takes_options(*OF_RECOMPRESS, in_panels=True, instead={"layout": OTHER_LAYOUT})
@takes(opt.told)
def recompress(
    ctx: typer.Context,
    file: opt.In,
    out: opt.Out,
    *,
    options: IngestOptions,
    told: dict[str, Any],
) -> None:
    """Store all that IN holds in another file OUT, with another compression or layout.

    IN is a file that h5ingest made. Its sources are not needed, and it is only read. Every image is
    compared with its checksum before it is stored again. OUT has the content digest of IN, as
    pixels, labels, paths, columns and failed images are the same. --compression is required unless
    --layout is encoded.

    With --layout all of these stay the same, but the digest changes with the layout: it becomes
    that of an ingest of the same images with that layout. Padding is left out. A stack needs images
    of one size, number of channels and depth; ragged needs one depth: other images are refused
    before anything is written. encoded makes an image file of each image, a PNG or what --recode
    names, and compares its pixels.

    Runs on any number of ranks; a job that was killed or stopped goes on when the same command is
    started again.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images of IN are damaged (each is named),
    5 IN or OUT, 6 environment (MPI, HDF5), 75 stopped by a signal: the same command goes on.
    """
    if options.compression is None and options.layout != "encoded":
        raise typer.BadParameter("--compression is required: a codec, or none")
    check_files(("IN", file), out, told)
    ctx.obj.request = IngestRequest(
        source=file, out=out, options=options, recompresses=True,
        keep_layout=ctx.params["layout"] is None, **told,
    )  # fmt: skip


@takes(opt.found)
def manifest(
    ctx: typer.Context,
    folders: Annotated[
        list[Path],
        opt.argument(
            metavar="DIR",
            help="Folders or archives (.tar, .zip, .tar.gz ...) of images, at any depth; or "
            "anything else that ingest takes in place of a manifest, alone.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="The manifest to write: with commas in .csv, otherwise with tabs; - for "
            "standard output.",
        ),
    ],
    *,
    found: dict[str, Any],
    index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="Also write FILE.index: sizes and kinds of the images, with which an ingest "
            "opens each file only once, whatever the layout.",
        ),
    ] = False,
    pair: Annotated[
        str | None,
        typer.Option(
            metavar="images:masks",
            help="Put files of the same name (endings aside) in folders of these names on one "
            "line: the first in column path, each other in a column named after its folder, "
            "for ingest --image.",
        ),
    ] = None,
    coco: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Take classes and boxes from a COCO file: columns label, with a class for each "
            "box, bbox, category_id, iscrowd and so on. Its paths are relative to DIR.",
        ),
    ] = None,
    yolo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Take classes and boxes from YOLO label files in DIR, a/7.txt for a/7.jpg; "
            "boxes stay as they are, class names come from classes.txt.",
        ),
    ] = None,
    absolute: Annotated[
        bool,
        typer.Option(
            "--absolute", help="Write absolute paths, not relative to the manifest's folder."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a manifest of the images below DIR, in the order of their paths.

    It is ready for h5ingest: labels from the folders' names, paths relative to the manifest.
    Several folders follow one another. What was left out, and why, is printed at the end.

    Runs on any number of ranks, which share the folders and files. Exit codes: 0 written, 2 usage,
    4 no images, or names that no manifest can hold, 5 FILE, 75 stopped by a signal.
    """
    from h5ingest.images.scan import ScanOptions  # not for the others

    written: dict[str, Any] = {
        "index": index, "absolute": absolute, "overwrite": overwrite,
        "pair": tuple(pair.split(":")) if pair is not None else (),
        "coco": None if coco is None else str(coco), "yolo": None if yolo is None else str(yolo),
    }  # fmt: skip
    ctx.obj.request = ManifestRequest(
        folders=folders,
        out=out,
        options=scan_options(found, **written) or ScanOptions(),
        quiet=quiet,
    )


def verify(
    ctx: typer.Context,
    out: Annotated[
        Path, opt.argument(metavar="OUT", help="A file that h5ingest made.", show_default=False)
    ],
    sources: Annotated[
        bool,
        typer.Option(
            "--sources",
            help="Also decode the image files again, by another decoder where that is exact, and "
            "compare the pixels.",
        ),
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --sources: folder that relative paths are relative to. (default: OUT's "
            "folder)",
            show_default=False,
        ),
    ] = None,
    progress: opt.Progress = "auto",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write what was found as JSON.", show_default=False),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Check OUT: its structure, every image against its checksum, its content digest.

    Runs on any number of ranks. Exit codes: 0 all is well, 3 something differs (each row is named),
    5 OUT cannot be read or is not a file of h5ingest.
    """
    with raising_bad_parameter():
        check_distinct(("OUT", out), ("--report", report))
        check_target("--report", report, RESULTS)
        if root is not None and not sources:
            raise UsageError("--root goes with --sources")
    ctx.obj.request = VerifyRequest(
        out=out, sources=sources, root=root, progress=progress, report=report, quiet=quiet
    )


def doctor(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        opt.argument(
            help="Where a file is to be made: its file system is examined.", show_default=False
        ),
    ] = None,
) -> None:
    """Say which libraries and file system are in use, and which problems with them are known.

    Prints everything that a bug report should contain. On several ranks, two of them, on different
    hosts if possible, also test for a few seconds how they see each other's files in OUT's folder.
    Exits with 6 if h5ingest cannot work here.
    """
    if out is not None and not (os.path.isdir(out) or os.path.isdir(out.parent)):
        raise OutputError(f"{out}: expected an existing folder {out.parent}")
    ctx.obj.request = DoctorRequest(out=out)
