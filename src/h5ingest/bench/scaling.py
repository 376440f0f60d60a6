"""`h5ingest bench scaling`: how the main job grows with ranks, readers and image sizes.

Every run is the real command, started from outside by a launcher. The runs take turns, so that a
machine that slows down slows all of them.

May not: print, draw.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from h5ingest.bench import machine
from h5ingest.bench.launching import Launcher, Run
from h5ingest.bench.measure import Spread
from h5ingest.bench.scaling_report import Images, Result, ScalingReport
from h5ingest.bench.synthetic import Shape, write_images
from h5ingest.core.errors import OutputError
from h5ingest.core.manifest import blocks
from h5ingest.core.options import IngestOptions, size
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.read_manifest import read_manifest

LIBRARIES: Final = ("numpy", "h5py", "mpi4py", "pillow", "imagecodecs")
_IMAGE_S: Final = 3e-5
_BYTE_S: Final = 1e-8
"""What an image, and a byte of its pixels, takes of a core, about: for the default of --images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    ranks: tuple[int, ...]
    """Numbers of ranks, ascending."""
    readers: tuple[str | None, ...]
    """Each as `--readers` takes it; None: the option is not given."""
    scalings: tuple[str, ...]
    """Of `strong` and `weak`."""
    n_images: int | None
    """Images at the largest number of ranks; None: all of a manifest, a second's work of each rank
    of drawn ones."""
    n_runs: int
    """Of each."""
    launcher: str
    """Template of a command."""
    arguments: tuple[str, ...]
    """More options of the ingest."""

    def counts(self, n_images: int) -> dict[tuple[int, int], tuple[str, ...]]:
        """Return (ranks, images) -> the kinds of scaling that this is a point of.

        Strong and weak scaling meet at the largest number of ranks.
        """
        most = self.ranks[-1]
        found: dict[tuple[int, int], tuple[str, ...]] = {}
        for scaling in self.scalings:
            for n in self.ranks:
                k = n_images if scaling == "strong" else max(1, n_images * n // most)
                found[n, k] = (*found.get((n, k), ()), scaling)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """Images, and manifests of all and of some of them."""

    images: Images
    root: Path
    manifests: dict[int, Path]
    """Number of images -> manifest."""
    digests: dict[int, str] = field(default_factory=dict)
    """Number of images -> content digest of their file, once it is known to be right."""


def measure(
    source: Path | Sequence[Shape],
    options: IngestOptions,
    folder: Path,
    plan: Plan,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> ScalingReport:
    """Measure every number of ranks and readers, on one manifest or on drawn images.

    Args:
        source: a manifest, or sizes of images to draw.
        options: for a manifest's `root` and `delimiter`.
        folder: where files are made, in a folder that is taken away again; every rank must see it.
        plan: what is to be measured.
        tell: told what goes on.

    Raises:
        IngestError: a run failed, or `verify` found differences.
        AssertionError: a run made a file of other content.
    """
    load_before = machine.load()
    launcher = Launcher(plan.launcher)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="h5ingest-bench-", dir=folder) as temporary:
        work = Path(temporary)
        tell("preparing the images")
        sets = list(_sets(source, options, work, plan))
        for one in sets:
            timed = _Timed(launcher, plan, one, options, work, tell)
            timed.check()
            results += timed.measure()
    return ScalingReport(
        images=tuple(one.images for one in sets),
        launcher=_without_folders(plan.launcher),
        arguments=shlex.join(plan.arguments),
        n_runs=plan.n_runs,
        machine=machine.describe(folder, LIBRARIES),
        cores=len(os.sched_getaffinity(0)),
        load=(load_before, machine.load()),
        results=tuple(results),
    )


def _without_folders(command: str) -> str:
    """Return the words of a command, the first as a name.

    >>> _without_folders("/opt/mpi/bin/mpirun -n {n}")
    'mpirun -n {n}'
    """
    first, _, rest = command.partition(" ")
    return f"{os.path.basename(first)} {rest}".strip()


def _sets(
    source: Path | Sequence[Shape], options: IngestOptions, work: Path, plan: Plan
) -> Iterator[_Set]:
    if isinstance(source, Path):
        manifest, _ = read_manifest(source, options, SerialComm())
        n = min(manifest.n_rows, plan.n_images or manifest.n_rows)
        some = "" if n == manifest.n_rows else f", {n:,} of them taken evenly"
        about = f"{manifest.n_rows:,} images of a manifest{some}"
        root = Path(os.path.abspath(options.root or source.parent))
        start = manifest.dialect.body_start
        yield _set(source.name, about, source, start, manifest.n_rows, n, root, work, plan)
        return
    for shape in source:
        cost_s = _IMAGE_S + _BYTE_S * shape.n_bytes
        n = plan.n_images or _round(plan.ranks[-1] / cost_s)
        _check_space(work, shape, n)
        manifest_path, n_files = write_images(work / f"images-{shape}", shape, n)
        again = f", listed again until they are {n:,}" if n_files < n else ""
        about = f"{n_files:,} drawn images{again}"
        yield _set(str(shape), about, manifest_path, 0, n, n, manifest_path.parent, work, plan)


def _round(value: float) -> int:
    """Return two digits of a number.

    >>> _round(143_210.7), _round(7.3)
    (140000, 7)
    """
    return max(1, int(float(f"{value:.2g}")))


def _set(
    name: str, about: str, manifest: Path, start: int, n_rows: int, n: int, root: Path, work: Path,
    plan: Plan,
) -> _Set:  # fmt: skip
    """Prepare n of the images of a manifest, whose first line begins at byte `start`."""
    manifests = {}
    for k in sorted({k for _, k in plan.counts(n)}):
        manifests[k] = manifest
        if k < n_rows:
            manifests[k] = work / f"{name}-{k}{manifest.suffix}"
            write_some(manifest, start, n_rows, k, manifests[k])
    return _Set(images=Images(name=name, n_images=n, about=about), root=root, manifests=manifests)


def write_some(manifest: Path, start: int, n_rows: int, n_wanted: int, path: Path) -> None:
    """Write a manifest with some of the lines of another, taken evenly.

    Args:
        manifest: which is good.
        start: byte offset of its first image.
        n_rows: images in it.
        n_wanted: images; at most `n_rows`.
        path: of the file to make; with the suffix of the other, which says how it is read.
    """
    stop = manifest.stat().st_size
    row = 0
    with manifest.open("rb") as file, path.open("wb") as some:
        some.write(file.read(start))
        for block in blocks(file, start, stop):
            for line in io.BytesIO(block):
                if not line.isspace():
                    if (row + 1) * n_wanted // n_rows > row * n_wanted // n_rows:
                        some.write(line)
                    row += 1


def _check_space(folder: Path, shape: Shape, n_images: int) -> None:
    free = shutil.disk_usage(folder).free
    needed = 2 * n_images * shape.n_bytes + 4096 * n_images
    if free < needed:
        raise OutputError(
            f"--out {folder.parent}: {size(free)} free, {size(needed)} might be needed for "
            f"{n_images:,} images of {shape}: fewer with --images"
        )


class _Timed:
    """Runs on one set of images."""

    def __init__(
        self,
        launcher: Launcher,
        plan: Plan,
        images: _Set,
        options: IngestOptions,
        work: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._plan = plan
        self._set = images
        self._delimiter = [] if options.delimiter is None else ["--delimiter", options.delimiter]
        self._out, self._report = work / "out.h5", work / "report.json"
        self._tell = tell

    def check(self) -> None:
        """Ingest each number of images once, and let `verify` compare every pixel."""
        for n, manifest in self._set.manifests.items():
            self._tell(f"{self._set.images.name}: comparing {n:,} images with their files")
            most = self._plan.ranks[-1]
            run = self._ingest(most, self._plan.readers[0], manifest)
            self._launcher.verify(most, [self._out, "--sources", "--root", self._set.root])
            self._set.digests[n] = run.report["content_digest"]
            self._out.unlink()

    def measure(self) -> list[Result]:
        """Run everything, in turn."""
        plan = self._plan
        counts = plan.counts(self._set.images.n_images)
        cases = [(ranks, readers, n) for ranks, n in counts for readers in plan.readers]
        runs: dict[tuple[int, str | None, int], list[Run]] = {case: [] for case in cases}
        for i in range(plan.n_runs):
            for ranks, readers, n in cases:
                about = f"{n:,} images, {ranks} ranks{f', {readers} readers' if readers else ''}"
                self._tell(f"{self._set.images.name}, run {i + 1} of {plan.n_runs}: {about}")
                run = self._ingest(ranks, readers, self._set.manifests[n])
                if run.report["content_digest"] != self._set.digests[n]:
                    raise AssertionError(f"{about}: the file has other content than on other ranks")
                runs[ranks, readers, n].append(run)
                self._out.unlink()
        return [
            self._result(ranks, readers, counts[ranks, n], found)
            for (ranks, readers, n), found in runs.items()
        ]

    def _ingest(self, ranks: int, readers: str | None, manifest: Path) -> Run:
        arguments: list[str | Path] = [manifest, self._out, "--root", self._set.root]
        arguments += [*self._delimiter, *self._plan.arguments]
        if readers is not None:
            arguments += ["--readers", readers]
        return self._launcher.ingest(ranks, arguments, self._report)

    def _result(
        self, ranks: int, readers: str | None, scalings: tuple[str, ...], runs: list[Run]
    ) -> Result:
        report = runs[0].report
        steps = [_steps(run) for run in runs]
        return Result(
            images=self._set.images.name,
            n_images=report["n_samples"],
            ranks=ranks,
            readers=readers,
            scalings=scalings,
            image_bytes=report["bytes_images"],
            file_bytes=report["bytes_in"],
            wall=Spread(tuple(run.wall_s for run in runs)),
            steps={name: Spread(tuple(s[name] for s in steps)) for name in steps[0]},
            work=Spread(tuple(run.report["seconds"] for run in runs)),
            cpu=Spread(tuple(run.report["cpu_s"]["work"] for run in runs)),
            cpu_start=Spread(tuple(run.report["cpu_s"]["start"] for run in runs)),
        )


def _steps(run: Run) -> dict[str, float]:
    """Return the seconds of each step, which add up to the wall time.

    What a phase takes is what its slowest rank takes. The ranks store side by side and wait for
    each other only at the end: so what no other phase takes is the storing.
    """
    phases: dict[str, dict[str, float]] = run.report["phases"]

    def spent(*names: str) -> float:
        return sum(phases[name]["max"] for name in names)

    before, probe = spent("manifest", "layout", "divide"), spent("probe")
    finish, work_s = spent("close", "finalize"), run.report["seconds"]
    return {
        "start-up": run.wall_s - work_s,
        "manifest": before,
        "probe": probe,
        "store": work_s - before - probe - finish,
        "finish": finish,
    }
