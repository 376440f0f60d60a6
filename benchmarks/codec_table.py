"""Sizes and speeds of the codecs for kinds of images, and which tools read them: docs/codecs.md.

python benchmarks/codec_table.py --data FOLDER --speeds --write docs/codecs.md

FOLDER has mnist, kodak, street, depth16_open3d, davis_palette, emoji32 and scikit_image, each with
PNGs at any depth; what is not there is left out. Prints Markdown, or puts it in its place in a
page. Sizes are those of whole files: exact, and the same on every machine with these versions but
for the lengths of paths. --speeds adds what one process does in a second of CPU time, with the
files in the system's cache, and how photographs are read by one and two threads
(`codec_turns.py`); others on the machine disturb that still. It takes about three minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import codec_turns
import corpora
import h5py
import hdf5plugin
import imagecodecs
import lmdb
import numpy as np
from PIL import Image

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.errors import UsageError
from h5ingest.core.memory import keep_freed_memory
from h5ingest.core.sampling import evenly
from h5ingest.inspect import codecs
from h5ingest.storage.auto_codec import Part
from h5ingest.storage.compress import compressor
from h5ingest.storage.filters import filter_pipeline

CODECS: Final = (
    "none", "gzip:4", "zstd:3", "zstd:9", "bitshuffle:zstd:3", "blosc2:zstd:5:bytedelta", "htj2k",
    "auto",
)  # fmt: skip
BEGIN: Final = "<!-- tables of benchmarks/codec_table.py -->"
END: Final = "<!-- end of the tables -->"
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
        name="street scenes", about="photographs from a car", layout="tree",
        paths=some("street/**/*.png", 60, ("RGB",)),
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


Reading = Callable[[], Iterator[bytes]]


def containers(kind: Kind, work: Path) -> dict[str, tuple[int, Reading]]:
    """Return the bytes of the files' own bytes in other containers, and what reads the files."""
    blocks = sum(_blocks(path) for path in kind.paths)
    found: dict[str, tuple[int, Reading]] = {
        "PNG folder, 4 KiB blocks": (blocks, lambda: (path.read_bytes() for path in kind.paths))
    }
    names = [f"{row:07}.png" for row in range(len(kind.paths))]
    path = work / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in zip(names, kind.paths, strict=True):
            archive.write(file, name)
    found["zip"] = path.stat().st_size, partial(_of_zip, path)
    path = work / "images.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:  # as webdataset's are
        for name, file in zip(names, kind.paths, strict=True):
            shard.add(file, name)
    found["tar (webdataset)"] = path.stat().st_size, partial(_of_tar, path)
    path = work / "images.lmdb"
    path.unlink(missing_ok=True)
    opened = lmdb.open(str(path), map_size=1 << 36, subdir=False)
    with opened as database, database.begin(write=True) as rows:
        for row, file in enumerate(kind.paths):
            rows.put(row.to_bytes(8, "big"), file.read_bytes(), append=True)
    found["LMDB of PNGs"] = path.stat().st_size, partial(_of_lmdb, path)
    return found


def _of_zip(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield archive.read(name)


def _of_tar(path: Path) -> Iterator[bytes]:
    with tarfile.open(path, "r|") as shard:  # as webdataset reads
        for member in shard:
            file = shard.extractfile(member)
            assert file is not None, "it is a file"
            yield file.read()


def _of_lmdb(path: Path) -> Iterator[bytes]:
    opened = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    with opened as database, database.begin() as rows, rows.cursor() as cursor:
        for _, data in cursor:
            yield data


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


def by_pillow(read: Reading) -> None:
    """Decode files, as most programs do."""
    for data in read():
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image)


def by_imagecodecs(read: Reading) -> None:
    """Decode files by libpng."""
    for data in read():
        imagecodecs.png_decode(data)


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
    n_png, n_images = kind.file_bytes, len(kind.paths)
    columns = "compress", "h5py reads", "ImageStore reads"
    lines = [
        f"### {kind.name}: {n_images:,} images, {kind.about}",
        "",
        f"PNG files: {n_png:,} bytes.",
        "",
        "| stored as | bytes | of the PNGs |"
        + "".join(f" {column}: images/s | MB/s |" for column in columns) * speeds,
        "|---|--:|--:|" + "--:|--:|" * len(columns) * speeds,
    ]
    n_raw = 0

    def row(name: str, n_bytes: int, taken: Sequence[float]) -> None:
        cells = [name, f"{n_bytes:,}", f"{n_bytes / n_png:.2f}"]
        for taken_s in taken if speeds else ():
            cells += [_per_s(n_images, taken_s), _per_s(n_raw / 1e6, taken_s)]
        lines.append(f"| {' | '.join(cells)} |")

    for codec in CODECS:
        made = make(kind, codec, work)
        if made is None:
            lines.append(f"| `{codec}` | not these |" + " |" * (1 + 2 * len(columns) * speeds))
            continue
        taken = [0.0] * len(columns)
        if speeds and codec != "auto":
            n_raw = by_h5py(made.path)
            work_of = compressing(made.path, codec), by_h5py, by_store
            taken = [seconds(work_of[0])] if codec != "none" else [0.0]
            taken += [seconds(partial(read, made.path)) for read in work_of[1:]]
        row(f"`auto`: {made.chosen}" if codec == "auto" else f"`{codec}`", made.n_bytes, taken)
    for name, (n_bytes, read) in containers(kind, work).items():
        taken_s = seconds(partial(by_pillow, read)) if speeds else 0.0
        row(name, n_bytes, (0.0, 0.0, taken_s))
    if speeds:
        libpng_s = seconds(partial(by_imagecodecs, read))
        told = f"{_per_s(n_images, libpng_s)} images/s, {_per_s(n_raw / 1e6, libpng_s)} MB/s"
        lines += [
            "",
            f"Those of the last four lines are decoded by Pillow. By libpng, of the LMDB: {told}.",
        ]
    return "\n".join([*lines, ""])


def judge(kinds_: Iterable[Kind], data: Path, work: Path) -> tuple[list[str], bool]:
    """Return what `auto` and the codecs of photographs are to be, and are; and whether they are.

    `auto` takes what `h5ingest codecs` says, and its file is at most 2 % larger than the smaller of
    those of zstd:3 and htj2k. Kodak and the ten largest pictures of scikit-image take at most 0.85
    of their PNGs by htj2k, and 0.75 by JPEG XL.
    """
    lines, well = (
        ["| images | auto | codecs says | bytes / the best of both |", "|---|---|---|--:|"],
        True,
    )
    for kind in kinds_:
        if not kind.paths:
            continue
        sizes = {
            codec: made.n_bytes
            for codec in ("zstd:3", "htj2k")
            if (made := make(kind, codec, work))
        }
        made = make(kind, "auto", work)
        assert made is not None, "it takes any"
        options = IngestOptions(layout=kind.layout, samples=kind.samples)
        said = str(codecs.measure(work / "images.txt", options, n_wanted=8).auto.codec)  # type: ignore[union-attr]
        ratio = made.n_bytes / min(sizes.values())
        lines.append(f"| {kind.name} | {made.chosen} | {said} | {ratio:.3f} |")
        well &= said == made.chosen and ratio <= 1.02
    kodak = sorted(data.glob("kodak/**/*.png"))
    pictures = [path for path in data.glob("scikit_image/**/*.png") if _mode(path) in ("L", "RGB")]
    largest = sorted(pictures, key=lambda path: -path.stat().st_size)[:10]
    lines += ["", "| images | htj2k / PNG (0.85) | jxl / PNG (0.75) |", "|---|--:|--:|"]
    for name, paths in (
        ("Kodak", kodak),
        ("ten largest of scikit-image", largest),
        ("both", kodak + largest),
    ):
        if not paths:
            continue
        kind = Kind(name=name, about="", paths=paths, layout="tree")
        htj2k = make(kind, "htj2k", work)
        assert htj2k is not None, "gray and RGB"
        recoded = ingest(
            work / "images.txt", work / "images.h5",
            IngestOptions(layout="encoded", recode="jxl", overwrite=True),
        )  # fmt: skip
        ratios = htj2k.n_bytes / kind.file_bytes, recoded.bytes_out / kind.file_bytes
        lines.append(f"| {name}, {len(paths)} | {ratios[0]:.3f} | {ratios[1]:.3f} |")
        well &= name != "both" or (ratios[0] <= 0.85 and ratios[1] <= 0.75)
    return lines, well


def _per_s(count: float, taken_s: float) -> str:
    """Return how many in a second; nothing if nothing was measured."""
    return f"{count / taken_s:,.0f}" if taken_s else ""


def machine() -> str:
    """Return a paragraph on what the speeds were measured with."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("h5ingest", "hdf5plugin", "imagecodecs", "h5py", "kornia-rs", "pillow")
    )
    name = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    return (
        f"Measured on {time.strftime('%Y-%m-%d')} on {name}, {os.cpu_count()} processors, load "
        f"{os.getloadavg()[0]:.1f} at the end, with {versions}."
    )


def put(page_path: Path, text: str) -> None:
    """Put the tables where they were in a page of the documentation."""
    before, begin, rest = page_path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page_path}: expected the lines {BEGIN} and {END}")
    page_path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main() -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keeps the tiles (default: a temporary folder)")
    parser.add_argument("--speeds", action="store_true")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables there")
    parser.add_argument("--judge", action="store_true", help="only say if sizes are as they should")
    parser.add_argument("--tools", action="store_true", help="only try h5dump and h5repack")
    asked = parser.parse_args()
    keep_freed_memory()  # as programs that read photographs should, whatever reads them
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if asked.tools:
            print("\n".join(tools(work)))
            return
        if asked.judge:
            lines, well = judge(kinds(asked.data, work), asked.data, work)
            print("\n".join(lines))
            raise SystemExit(0 if well else 1)
        found = []
        for kind in kinds(asked.data, work):
            if kind.paths and (not asked.only or kind.name in asked.only):
                tables = [page(kind, work, speeds=asked.speeds)]
                if kind.name == "photographs" and asked.speeds:
                    tables.append(codec_turns.page(kind.paths, work))
                found += tables
                print("\n".join(tables), flush=True)
        if asked.write is not None:
            put(asked.write, "\n".join([machine(), "", *found]))


if __name__ == "__main__":
    main()
