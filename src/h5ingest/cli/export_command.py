"""The verb `export`: from what is typed to a request, and what is printed. Rank 0 only."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import raising_bad_parameter
from h5ingest.cli.messages import check_target, warn, write_json
from h5ingest.cli.option_values import as_typed
from h5ingest.cli.requests import ExportRequest
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.image_columns import FIRST
from h5ingest.core.option_fields import options_of
from h5ingest.core.options import IngestOptions
from h5ingest.core.outfiles import RESULTS, check_distinct
from h5ingest.core.units import counted, size
from h5ingest.exports.options import SHARD_ROWS, ExportOptions

if TYPE_CHECKING:
    from h5ingest.exports.run import ExportReport  # not for --help

_ROWS: Final = re.compile(r"(\d*):(\d*)")
_OF_TROUBLE: Final = ("on_error", "max_pixels")
"""Options that decide what a file holds only if an image is bad."""
_MOST_SHOWN: Final = 20
"""Damaged images that are named; the report has all."""


def export(
    ctx: typer.Context,
    file: Annotated[Path, opt.argument(metavar="FILE", help="A file that h5ingest made.")],
    out: Annotated[
        Path,
        opt.argument(
            metavar="OUT",
            help="A folder, new or empty; an archive, FILE.tar or FILE.zip; FILE.lmdb; "
            "FILE.parquet, for Hugging Face; WebDataset shards, as in train-%06d.tar; with --row "
            "an image file; with --kerchunk a JSON file.",
            show_default=False,
        ),
    ],
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:END",
            help="Only these rows, counted from 0, without END; in a file with groups, together "
            "with --group.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Only rows whose label, path or other column has this value. May be given several "
            "times; then all must hold.",
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this group of the file.")
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(metavar="I", min=0, help="Write image I (from 0) alone, as an image file."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="With --row, where a row has several images: the one from this column of the "
            "manifest. (default: path, the first)",
            show_default=False,
        ),
    ] = None,
    kerchunk: Annotated[
        bool,
        typer.Option(
            "--kerchunk",
            help="Write no images, but a JSON file of references to the chunks of a stack in "
            "FILE, with which zarr and xarray read it.",
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --kerchunk: the address by which readers find FILE. (default: its path)",
            show_default=False,
        ),
    ] = None,
    keep_names: Annotated[
        bool,
        typer.Option(
            "--keep-names",
            help="Keep the name of the source, such as a.jpg, for a PNG made from pixels; "
            "otherwise it is called a.png. Ingested again, the images then have the same "
            "content digest.",
        ),
    ] = False,
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged",
            help="Leave out damaged images, and name them; otherwise one of them means that "
            "nothing is published.",
        ),
    ] = False,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Samples in a WebDataset shard. (default: {SHARD_ROWS:,})",
            show_default=False,
        ),
    ] = None,
    peer_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="After this long without a sign of life, another rank or another host's export "
            "is presumed dead.",
        ),
    ] = 300.0,
    progress: opt.Progress = "auto",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write what was done as JSON.", show_default=False),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write the images in FILE as image files: pixels as PNG, exactly; stored files as they are.

    Each image goes where its source was, with a manifest.csv beside them: ingesting that makes a
    file with the same content digest (with --keep-names if the sources were not PNGs). Images that
    had failed are left out. Names that lead out of OUT are changed, and so are names that are
    taken. In shards, the members of a sample are NAME.png, NAME.cls (its label as a number) and
    NAME.json (path and columns); further images of a row are NAME.mask.png and so on. With
    --skip-damaged, a row with a damaged image is left out as a whole.

    Nothing is ever replaced. OUT appears when it is complete; of shards, the first one appears
    last. After an export was killed, the same command starts over, but keeps complete shards.

    Runs on any number of ranks, which make the same bytes: each writes its own files or shards; one
    archive is written by rank 0, from images that all ranks make.

    Exit codes: 0 written, 2 usage, 3 images are damaged (each is named), 5 FILE or OUT, 6 a codec
    is missing, 75 stopped by a signal.
    """
    with raising_bad_parameter():
        options = ExportOptions(
            rows=None if rows is None else _parsed(rows),
            where=tuple(map(_cell, where or ())),
            group=group,
            keep_names=keep_names,
            skip_damaged=skip_damaged,
            shard_rows=shard_rows,
            peer_timeout_s=peer_timeout,
        )
        check_distinct(("FILE", file), ("OUT", out), ("--report", report))
        check_target("--report", report, RESULTS)
        if row is not None and (rows or where or keep_names or skip_damaged or report):
            raise UsageError("--row writes one image: only --group and --image go with it")
        if image is not None and row is None:
            raise UsageError("--image goes with --row: an export has all images of a row")
        of_group = ExportOptions(group=group, peer_timeout_s=peer_timeout)
        if kerchunk and (options != of_group or report or row is not None):
            raise UsageError("--kerchunk writes no images: only --group and --url go with it")
        if url is not None and not kerchunk:
            raise UsageError("--url goes with --kerchunk")
    ctx.obj.request = ExportRequest(
        file=file,
        out=out,
        row=row,
        image=image or FIRST,
        url=(url or os.path.abspath(file)) if kerchunk else None,
        options=options,
        progress=progress,
        report=report,
        quiet=quiet,
    )


def _parsed(rows: str) -> tuple[int, int | None]:
    match = _ROWS.fullmatch(rows)
    if match is None or rows == ":":
        raise UsageError(f"--rows: expected FIRST:END such as 10:20, 10: or :20, got {rows!r}")
    return int(match[1] or 0), int(match[2]) if match[2] else None


def _cell(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--where: expected COLUMN=VALUE such as label=cat, got {text!r}")
    return column, value


def export_one(request: ExportRequest) -> None:
    """Write one image, or references to all, and print what was written. Not collective.

    Raises:
        IngestError: see `export_image` and `export_references`.
    """
    from h5ingest.exports.run import export_image, export_references  # not for --help

    group = request.options.group
    if request.row is None:
        url = request.url or ""
        n_bytes, what = export_references(request.file, request.out, url, group), "references to"
    else:
        n_bytes = export_image(request.file, request.row, request.out, group, request.image)
        what = f"row {request.row:,} of"
    if not request.quiet:
        print(f"{request.out}: {what} {request.file}, {size(n_bytes)}")


def tell_export(report: ExportReport, request: ExportRequest) -> None:
    """Print what an export did, and write it as JSON where asked: if it cannot be, only warn."""
    for failure in report.failures[:_MOST_SHOWN]:
        warn(f"left out: {failure.path}: {failure.reason}")
    if (n_more := len(report.failures) - _MOST_SHOWN) > 0:
        warn(f"left out: {n_more:,} more (--report FILE.json lists them all)")
    if not request.quiet:
        print("\n".join(_lines(report)))
    if request.report is not None:
        content = {"status": "complete", **asdict(report)}
        try:
            write_json("--report", request.report, content)
        except OutputError as error:
            warn(f"{error}. {report.out} is complete.")


def _lines(report: ExportReport) -> Iterator[str]:
    yield (
        f"{report.out}: {counted(report.n_images, 'images')}, {size(report.n_bytes)}, in "
        f"{report.seconds:.2f} s on {counted(report.n_ranks, 'ranks')}"
    )
    if report.n_failed:
        yield f"left out, as they failed when ingested: {counted(report.n_failed, 'images')}"
    if report.failures:
        yield f"left out, as they are damaged: {counted(len(report.failures), 'images')}"
    if report.n_kept:
        yield f"kept, as they were there already: {counted(report.n_kept, 'shards')}"
    if report.n_renamed:
        yield (
            f"renamed: {counted(report.n_renamed, 'images')} whose names led out of the folder, "
            f"were taken, or had the suffix of another format"
        )
    if report.n_apart:
        yield f"of these, {report.n_apart:,} would have had the name of another"
    if report.manifest:
        flags = "".join(f" {word}" for word in _flags(report.options))
        yield f"to ingest them again: h5ingest {shlex.quote(report.manifest)} NEW.h5{flags}"


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to type for these options, as a file has them, if they are not the defaults."""
    for each in options_of(IngestOptions):
        value = options.get(each.name, each.default)
        if not each.in_file or each.name in _OF_TROUBLE or value == each.default:
            continue
        if each.form == "HxW":
            value = "x".join(map(str, value))
        for one in value if each.name == "image" else (value,):
            typed = None if one is True else as_typed(each.form or "", one)
            yield each.flag if typed is None else f"{each.flag} {shlex.quote(typed)}"
