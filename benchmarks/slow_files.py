"""Files that take milliseconds to open: h5ingest beside 16 threads that only open, read and close.

    python benchmarks/slow_files.py manifest.txt [--images 8000] [--ms 3] [--runs 3] [--tar]

One rank, in turns; each open of a .png or of the tar takes so much longer by
tests/programs/io_faults.c, which the C compiler makes a library of. Seconds of the whole job, from
reading the manifest on, medians, and what part of the first way's speed that is; with --tar, of the
same images from files and from one tar: by a manifest of files or of members, or the folder or the
tar as it is, which have to be listed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

N_THREADS = 16
WAYS: Mapping[str, IngestOptions | None] = {
    "bare threads": None,
    "auto": IngestOptions(),
    "cache 0": IngestOptions(cache_bytes=0),
}
"""Name -> options of a job."""
OF_TAR: Mapping[str, IngestOptions] = {
    "files": IngestOptions(),
    "files, alone": IngestOptions(readers=0),
    "tar, members": IngestOptions(),
    "folder": IngestOptions(),
    "tar": IngestOptions(),
}
"""With --tar; `alone`: no thread reads ahead."""
TAR = "few.png.tar"
"""Its opens are as slow as those of the images: by its name."""
FOLDER = "unpacked"


def main() -> None:
    """Measure, and print a line for each way; or, with --way, time that one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--ms", type=float, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tar", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(timed(given.way, given.manifest)))
        return
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        lines = given.manifest.read_bytes().splitlines(keepends=True)[: given.images]
        few = folder / f"few{given.manifest.suffix}"
        few.write_bytes(b"".join(lines))
        if given.tar:
            pack(few)
        measure(few, preload(folder), given.ms, given.runs, OF_TAR if given.tar else WAYS)


def preload(folder: Path) -> Path:
    """Return the library, compiled into this folder."""
    source = Path(__file__).parents[1] / "tests/programs/io_faults.c"
    library = folder / "io_faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


def pack(manifest: Path) -> None:
    """Make of a manifest's files a tar and a folder beside it, and a manifest of the members."""
    paths = [os.fsdecode(path) for path in manifest.read_bytes().splitlines()]
    with tarfile.open(manifest.with_name(TAR), "w") as tar:
        for path in paths:
            tar.add(path)
    with tarfile.open(manifest.with_name(TAR)) as tar:
        tar.extractall(manifest.with_name(FOLDER), filter="data")
    members = "".join(f"{TAR}/{path.lstrip('/')}\n" for path in paths)
    manifest.with_name("members.txt").write_text(members)


def measure(
    manifest: Path, library: Path, ms: float, n_runs: int, ways: Mapping[str, IngestOptions | None]
) -> None:
    """Let the ways take turns, each in a process of its own."""
    env = dict(os.environ)
    if ms:
        slow = {"IOFAULT_MATCH": ".png", "IOFAULT_OPEN_US": str(round(ms * 1000))}
        env |= slow | {"LD_PRELOAD": str(library)}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    computed: dict[str, list[float]] = {way: [] for way in ways}
    phases: dict[str, dict[str, float]] = {}
    for _ in range(n_runs):
        for way in ways:
            command = [sys.executable, __file__, str(manifest), "--way", way]
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            seconds, cpu_s, phases[way] = json.loads(done.stdout)
            taken[way].append(seconds)
            computed[way].append(cpu_s)
    first_s = statistics.median(taken[next(iter(ways))])
    for way, all_s in taken.items():
        median, cpu_s = statistics.median(all_s), statistics.median(computed[way])
        said = ", ".join(f"{name} {s:.2f}" for name, s in phases[way].items() if s >= 0.005)
        print(
            f"{way:13} {median:6.2f} s {first_s / median:5.2f}  CPU {cpu_s:5.2f} s  "
            f"(least {min(all_s):.2f}; {said})"
        )


def timed(way: str, manifest: Path) -> tuple[float, float, dict[str, float]]:
    """Return seconds, those of CPU, and those of each phase of a job."""
    options = {**WAYS, **OF_TAR}[way]
    if options is not None:
        out = manifest.with_name("out.h5")
        out.unlink(missing_ok=True)
        sources = {"tar, members": "members.txt", "folder": FOLDER, "tar": TAR}
        source = manifest.with_name(sources.get(way, manifest.name))
        began_s = time.process_time()
        report = ingest(source, out, options)
        phases = {name: each.median for name, each in report.phases.items()}
        return report.seconds, time.process_time() - began_s, phases
    paths = manifest.read_bytes().splitlines()
    started_s, began_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(N_THREADS) as pool:
        pool.map(read_some, (paths[k::N_THREADS] for k in range(N_THREADS)))
    return time.perf_counter() - started_s, time.process_time() - began_s, {}


def read_some(paths: list[bytes]) -> None:
    """Open, read and close each file."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 64 * 1024)
        os.close(fd)


if __name__ == "__main__":
    main()
