"""`h5ingest bench`: the verbs that measure. On one rank."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Final

import typer

from h5ingest.errors import IngestError, OutputError, SetupError, UsageError
from h5ingest.options import IngestOptions
from h5ingest.printing import Status, separator, write_json
from h5ingest.verbs import on_one_rank

app = typer.Typer(no_args_is_help=True)

_NEEDED: Final = ("lmdb", "matplotlib")

Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that a manifest's paths are relative to. [default: the manifest's folder]",
        show_default=False,
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        help="Separates a manifest's columns. [default: a comma in .csv, else a tab]",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder for the results; made if it is not there, files in it are replaced. It is "
        "its file system that is measured.",
    ),
]


@app.callback()
def _group() -> None:
    """Measure, on your own images: what a store takes, and how fast it can be read."""


@app.command()
def storage(
    ctx: typer.Context,
    manifest: Annotated[
        Path, typer.Argument(help="The manifest of an ingest.", show_default=False)
    ],
    cutoffs: Annotated[
        str,
        typer.Option(
            metavar="N,N,...",
            help="Numbers of images. What is more than the manifest has means all; one image is "
            "always measured.",
        ),
    ] = "10,100,1000,10000",
    out: Out = Path("bench-storage"),
    runs: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    root: Root = None,
    delimiter: Delimiter = None,
) -> None:
    """Store and read the images of MANIFEST as PNG files, in LMDB and in HDF5, and compare.

    One image and many, from memory and from disk; bytes and inodes. Every pixel that was read is
    compared. Makes results.json, index.html (everything in one page) and the pictures in it.
    10,000 small images take about three minutes. Needs the extra 'bench'.
    """
    on_one_rank("bench storage", ctx)
    _require_packages()
    try:
        counts = _cutoffs(cutoffs)
        options = IngestOptions(root=root, delimiter=separator(delimiter))
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    _make_folder(out)
    from h5ingest.bench import storage as experiment
    from h5ingest.bench import storage_figures, storage_page

    with Status() as status:
        report = experiment.measure(
            manifest, options, out, cutoffs=counts, n_runs=runs, tell=status
        )
        status("drawing")
        pictures = storage_figures.draw(report)
    storage_page.print_table(report)
    page = storage_page.page(report, pictures).encode()
    files = {"index.html": page, **{f"{name}.png": data for name, data in pictures.items()}}
    _publish(out, report.to_json(), files)


@app.command()
def read(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="OUT|MANIFEST",
            help="A file that h5ingest made, or a manifest, of which files are made to be read.",
            show_default=False,
        ),
    ],
    images: Annotated[
        int, typer.Option(min=1, help="Images: the first of OUT, or some of all of MANIFEST.")
    ] = 20_000,
    out: Out = Path("bench-read"),
    runs: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="What each measurement should take, about.")
    ] = 0.3,
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Group of OUT, if it has groups.", show_default=False),
    ] = None,
    root: Root = None,
    delimiter: Delimiter = None,
) -> None:
    """Read images at random, in random batches and in order, in each way, and compare.

    Image files by two decoders, LMDB, h5py by hand, ImageStore, PyTorch's DataLoader with two
    processes if it is there. Every pixel is compared. Makes results.json and read.png; takes about
    two minutes. Needs the extra 'bench'.
    """
    on_one_rank("bench read", ctx)
    _require_packages()
    try:
        options = IngestOptions(root=root, delimiter=separator(delimiter))
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
    _make_folder(out)
    from h5ingest.bench import reading, reading_figures, reading_report

    with Status() as status:
        report = reading.measure(
            source, options, out, n_wanted=images, n_runs=runs, group=group, seconds=seconds,
            tell=status,
        )  # fmt: skip
        status("drawing")
        pictures = reading_figures.draw(report)
    reading_report.print_table(report)
    _publish(out, report.to_json(), {f"{name}.png": data for name, data in pictures.items()})


def _cutoffs(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--cutoffs: expected numbers of images such as 10,100,1000, got {text!r}")
    return tuple(int(word) for word in words)


def _require_packages() -> None:
    """Raise `SetupError` if what only benchmarks need is missing, before any work is done."""
    missing = []
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise SetupError(
            f"h5ingest bench needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: "
            f"pip install 'h5ingest[bench]'"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {folder}: {error.strerror}") from None


def _publish(folder: Path, results: dict[str, object], files: dict[str, bytes]) -> None:
    """Write results.json and the files, each of them whole or not at all, and say where."""
    write_json("--out", folder / "results.json", results)
    for name, content in files.items():
        beside = folder / f"{name}.partial"
        try:
            beside.write_bytes(content)
            beside.replace(folder / name)
        except OSError as error:
            raise OutputError(f"--out {folder / name}: {error.strerror}") from None
    print()
    for name in ("results.json", *files):
        print(folder / name)
