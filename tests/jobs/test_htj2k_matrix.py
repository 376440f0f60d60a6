"""HTJ2K: gray and RGB of 8 and 16 bits, of any size, smooth and noise, at any number of ranks.

Written on each MPI; read by plain h5py with hdf5plugin, of another HDF5 version, and by ImageStore.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import chunk, drawn
from helpers.support import FLAVOURS, PROGRAMS, WHEELS, Flavour, explain, run, soon, write_manifest
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.layout import HTJ2K

ALL: dict[str, Flavour] = {**FLAVOURS, "wheels": WHEELS}
SIZES = ((1, 1), (1, 7), (5, 1), (3, 3), (17, 31), (64, 64), (101, 67))
LARGE = ((1, 4000), (4000, 1), (767, 1023), (3999, 2999))
STACKED = (101, 67)
PLACES = [(name, n) for name in ALL for n in (1, 2, 5)]
CHOSEN = [("mpich", 5), ("openmpi", 2), ("wheels", 1)]


@dataclass(frozen=True, slots=True)
class Made:
    """Image files, and what must be in the file."""

    manifest: Path
    layout: str
    pixels: Path
    """Of numpy.save, of a stack; else of numpy.savez, an array for each image."""


def as_png(image: NDArray[Any]) -> bytes:
    """A PNG without filters: pypng takes minutes for the large ones."""
    height, width, channels = (*image.shape, 1)[:3]
    rows = image.astype(image.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    plain = np.hstack([np.zeros((height, 1), np.uint8), rows])
    head = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, channels - 1, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(plain.tobytes(), 1)), chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def make(folder: Path, name: str, layout: str, images: Sequence[NDArray[Any]]) -> Made:
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{name}-{number}.png")
        paths[-1].write_bytes(as_png(image))
    manifest = write_manifest(folder / f"{name}.txt", paths)
    pixels = folder / f"{name}.{'npy' if layout == 'stack' else 'npz'}"
    if layout == "stack":
        np.save(pixels, np.stack(images))
    else:
        np.savez(pixels, *images)
    return Made(manifest, layout, pixels)


def all_kinds(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Made]:
    """A tree of every kind and size, and a stack of each kind with images of one size."""
    kinds = [(channels, dtype) for channels in (1, 3) for dtype in ("uint8", "uint16")]
    mixed = [
        drawn(*size, *kind, how) for size in sizes for kind in kinds for how in ("noise", "waves")
    ]
    made = [make(folder, "tree", "tree", mixed)]
    for channels, dtype in kinds:
        images = [drawn(*STACKED, channels, dtype, how) // (k + 1)
                  for k in range(4) for how in ("noise", "waves")]  # fmt: skip
        name = f"stack-{channels}-{dtype}"
        made.append(make(folder, name, "stack", images))
    return made


def check(made: Sequence[Made], name: str, n_ranks: int, folder: Path, timeout_s: float) -> None:
    flavour = ALL[name].checked()
    outs = [folder / f"{one.pixels.stem}.h5" for one in made]
    jobs = [
        {
            "manifest": str(one.manifest), "out": str(out),
            "options": {"layout": one.layout, "compression": "htj2k", "batch_bytes": 10_000},
        }
        for one, out in zip(made, outs, strict=True)
    ]  # fmt: skip
    (folder / "cases.json").write_text(json.dumps(jobs))
    completed = flavour.launch(
        n_ranks, flavour.bin / "python", PROGRAMS / "launched_placed.py",
        "ingest", folder / "cases.json", folder / "reports.json", timeout_s=timeout_s,
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    files = [
        {"file": str(out), "pixels": str(one.pixels), "filters": [HTJ2K]}
        for one, out in zip(made, outs, strict=True)
    ]
    (folder / "files.json").write_text(json.dumps(files))
    reader = ALL["wheels" if name != "wheels" else "mpich"]
    script = PROGRAMS.parent / "helpers" / "plain_reader.py"
    read = run([reader.bin / "python", script, folder / "files.json"], timeout_s=timeout_s)
    assert read.returncode == 0, explain(read)
    for one, out in zip(made, outs, strict=True):
        wanted = np.load(one.pixels)
        images = wanted if one.layout == "stack" else list(wanted.values())
        with ImageStore(out) as store:
            for row, image in enumerate(images):
                found = store[row][0]
                assert found.dtype == image.dtype
                assert np.array_equal(found, image), (out, row)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    return all_kinds(tmp_path_factory.mktemp("small"), SIZES)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    return all_kinds(tmp_path_factory.mktemp("large"), LARGE)


@pytest.mark.parametrize(("name", "n_ranks"), soon(CHOSEN[1:2], CHOSEN))
def test_every_kind_and_size_comes_back(
    name: str, n_ranks: int, small: list[Made], tmp_path: Path
) -> None:
    check(small, name, n_ranks, tmp_path, 60)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_images_of_4000_by_3000_pixels_come_back(tmp_path: Path) -> None:
    kinds = [(3, "uint8", "waves"), (3, "uint8", "noise"), (1, "uint16", "waves"),
             (1, "uint16", "noise")]  # fmt: skip
    images = [drawn(3000, 4000, *kind) for kind in kinds]
    check([make(tmp_path, "tree", "tree", images)], "mpich", 2, tmp_path, 120)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "n_ranks"), [place for place in PLACES if place not in CHOSEN])
def test_every_kind_and_size_comes_back_everywhere(
    name: str, n_ranks: int, small: list[Made], tmp_path: Path
) -> None:
    check(small, name, n_ranks, tmp_path, 120)


@pytest.mark.soak
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(("name", "n_ranks"), PLACES)
def test_large_images_come_back(name: str, n_ranks: int, large: list[Made], tmp_path: Path) -> None:
    check(large[:1], name, n_ranks, tmp_path, 600)
