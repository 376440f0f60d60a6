"""The verbs that all ranks carry out together: what can be typed, to a request. Root only."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from h5ingest.cli import option_types as opt
from h5ingest.cli.messages import check_target, separator
from h5ingest.cli.requests import IngestRequest, VerifyRequest
from h5ingest.core.errors import IngestError, ManifestError, UsageError
from h5ingest.core.options import MAX_PIXELS, IngestOptions, parse_size
from h5ingest.core.outfiles import CROISSANT, RESULTS, check_distinct


def ingest(
    ctx: typer.Context,
    manifest: opt.Manifest,
    out: opt.Out,
    root: opt.IngestRoot = None,
    delimiter: opt.IngestDelimiter = None,
    layout: opt.Layout = "stack",
    group_by: opt.GroupBy = None,
    channels: opt.Channels = "auto",
    dtype: opt.Dtype = "auto",
    reduce_depth: opt.ReduceDepth = False,
    samples: opt.Samples = "scaled",
    fit: opt.Fit = "error",
    size: opt.Size = None,
    pad_value: opt.PadValue = 0,
    resample: opt.Resample = None,
    compression: opt.Compression = None,
    shuffle: opt.Shuffle = False,
    chunk: opt.Chunk = "auto",
    batch_bytes: opt.BatchBytes = "4MiB",
    cache_bytes: opt.CacheBytes = "32MiB",
    stripe_count: opt.StripeCount = None,
    stripe_size: opt.StripeSize = None,
    alignment: opt.Alignment = "0",
    hint: opt.Hints = None,
    direct_io: opt.DirectIO = "auto",
    readers: opt.Readers = "auto",
    on_error: opt.OnError = "fail",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    trust_palettes: opt.TrustPalettes = False,
    checkpoint: opt.Checkpoint = 30.0,
    peer_timeout: opt.PeerTimeout = 300.0,
    restart: opt.Restart = False,
    overwrite: opt.Overwrite = False,
    overwrite_foreign: opt.OverwriteForeign = False,
    dry_run: opt.DryRun = False,
    progress: opt.IngestProgress = "auto",
    report: opt.Report = None,
    croissant: opt.Croissant = None,
    quiet: opt.IngestQuiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Store all images of MANIFEST in one HDF5 file OUT.

    Nothing is changed that was not asked for: images that do not fit together are refused before
    anything is written, with the ways out. Any number of ranks makes the same file. OUT appears
    only when it is complete; a job that was killed or stopped goes on when the same command is
    started again, on any number of ranks.

    Exit codes: 0 complete, 1 internal error, 2 usage, 3 images failed, 4 manifest, 5 output,
    6 environment (MPI, HDF5), 75 stopped by SIGTERM, SIGINT or SIGUSR1: the same command goes on.
    """
    from h5ingest.storage.job_files import JobPaths  # not for --help

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
            chunk_rows=_number("--chunk", chunk, 1, "images"),
            batch_bytes=parse_size(batch_bytes),
            cache_bytes=parse_size(cache_bytes),
            stripe_count=stripe_count,
            stripe_size=parse_size(stripe_size) if stripe_size is not None else None,
            alignment=parse_size(alignment),
            hints=tuple(map(_hint, hint or ())),
            direct_io=direct_io,
            readers=_number("--readers", readers, 0, "threads"),
            on_error=on_error,
            max_pixels=max_pixels,
            trust_palettes=trust_palettes,
            checkpoint_s=checkpoint,
            peer_timeout_s=peer_timeout,
            restart=restart,
            overwrite=overwrite,
            overwrite_foreign=overwrite_foreign,
            dry_run=dry_run,
        )
        check_distinct(
            ("MANIFEST", manifest),
            *(("OUT", path) for path in JobPaths(out).all),
            ("--report", report),
            ("--croissant", croissant),
        )
        check_target("--report", report, RESULTS)
        check_target("--croissant", croissant, CROISSANT)
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        manifest.stat()
    except OSError as error:  # before anything is said of OUT
        raise ManifestError(f"{manifest}: cannot be read: {error.strerror}") from None
    ctx.obj.request = IngestRequest(
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
    progress: opt.Progress = "auto",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write what was found as JSON.", show_default=False),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Check OUT: its structure, every image against its checksum, its content digest.

    Runs on any number of ranks. Exit codes: 0 all is well, 3 something differs (each row is named),
    5 OUT cannot be read or is no file of h5ingest.
    """
    try:
        check_distinct(("OUT", out), ("--report", report))
        check_target("--report", report, RESULTS)
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


def _hint(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--hint: expected KEY=VALUE, got {text!r}")
    return key, value


def _number(option: str, text: str, least: int, unit: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < least:
        raise UsageError(f"{option}: expected auto or a number of {unit}, got {text!r}")
    return int(text)
