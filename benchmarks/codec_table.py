"""Sizes and speeds of the codecs for kinds of images, and which tools read them: docs/codecs.md.

python benchmarks/codec_table.py --data FOLDER [--work DIR] [--speeds] [--only KIND ...]

FOLDER has mnist, kodak, depth16_open3d, davis_palette, emoji32 and scikit_image, each with PNGs at
any depth; what is not there is left out. Prints Markdown. Sizes are those of whole files: exact,
and the same on every machine with these versions but for the lengths of paths. --speeds adds what
one process does in a second of CPU time, with the files in the system's cache; others on the
machine disturb that still.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import corpora
import h5py
import hdf5plugin
import imagecodecs
import lmdb
import numpy as np
from PIL import Image

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.errors import UsageError
from h5ingest.core.sampling import evenly
from h5ingest.storage.auto_codec import Part
from h5ingest.storage.compress import compressor
from h5ingest.storage.filters import filter_pipeline

CODECS: Final = (
    "none", "gzip:4", "zstd:3", "zstd:9", "bitshuffle:zstd:3", "blosc2:zstd:5:bytedelta", "htj2k",
    "auto",
)  # fmt: skip
_RUNS: Final = 3
_BLOCK: Final = 4096
"""Bytes that the smallest file takes on most disks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Image files of one kind."""

    name: str
    about: str
    paths: list[Path]
    layout: str = "stack"
    samples: str = "scaled"

    @property
    def file_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)


def kinds(data: Path, work: Path) -> Iterator[Kind]:
    """Yield the kinds of images that there are."""

    def some(pattern: str, n: int, modes: Sequence[str] = ()) -> list[Path]:
        files = sorted(data.glob(pattern))
        if modes:
            files = [path for path in files if _mode(path) in modes]
        return [files[row] for row in evenly(len(files), n)]

    yield Kind(name="MNIST", about="28x28 gray digits", paths=some("mnist/**/*.png", 5000))
    if photographs := some("kodak/**/*.png", 24):
        tiles = corpora.tiles(photographs, work / "tiles")
        apart = [path for path in tiles if not any(int(at) % 32 for at in _place(path))]
        about = "32x32 RGB tiles of photographs reduced to half their size, which do not overlap"
        yield Kind(name="CIFAR-size", about=about, paths=apart)
        about = "768x512 RGB"
        yield Kind(name="photographs", about=f"Kodak, {about}", paths=photographs, layout="tree")
    yield Kind(
        name="pictures", about="gray and RGB of scikit-image, of all sizes", layout="tree",
        paths=some("scikit_image/**/*.png", 42, ("L", "RGB")),
    )  # fmt: skip
    yield Kind(
        name="depth maps", about="640x480 gray of 16 bits", layout="tree",
        paths=some("depth16_open3d/**/*.png", 19, ("I;16", "I")),
    )  # fmt: skip
    yield Kind(
        name="masks", about="DAVIS, 854x480 label indices", layout="tree", samples="raw",
        paths=some("davis_palette/**/*.png", 60, ("P",)),
    )  # fmt: skip
    yield Kind(name="icons", about="32x32 RGBA", paths=some("emoji32/**/*.png", 3600))


def _place(tile: Path) -> list[str]:
    """Return y and x of a tile in its photograph, in pixels."""
    return tile.stem.split("-")[-2:]


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return image.mode
    except OSError:
        return ""


# --- sizes -------------------------------------------------------------------------------------


def containers(kind: Kind, work: Path) -> dict[str, int]:
    """Return the bytes of the files' own bytes in other containers."""
    found = {"PNG folder, 4 KiB blocks": sum(_blocks(path) for path in kind.paths)}
    names = [f"{row:07}.png" for row in range(len(kind.paths))]
    path = work / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in zip(names, kind.paths, strict=True):
            archive.write(file, name)
    found["zip"] = path.stat().st_size
    path = work / "images.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:  # as webdataset's are
        for name, file in zip(names, kind.paths, strict=True):
            shard.add(file, name)
    found["tar (webdataset)"] = path.stat().st_size
    path = work / "images.lmdb"
    path.unlink(missing_ok=True)
    opened = lmdb.open(str(path), map_size=1 << 36, subdir=False)
    with opened as database, database.begin(write=True) as rows:
        for row, file in enumerate(kind.paths):
            rows.put(row.to_bytes(8, "big"), file.read_bytes(), append=True)
    found["LMDB of PNGs"] = path.stat().st_size
    return found


def _blocks(path: Path) -> int:
    return -(-path.stat().st_size // _BLOCK) * _BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file of one codec."""

    path: Path
    n_bytes: int
    chosen: str
    """What `auto` took; else the codec."""


def make(kind: Kind, codec: str, work: Path) -> Made | None:
    """Return the file; None if the codec cannot hold these images."""
    manifest = work / "images.txt"
    manifest.write_text("".join(f"{path.absolute()}\n" for path in kind.paths))
    out = work / "images.h5"
    options = IngestOptions(
        layout=kind.layout, samples=kind.samples, compression=codec, overwrite=True
    )
    try:
        report = ingest(manifest, out, options)
    except UsageError:
        return None
    chosen = report.auto.codec if report.auto else codec
    return Made(path=out, n_bytes=report.bytes_out, chosen=chosen)


# --- speeds ------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process, the least of some runs."""
    found = []
    for _ in range(_RUNS):
        started_s = time.process_time()
        work()
        found.append(time.process_time() - started_s)
    return min(found)


def compressing(path: Path, codec: str) -> Callable[[], None]:
    """Return what compresses all images of a file, as an ingest does it."""
    stacks: dict[tuple[Any, ...], list[Any]] = {}
    with ImageStore(path) as store:
        for image, _ in store:
            stacks.setdefault((image.shape, image.dtype.name), []).append(image)
        chunk_rows = 1 if store.layout == "tree" else None
    filters = filter_pipeline(codec, shuffle=False)
    parts = [Part(np.stack(images), chunk_rows) for images in stacks.values()]

    def work() -> None:
        for part in parts:
            spec = part.spec(filters)
            compress, rows = compressor(spec), spec.chunk_rows or 1
            for chunk in range(spec.n_chunks):
                compress(part.values[chunk * rows : (chunk + 1) * rows])

    return work if filters else lambda: None


def by_h5py(path: Path) -> int:
    """Read all pixels, a chunk at a time; return their bytes."""
    n_bytes = 0
    with h5py.File(path) as file:
        if "datasets" in file:
            datasets = [file[name] for name in file["datasets"][()]]
        else:
            datasets = [file["images"]]
        for dataset in datasets:
            step = dataset.chunks[0] if dataset.chunks else len(dataset)
            for start in range(0, len(dataset), step):
                n_bytes += dataset[start : start + step].nbytes
    return n_bytes


def by_store(path: Path) -> int:
    """Read all images, one after the other, on one thread; return their bytes."""
    with ImageStore(path, threads=1) as store:
        return sum(store[row][0].nbytes for row in range(len(store)))


def by_pillow(paths: Sequence[Path]) -> None:
    """Decode the files, as most programs do."""
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image)


def by_imagecodecs(paths: Sequence[Path]) -> None:
    """Decode the files by libpng."""
    for path in paths:
        imagecodecs.png_decode(path.read_bytes())


# --- tools -------------------------------------------------------------------------------------


def tools(work: Path) -> list[str]:
    """Return a line for each codec: what Debian's tools make of it, without and with plugins."""
    pixels = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8)
    Image.fromarray(pixels).save(work / "tool.png")
    kind = Kind(name="", about="", paths=[work / "tool.png"])
    lines = [
        "| codec | h5dump | h5dump, HDF5_PLUGIN_PATH | h5repack to gzip |",
        "|---|---|---|---|",
    ]
    for codec in CODECS[:-1]:
        made = make(kind, codec, work)
        assert made is not None
        copy = work / "copy.h5"
        copy.unlink(missing_ok=True)
        shown = [
            _dumps(made.path, pixels, {}),
            _dumps(made.path, pixels, {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}),
            _run(["h5repack", "-f", "images:GZIP=4", str(made.path), str(copy)],
                 {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}).returncode == 0
            and _dumps(copy, pixels, {}),
        ]  # fmt: skip
        lines.append(f"| `{codec}` | " + " | ".join("yes" if s else "no" for s in shown) + " |")
    return lines


def _dumps(path: Path, pixels: np.ndarray[Any, Any], env: dict[str, str]) -> bool:
    """Return whether h5dump gives the pixels."""
    raw = path.with_suffix(".raw")
    raw.unlink(missing_ok=True)
    done = _run(["h5dump", "-d", "/images", "-b", "LE", "-o", str(raw), str(path)], env)
    return done.returncode == 0 and raw.exists() and raw.read_bytes() == pixels.tobytes()


def _run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}
    return subprocess.run(
        command, env=clean | env, capture_output=True, text=True, timeout=60, check=False
    )


# --- the page ----------------------------------------------------------------------------------


def page(kind: Kind, work: Path, *, speeds: bool) -> str:
    """Return the table of one kind of images."""
    out = io.StringIO()
    n_png = kind.file_bytes
    print(f"### {kind.name}: {len(kind.paths):,} images, {kind.about}\n", file=out)
    print(f"PNG files: {n_png:,} bytes.\n", file=out)
    print("| stored as | bytes | of the PNGs |", end="", file=out)
    print(" compress MB/s | h5py reads MB/s | ImageStore reads MB/s |" * speeds, file=out)
    print("|---|--:|--:|" + "--:|--:|--:|" * speeds, file=out)

    def row(name: str, n_bytes: int, *rest: float) -> None:
        cells = [name, f"{n_bytes:,}", f"{n_bytes / n_png:.2f}"]
        if speeds:
            cells += [f"{speed:,.0f}" if speed else "" for speed in rest] + [""] * (3 - len(rest))
        print(f"| {' | '.join(cells)} |", file=out)

    n_raw = 0
    for codec in CODECS:
        made = make(kind, codec, work)
        if made is None:
            print(f"| `{codec}` | not these |" + " |" * (1 + 3 * speeds), file=out)
            continue
        name = f"`auto`: {made.chosen}" if codec == "auto" else f"`{codec}`"
        if not speeds or codec == "auto":
            row(name, made.n_bytes)
            continue
        n_raw = by_h5py(made.path)
        mb = n_raw / 1e6
        h5py_s = seconds(partial(by_h5py, made.path))
        store_s = seconds(partial(by_store, made.path))
        write_s = seconds(compressing(made.path, codec))
        row(name, made.n_bytes, mb / write_s if codec != "none" else 0, mb / h5py_s, mb / store_s)
    for name, n_bytes in containers(kind, work).items():
        row(name, n_bytes)
    if speeds:
        mb = n_raw / 1e6
        pillow = mb / seconds(lambda: by_pillow(kind.paths))
        libpng = mb / seconds(lambda: by_imagecodecs(kind.paths))
        print(f"\nThe PNG files by Pillow: {pillow:,.0f} MB/s, by imagecodecs (libpng): "
              f"{libpng:,.0f} MB/s.", file=out)  # fmt: skip
    return out.getvalue()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keeps the tiles (default: a temporary folder)")
    parser.add_argument("--speeds", action="store_true")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--tools", action="store_true", help="only try h5dump and h5repack")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if asked.tools:
            print("\n".join(tools(work)))
            return
        for kind in kinds(asked.data, work):
            if kind.paths and (not asked.only or kind.name in asked.only):
                print(page(kind, work, speeds=asked.speeds), flush=True)


if __name__ == "__main__":
    main()
