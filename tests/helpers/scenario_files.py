"""The source files of a scenario, sound and damaged; and a finished file, spoiled."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - lets h5py read what its filters have written
import numpy as np

from helpers.oracle import Kind, Pixels, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a source file is at one time."""

    kind: Kind
    data: bytes | None
    scaled: Pixels | None
    raw: Pixels | None
    broken: bool = False

    @property
    def size(self) -> tuple[int, int]:
        assert self.scaled is not None
        return self.scaled.shape[0], self.scaled.shape[1]


def made(kind: Kind, size: tuple[int, int], dice: random.Random) -> Version:
    picture = encode(kind, *size, seed=dice.randrange(2**32))
    return Version(kind=kind, data=picture.data, scaled=picture.scaled, raw=picture.raw)


def damaged(version: Version, dice: random.Random) -> Version:
    """The header stays good."""
    data = version.data
    assert data is not None
    start = data.index(b"IDAT") + 4
    stop = len(data) - 12  # IEND
    how = dice.randrange(3)
    if how == 0:
        data = data[: dice.randrange(start, len(data))]
    else:
        at = dice.randrange(start, stop)
        data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
    return replace(version, data=data, broken=True)


def lost(version: Version, dice: random.Random) -> Version:
    """Not even the header is there."""
    data = version.data
    assert data is not None
    ways = (None, b"", b"no image", data[: dice.randrange(1, 29)], data[:20] + b"\xff" + data[21:])
    return replace(version, data=dice.choice(ways), scaled=None, raw=None)


def _pixels_of(file: h5py.File, layout: str) -> list[str]:
    """Names of the datasets that hold pixels, or files."""
    groups = json.loads(file.attrs["groups"]) if "groups" in file.attrs else [""]
    prefixes = [f"/{name}" if name else "" for name in groups]
    if layout == "tree":
        names = [os.fsdecode(name) for p in prefixes for name in file[f"{p}/datasets"][()]]
    else:
        last = {"stack": "", "ragged": "/pixels", "encoded": "/data"}[layout]
        names = [f"{prefix}/images{last}" for prefix in prefixes]
    return [name for name in names if file[name].size]


def change_pixel(path: Path, layout: str, dice: random.Random) -> str | None:
    with h5py.File(path, "r+") as file:
        names = _pixels_of(file, layout)
        if not names:
            return None
        dataset = file[dice.choice(names)]
        at = tuple(dice.randrange(n) for n in dataset.shape)
        dataset[at] ^= 1 << dice.randrange(8)
        return f"{dataset.name}[{at}]"


def change_other(path: Path, layout: str, dice: random.Random) -> str | None:
    with h5py.File(path, "r+") as file:
        pixels = {file[name].name for name in _pixels_of(file, layout)}
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if _is_filled(node) else None)
        others = [name for name in names if f"/{name}" not in pixels]
        name = dice.choice(others)
        dataset = file[name]
        at = tuple(dice.randrange(n) for n in dataset.shape)
        old = dataset[at]
        new = old + b"x" if isinstance(old, bytes) else (old ^ 1 if old.dtype.kind in "iu" else 9.5)
        dataset[at] = new
        return f"{dataset.name}{at}: {old!r} made {new!r}"


def _is_filled(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.size > 0


def flip_stored(path: Path, layout: str, dice: random.Random) -> str | None:
    """Flip a bit of what lies on the disk of a chunk of pixels."""
    with h5py.File(path, "r") as file:
        names = _pixels_of(file, layout)
        if not names:
            return None
        dataset = file[name := dice.choice(names)]
        start, n_bytes = dataset.id.get_offset(), dataset.id.get_storage_size()
        if dataset.chunks:
            chunk = dataset.id.get_chunk_info(dice.randrange(dataset.id.get_num_chunks()))
            start, n_bytes = chunk.byte_offset, chunk.size
        filtered = dataset.id.get_create_plist().get_nfilters() > 0
        before = dataset[()]
    at = start + dice.randrange(n_bytes)
    with path.open("r+b") as raw:
        raw.seek(at)
        (byte,) = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte ^ 1 << dice.randrange(8)]))
    # A filter may end this process over it; all of a chunk has a checksum.
    if not filtered:
        with h5py.File(path, "r") as file:
            if np.array_equal(file[name][()], before):
                return None  # what fills the last chunk
    return f"byte {at} in {name}"
