"""h5ingest against scripts that people write by hand: `make bench`.

python benchmarks/against_baselines.py [--data FOLDER] [--out build/bench] [--runs 5]

The ways take turns; each output is compared with its image files before its time counts. A table
is printed and written to OUT/bench.md, everything to OUT/bench.json. On an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import imageio.v3 as iio
import numpy as np
from corpora import Corpus, prepare
from xxhash import xxh3_64_intdigest

from h5ingest.bench import machine
from h5ingest.bench.measure import flush, seconds
from h5ingest.core.sampling import evenly

HERE: Final = Path(__file__).parent
N_COMPARED: Final = 32
"""Images of each output that are compared, evenly taken."""
WANTED: Final = {
    "notebook": (30, 20, 5),
    "pool": (6, 6, 3),
    "expert": (1.0, 1.4, 1.6),
    "tar": (0.7, 0.7, 0.7),
}
"""Way -> how many times as fast we want to be, for each corpus."""
NOTES: Final = (
    "whole: the command from outside, launcher, Python and imports included. work: what each "
    "script prints, or h5ingest reports: from reading the manifest until the file is closed, and "
    "for h5ingest until it is on the disk (fsync) under its name. CPU: user and system seconds of "
    "the whole command.",
    "h5ingest as it is by default: all headers first, checksums, status, paths, journal, fsync; "
    "the scripts have none of these (LMDB has fsync). tar is GNU tar, one process.",
    f"{N_COMPARED} images of every output are compared with their files before its time counts.",
)

Read = Callable[[Path, Corpus, list[int]], Iterator[Any]]
"""Yields rows of an output: arrays of pixels, or bytes of files."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to store a list of images."""

    key: str
    name: str
    command: tuple[str | Path, ...]
    """Words; MANIFEST, OUT and REPORT stand for files."""
    read: Read


def datasets(out: Path, corpus: Corpus, rows: list[int]) -> Iterator[Any]:
    """A dataset for each image."""
    with h5py.File(out) as file:
        assert len(file["images"]) == len(corpus.paths)
        yield from (file[f"images/{row}"][()] for row in rows)


def stack(out: Path, corpus: Corpus, rows: list[int]) -> Iterator[Any]:
    """One dataset; its checksums too, if it has any."""
    with h5py.File(out) as file:
        assert len(file["images"]) == len(corpus.paths)
        for row in rows:
            image = file["images"][row]
            if "checksums" in file:
                assert file["checksums"][row] == xxh3_64_intdigest(image.tobytes())
            yield image


def encoded(out: Path, corpus: Corpus, rows: list[int]) -> Iterator[bytes]:
    """Layout `encoded` of h5ingest."""
    with h5py.File(out) as file:
        offsets, data = file["images/offsets"], file["images/data"]
        assert len(offsets) == len(corpus.paths) + 1
        for row in rows:
            content = data[offsets[row] : offsets[row + 1]].tobytes()
            assert file["checksums"][row] == xxh3_64_intdigest(content)
            yield content


def archive(out: Path, corpus: Corpus, rows: list[int]) -> Iterator[bytes]:
    """Members of a tar file."""
    with tarfile.open(out) as file:
        members = file.getmembers()
        assert len(members) == len(corpus.paths)
        for row in rows:
            assert members[row].isreg()
            member = file.extractfile(members[row])
            assert member is not None
            yield member.read()


def database(out: Path, corpus: Corpus, rows: list[int]) -> Iterator[bytes]:
    """Values of an LMDB file."""
    import lmdb

    with (
        lmdb.open(str(out), subdir=False, readonly=True, lock=False) as file,
        file.begin() as transaction,
    ):
        assert transaction.stat()["entries"] == len(corpus.paths)
        for row in rows:
            value = transaction.get(row.to_bytes(8, "big"))
            assert value is not None
            yield value


def ways(n_ranks: int, launcher: str) -> dict[str, list[Way]]:
    """Return (decoded or encoded) -> ways, ours first."""
    python = sys.executable
    mpirun = [word.replace("{n}", str(n_ranks)) for word in shlex.split(launcher)]
    ours: tuple[str | Path, ...] = (
        *mpirun,
        python,
        "-m",
        "h5ingest",
        "MANIFEST",
        "OUT",
        "--quiet",
        "--report",
        "REPORT",
    )
    # Without --hard-dereference, a file that is listed again becomes a link to the first.
    tar = (
        "tar",
        "--create",
        "--file",
        "OUT",
        "--absolute-names",
        "--hard-dereference",
        "--files-from",
        "MANIFEST",
    )
    loop, pool, lmdb_ = (HERE / f"{n}.py" for n in ("notebook_loop", "pool_h5py", "lmdb_encoded"))
    expert: tuple[str | Path, ...] = (*mpirun, python, HERE / "expert_mpi.py", "MANIFEST", "OUT")
    return {
        "decoded": [
            Way("h5ingest", f"**h5ingest**, {n_ranks} ranks", ours, stack),
            Way("expert", f"expert's MPI script, {n_ranks} ranks", expert, stack),
            Way("pool", f"Pool of {n_ranks} (Pillow), one h5py writer",
                (python, pool, "MANIFEST", "OUT", str(n_ranks)), stack),
            Way("notebook", "notebook loop (imageio, a dataset each)",
                (python, loop, "MANIFEST", "OUT"), datasets),
        ],
        "encoded": [
            Way("h5ingest", f"**h5ingest --layout encoded**, {n_ranks} ranks",
                (*ours, "--layout", "encoded"), encoded),
            Way("tar", "tar", tar, archive),
            Way("lmdb", "LMDB", (python, lmdb_, "MANIFEST", "OUT"), database),
        ],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What one command took, in seconds."""

    whole: float
    work: float
    cpu: float
    phases: dict[str, Any]
    """Of h5ingest, as its report has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One way to store one corpus."""

    corpus: str
    kind: str
    """`decoded` or `encoded`."""
    way: str
    name: str
    runs: list[Run]

    def median(self, what: str) -> float:
        """Return the median of `whole`, `work` or `cpu`."""
        values: list[float] = [getattr(run, what) for run in self.runs]
        return statistics.median(values)


def run(way: Way, corpus: Corpus, work: Path) -> Run:
    """Run one command, compare what it made, and take that away."""
    out, report = work / "out", work / "report.json"
    flush(work)  # what others have written is not to be waited for below
    for path in set(corpus.paths):  # a slow way before this one may have pushed them out
        path.read_bytes()
    places = {"MANIFEST": corpus.manifest, "OUT": out, "REPORT": report}
    command = [str(places.get(str(word), word)) for word in way.command]
    with (work / "stdout").open("w+") as stdout:
        started_s = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
        whole_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"exit code {process.returncode} of {shlex.join(command)}")
        stdout.seek(0)
        printed = stdout.read()
    work_s, phases = whole_s, {}
    if "REPORT" in way.command:
        told = json.loads(report.read_text())
        work_s, phases = told["seconds"], told["phases"]
    elif printed:
        work_s = float(printed)
    compare(way, corpus, out)
    for left in work.glob("out*"):
        left.unlink()
    return Run(whole_s, work_s, usage.ru_utime + usage.ru_stime, phases)


def compare(way: Way, corpus: Corpus, out: Path) -> None:
    """Raise if the output does not hold what is in the files."""
    rows = evenly(len(corpus.paths), N_COMPARED)
    for row, found in zip(rows, way.read(out, corpus, rows), strict=True):
        path = corpus.paths[row]
        same = (
            found == path.read_bytes()
            if isinstance(found, bytes)
            else np.array_equal(found, iio.imread(path))
        )
        if not same:
            raise AssertionError(f"{way.name}: row {row} is not {path.name}")


def measure(corpora: list[Corpus], work: Path, given: argparse.Namespace) -> list[Result]:
    """Run all ways in turn, once before anything counts."""
    results = []
    for corpus in corpora:
        for kind, each in ways(given.ranks, given.launcher).items():
            runs: dict[str, list[Run]] = {way.key: [] for way in each}
            for turn in range(-1, given.runs):
                for way in each:
                    print(f"{corpus.name}, {kind}, run {turn + 1} of {given.runs}: {way.key}",
                          file=sys.stderr)  # fmt: skip
                    took = run(way, corpus, work)
                    if turn >= 0:
                        runs[way.key].append(took)
            results += [
                Result(
                    corpus=corpus.name, kind=kind, way=way.key, name=way.name, runs=runs[way.key]
                )
                for way in each
            ]
    return results


def table(corpora: list[Corpus], results: list[Result]) -> list[str]:
    """Return lines of Markdown."""
    lines = []
    for place, corpus in enumerate(corpora):
        n = len(corpus.paths)
        lines += [f"### {corpus.name}", "", f"{corpus.about}.", "",
                  "| | whole | work | CPU | images/s, work | h5ingest is faster: whole | work | "
                  "wanted |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for kind in ("decoded", "encoded"):
            found = [r for r in results if (r.corpus, r.kind) == (corpus.name, kind)]
            for result in found:
                times = [seconds(result.median(what)) for what in ("whole", "work", "cpu")]
                ratios = ["", "", ""]
                if result.way != "h5ingest":
                    wanted = WANTED.get(result.way)
                    ratios = [f"{result.median(what) / found[0].median(what):.2f}x"
                              for what in ("whole", "work")]  # fmt: skip
                    ratios.append(f"{wanted[place]}x" if wanted else "")
                rate = f"{n / result.median('work'):,.0f}"
                lines.append("| " + " | ".join([result.name, *times, rate, *ratios]) + " |")
        lines.append("")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with mnist, cifar, kodak (PNG files)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000, help="of each kind of small ones")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--launcher", default="mpirun.mpich -n {n}")
    parser.add_argument("--only", help="one corpus: MNIST, CIFAR-size or photographs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    load = [machine.load()]
    print(f"load before: {load[0]:.2f}", file=sys.stderr)
    corpora = prepare(given.data, given.out / "images", given.images)
    corpora = [corpus for corpus in corpora if given.only in (None, corpus.name)]
    with tempfile.TemporaryDirectory(dir=given.out) as work:
        results = measure(corpora, Path(work).absolute(), given)
    load.append(machine.load())
    about = machine.describe(given.out, ("h5py", "mpi4py", "pillow", "imagecodecs", "imageio"))
    lines = table(corpora, results)
    lines += [
        *(f"- {note}" for note in NOTES),
        f"- Medians of {given.runs} runs, which took turns; everything in the system's cache. Load "
        f"of the machine: {load[0]:.2f} before, {load[1]:.2f} after (its own work included).",
        f"- {'; '.join(f'{name} {value}' for name, value in about.items())}.",
    ]
    print("\n".join(lines))
    (given.out / "bench.md").write_text("\n".join(lines) + "\n")
    content = {
        "schema": "h5ingest make bench 1",
        "machine": about, "load": load, "ranks": given.ranks, "launcher": given.launcher,
        "wanted": WANTED, "notes": NOTES,
        "corpora": [
            {"name": c.name, "about": c.about, "n_images": len(c.paths), "file_bytes": c.file_bytes}
            for c in corpora
        ],
        "results": [
            {**asdict(r), "median": {w: r.median(w) for w in ("whole", "work", "cpu")}}
            for r in results
        ],
    }  # fmt: skip
    (given.out / "bench.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
