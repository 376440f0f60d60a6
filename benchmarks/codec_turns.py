"""How fast photographs are read by one and two threads: PNG, HTJ2K, JPEG XL, each in turns.

Part of `codec_table.py --speeds`. All ways are taken one after the other, again and again, so that
whatever else the machine does disturbs all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from kornia_rs import io as kornia
from PIL import Image

from h5ingest import ImageStore, IngestOptions, ingest

_RUNS: Final = 5
WAYS: Final[dict[str, dict[str, Any]]] = {
    "`htj2k`, tree": {"layout": "tree", "compression": "htj2k"},
    "`zstd:3`, tree": {"layout": "tree", "compression": "zstd:3"},
    "`encoded --recode htj2k`": {"layout": "encoded", "recode": "htj2k"},
    "`encoded --recode jxl:1`": {"layout": "encoded", "recode": "jxl:1"},
    "`encoded --recode jxl`": {"layout": "encoded", "recode": "jxl"},
    "`encoded`, the PNG files": {"layout": "encoded"},
}


def _pillow(path: Path) -> None:
    with Image.open(path) as image:
        np.asarray(image)


def _kornia(path: Path) -> None:
    kornia.read_image_png_u8(str(path), "rgb")


def _files(decode: Callable[[Path], None], paths: Sequence[Path], n_threads: int) -> None:
    def share(first: int) -> None:
        for path in paths[first::n_threads]:
            decode(path)

    if n_threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(share, range(n_threads)))


def _store(store: ImageStore, n_threads: int) -> None:
    if n_threads > 1:
        store[:]
        return
    for row in range(len(store)):
        store[row]


def page(paths: Sequence[Path], work: Path) -> str:
    """Return the table: MB of pixels and images in a second, medians of all runs."""
    manifest = work / "photographs.txt"
    manifest.write_text("".join(f"{path.absolute()}\n" for path in paths))
    ways: dict[str, list[Callable[[], None]]] = {
        "PNG by Pillow": [partial(_files, _pillow, paths, n) for n in (1, 2)],
        "PNG by kornia-rs, unchecked": [partial(_files, _kornia, paths, n) for n in (1, 2)],
    }
    for number, (name, how) in enumerate(WAYS.items()):
        out = work / f"turn{number}.h5"
        ingest(manifest, out, IngestOptions(**how, overwrite=True))
        ways[name] = [partial(_store, ImageStore(out, threads=n), n) for n in (1, 2)]
    with ImageStore(out) as store:
        n_mb = sum(image.nbytes for image, _ in store) / 1e6
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in ways}
    for _ in range(_RUNS):
        for name, by_threads in ways.items():
            for read, found in zip(by_threads, taken[name], strict=True):
                started = time.process_time(), time.perf_counter()
                read()
                found.append((time.process_time() - started[0], time.perf_counter() - started[1]))
    lines = [
        "#### The same photographs by one and two threads",
        "",
        f"Medians of {_RUNS} runs, each way in turns: MB of pixels and images, in a second of CPU",
        "time and of time.",
        "",
        "| | 1 thread: MB/s CPU | images/s CPU | MB/s | images/s "
        "| 2 threads: MB/s CPU | images/s CPU | MB/s | images/s |",
        "|---|" + "--:|" * 8,
    ]
    for name, by_threads_s in taken.items():
        cells = [name]
        for runs in by_threads_s:
            for taken_s in np.median(np.array(runs), axis=0).tolist():
                cells += [f"{n_mb / taken_s:,.0f}", f"{len(paths) / taken_s:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
