"""The verbs that run on one rank. They are carried out as soon as their arguments are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import raising_bad_parameter, takes_options
from h5ingest.cli.messages import Status, check_target, write_json
from h5ingest.core.errors import UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.core.outfiles import CROISSANT, LOOK, PICTURE, RESULTS, check_distinct
from h5ingest.mpi.signals import raise_on_interrupt


@takes_options("root", "delimiter", "group_by")
def codecs(
    ctx: typer.Context,
    manifest: opt.IngestedManifest,
    sample: Annotated[
        int, typer.Option(min=1, help="Images to measure, spread evenly over the manifest.")
    ] = 500,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all results as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw size against read speed (needs matplotlib)."),
    ] = None,
    *,
    options: IngestOptions,
) -> None:
    """Measure each codec on a sample of the images of MANIFEST, and say which to choose.

    Prints size and speed for every codec and level, with the chunks that an ingest would make.
    Takes about a minute; runs on one rank.
    """
    on_one_rank("codecs", ctx)
    from h5ingest.inspect import codec_table
    from h5ingest.inspect.codecs import measure

    if plot is not None:
        codec_table.require_matplotlib()
    with raising_bad_parameter():
        check_distinct(("MANIFEST", manifest), ("--json", json_file), ("--plot", plot))
        check_target("--json", json_file, RESULTS)
        check_target("--plot", plot, PICTURE)
    with Status() as status:
        report = measure(manifest, options, n_wanted=sample, on_codec=status)
    codec_table.print_table(report)
    if json_file is not None:
        write_json("--json", json_file, report.to_json())
    if plot is not None:
        codec_table.draw(report, plot)


def show(
    ctx: typer.Context,
    out: Annotated[Path, opt.argument(metavar="OUT", help="A file that h5ingest made.")],
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
            help="File for --layers. (default: OUT's name with -layers-I.png, in this folder)",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a self-contained web page: a gallery, histograms, mean images, "
            "duplicates, how to load the file (needs jinja2).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which images --page samples.")] = 0,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Instead, list the images that occur more than once, within a group or in "
            "several.",
        ),
    ] = False,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this group of the file.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show all groups, datasets and attributes, in full."),
    ] = False,
) -> None:
    """Show what is in OUT: images, storage, classes, failed rows, where it comes from.

    Exit codes: 0 shown, 2 usage (no such group or image), 5 OUT cannot be read or is not a file of
    h5ingest, 6 a codec is missing.
    """
    on_one_rank("show", ctx)
    from h5ingest.inspect import show as showing

    check_distinct(("OUT", out), ("--sheet", sheet), ("--layers-to", layers_to), ("--page", page))
    check_target("--sheet", sheet, PICTURE)
    check_target("--layers-to", layers_to, PICTURE)
    check_target("--page", page, LOOK)
    if duplicates:
        from h5ingest.inspect.duplicates import lines

        for line in lines(out, group=group):
            print(showing.printable(line))
    elif sheet is None and layers is None and page is None:
        showing.show(out, group=group, every=every)
    for file in showing.draw(out, group=group, sheet=sheet, layers=layers, layers_to=layers_to):
        print(file)
    if page is not None:
        from h5ingest.inspect.page import write_page

        write_page(out, page, group=group, seed=seed)
        print(page)


def croissant(
    ctx: typer.Context,
    out: Annotated[Path, opt.argument(help="A file that h5ingest made.")],
    json_file: Annotated[
        Path | None,
        opt.argument(metavar="[OUT.json]", help="Where it goes. (default: OUT with .json)"),
    ] = None,
) -> None:
    """Write Croissant metadata (MLCommons, JSON-LD) for OUT, as ingest --croissant does.

    What was added to OUT.json by hand (license, creator, citeAs, url, version, datePublished, name,
    description) is kept. Reads all of OUT once, for its SHA-256.

    Exit codes: 0 written, 2 usage (OUT.json is something else), 5 OUT cannot be read or is not a
    file of h5ingest, or OUT.json cannot be written.
    """
    on_one_rank("croissant", ctx)
    from h5ingest.inspect import croissant as metadata

    json_file = out.with_suffix(".json") if json_file is None else json_file
    check_distinct(("OUT", out), ("OUT.json", json_file))
    check_target("OUT.json", json_file, CROISSANT)
    metadata.write(json_file, out, named="")
    print(json_file)


def on_one_rank(verb: str, ctx: typer.Context) -> None:
    """Begin a verb that one rank carries out; raise `UsageError` if there are several."""
    if ctx.obj.n_ranks > 1:
        raise UsageError(
            f"h5ingest {verb} runs on one rank, but this job has {ctx.obj.n_ranks}: start it "
            "without mpirun or srun"
        )
    raise_on_interrupt()
