"""The time of an image on one rank, against the bare parts of its work, each on its own.

    python benchmarks/hot_path.py manifest.csv [--runs 5]

Bare: open, read and close each file; decode each (8-bit PNGs of one size); write all pixels in
pieces of 4 MiB. All in this process and in turns with h5ingest, with the files in the system's
cache; medians, in microseconds an image. `all` is the whole job, with manifest, rank-0 pass, fsync.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
from kornia_rs import io

from h5ingest.bench.measure import timed
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.pipeline.run import ingest

PARTS = {"read": ("probe", "read"), "decode": ("decode",), "write": ("write",)}
"""Bare part -> what h5ingest reports beside it: its probe reads most of the files."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        measure(given.manifest, given.runs, Path(name))


def measure(manifest: Path, n_runs: int, folder: Path) -> None:
    """Let the parts and the whole take turns, once for nothing, and print the medians."""
    out = folder / "out.h5"
    ingest(manifest, out, IngestOptions())
    with h5py.File(out) as file:
        sources = [manifest.parent / path for path in file["paths"].asstr()[:]]
        pixels = file["images"][:]
    files, paths = [path.read_bytes() for path in sources], [bytes(path) for path in sources]
    size = pixels.shape[1:3]
    mode = "mono" if pixels.ndim == 3 else {3: "rgb", 4: "rgba"}[pixels.shape[3]]

    def read() -> None:
        for path, data in zip(paths, files, strict=True):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, len(data))
            os.close(fd)

    def decode() -> None:
        for data in files:
            io.decode_image_png_u8(data, size, mode)

    def write() -> None:
        left = memoryview(pixels.reshape(-1))
        with (folder / "bare").open("wb", buffering=0) as file:
            while left:
                left = left[file.write(left[: 4 * MIB]) :]
        (folder / "bare").unlink()

    def an_image(seconds: float) -> float:
        return seconds / len(files) * 1e6

    bare: dict[str, Callable[[], None]] = {"read": read, "decode": decode, "write": write}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in (*PARTS, "together", "all")}
    for run in range(n_runs + 1):
        taken = {name: an_image(timed(part)[1]) for name, part in bare.items()}
        out.unlink()
        report = ingest(manifest, out, IngestOptions())
        if not run:
            continue
        own = {
            name: an_image(sum(report.phases[phase].median for phase in phases))
            for name, phases in PARTS.items()
        }
        for name in PARTS:
            rows[name].append((taken[name], own[name]))
        rows["together"].append((sum(taken.values()), sum(own.values())))
        rows["all"].append((sum(taken.values()), an_image(report.seconds)))
    print(f"{len(files):,} images of {pixels.dtype} {pixels.shape[1:]}, {manifest}")
    print(f"{'':10} {'bare':>8} {'h5ingest':>8} {'ratio':>6}")
    for name, pairs in rows.items():
        one, other = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
        ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
        print(f"{name:10} {one:8.2f} {other:8.2f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
