"""What a job will take: a model, fitted to what `h5ingest bench scaling` measured.

python benchmarks/model.py bench-scaling/results.json [--images 1e9 --ranks 1000 ...]

    seconds = start-up
            + images / ranks * (image + bytes an image * byte)      CPU of every rank
            + images / ranks * opens * latency / readers            waiting for files
            + bytes read and written / bandwidth                    the file system, all ranks
            + images * row                                          root alone, at the end

`image` and `byte` are fitted to the CPU seconds of all ranks (least squares of relative errors),
`row` to the last step. Latency, readers and bandwidth are the other machine's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEAD_BYTES = 4096
"""What an open reads of a file before the one that reads all."""


@dataclass(frozen=True, slots=True)
class Model:
    """Seconds."""

    start: float
    """Until the first rank reads the manifest."""
    image: float
    """CPU of an image, whatever its size."""
    byte: float
    """CPU of a byte of pixels."""
    row: float
    """Of root at the end, for a row."""
    error: float
    """Median of the relative errors of the fitted CPU seconds."""


def fit(results: Sequence[dict[str, Any]]) -> Model:
    """Return the model of the points of a `results.json`; at least two sizes of images."""

    def median(name: str, *, step: str = "") -> NDArray[np.float64]:
        spreads = [result["steps"][step] if step else result[name] for result in results]
        return np.array([spread["median"] for spread in spreads])

    images = np.array([result["n_images"] for result in results], float)
    n_bytes = np.array([result["image_bytes"] for result in results], float)
    cpu = median("cpu")
    columns = np.stack([images, n_bytes], axis=1)
    image, byte = np.linalg.lstsq(columns / cpu[:, None], np.ones(len(cpu)), rcond=None)[0]
    errors = np.abs(columns @ [image, byte] / cpu - 1)
    finish = median("", step="finish")
    last = np.stack([np.ones_like(images), images], axis=1)
    row = np.linalg.lstsq(last, finish, rcond=None)[0][1]
    start = float(np.median(median("", step="start-up")))
    return Model(start, float(image), float(byte), float(max(row, 0)), float(np.median(errors)))


def terms(model: Model, asked: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of each term for another job."""
    share = asked.images / asked.ranks
    head = min(_HEAD_BYTES, asked.file_bytes)
    return {
        "start-up": model.start,
        "decode, checksum, write (CPU)": share * (model.image + asked.image_bytes * model.byte),
        "waiting for files to open": share * asked.opens * asked.open_ms / 1e3 / asked.readers,
        "bytes through the file system": asked.images
        * (asked.file_bytes + (asked.opens - 1) * head + asked.image_bytes)
        / (asked.bandwidth_gb_s * 1e9),
        "rank-0 pass": asked.images * model.row,
    }


def main() -> None:
    """Fit, print, predict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="of h5ingest bench scaling")
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--ranks", type=float, default=1000)
    parser.add_argument("--image-bytes", type=float, default=224 * 224 * 3, help="of pixels")
    parser.add_argument("--file-bytes", type=float, default=100_000)
    parser.add_argument("--open-ms", type=float, default=3, help="latency of an open")
    parser.add_argument(
        "--opens",
        type=float,
        default=1,
        help="per file: 1 for a stack and with an index, 2 for other layouts (headers first)",
    )
    parser.add_argument("--readers", type=float, default=16)
    parser.add_argument("--bandwidth-gb-s", type=float, default=50, help="of the file system")
    asked = parser.parse_args()
    model = fit(json.loads(asked.results.read_text())["results"])
    print(
        f"start-up {model.start:.2f} s; CPU {model.image * 1e6:.1f} µs an image and "
        f"{model.byte * 1e9:.1f} ns a byte of pixels (median error {model.error:.0%}); "
        f"rank-0 pass {model.row * 1e6:.2f} µs a row"
    )
    found = terms(model, asked)
    print(
        f"\n{asked.images:,.0f} images of {asked.image_bytes:,.0f} bytes, {asked.ranks:,.0f} ranks:"
    )
    for name, seconds in found.items():
        print(f"  {name:32} {seconds:12,.1f} s")
    print(f"  {'all':32} {sum(found.values()):12,.1f} s")


if __name__ == "__main__":
    main()
