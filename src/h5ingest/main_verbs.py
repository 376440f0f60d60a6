"""The verbs that all ranks carry out together: what can be typed, to a request. Root only."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from h5ingest.cli import Request, VerifyRequest
from h5ingest.errors import IngestError, UsageError
from h5ingest.options import MAX_PIXELS, IngestOptions, parse_size
from h5ingest.printing import check_folder, separator


def ingest(
    ctx: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="Text file with one image a line: a path, or a path, a tab and a label; or a "
            "table (.csv, .tsv) whose first line names its columns, the first of them 'path'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The HDF5 file to make.", show_default=False)
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that relative paths are relative to. (default: the manifest's folder)",
            show_default=False,
            rich_help_panel="The manifest",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="Separates the manifest's columns. (default: a comma in .csv, else a tab)",
            show_default=False,
            rich_help_panel="The manifest",
        ),
    ] = None,
    layout: Annotated[
        Literal["stack", "ragged", "tree", "encoded"],
        typer.Option(
            help="stack: one dataset of equal images. ragged: images of any size, one "
            "after the other. tree: a dataset for each image. encoded: the files' bytes.",
            rich_help_panel="What the file looks like",
        ),
    ] = "stack",
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="Make an HDF5 group for each value of this column (train, test ...).",
            rich_help_panel="What the file looks like",
        ),
    ] = None,
    channels: Annotated[
        Literal["auto", "gray", "rgb", "rgba"],
        typer.Option(
            help="auto: the fewest that lose nothing (gray is repeated, alpha opaque).",
            rich_help_panel="What the file looks like",
        ),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "uint8", "uint16"],
        typer.Option(
            help="uint16: 8-bit images times 257. auto: as they are, never mixed.",
            rich_help_panel="What the file looks like",
        ),
    ] = "auto",
    reduce_depth: Annotated[
        bool,
        typer.Option(
            "--reduce-depth",
            help="Let --dtype uint8 drop half of 16 bits.",
            rich_help_panel="What the file looks like",
        ),
    ] = False,
    samples: Annotated[
        Literal["scaled", "raw"],
        typer.Option(
            help="raw: keep palette indices and unscaled 1-, 2-, 4-bit gray, as label masks need.",
            rich_help_panel="What the file looks like",
        ),
    ] = "scaled",
    fit: Annotated[
        Literal["error", "pad", "crop", "resize"],
        typer.Option(
            help="Images of other sizes: pad at the bottom and right (true sizes in "
            "/sizes), crop the centre, or resize.",
            rich_help_panel="What the file looks like",
        ),
    ] = "error",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            show_default=False,
            help="Height and width with --fit. (default: the largest; crop: the commonest)",
            rich_help_panel="What the file looks like",
        ),
    ] = None,
    pad_value: Annotated[
        int,
        typer.Option(
            help="Value of the padding, in every channel.",
            rich_help_panel="What the file looks like",
        ),
    ] = 0,
    resample: Annotated[
        Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
        typer.Option(
            show_default=False,
            help="Pillow's filter for --fit resize. (default: bicubic; nearest with --samples raw)",
            rich_help_panel="What the file looks like",
        ),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="gzip:9, lzf, szip, zstd:3, lz4, bzip2:9, blosc:lz4:5, blosc2:zstd:5:bitshuffle, "
            "bitshuffle:zstd ... (lossless codecs only). (default: none)",
            show_default=False,
            rich_help_panel="Chunks and compression",
        ),
    ] = None,
    shuffle: Annotated[
        bool,
        typer.Option(
            "--shuffle",
            help="Shuffle bytes before compressing: for 16-bit images.",
            rich_help_panel="Chunks and compression",
        ),
    ] = False,
    chunk: Annotated[
        str,
        typer.Option(
            metavar="auto|ROWS",
            help="Images per HDF5 chunk. auto: one from 64 KiB an "
            "image, else as many as make about 1 MiB (512 KiB if compressed).",
            rich_help_panel="Chunks and compression",
        ),
    ] = "auto",
    batch_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Pixels a rank decodes before it writes them.",
            rich_help_panel="How it runs",
        ),
    ] = "4MiB",
    cache_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Files a rank keeps in memory from the header check, to open them once.",
            rich_help_panel="How it runs",
        ),
    ] = "32MiB",
    on_error: Annotated[
        Literal["fail", "blank"],
        typer.Option(
            help="If an image cannot be read: publish nothing and exit with 3, or store "
            "zeros and status 2 in its place. The run goes on either way and names all.",
            rich_help_panel="When something goes wrong",
        ),
    ] = "fail",
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            help="Refuse an image whose header claims more pixels.",
            rich_help_panel="When something goes wrong",
        ),
    ] = MAX_PIXELS,
    checkpoint: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How often what is stored is made safe: about what a job that is killed can lose.",
            rich_help_panel="When something goes wrong",
        ),
    ] = 30.0,
    peer_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Without a sign of life for so long, another rank or "
            "another host's job is taken for dead.",
            rich_help_panel="When something goes wrong",
        ),
    ] = 300.0,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Discard what an unfinished job left, and begin anew.",
            rich_help_panel="When something goes wrong",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace OUT, once the new file is complete.",
            rich_help_panel="When something goes wrong",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the manifest and all headers, say what would be made, write nothing.",
            rich_help_panel="How it runs",
        ),
    ] = False,
    progress: Annotated[
        Literal["auto", "bar", "line", "off"],
        typer.Option(
            help="auto: a bar on a terminal, else a line every 10 s.",
            rich_help_panel="What is told",
        ),
    ] = "auto",
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write the report as JSON, failures by name.",
            show_default=False,
            rich_help_panel="What is told",
        ),
    ] = None,
    croissant: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Describe the file in MLCommons Croissant metadata (reads it once).",
            show_default=False,
            rich_help_panel="What is told",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("-q", "--quiet", help="Print errors only.", rich_help_panel="What is told"),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            help="Say which libraries and writer are used.",
            rich_help_panel="What is told",
        ),
    ] = False,
) -> None:
    """Store all images of MANIFEST in one HDF5 file OUT.

    Nothing is changed that was not asked for: images that do not fit together are refused before
    anything is written, with the ways out. Any number of ranks makes the same file. OUT appears
    only when it is complete; a job that was killed or stopped goes on when the same command is
    started again, on any number of ranks.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 output,
    6 environment (MPI, HDF5), 75 stopped by SIGTERM, SIGINT or SIGUSR1: the same command goes on.
    """
    try:
        options = IngestOptions(
            root=root,
            layout=layout,
            group_by=group_by,
            channels=channels,
            dtype=dtype,
            reduce_depth=reduce_depth,
            samples=samples,
            fit=fit,
            size=_size(size),
            pad_value=pad_value,
            resample=resample,
            delimiter=separator(delimiter),
            compression=compression,
            shuffle=shuffle,
            chunk_rows=_rows(chunk),
            batch_bytes=parse_size(batch_bytes),
            cache_bytes=parse_size(cache_bytes),
            on_error=on_error,
            max_pixels=max_pixels,
            checkpoint_s=checkpoint,
            peer_timeout_s=peer_timeout,
            restart=restart,
            overwrite=overwrite,
            dry_run=dry_run,
        )
        check_folder("--report", report)
        check_folder("--croissant", croissant)
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


def verify(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A file that h5ingest made.", show_default=False)
    ],
    sources: Annotated[
        bool,
        typer.Option(
            "--sources",
            help="Decode the image files again as well, where that is exact by another decoder, "
            "and compare the pixels.",
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
    progress: Annotated[
        Literal["auto", "bar", "line", "off"],
        typer.Option(help="auto: a bar on a terminal, else a line every 10 s."),
    ] = "auto",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write what was found as JSON.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Check OUT: its structure, every image against its checksum, its content digest.

    Runs on any number of ranks. Exit codes: 0 all is well, 3 something differs (each row is named),
    5 OUT cannot be read or is no file of h5ingest.
    """
    try:
        check_folder("--report", report)
        if root is not None and not sources:
            raise UsageError("--root goes with --sources")
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.obj.request = VerifyRequest(
        out=out, sources=sources, root=root, progress=progress, report=report, quiet=quiet
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise UsageError(f"--size: expected HEIGHTxWIDTH such as 224x224, got {text!r}")
    return int(match[1]), int(match[2])


def _rows(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--chunk: expected auto or a number of images, got {text!r}")
    return int(text)
