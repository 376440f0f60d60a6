"""Arguments and options of the verbs that are not in `IngestOptions`, with type and help.

Those that one verb alone has are in its signature. Defaults are there, too, or in `found` and
`told`, which declare what several verbs take together (`ingest_options.takes`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from h5ingest.core.option_fields import COMMON

_progress = partial(
    typer.Option,
    metavar="auto|bar|line|off",
    help="auto: a bar on a terminal, otherwise a line every 10 s.",
)
_quiet = partial(typer.Option, "-q", "--quiet", help="Print errors only.")

# Of several verbs:

argument: Final = partial(typer.Argument, readable=False)
"""A path. Whether it can be read is said by what reads it, with its own exit code."""
_ProgressStyle = Literal["auto", "bar", "line", "off"]

Progress = Annotated[_ProgressStyle, _progress()]
Quiet = Annotated[bool, _quiet()]
IngestedManifest = Annotated[Path, argument(help="The manifest of an ingest.")]

# Of `extend`:

MoreManifest = Annotated[
    Path,
    argument(
        metavar="MANIFEST",
        help="A manifest of the new images; or a folder or archive of them.",
        show_default=False,
    ),
]
Extended = Annotated[
    Path, argument(metavar="OUT", help="A file that h5ingest made.", show_default=False)
]

# Of `manifest`, and of `ingest` if it is given a folder or archive:

_found = partial(typer.Option, rich_help_panel="What is found in a folder or archive")

Label = Annotated[
    Literal["parent", "path", "none"],
    _found(
        metavar="parent|path|none",
        help="parent: the name of the image's folder. path: the names of all folders from the "
        "top, except the group's.",
    ),
]
LabelFrom = Annotated[
    str | None,
    _found(
        metavar="REGEX",
        help="Take the label from the path by a regular expression instead: from its group "
        "called label, else the first group, else the whole match. Other named groups become "
        "columns: '(?P<patient>p\\d+)_(?P<label>\\w+)\\.'",
    ),
]
GroupByFolder = Annotated[
    int | None,
    _found(
        "--group-by-folder",
        metavar="LEVEL",
        min=1,
        help="Make a group (in a manifest: a column group) of each folder at this level: 1 for "
        "those at the top (train, test ...), 2 for those inside them, and so on.",
    ),
]
Sniff = Annotated[
    bool,
    _found(
        "--sniff/--no-sniff",
        help="Recognise images by their first bytes; or, with --no-sniff, by their names alone, "
        "which opens no file: for millions of files on a network file system.",
    ),
]
Hidden = Annotated[
    bool, _found("--hidden", help="Include files and folders whose names begin with a dot.")
]

Sort = Annotated[
    Literal["name", "natural"],
    _found(
        metavar="name|natural",
        help="name: by the bytes of the paths. natural: numbers by value, z2 before z10; holds "
        "all paths in memory.",
    ),
]
Split = Annotated[
    str | None,
    _found(
        metavar="NAME:SHARE,...",
        help="Add a column split, such as train:0.8,val:0.1,test:0.1: by a hash of each path, so "
        "that adding images later moves no others.",
    ),
]
Seed = Annotated[int, _found(metavar="N", help="Another number gives another split.")]
Stratify = Annotated[
    str | None,
    _found(
        metavar="COLUMN",
        help="Split the images of each value of a column (label) in exactly these shares; adding "
        "images later may then move a few.",
    ),
]
KeepTogether = Annotated[
    str | None,
    _found(
        metavar="COLUMN",
        help="Keep images on one side of the split if they have the same value in this column, "
        "or lie in one folder (folder).",
    ),
]


def found(
    *,
    label: Label = "parent",
    label_from: LabelFrom = None,
    group_level: GroupByFolder = None,
    sniff: Sniff = True,
    hidden: Hidden = False,
    sort: Sort = "name",
    split: Split = None,
    seed: Seed = 0,
    stratify: Stratify = None,
    keep_together: KeepTogether = None,
) -> None:
    """Declare what is asked of folders and archives: fields of `ScanOptions`."""


# Of `ingest`, `recompress` and `extend`:

_TOLD: Final = "What is printed and reported"
_told = partial(typer.Option, rich_help_panel=_TOLD)

Manifest = Annotated[
    Path,
    argument(
        metavar="MANIFEST",
        help="A text file with one image per line: a path, or a path, a tab and a label; or a "
        "table (.csv, .tsv) whose first line names its columns, one of them 'path'. Or a "
        "folder, or an archive (.tar, .zip, .tar.gz ...): all images in it, at any depth. Or "
        "WebDataset shards ('s-{000..099}.tar'), .parquet, .lmdb, .npz, idx and others, also "
        "several at once ('data/*.parquet'). Or - for standard input. A path in a manifest "
        "may lead into an archive as into a folder.",
    ),
]
In = Annotated[Path, argument(metavar="IN", help="A file that h5ingest made.")]
Out = Annotated[Path, argument(metavar="OUT", help="The HDF5 file to make.")]
IngestProgress = Annotated[_ProgressStyle, _progress(rich_help_panel=_TOLD)]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="Write a report as JSON, with every failed image by name.",
        rich_help_panel=COMMON,
    ),
]
Croissant = Annotated[
    Path | None,
    _told(
        metavar="FILE.json",
        help="Describe OUT in MLCommons Croissant metadata (reads it once).",
    ),
]
IngestQuiet = Annotated[bool, _quiet(rich_help_panel=_TOLD)]
Verbose = Annotated[
    bool,
    _told(
        "-v",
        "--verbose",
        help="Begin with the libraries and file system in use, and end with all details: the "
        "writer, the time of each phase.",
    ),
]


def told(
    *,
    progress: IngestProgress = "auto",
    report: Report = None,
    croissant: Croissant = None,
    quiet: IngestQuiet = False,
    verbose: Verbose = False,
) -> None:
    """Declare what is printed and reported: fields of `IngestRequest`."""
