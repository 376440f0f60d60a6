"""What a rank asks of MPI, and that it does not grow with the number of images.

    python benchmarks/mpi_messages.py manifest.csv [--images 10000,100000] [--ranks 2,4,16]
        [--venv .venv/mpich --mpirun mpirun.mpich --mpicc mpicc.mpich] [options of h5ingest]

Repeats the manifest's rows to so many images, counts with `mpi_messages.c` (the MPI standard's
profiling interface), and prints, for the rank that has most of it: calls, bytes that it hands over
and that it is handed. `sums` are the small rounds of progress, four a second at most: the only ones
that depend on time.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
from itertools import cycle, islice
from pathlib import Path

HERE = Path(__file__).parent
SUMS = "Iallreduce"


def main() -> None:
    """Count, and print a line for each number of images and of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--images", default="10000,100000")
    parser.add_argument("--ranks", default="2,4,16")
    parser.add_argument("--venv", default=".venv/mpich")
    parser.add_argument("--mpirun", default="mpirun.mpich")
    parser.add_argument("--mpicc", default="mpicc.mpich")
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = folder / "mpi_messages.so"
        source = HERE / "mpi_messages.c"
        build = [given.mpicc, "-shared", "-fPIC", "-O2", source, "-o", library]
        subprocess.run(build, check=True)
        print(f"{'images':>9} {'ranks':>5} {'calls':>6} {'sent':>11} {'received':>11} {'sums':>5}")
        for n_images in map(int, given.images.split(",")):
            manifest = repeat(given.manifest, n_images, folder / f"{n_images}.csv")
            for n_ranks in map(int, given.ranks.split(",")):
                told = folder / f"{n_images}-{n_ranks}"
                told.mkdir()
                out = folder / "out.h5"
                out.unlink(missing_ok=True)
                subprocess.run(
                    [
                        *shlex.split(given.mpirun), "-n", str(n_ranks),
                        "env", f"LD_PRELOAD={library}", f"MPI_MESSAGES={told}",
                        f"{given.venv}/bin/h5ingest", manifest, out, "--quiet",
                        "--root", given.manifest.parent.resolve(), *options,
                    ],
                    check=True, env=os.environ, stdin=subprocess.DEVNULL,
                )  # fmt: skip
                calls, sent, received, sums = most(told)
                print(
                    f"{n_images:9,} {n_ranks:5} {calls:6,} {sent:11,} {received:11,} {sums:5}",
                    flush=True,
                )


def repeat(manifest: Path, n_rows: int, target: Path) -> Path:
    """Write a manifest with the rows of another, again and again."""
    with manifest.open() as source, target.open("w") as file:
        file.write(next(source))
        file.writelines(islice(cycle(source.readlines()), n_rows))
    return target


def most(folder: Path) -> tuple[int, int, int, int]:
    """Return calls, bytes sent, bytes received and rounds of sums: of each the most of any rank."""
    ranks = []
    for file in folder.iterdir():
        rows = [line.split() for line in file.read_text().splitlines()]
        of_steps = [list(map(int, row[1:])) for row in rows if row[0] != SUMS]
        sums = sum(int(row[1]) for row in rows if row[0] == SUMS)
        ranks.append((*map(sum, zip(*of_steps, strict=True)), sums))
    calls, sent, received, sums = (max(column) for column in zip(*ranks, strict=True))
    return calls, sent, received, sums


if __name__ == "__main__":
    main()
