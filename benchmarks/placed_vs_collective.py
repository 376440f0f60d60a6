"""Placed chunks against HDF5's collective filtered writes: images per second at 2 and 8 ranks.

    python benchmarks/placed_vs_collective.py [--venv .venv/mpich --mpirun mpirun.mpich]

40,000 images of 32x32x3 from memory, 64 in a chunk, zstd 1; both in turn, medians.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import tempfile
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers its filters
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SCRIPTS = {"collective": "collective_filtered.py", "placed": "placed_filtered.py"}


def make_pixels(n: int) -> NDArray[np.uint8]:
    """(n, 32, 32, 3) images: a slope each, and noise in the lowest bit."""
    noise = np.random.default_rng(1)
    slopes = noise.integers(0, 4, (n, 2, 1, 1, 3), np.uint8)
    y, x = np.arange(32, dtype=np.uint8)[:, None, None], np.arange(32, dtype=np.uint8)[:, None]
    grain = noise.integers(0, 2, (n, 32, 32, 3), np.uint8)
    pixels: NDArray[np.uint8] = slopes[:, 0] * y + slopes[:, 1] * x + grain
    return pixels


def main() -> None:
    """Run both in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=".venv/mpich")
    parser.add_argument("--mpirun", default="mpirun.mpich", help="the launcher, with options")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    given = parser.parse_args()
    python = Path(given.venv, "bin", "python")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "pixels.npy"), Path(folder, "out.h5")
        pixels = make_pixels(given.images)
        np.save(source, pixels)
        for n_ranks in given.ranks:
            seconds: dict[str, list[float]] = {name: [] for name in SCRIPTS}
            for _ in range(given.runs):
                for name, script in SCRIPTS.items():
                    command = [*shlex.split(given.mpirun), "-n", str(n_ranks), str(python)]
                    done = subprocess.run(
                        [*command, HERE / script, source, out],
                        check=True, timeout=120, capture_output=True, text=True,
                    )  # fmt: skip
                    seconds[name].append(float(done.stdout))
            with h5py.File(out) as file:  # of placed chunks: they must also be right
                assert np.array_equal(file["images"][()], pixels)
                ratio = file["images"].id.get_storage_size() / pixels.nbytes
            rates = {k: given.images / statistics.median(v) for k, v in seconds.items()}
            print(f"{n_ranks} ranks (load {os.getloadavg()[0]:.1f}, zstd to {ratio:.2f}):")
            for name, rate in rates.items():
                spread = f"{min(seconds[name]):.2f}-{max(seconds[name]):.2f} s"
                print(f"  {name:<10} {rate:>9,.0f} images/s  ({spread})")
            print(f"  placed is {rates['placed'] / rates['collective']:.2f} times as fast")


if __name__ == "__main__":
    main()
