"""The command line itself, on root only: what can be typed, and what is printed at the end."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from h5ingest import __version__
from h5ingest.cli import Request
from h5ingest.errors import EXIT_INTERNAL, IngestError, OutputError, SamplesFailedError, UsageError
from h5ingest.options import MAX_PIXELS, IngestOptions, parse_size
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


def parse(arguments: list[str]) -> Request | int:
    """Return what the arguments ask for, or the exit code where all has been said already."""
    found: list[Request] = []
    try:
        app(arguments, prog_name="h5ingest", obj=found)
    except SystemExit as exit_:
        if found and not exit_.code:
            return found[0]
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
            delimiter={"\\t": "\t", "tab": "\t"}.get(delimiter or "", delimiter),
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
        if report is not None and not report.parent.is_dir():
            raise UsageError(f"--report: expected an existing folder {report.parent}")
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.obj.append(
        Request(
            manifest=manifest,
            out=out,
            options=options,
            command=shlex.join(["h5ingest", *sys.argv[1:]]),
            progress=progress,
            report=report,
            quiet=quiet,
            verbose=verbose,
        )
    )


def _rows(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--chunk: expected auto or a number of images, got {text!r}")
    return int(text)


def tell(report: IngestReport, request: Request) -> None:
    """Print the report as a short table, and write it as JSON where asked.

    Raises:
        OutputError: the JSON file cannot be written (the HDF5 file is complete).
    """
    if not request.quiet:
        _print_report(report, verbose=request.verbose)
    if request.report is not None:
        write_report(request.report, report)


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
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n")
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"--report {path}: {error.strerror}") from None


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


def size(n_bytes: float) -> str:
    """Return a number of bytes for people.

    >>> size(999), size(47_040_000)
    ('999 B', '44.9 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n_bytes < 1024 or unit == "TiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError("unreachable")
