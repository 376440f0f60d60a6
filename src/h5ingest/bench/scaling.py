"""`h5ingest bench scaling`: how the main job grows with ranks, readers and image sizes.

Every run is the real command, started from outside by a launcher. The runs take turns, so that a
machine that slows down slows all of them.

May not: print, draw.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.bench import machine
from h5ingest.bench.image_sets import ImageSet, image_sets
from h5ingest.bench.launching import Launcher, Run
from h5ingest.bench.measure import Spread
from h5ingest.bench.scaling_report import Result, ScalingReport
from h5ingest.bench.synthetic import Shape
from h5ingest.core.options import IngestOptions

LIBRARIES: Final = ("numpy", "h5py", "mpi4py", "pillow", "imagecodecs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    ranks: tuple[int, ...]
    """Numbers of ranks, ascending."""
    readers: tuple[str | None, ...]
    """Values of `--readers`; None: the option is not given."""
    scalings: tuple[str, ...]
    """`strong`, `weak` or both."""
    n_images: int | None
    """Images at the largest number of ranks; None: all of a manifest, or as many drawn ones as
    keep each rank busy for about a second."""
    n_runs: int
    """How often each is measured."""
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

    def sizes(self, n_images: int) -> list[int]:
        """Return the different numbers of images of `counts`, ascending."""
        return sorted({k for _, k in self.counts(n_images)})


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
        folder: where files are made, in a folder that is removed at the end; all ranks must see it.
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
        sets = list(image_sets(source, options, work, plan.ranks[-1], plan.n_images, plan.sizes))
        for one in sets:
            timed = _Timed(launcher, plan, one, options.delimiter, work, tell)
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
    """Return a command without the folder of its program.

    >>> _without_folders("/opt/mpi/bin/mpirun -n {n}")
    'mpirun -n {n}'
    """
    first, _, rest = command.partition(" ")
    return f"{os.path.basename(first)} {rest}".strip()


@dataclass(slots=True)
class _Timed:
    """Runs on one set of images."""

    _launcher: Launcher
    _plan: Plan
    _set: ImageSet
    _delimiter: str | None
    _work: Path
    _tell: Callable[[str], None]

    @property
    def _out(self) -> Path:
        return self._work / "out.h5"

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
        if self._delimiter is not None:
            arguments += ["--delimiter", self._delimiter]
        arguments += self._plan.arguments
        if readers is not None:
            arguments += ["--readers", readers]
        return self._launcher.ingest(ranks, arguments, self._work / "report.json")

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

    A phase takes as long as its slowest rank. The ranks store independently and wait for each other
    only at the end: so all time that no other phase accounts for is storing.
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
