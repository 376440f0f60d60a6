"""Images per second out of `ImageStore` against other ways to read the same MNIST images.

    reader.py MNIST_FOLDER WORK_FOLDER [N_IMAGES]

MNIST_FOLDER holds train.csv and the PNGs it names. Needs lmdb, pillow and hdf5plugin besides
h5ingest. Each way gives image and label; the pixels of all of them are compared first. The ways
take turns, five rounds; printed are medians, with the lowest and the highest, on warm caches, in
one process; then the ratios.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers its filters for plain h5py
import lmdb  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from h5ingest import ImageStore
from h5ingest.ingest import ingest
from h5ingest.options import MIB, IngestOptions

ROUNDS = 5
BATCH = 64
Way = Callable[[], int]
"""Reads, and returns how many images."""


def prepare(mnist: Path, work: Path, n: int) -> list[str]:
    """Make raw.h5, zstd.h5 and an LMDB of the first n images; return their paths."""
    with (mnist / "train.csv").open() as file:
        rows = list(csv.reader(file))[1 : n + 1]
    manifest = work / "m.tsv"
    manifest.write_text("path\tlabel\n" + "".join(f"{path}\t{label}\n" for path, label in rows))
    for name, codec in (("raw", None), ("zstd", "zstd:3")):
        options = IngestOptions(root=mnist, compression=codec, overwrite=True)
        ingest(manifest, work / f"{name}.h5", options)
    store = ImageStore(work / "raw.h5")
    with lmdb.open(str(work / "lmdb"), map_size=2**32).begin(write=True) as transaction:
        for row, (image, label) in enumerate(store):
            transaction.put(row.to_bytes(4, "big"), bytes([label or 0]) + image.tobytes())
    return [str(mnist / path) for path, _label in rows]


def ways(work: Path, files: list[str]) -> dict[str, dict[str, Way]]:
    """Return kind of access -> name -> way."""
    raw, packed = ImageStore(work / "raw.h5"), ImageStore(work / "zstd.h5")
    small = ImageStore(work / "zstd.h5", cache_bytes=4 * MIB)
    by_hand = h5py.File(work / "zstd.h5", "r")
    images, labels = by_hand["images"], by_hand["labels"][()]
    plain = h5py.File(work / "raw.h5", "r")["images"]
    offset = plain.id.get_chunk_info_by_coord((0, 0, 0)).byte_offset
    bare = np.memmap(work / "raw.h5", np.uint8, "r", offset, plain.shape)
    transaction = lmdb.open(str(work / "lmdb"), readonly=True, lock=False).begin()

    def lmdb_one(row: int) -> tuple[NDArray[Any], int]:
        value = transaction.get(row.to_bytes(4, "big"))
        return np.frombuffer(value, np.uint8, offset=1).reshape(28, 28).copy(), value[0]

    def png_one(row: int) -> tuple[NDArray[Any], int]:
        with Image.open(files[row]) as image:
            return np.array(image), 0

    n = len(files)
    random = np.random.default_rng(0)
    single = random.integers(0, n, 20_000).tolist()
    batches = random.integers(0, n, (300, BATCH))
    distinct = [np.sort(random.choice(n, BATCH, replace=False)) for _ in range(20)]
    in_turn = [slice(start, start + BATCH) for start in range(0, n, BATCH)]
    for row in single[:500]:  # equal work
        for way in (lmdb_one, png_one, packed.__getitem__, small.__getitem__):
            assert np.array_equal(way(row)[0], plain[row])
        assert np.array_equal(raw[row][0], plain[row])
        assert raw[row][1] == lmdb_one(row)[1] == labels[row]
    assert all(np.array_equal(packed[batch][0], images[batch]) for batch in distinct)

    def each(read: Callable[[Any], Any], what: list[Any], n_images: int = 0) -> Way:
        def way() -> int:
            for one in what:
                read(one)
            return n_images or len(what)

        return way

    def cold() -> int:
        store = ImageStore(work / "zstd.h5")
        return each(store.__getitem__, in_turn, n)()

    def h5py_one(row: int) -> Any:
        return images[row], labels[row]

    return {
        "random single images": {
            "ImageStore, unfiltered": each(raw.__getitem__, single),
            "ImageStore, zstd": each(packed.__getitem__, single),
            "LMDB, raw arrays": each(lmdb_one, single),
            "PNG folder, Pillow": each(png_one, single[:2000]),
            "h5py, zstd": each(h5py_one, single[:300]),
        },
        "random batches of 64": {
            "ImageStore, unfiltered": each(raw.__getitem__, list(batches), batches.size),
            "numpy.memmap, no labels": each(bare.__getitem__, list(batches), batches.size),
            "ImageStore, zstd": each(packed.__getitem__, list(batches), batches.size),
            "ImageStore, zstd, 4 MiB cache": each(small.__getitem__, distinct, 20 * BATCH),
            "h5py, zstd": each(h5py_one, distinct, 20 * BATCH),
        },
        "sequential, batches of 64": {
            "ImageStore, unfiltered": each(raw.__getitem__, in_turn, n),
            "ImageStore, zstd, first epoch": cold,
            "ImageStore, zstd, later epochs": each(packed.__getitem__, in_turn, n),
            "h5py, zstd": each(h5py_one, in_turn, n),
        },
        "sequential, one by one": {
            "ImageStore, zstd, 4 MiB cache": each(small.__getitem__, list(range(n))),
            "h5py, zstd": each(h5py_one, list(range(3000))),
        },
    }


def main() -> None:
    """Prepare, measure, print."""
    mnist, work = Path(sys.argv[1]), Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    files = prepare(mnist, work, int(sys.argv[3]) if len(sys.argv) > 3 else 60_000)
    for access, named in ways(work, files).items():
        rates: dict[str, list[float]] = {name: [] for name in named}
        for way in named.values():
            way()
        for _ in range(ROUNDS):
            for name, way in named.items():
                start = time.perf_counter()
                rates[name].append(way() / (time.perf_counter() - start))
        print(f"\n{access}: images/s, median (lowest to highest)")
        medians = {name: statistics.median(rate) for name, rate in rates.items()}
        for name, rate in rates.items():
            spread = f"({min(rate):,.0f} to {max(rate):,.0f})"
            first = next(iter(medians.values()))
            print(f"  {name:<32}{medians[name]:>12,.0f}  {spread:<28}{first / medians[name]:9.2f}")
    print("\nlast column: the first way of each kind of access, divided by this one")


if __name__ == "__main__":
    main()
