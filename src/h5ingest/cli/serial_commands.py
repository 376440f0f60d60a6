"""The verbs that run on one rank. They are carried out as soon as their arguments are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import takes_options
from h5ingest.cli.messages import Status, check_target, write_json
from h5ingest.core.errors import IngestError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.core.outfiles import PICTURE, RESULTS, check_distinct
from h5ingest.mpi.signals import raise_on_interrupt


def manifest(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with images at any depth."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="The manifest: commas in .csv, else tabs; - for standard output.",
        ),
    ],
    label: Annotated[
        Literal["parent", "path", "none"],
        typer.Option(
            help="parent: the name of the image's folder. path: all folders from DIR on, but for "
            "the group's."
        ),
    ] = "parent",
    group_by_folder: Annotated[
        int | None,
        typer.Option(
            metavar="LEVEL",
            min=1,
            help="Write a column group: 1 for the names of the folders in DIR (train, test ...), "
            "2 for those of the folders in these, and so on.",
        ),
    ] = None,
    sniff: Annotated[
        bool,
        typer.Option(
            "--sniff/--no-sniff",
            help="The first bytes of a file decide whether it is an image; or its name alone, "
            "which opens no file: for millions of them on a network file system.",
        ),
    ] = True,
    index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="Write FILE.index, too: sizes and kinds of the images, with which an ingest opens "
            "each file once, whatever its layout.",
        ),
    ] = False,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Look at files and folders that begin with a dot too.")
    ] = False,
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
    What was left out, and why, is printed at the end.
    """
    on_one_rank("manifest", ctx)
    from h5ingest.images.folder_manifest import describe, write_manifest
    from h5ingest.images.scan import ScanOptions

    options = ScanOptions(
        label=label,
        group_level=group_by_folder,
        hidden=hidden,
        sniff=sniff,
        index=index,
        absolute=absolute,
        overwrite=overwrite,
    )
    to_stdout = str(out) == "-"
    # Never closed: to close it would write once more to a pipe whose reader has gone.
    file = open(1, "wb", closefd=False) if to_stdout else out  # noqa: SIM115
    tally = write_manifest(folder, file, options)
    if not quiet:
        name = "standard output" if to_stdout else out
        print(f"{name}: {describe(tally)}", file=sys.stderr)


@takes_options("root", "delimiter", "group_by")
def codecs(
    ctx: typer.Context,
    manifest: opt.IngestedManifest,
    sample: Annotated[int, typer.Option(min=1, help="Images to measure, taken evenly.")] = 500,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write it all as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw size against read speed (needs matplotlib)."),
    ] = None,
    *,
    options: IngestOptions,
) -> None:
    """Measure each codec on a sample of the images of MANIFEST, and say which to choose.

    Size and speed of every codec and level, with the chunks that an ingest would make. Takes
    about a minute; runs on one rank.
    """
    on_one_rank("codecs", ctx)
    from h5ingest.inspect import codec_table
    from h5ingest.inspect.codecs import measure

    if plot is not None:
        codec_table.require_matplotlib()
    try:
        check_distinct(("MANIFEST", manifest), ("--json", json_file), ("--plot", plot))
        check_target("--json", json_file, RESULTS)
        check_target("--plot", plot, PICTURE)
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    with Status() as status:
        report = measure(manifest, options, n_wanted=sample, on_codec=status)
    codec_table.print_table(report)
    if json_file is not None:
        write_json("--json", json_file, report.to_json())
    if plot is not None:
        codec_table.draw(report, plot)


def show(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="A file that h5ingest made.")],
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw a contact sheet: samples of each class with their labels.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(metavar="I", help="Draw the channels of image I (from 0) side by side."),
    ] = None,
    layers_to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Where --layers draws. (default: OUT's name with -layers-I.png, in this folder)",
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this group of the file.")
    ] = None,
) -> None:
    """Show what is in OUT: images, storage, classes, failed rows, provenance, inodes saved.

    Exit codes: 0 shown, 2 usage (no such group or image), 5 OUT cannot be read or is no file of
    h5ingest, 6 a codec is missing.
    """
    on_one_rank("show", ctx)
    from h5ingest.inspect import show as showing

    check_distinct(("OUT", out), ("--sheet", sheet), ("--layers-to", layers_to))
    check_target("--sheet", sheet, PICTURE)
    check_target("--layers-to", layers_to, PICTURE)
    showing.show(out, group=group)
    for file in showing.draw(out, group=group, sheet=sheet, layers=layers, layers_to=layers_to):
        print(file)


def on_one_rank(verb: str, ctx: typer.Context) -> None:
    """Begin a verb that one rank carries out; raise `UsageError` if there are several."""
    if ctx.obj.n_ranks > 1:
        raise UsageError(
            f"h5ingest {verb} runs on one rank, this job has {ctx.obj.n_ranks}: "
            f"start it without mpirun or srun"
        )
    raise_on_interrupt()
