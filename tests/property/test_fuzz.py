"""Files changed at random: refused, or decoded to the pixels that other decoders find.

In a process of its own, so that a decoder that crashes can be told from one that is wrong.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.faults import say
from helpers.oracle import KINDS, encode
from helpers.support import PROGRAMS, ROOT, clean_environment
from PIL import Image

FUZZ = PROGRAMS / "launched_fuzz.py"
OTHERS = ("BMP", "GIF", "JPEG", "PPM", "TIFF", "WEBP")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One PNG of every kind, the PNG suite if it is there, and some other formats."""
    folder = tmp_path_factory.mktemp("seeds")
    for number, kind in enumerate(KINDS):
        (folder / f"made-{number:02}.png").write_bytes(encode(kind, 9, 13).data)
    pixels = np.random.default_rng(2).integers(0, 256, (9, 13, 3), np.uint8)
    for name in OTHERS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name)
        (folder / f"other.{name.lower()}").write_bytes(file.getvalue())
    return folder


@pytest.fixture(scope="module")
def more_seeds(seeds: Path, corpora: Path) -> Path:
    """And the small images of the PNG suite."""
    files = [file for file in (corpora / "pngsuite").rglob("*.png") if file.stat().st_size < 3000]
    assert len(files) > 100
    for number, file in enumerate(sorted(files)):
        (seeds / f"suite-{number:03}.png").write_bytes(file.read_bytes())
    return seeds


def fuzz(seeds: Path, first: int, count: int, folder: Path) -> Counter[str]:
    """Run some cases, and return how they came out."""
    progress = folder / "progress"
    command = [sys.executable, *map(str, (FUZZ, seeds, first, count, progress))]
    completed = subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=60 + count / 20, check=False,
        env=clean_environment({"OPENBLAS_NUM_THREADS": "1"}), cwd=ROOT,
    )  # fmt: skip
    number = progress.read_text() if progress.exists() else "none"
    assert completed.returncode == 0, (
        f"ended with {completed.returncode} in case {number}; again with: {FUZZ} SEEDS {number} 1\n"
        f"{completed.stderr}"
    )
    told = json.loads(completed.stdout.splitlines()[-1])
    assert told["problems"] == []
    assert told["slowest_s"] < 5, "CPU seconds of one image of 13 KB at most"
    assert told["grown_bytes"] < 200e6
    return Counter(told["counts"])


def test_a_changed_file_is_refused_or_has_the_pixels_that_other_decoders_find(
    seeds: Path, tmp_path: Path
) -> None:
    counts = fuzz(seeds, 0, 10_000, tmp_path)
    assert counts.total() == 10_000
    # Else it would prove nothing: a good part of what is decoded is known to others too.
    assert counts["decoded, the same by another decoder"] > 1000
    assert counts["refused"] > 1000


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_many_changed_files(more_seeds: Path, tmp_path: Path) -> None:
    """`H5INGEST_FUZZ` says how many; they begin behind those of the test above."""
    n_cases = int(os.environ.get("H5INGEST_FUZZ", "100000"))
    counts: Counter[str] = Counter()
    for first in range(10**6, 10**6 + n_cases, 10_000):
        counts += fuzz(more_seeds, first, min(10_000, 10**6 + n_cases - first), tmp_path)
        say(f"{counts.total():,} files: {dict(counts)}")
    assert counts.total() == n_cases
