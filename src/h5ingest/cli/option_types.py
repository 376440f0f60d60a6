"""What can be typed: the options and arguments of the verbs, each with its type and its help.

The defaults are where the verbs are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

_root = partial(
    typer.Option,
    metavar="DIR",
    help="Folder that relative paths are relative to. (default: the manifest's folder)",
    show_default=False,
)
_delimiter = partial(
    typer.Option,
    metavar="CHAR",
    help="Separates the manifest's columns. (default: a comma in .csv, else a tab)",
    show_default=False,
)
_progress = partial(typer.Option, help="auto: a bar on a terminal, else a line every 10 s.")
_quiet = partial(typer.Option, "-q", "--quiet", help="Print errors only.")

_MANIFEST: Final = "The manifest"
_TOLD: Final = "What is told"

# Of several verbs.

_ProgressStyle = Literal["auto", "bar", "line", "off"]

Root = Annotated[Path | None, _root()]
Delimiter = Annotated[str | None, _delimiter()]
Progress = Annotated[_ProgressStyle, _progress()]
Quiet = Annotated[bool, _quiet()]
IngestedManifest = Annotated[
    Path, typer.Argument(help="The manifest of an ingest.", show_default=False)
]

# Of `ingest`, in the panels of its help.

_file = partial(typer.Option, rich_help_panel="What the file looks like")
_chunks = partial(typer.Option, rich_help_panel="Chunks and compression")
_run = partial(typer.Option, rich_help_panel="How it runs")
_disk = partial(typer.Option, rich_help_panel="Parallel file systems")
_trouble = partial(typer.Option, rich_help_panel="When something goes wrong")
_told = partial(typer.Option, rich_help_panel=_TOLD)

Manifest = Annotated[
    Path,
    typer.Argument(
        metavar="MANIFEST",
        help="Text file with one image a line: a path, or a path, a tab and a label; or a "
        "table (.csv, .tsv) whose first line names its columns, the first of them 'path'.",
        show_default=False,
    ),
]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="The HDF5 file to make.", show_default=False)
]
IngestRoot = Annotated[Path | None, _root(rich_help_panel=_MANIFEST)]
IngestDelimiter = Annotated[str | None, _delimiter(rich_help_panel=_MANIFEST)]
Layout = Annotated[
    Literal["stack", "ragged", "tree", "encoded"],
    _file(
        help="stack: one dataset of equal images. ragged: images of any size, one "
        "after the other. tree: a dataset for each image. encoded: the files' bytes."
    ),
]
GroupBy = Annotated[
    str | None,
    _file(
        metavar="COLUMN",
        show_default=False,
        help="Make an HDF5 group for each value of this column (train, test ...).",
    ),
]
Channels = Annotated[
    Literal["auto", "gray", "rgb", "rgba"],
    _file(help="auto: the fewest that lose nothing (gray is repeated, alpha opaque)."),
]
Dtype = Annotated[
    Literal["auto", "uint8", "uint16"],
    _file(help="uint16: 8-bit images times 257. auto: as they are, never mixed."),
]
ReduceDepth = Annotated[
    bool,
    _file("--reduce-depth", help="Let --dtype uint8 drop half of 16 bits."),
]
Samples = Annotated[
    Literal["scaled", "raw"],
    _file(help="raw: keep palette indices and unscaled 1-, 2-, 4-bit gray, as label masks need."),
]
Fit = Annotated[
    Literal["error", "pad", "crop", "resize"],
    _file(
        help="Images of other sizes: pad at the bottom and right (true sizes in "
        "/sizes), crop the centre, or resize."
    ),
]
Size = Annotated[
    str | None,
    _file(
        metavar="HxW",
        show_default=False,
        help="Height and width with --fit. (default: the largest; crop: the commonest)",
    ),
]
PadValue = Annotated[
    int,
    _file(help="Value of the padding, in every channel."),
]
Resample = Annotated[
    Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
    _file(
        show_default=False,
        help="Pillow's filter for --fit resize. (default: bicubic; nearest with --samples raw)",
    ),
]
Compression = Annotated[
    str | None,
    _chunks(
        metavar="SPEC",
        help="gzip:9, lzf, szip, zstd:3, lz4, bzip2:9, blosc:lz4:5, blosc2:zstd:5:bitshuffle, "
        "bitshuffle:zstd ... (lossless codecs only). (default: none)",
        show_default=False,
    ),
]
Shuffle = Annotated[
    bool,
    _chunks("--shuffle", help="Shuffle bytes before compressing: for 16-bit images."),
]
Chunk = Annotated[
    str,
    _chunks(
        metavar="auto|ROWS",
        help="Images per HDF5 chunk. auto: one from 64 KiB an "
        "image, else as many as make about 1 MiB (512 KiB if compressed).",
    ),
]
BatchBytes = Annotated[
    str,
    _run(metavar="SIZE", help="Pixels a rank decodes before it writes them."),
]
Alignment = Annotated[
    str,
    _disk(
        metavar="SIZE",
        help="Begin datasets and chunks of that size and more at multiples of it. 0: anywhere.",
    ),
]
StripeCount = Annotated[
    int | None,
    _disk(
        metavar="N",
        help="Lustre: storage targets of OUT; 0: as its folder has it. (default: 8 from 1 GB, 24 "
        "from 10 GB, 72 from 100 GB, unless the folder has several)",
        show_default=False,
    ),
]
StripeSize = Annotated[
    str | None,
    _disk(
        metavar="SIZE",
        help="Lustre: bytes on one of them before the next comes. (default: 4MiB)",
        show_default=False,
    ),
]
Hints = Annotated[
    list[str] | None,
    _disk(
        "--hint",
        metavar="KEY=VALUE",
        help="A hint for MPI-IO, such as romio_ds_write=disable. May be given several times.",
        show_default=False,
    ),
]
DirectIO = Annotated[
    Literal["auto", "on", "off"],
    _disk(
        help="Write uncompressed pixels around the system's cache, in a thread. auto: from 16 MiB "
        "on, on a local ext4 or XFS, without --hint.",
    ),
]
CacheBytes = Annotated[
    str,
    _run(
        metavar="SIZE",
        help="Files a rank keeps in memory from the header check, to open them once.",
    ),
]
Readers = Annotated[
    str,
    _run(
        metavar="auto|N",
        help="Threads with which each rank reads files ahead. auto: 16 as soon as files are slow "
        "to open, as on a parallel file system; 0: none.",
    ),
]
OnError = Annotated[
    Literal["fail", "blank"],
    _trouble(
        help="If an image cannot be read: publish nothing and exit with 3, or store "
        "zeros and status 2 in its place. The run goes on either way and names all."
    ),
]
MaxPixels = Annotated[
    int,
    _trouble(min=1, help="Refuse an image whose header claims more pixels."),
]
TrustPalettes = Annotated[
    bool,
    _trouble(
        "--trust-palettes",
        help="Take palette images also on ARM with a libpng before 1.6.56 (CVE-2026-33636).",
    ),
]
Checkpoint = Annotated[
    float,
    _trouble(
        metavar="SECONDS",
        help="How often what is stored is made safe: about what a job that is killed can lose.",
    ),
]
PeerTimeout = Annotated[
    float,
    _trouble(
        metavar="SECONDS",
        help="Without a sign of life for so long, another rank or "
        "another host's job is taken for dead.",
    ),
]
Restart = Annotated[
    bool,
    _trouble("--restart", help="Discard what an unfinished job left, and begin anew."),
]
Overwrite = Annotated[
    bool,
    _trouble(
        "--overwrite",
        help="Replace OUT, once the new file is complete, if h5ingest wrote it. What is no HDF5 "
        "file is never replaced.",
    ),
]
OverwriteForeign = Annotated[
    bool,
    _trouble(
        "--overwrite-foreign",
        help="With --overwrite: replace OUT even if it is an HDF5 file that something else wrote, "
        "or that is damaged.",
    ),
]
DryRun = Annotated[
    bool,
    _run(
        "--dry-run",
        help="Check the manifest and all headers, say what would be made, write nothing.",
    ),
]
IngestProgress = Annotated[_ProgressStyle, _progress(rich_help_panel=_TOLD)]
Report = Annotated[
    Path | None,
    _told(
        metavar="FILE.json", help="Write the report as JSON, failures by name.", show_default=False
    ),
]
Croissant = Annotated[
    Path | None,
    _told(
        metavar="FILE.json",
        help="Describe the file in MLCommons Croissant metadata (reads it once).",
        show_default=False,
    ),
]
IngestQuiet = Annotated[bool, _quiet(rich_help_panel=_TOLD)]
Verbose = Annotated[
    bool,
    _told(
        "-v",
        "--verbose",
        help="Say first which libraries and file system are used, and at the end by which writer.",
    ),
]
