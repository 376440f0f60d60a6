"""What groups cost: a job of as many groups as images, which is all bookkeeping.

    python benchmarks/many_groups.py [--groups 10000,70000] [--ranks 1,2] [--mpirun mpiexec] \
        [-- --layout ragged ...]

Each group has one image of 6x7; what follows `--` goes to h5ingest. A line for each job: seconds of
its phases (of the slowest rank), of verify, and the memory of the largest process. Twice the groups
should take twice as long.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np

PHASES = ("manifest", "probe", "layout", "divide", "create", "write", "wait", "close", "finalize")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", default="10000,70000")
    parser.add_argument("--ranks", default="1")
    parser.add_argument("--mpirun", default="mpiexec", help="the launcher, for more than one rank")
    parser.add_argument("options", nargs="*", help="of h5ingest")
    given = parser.parse_args()
    print(
        f"{'groups':>8} {'ranks':>5}", *(f"{name:>8}" for name in PHASES), "   whole   verify  GiB"
    )
    with tempfile.TemporaryDirectory(dir=".") as name:
        for n_groups in map(int, given.groups.split(",")):
            for n_ranks in map(int, given.ranks.split(",")):
                launcher = [*shlex.split(given.mpirun), "-n", str(n_ranks)] if n_ranks > 1 else []
                measure(Path(name), n_groups, n_ranks, launcher, given.options)


def measure(
    folder: Path, n_groups: int, n_ranks: int, launcher: list[str], options: list[str]
) -> None:
    """Store so many groups, verify them, and print a line."""
    manifest, out, report = (folder / name for name in ("groups.csv", "groups.h5", "report.json"))
    iio.imwrite(folder / "image.png", np.arange(42, dtype=np.uint8).reshape(6, 7))
    lines = ["path,name", *(f"image.png,g{group:06}" for group in range(n_groups))]
    manifest.write_text("\n".join(lines) + "\n")
    us = [*launcher, sys.executable, "-m", "h5ingest"]
    wanted = ["--group-by", "name", "--overwrite", "--quiet", "--report", str(report), *options]
    whole_s, memory = timed([*us, str(manifest), str(out), *wanted])
    verify_s, _ = timed([*us, "verify", str(out), "--quiet"])
    phases = json.loads(report.read_text())["phases"]
    print(
        f"{n_groups:>8} {n_ranks:>5}",
        *(f"{phases[name]['max']:>8.2f}" for name in PHASES),
        f"{whole_s:>8.1f} {verify_s:>8.1f} {memory / 2**30:>4.2f}",
        flush=True,
    )


def timed(command: list[str]) -> tuple[float, int]:
    """Return the seconds and the bytes of memory of the largest process of a command."""
    started_s = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
