"""The command line itself, on root only: what can be typed, and what is printed at the end."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from h5ingest import __version__
from h5ingest.cli import Request
from h5ingest.errors import (
    EXIT_INTERNAL,
    IngestError,
    OutputError,
    SamplesFailedError,
    SetupError,
    UsageError,
)
from h5ingest.options import MAX_PIXELS, IngestOptions, parse_size, size
from h5ingest.report import IngestReport


class _DefaultVerb(TyperGroup):
    """A group in which a first argument that is no verb belongs to `ingest`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "-h", "--version"):
            args = ["ingest", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultVerb,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(slots=True)
class _Call:
    """What the verbs are given, and what they leave."""

    n_ranks: int
    request: Request | None = None
    """What all ranks are to do together, if anything."""


def parse(arguments: list[str], n_ranks: int) -> Request | int:
    """Return what the arguments ask for, or the exit code where all has been done already.

    A verb that runs on one rank is carried out here.

    Raises:
        IngestError: it failed.
    """
    call = _Call(n_ranks)
    try:
        app(arguments, prog_name="h5ingest", obj=call)
    except SystemExit as exit_:
        if call.request is not None and not exit_.code:
            return call.request
        return exit_.code if isinstance(exit_.code, int) else EXIT_INTERNAL
    raise AssertionError("typer leaves by SystemExit")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"h5ingest {__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Turn millions of small image files into one HDF5 file, in parallel.

    [bold]h5ingest [OPTIONS] MANIFEST OUT[/bold] is the main job, short for `h5ingest ingest`;
    its options are listed by [bold]h5ingest ingest --help[/bold]. On several cores or nodes:
    [bold]mpirun -n 64 h5ingest manifest.txt out.h5[/bold].
    """


@app.command()
def ingest(
    ctx: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(
            help="Text file with one image a line: a path, or a path, a tab and a label; or a "
            "table (.csv, .tsv) whose first line names its columns, the first of them 'path'.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The HDF5 file to make.", show_default=False)],
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that relative paths are relative to. [default: the manifest's folder]",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="Separates the manifest's columns. [default: a comma in .csv, else a tab]",
            show_default=False,
        ),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="gzip:9, lzf, szip, zstd:3, lz4, bzip2:9, blosc:lz4:5, blosc2:zstd:5:bitshuffle, "
            "bitshuffle:zstd ... (lossless codecs only). [default: none]",
            show_default=False,
        ),
    ] = None,
    shuffle: Annotated[
        bool,
        typer.Option("--shuffle", help="Shuffle bytes before compressing: for 16-bit images."),
    ] = False,
    chunk: Annotated[
        str,
        typer.Option(
            metavar="auto|ROWS",
            help="Images per HDF5 chunk. auto: one from 64 KiB an "
            "image, else as many as make about 1 MiB (512 KiB if compressed).",
        ),
    ] = "auto",
    batch_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Pixels a rank decodes before it writes them.")
    ] = "4MiB",
    cache_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Files a rank keeps in memory from the header check, to open them once.",
        ),
    ] = "32MiB",
    on_error: Annotated[
        Literal["fail", "blank"],
        typer.Option(
            help="If an image cannot be read: publish nothing and exit with 3, or store "
            "zeros and status 2 in its place. The run goes on either way and names all."
        ),
    ] = "fail",
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse an image whose header claims more pixels.")
    ] = MAX_PIXELS,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, once the new file is complete.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the manifest and all headers, say what would be made, write nothing.",
        ),
    ] = False,
    progress: Annotated[
        Literal["auto", "bar", "line", "off"],
        typer.Option(help="auto: a bar on a terminal, else a line every 10 s."),
    ] = "auto",
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write the report as JSON, failures by name.",
            show_default=False,
        ),
    ] = None,
    croissant: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Describe the file in MLCommons Croissant metadata (reads it once).",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Say which libraries and writer are used.")
    ] = False,
) -> None:
    """Store all images of MANIFEST in one HDF5 file OUT.

    All images must have one size and type; any number of ranks makes the same file. OUT appears
    only when it is complete.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 output,
    6 environment (MPI, HDF5).
    """
    try:
        options = IngestOptions(
            root=root,
            delimiter=_separator(delimiter),
            compression=compression,
            shuffle=shuffle,
            chunk_rows=_rows(chunk),
            batch_bytes=parse_size(batch_bytes),
            cache_bytes=parse_size(cache_bytes),
            on_error=on_error,
            max_pixels=max_pixels,
            overwrite=overwrite,
            dry_run=dry_run,
        )
        _check_folder("--report", report)
        _check_folder("--croissant", croissant)
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.obj.request = Request(
        manifest=manifest,
        out=out,
        options=options,
        command=shlex.join(["h5ingest", *sys.argv[1:]]),
        progress=progress,
        report=report,
        croissant=croissant,
        quiet=quiet,
        verbose=verbose,
    )


@app.command()
def codecs(
    ctx: typer.Context,
    manifest: Annotated[
        Path, typer.Argument(help="The manifest of an ingest.", show_default=False)
    ],
    sample: Annotated[int, typer.Option(min=1, help="Images to measure, taken evenly.")] = 500,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it all as JSON.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw size against read speed (needs matplotlib).",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that relative paths are relative to. [default: the manifest's folder]",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="Separates the manifest's columns. [default: a comma in .csv, else a tab]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure each codec on a sample of the images of MANIFEST, and say which to choose.

    Size and speed of every codec and level, with the chunks that an ingest would make. Takes
    about a minute; runs on one rank.
    """
    _on_one_rank("codecs", ctx)
    from h5ingest import codec_report
    from h5ingest.codecs import measure

    if plot is not None:
        codec_report.require_matplotlib()
    try:
        options = IngestOptions(root=root, delimiter=_separator(delimiter))
        _check_folder("--json", json_file)
        _check_folder("--plot", plot)
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    with _Status() as status:
        report = measure(manifest, options, n_wanted=sample, on_codec=status)
    codec_report.print_table(report)
    if json_file is not None:
        _write_json("--json", json_file, report.to_json())
    if plot is not None:
        codec_report.draw(report, plot)


@app.command()
def doctor(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Argument(help="Where a file is to be made.", show_default=False)
    ] = None,
) -> None:
    """Say which libraries and file system are in use, and what of them is known to go wrong.

    Everything that a bug report should hold. Exits with 6 if nothing can work here.
    """
    from h5ingest.doctor import advise, describe, examine

    if out is not None and not (out if out.is_dir() else out.parent).is_dir():
        raise OutputError(f"{out}: expected an existing folder {out.parent}")
    facts = examine(out, ctx.obj.n_ranks)
    print(describe(facts))
    if any(advice.fatal for advice in advise(facts)):
        raise typer.Exit(SetupError.exit_code)


@app.command()
def show(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="A file that h5ingest made.", show_default=False)],
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw a contact sheet: samples of each class with their labels.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="I",
            help="Draw the channels of image I (from 0) side by side.",
            show_default=False,
        ),
    ] = None,
    layers_to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Where --layers draws. [default: OUT's name with -layers-I.png, in this folder]",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this group of the file.", show_default=False),
    ] = None,
) -> None:
    """Show what is in OUT: images, storage, classes, failed rows, provenance, inodes saved.

    Exit codes: 0 shown, 2 usage (no such group or image), 5 OUT cannot be read or is no file of
    h5ingest, 6 a codec is missing.
    """
    _on_one_rank("show", ctx)
    from h5ingest import show as showing

    _check_folder("--sheet", sheet)
    _check_folder("--layers-to", layers_to)
    showing.show(out, group=group)
    for file in showing.draw(out, group=group, sheet=sheet, layers=layers, layers_to=layers_to):
        print(file)


def _on_one_rank(verb: str, ctx: typer.Context) -> None:
    if ctx.obj.n_ranks > 1:
        raise UsageError(
            f"h5ingest {verb} runs on one rank, this job has {ctx.obj.n_ranks}: "
            f"start it without mpirun or srun"
        )


class _Status:
    """A line on the terminal that says what goes on, and goes away."""

    def __enter__(self) -> _Status:
        from rich.console import Console

        self._status = Console(stderr=True).status("")
        if sys.stderr.isatty():
            self._status.start()
        return self

    def __call__(self, text: str) -> None:
        self._status.update(text)

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _check_folder(option: str, file: Path | None) -> None:
    if file is not None and not file.parent.is_dir():
        raise UsageError(f"{option}: expected an existing folder {file.parent}")


def _separator(text: str | None) -> str | None:
    return {"\\t": "\t", "tab": "\t"}.get(text or "", text)


def _rows(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--chunk: expected auto or a number of images, got {text!r}")
    return int(text)


def tell(report: IngestReport, request: Request) -> None:
    """Print the report as a short table, and write it as JSON where asked.

    Raises:
        OutputError: a JSON file cannot be written (the HDF5 file is complete).
    """
    if not request.quiet:
        _print_report(report, verbose=request.verbose)
    if request.report is not None:
        write_report(request.report, report)
    if request.croissant is not None and not report.dry_run:
        from h5ingest import croissant

        croissant.write(request.croissant, request.out)


def write_report(path: Path, result: IngestReport | SamplesFailedError) -> None:
    """Write what a run did, or which images made it fail, as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    if isinstance(result, IngestReport):
        content = {"status": "complete", **result.to_json()}
    else:
        failures = [asdict(failure) for failure in result.failures]
        content = {"status": "failed", "n_failed": len(failures), "failures": failures}
    _write_json("--report", path, content)


def _write_json(option: str, path: Path, content: dict[str, object]) -> None:
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n")
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"{option} {path}: {error.strerror}") from None


def _print_report(report: IngestReport, *, verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_header=False, box=None, pad_edge=False)
    verb = "would hold" if report.dry_run else "holds"
    table.add_row(f"{report.out}", f"{verb} {report.n_samples:,} images of {report.image}")
    table.add_row("size", f"{size(report.bytes_out)} from {size(report.bytes_in)} of image files")
    table.add_row("files", f"1 instead of {report.n_samples:,} (inodes)")
    if report.failures:
        table.add_row("failed", f"{len(report.failures):,}, stored as zeros with status 2")
    ranks = f"{report.n_ranks} rank{'s' * (report.n_ranks > 1)}"
    table.add_row("time", f"{report.seconds:.2f} s on {ranks}: {report.images_per_s:,.0f} images/s")
    for phase, spread in report.phases.items():
        table.add_row(
            f"  {phase}",
            f"{spread.min:.2f} / {spread.median:.2f} / {spread.max:.2f} s"
            + (" (min / median / max over ranks)" if phase == "manifest" else ""),
        )
    if verbose:
        table.add_row("writer", report.writer)
    if report.content_digest:
        table.add_row("content", f"sha256 {report.content_digest}")
    # Not the terminal's width: a digest or a path that is cut is of no use, in a log even less.
    Console(width=200, highlight=False, markup=False).print(table)
