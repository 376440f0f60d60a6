"""`h5ingest bench`: the verbs that measure. They run on one rank."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from h5ingest.cli.bench_results import make_folder, publish, require_packages
from h5ingest.cli.help import Verb, VerbGroup
from h5ingest.cli.ingest_options import takes_options
from h5ingest.cli.messages import Status
from h5ingest.cli.option_types import IngestedManifest, argument
from h5ingest.cli.serial_commands import on_one_rank
from h5ingest.core.errors import UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.launcher import launcher_rank

app = typer.Typer(cls=VerbGroup, no_args_is_help=True)

_SIZES: Final = "28x28x1,32x32x3,480x360x3"

Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder for the results, created if necessary; files in it are replaced. Its file "
        "system is the one measured.",
    ),
]
Runs = Annotated[int, typer.Option(min=1, help="How often each is measured.")]


@app.callback()
def _group() -> None:
    """Measure, on your own images: sizes on disk, speeds of reading, how ingest scales."""


@app.command(cls=Verb)
@takes_options("root", "delimiter")
def storage(
    ctx: typer.Context,
    manifest: IngestedManifest,
    cutoffs: Annotated[
        str,
        typer.Option(
            metavar="N,N,...",
            help="Numbers of images to measure; one larger than the manifest means all. A single "
            "image is always measured.",
        ),
    ] = "10,100,1000,10000",
    out: Out = Path("bench-storage"),
    runs: Runs = 3,
    *,
    options: IngestOptions,
) -> None:
    """Store and read the images of MANIFEST as PNG files, in LMDB and in HDF5, and compare.

    Measures one image and many, from memory and from disk; bytes and inodes. Every pixel that was
    read is compared. Makes results.json, index.html (everything on one page) and its pictures.
    10,000 small images take about three minutes. Needs the extra 'bench'.
    """
    on_one_rank("bench storage", ctx)
    require_packages("jinja2", "lmdb", "matplotlib")
    counts = _numbers("--cutoffs", "numbers of images such as 10,100,1000", cutoffs)
    from h5ingest.bench import storage as experiment
    from h5ingest.bench import storage_figures, storage_page

    make_folder(out, "index.html", *(f"{name}.png" for name in storage_figures.CAPTIONS))
    with Status() as status:
        report = experiment.measure(
            manifest, options, out, cutoffs=counts, n_runs=runs, tell=status
        )
        status("drawing")
        pictures = storage_figures.draw(report)
    storage_page.print_table(report)
    page = storage_page.page(report, pictures).encode()
    files = {"index.html": page, **{f"{name}.png": data for name, data in pictures.items()}}
    publish(out, report.to_json(), files)


@app.command(cls=Verb)
@takes_options("root", "delimiter")
def read(
    ctx: typer.Context,
    source: Annotated[
        Path,
        argument(
            metavar="OUT|MANIFEST",
            help="A file that h5ingest made, or a manifest, from which files are made to be read.",
        ),
    ],
    images: Annotated[
        int, typer.Option(min=1, help="How many images: the first of OUT, or a sample of MANIFEST.")
    ] = 20_000,
    out: Out = Path("bench-read"),
    runs: Runs = 5,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="About how long each measurement should take.")
    ] = 0.3,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which group of OUT, if it has groups.")
    ] = None,
    *,
    options: IngestOptions,
) -> None:
    """Read images at random, in random batches and in order, in each way, and compare.

    Compares image files read by two decoders, LMDB, plain h5py, ImageStore and, if PyTorch is
    installed, its DataLoader with two processes. Every pixel is compared. Makes results.json and
    read.png; takes about two minutes. Needs the extra 'bench'.
    """
    on_one_rank("bench read", ctx)
    require_packages("lmdb", "matplotlib")
    make_folder(out, "read.png")
    from h5ingest.bench import reading, reading_figures, reading_report

    with Status() as status:
        report = reading.measure(
            source, options, out, n_wanted=images, n_runs=runs, group=group, seconds=seconds,
            tell=status,
        )  # fmt: skip
        status("drawing")
        picture = reading_figures.draw(report)
    reading_report.print_table(report)
    publish(out, report.to_json(), {"read.png": picture})


@app.command(cls=Verb)
@takes_options("root", "delimiter")
def scaling(
    ctx: typer.Context,
    manifest: Annotated[
        Path | None,
        argument(help="The manifest of an ingest; without one, synthetic images are used."),
    ] = None,
    ranks: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of MPI ranks.")] = "1,2,4",
    readers: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Values for --readers of the ingest: numbers, or auto. (default: not given)",
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="HxWxC,...",
            help="Sizes of synthetic images: height, width, channels (1, 3 or 4). (default: "
            f"{_SIZES})",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images at the largest number of ranks. (default: all of MANIFEST; of synthetic "
            "ones, about a second of work for each rank)",
        ),
    ] = None,
    kind: Annotated[
        Literal["strong", "weak", "both"],
        typer.Option(
            "--scaling",
            metavar="strong|weak|both",
            help="strong: the same images on every number of ranks. weak: the same number of "
            "images for each rank.",
        ),
    ] = "both",
    launcher: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Starts {n} ranks, such as 'mpirun -n {n}' or 'srun --mpi=pmix -n {n}'. "
            "(default: srun in a SLURM job, otherwise that of the MPI library in use)",
        ),
    ] = None,
    ingest_options: Annotated[
        str,
        typer.Option(
            metavar="OPTIONS",
            help="More options for ingest, in quotes, such as '--layout encoded'.",
            show_default=False,
        ),
    ] = "",
    out: Out = Path("bench-scaling"),
    runs: Runs = 3,
    *,
    options: IngestOptions,
) -> None:
    """Ingest on several numbers of ranks and readers, and show how time and CPU seconds grow.

    Each run is the real h5ingest, started from outside; start-up and work are timed apart. Every
    pixel is compared once, by verify --sources; later runs must make the same content. Makes
    results.json and scaling.png. The defaults take about three minutes on four cores.

    On a cluster: in a job script, started without srun itself, with --out on the shared file
    system that you want to measure: h5ingest bench scaling manifest.csv --ranks 16,32,64
    --launcher 'srun --mpi=pmix -n {n}' --out /scratch/me/scaling. Needs the extra 'bench'.
    """
    on_one_rank("bench scaling", ctx)
    if launcher_rank() is not None:
        raise UsageError(
            "h5ingest bench scaling starts ranks itself: start it without mpirun or srun"
        )
    require_packages("matplotlib")
    from h5ingest.bench import launching, synthetic

    numbers = tuple(sorted(set(_numbers("--ranks", "ranks such as 1,2,4", ranks))))
    try:
        if manifest is not None and sizes is not None:
            raise UsageError(
                "--sizes is for synthetic images: give a MANIFEST or --sizes, not both"
            )
        shapes = [synthetic.parse_shape(text) for text in (sizes or _SIZES).split(",")]
        if launcher is not None:
            launching.check_launcher(launcher, numbers)
        arguments = tuple(shlex.split(ingest_options))
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    except ValueError as error:
        raise typer.BadParameter(f"--ingest-options: {error}: {ingest_options!r}") from None
    reader_counts = _readers(readers)
    make_folder(out, "scaling.png")
    from h5ingest.bench import scaling as experiment
    from h5ingest.bench import scaling_figures, scaling_report

    plan = experiment.Plan(
        ranks=numbers,
        readers=reader_counts,
        scalings=("strong", "weak") if kind == "both" else (kind,),
        n_images=images,
        n_runs=runs,
        launcher=launching.default_launcher(numbers) if launcher is None else launcher,
        arguments=arguments,
    )
    with Status() as status:
        report = experiment.measure(manifest or shapes, options, out, plan, tell=status)
        status("drawing")
        picture = scaling_figures.draw(report)
    scaling_report.print_table(report)
    publish(out, report.to_json(), {"scaling.png": picture})


def _numbers(option: str, expected: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise typer.BadParameter(f"{option}: expected {expected}, got {text!r}")
    return tuple(int(word) for word in words)


def _readers(text: str | None) -> tuple[str | None, ...]:
    """Return the values for `--readers`; None where it is not to be given."""
    if text is None:
        return (None,)
    words = [word.strip() for word in text.split(",")]
    if not all(word == "auto" or word.isdecimal() for word in words):
        raise typer.BadParameter(
            f"--readers: expected numbers or auto, such as 1,16,auto, got {text!r}"
        )
    return tuple(dict.fromkeys(words))
