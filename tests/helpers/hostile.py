"""Files of h5ingest, made by an enemy: `spoil` changes a good one in one of many ways."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator

from h5ingest.core import schema
from helpers.support import zlib_of_zeros

TEXT = h5py.string_dtype("utf-8")
SECRET = b"\xa7secret\xa7" * 512
"""What lies in the file beside: no reader may ever return it."""
BESIDE = "beside.bin"
OTHER = "other.h5"
"""The same file as the good one, with SECRET in its datasets."""
ABSURD = 2**40


@dataclass(frozen=True, slots=True)
class Target:
    """A file that is open to be spoiled."""

    file: h5py.File
    random: Generator
    prefix: str
    """HDF5 path of a group of samples."""
    layout: str
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    """(offset, bytes) to be written into the file when HDF5 has closed it."""

    def pick(self, choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def dataset(self) -> str:
        """The name of any dataset that readers look at."""
        names = [f"{self.prefix}/{name}" for name in schema.known(self.layout)]
        names += [f"{self.prefix}/columns/{name}" for name in ("age", "note")]
        names += self.images()
        ours = [name for name in names if name in self.file and not name.endswith("/samples")]
        return str(self.pick([name for name in ours if not name.endswith("checksums")]))

    def numbers(self) -> str:
        """The name of a dataset of numbers."""
        while True:
            name = self.dataset()
            if self.file[name].dtype.kind in "iu":
                return name

    def images(self) -> list[str]:
        """Those of a tree's images that stand first: all readers look at them."""
        if self.layout != "tree":
            return []
        return [name.decode() for name in self.file[f"{self.prefix}/datasets"][:2]]

    def replace(self, name: str, *arguments: Any, **how: Any) -> h5py.Dataset:
        del self.file[name]
        return self.file.create_dataset(name, *arguments, **how)


# --- links and storage elsewhere -----------------------------------------------------------------


def soft_link(target: Target) -> None:
    name = target.dataset()
    target.file.move(name, "/aside")
    target.file[name] = h5py.SoftLink("/aside")


def external_link(target: Target) -> None:
    name = target.dataset()
    del target.file[name]
    target.file[name] = h5py.ExternalLink(OTHER, name)


def link_on_the_way(target: Target) -> None:
    """A group between the root and a dataset is a link."""
    ways = {name.rpartition("/")[0] for name in [f"{target.prefix}/columns/age", *target.images()]}
    ways |= {f"{target.prefix}/images"} if target.layout in ("ragged", "encoded") else set()
    ways |= {target.prefix} if target.prefix else set()
    way = target.pick(sorted(ways))
    if target.random.integers(2):
        del target.file[way]
        target.file[way] = h5py.ExternalLink(OTHER, way)
    else:
        target.file.move(way, "/aside")
        target.file[way] = h5py.SoftLink("/aside")


def dangling_link(target: Target) -> None:
    name = target.dataset()
    del target.file[name]
    link = h5py.SoftLink("/nowhere"), h5py.SoftLink(name), h5py.ExternalLink("/dev/zero", "/x")
    target.file[name] = target.pick(link)


def external_storage(target: Target) -> None:
    name = target.numbers()
    old = target.file[name]
    shape, dtype, n_bytes = old.shape, old.dtype, old.nbytes
    where = target.pick([BESIDE, os.path.join(os.path.dirname(target.file.filename), BESIDE)])
    target.replace(name, shape, dtype, external=[(where, 0, max(1, n_bytes))])


def virtual(target: Target) -> None:
    name = target.numbers()
    old = target.file[name]
    shape, dtype = old.shape, old.dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(OTHER, name, shape, dtype)
    del target.file[name]
    target.file.create_virtual_dataset(name, layout)


# --- shapes and types ----------------------------------------------------------------------------


def another_shape(target: Target) -> None:
    name = target.dataset()
    old = target.file[name]
    first = old.shape[0]
    if name.endswith("label_names") or not old.shape[1:]:
        shapes: list[Any] = [(first, 2), (), (first, 1, 1)]
    else:
        shapes = [(first,), (), (first, *old.shape[1:], 2), (0, *old.shape[1:])]
    if not name.endswith("label_names") and name not in target.images():
        shapes += [(first - 1, *old.shape[1:]), (first + 1, *old.shape[1:])]
    target.replace(name, target.pick(shapes), old.dtype)


def another_type(target: Target) -> None:
    name = target.dataset()
    old = target.file[name]
    types: list[Any] = [
        "f4", "c8", "b1", "u4", "i1", ">i4", "V5", "S7", TEXT, h5py.ref_dtype, h5py.regionref_dtype,
        h5py.vlen_dtype("i4"), np.dtype([("a", "i4"), ("b", "f8")]), np.dtype(("u1", (3,))),
        h5py.enum_dtype({"a": 1}, "i2"), h5py.opaque_dtype(np.dtype("M8[s]")),
    ]  # fmt: skip
    if "/columns/" in name:
        types = [h5py.vlen_dtype("i4"), h5py.ref_dtype, "c8", "V5", np.dtype([("a", "i4")])]
    if old.dtype.kind == "O":
        types = [dtype for dtype in types if dtype is not TEXT]
    shape = old.shape
    target.replace(name, shape, target.pick(types))


def a_type_that_numpy_has_not(target: Target) -> None:
    name = target.dataset()
    shape = target.file[name].shape
    del target.file[name]
    time = h5py.h5t.UNIX_D32LE.copy()
    h5py.h5d.create(target.file.id, name.encode(), time, h5py.h5s.create_simple(shape))


def no_value(target: Target) -> None:
    name = target.dataset()
    dtype = target.file[name].dtype
    target.replace(name, data=h5py.Empty(dtype))


def another_object(target: Target) -> None:
    """A group or a named type where a dataset is expected, or a dataset for a group."""
    if target.random.integers(3):
        name = target.dataset()
        del target.file[name]
        target.file[name] = target.pick([np.dtype("u1"), None]) or np.dtype("u2")
        if target.random.integers(2):
            del target.file[name]
            target.file.create_group(name).create_group("more")
        return
    name = f"{target.prefix}/columns"
    target.replace(name, data=np.zeros(3, np.uint8))


def missing(target: Target) -> None:
    names = [f"{target.prefix}/{spec.name}" for spec in schema.required_datasets(target.layout)]
    del target.file[
        target.pick([n for n in names if not n.endswith("checksums")] + target.images())
    ]


# --- values --------------------------------------------------------------------------------------


def offsets(target: Target) -> None:
    name = f"{target.prefix}/images/offsets"
    values = target.file[name][()]
    where = int(target.random.integers(len(values)))
    last = int(values[-1])
    wrong = [-1, -(2**63), 2**63 - 1, last + 1, ABSURD, last * 1000]
    values[where] = target.pick(wrong)
    target.file[name][...] = values


def first_shapes(target: Target) -> None:
    name = f"{target.prefix}/images/shapes"
    values = target.file[name][()]
    wrong = [[-1, -1, 3], [0, 0, 0], [2**31 - 1] * 3, [1, 1, 1], [-(2**31)] * 3, values[0] + 1]
    values[0] = target.pick(wrong)
    target.file[name][...] = values


def status(target: Target) -> None:
    values = target.file[f"{target.prefix}/status"][()]
    values[int(target.random.integers(len(values)))] = target.random.integers(3, 256)
    target.replace(f"{target.prefix}/status", data=values)


def labels(target: Target) -> None:
    name = f"{target.prefix}/labels"
    values = target.file[name][()]
    where = int(target.random.integers(len(values)))
    values[where] = target.pick([-1, -(2**63), 2**63 - 1, len(target.file[f"{name[:-1]}_names"])])
    target.file[name][...] = values


def tree_names(target: Target) -> None:
    name = f"{target.prefix}/datasets"
    values = target.file[name][()]
    wrong = [
        b"/nowhere", f"{target.prefix}/status".encode(), f"{target.prefix}/paths".encode(), b"/",
        b"..", b"/../../x", b"\xff\xfe", b"x" * 70_000, values[0] + b"/x", values[0][:-1],
        f"{target.prefix}/labels".encode(), b"/" * 999,
    ]  # fmt: skip
    values[0] = target.pick(wrong)
    target.replace(name, data=values, dtype=TEXT)


def texts(target: Target) -> None:
    """The first reference to a text is wrong: its length, its place, or its number there."""
    names = [f"{target.prefix}/{name}" for name in ("paths", "label_names", "columns/note")]
    offset = target.file[target.pick(names)].id.get_offset()
    wrong = [
        (0, b"\xff\xff\xff\xff"), (0, b"\2\0\0\0"), (0, b"\xff\xff\0\0"), (4, b"\0" * 8),
        (4, b"\xff" * 8), (4, b"\x01"), (4, b"\0\0\0\0\1"), (12, b"\xff\xff"), (12, b"\0\0"),
    ]  # fmt: skip
    place, data = target.pick(wrong)
    target.patches.append((offset + place, data))


def many_times_one_text(target: Target) -> None:
    """All paths are one text of 30 MB."""
    name = f"{target.prefix}/paths"
    n_rows = len(target.file[name])
    target.replace(name, data=[b"x" * 30_000_000, *[b"y"] * (n_rows - 1)], dtype=TEXT)
    target.file.flush()
    offset = target.file[name].id.get_offset()
    with open(target.file.filename, "rb") as raw:
        raw.seek(offset)
        reference = raw.read(16)
    target.patches.append((offset, reference * n_rows))


def image_bomb(target: Target) -> None:
    """The first image file is a PNG of a gigapixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    name = f"{target.prefix}/images/data"
    size = 32_768
    head = struct.pack(">IIBBBBB", size - 1, size, 8, 0, 0, 0, 0)
    body = target.pick([zlib_of_zeros(2**24), zlib_of_zeros(2**30)])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    if len(body) > 2**18:
        bomb = bomb[: 2**18]
    cuts = target.file[f"{target.prefix}/images/offsets"][()]
    rest = target.file[name][cuts[1] :]
    data = np.concatenate([np.frombuffer(bomb, np.uint8), rest])
    target.replace(name, data=data)
    cuts[1:] += len(bomb) - cuts[1]
    target.file[f"{target.prefix}/images/offsets"][...] = cuts


# --- bombs ---------------------------------------------------------------------------------------


def absurd_extent(target: Target) -> None:
    """Far more rows than could be stored, never written."""
    name = target.dataset()
    old = target.file[name]
    shape = (target.pick([ABSURD, 2**33, 10**18]), *old.shape[1:])
    how = {"chunks": (4096, *old.shape[1:]), "compression": "gzip"}
    if name in target.images():
        how["chunks"] = (4096, *(1,) * len(old.shape[1:]))
    target.replace(name, shape, old.dtype, **how)


def absurd_chunk(target: Target) -> None:
    """One chunk of a gigabyte that a few kilobytes claim to hold."""
    name = target.numbers()
    old = target.file[name]
    shape, dtype = old.shape, old.dtype
    row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
    chunks = (2**30 // row_bytes, *shape[1:])
    maxshape = (None, *shape[1:])
    made = target.replace(name, shape, dtype, chunks=chunks, maxshape=maxshape, compression="gzip")
    made.id.write_direct_chunk(
        (0,) * len(shape), zlib_of_zeros(2**30)[: 2 ** target.pick([10, 20])]
    )


def absurd_image(target: Target) -> None:
    name = target.pick(target.images() or [f"{target.prefix}/images"])
    old = target.file[name]
    first = () if target.images() else old.shape[:1]
    target.replace(name, (*first, 2**20, 2**20), old.dtype)


def a_filter_that_is_absent(target: Target) -> None:
    name = target.numbers()
    values = target.file[name][()]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(tuple(max(1, n) for n in values.shape))
    creation.set_filter(target.pick([300, 32_700, 65_535]), h5py.h5z.FLAG_OPTIONAL, (1,))
    kind, space = target.file[name].id.get_type(), h5py.h5s.create_simple(values.shape)
    del target.file[name]
    made = h5py.h5d.create(target.file.id, name.encode(), kind, space, creation)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)


# --- attributes ----------------------------------------------------------------------------------


def odd_attribute(target: Target) -> None:
    """Of another type than the format has."""
    name = target.pick(["schema", "status", "n_samples", "n_failed", "groups", "options"])
    values = [
        3.5, -7, [1, 2, 3], ["a", "b"], h5py.Empty("i4"), np.bytes_(b"h5ingest"), b"\xff\xfe",
        True, np.zeros((50, 50)), np.array(b"x" * 60_000), 1 + 2j, "\xff",
        "x" * 2**20, np.void(b"abc"), "NaN", "1e999",
    ]  # fmt: skip
    if name in ("status",):  # a text that is not `complete` says that the file is not
        values = [value for value in values if not isinstance(value, str)]
    if target.prefix and name == "n_samples":
        values = [
            value for value in values if not isinstance(value, (int, np.integer)) or value < 0
        ]
    target.file.attrs[name] = target.pick(values)


def odd_json(target: Target) -> None:
    """Not JSON, or not of the shape that it should have."""
    name = target.pick(["groups", "options"])
    texts = [
        "{", "nonsense", "3", '"text"', "null", "[" * 200_000, "[1, 2]", '[["train"]]', '[""]',
        '["."]', '["a/b"]', '["train", "train"]', '["a\\u0000b"]', '["\\ud800"]', "[null]",
        "9" * 10_000, "[" + "[]," * 10**6 + "[]]", '{"a": ' * 5000, " " * (2**22 + 1),
    ]  # fmt: skip
    if name == "groups":
        texts.append('{"train": 1}')
    target.file.attrs[name] = target.pick(texts)


def odd_groups(target: Target) -> None:
    """Groups that are not there, or are something else."""
    file = target.file
    names = target.pick([["nowhere"], ["aset"], ["soft"], ["external"], ["empty"], ["named"]])
    file["aset"] = np.zeros(3)
    file["soft"] = h5py.SoftLink(target.prefix or "/")
    file["external"] = h5py.ExternalLink(OTHER, target.prefix or "/")
    file["named"] = np.dtype("u1")
    file.create_group("empty")
    old = json.loads(file.attrs["groups"]) if "groups" in file.attrs else []
    file.attrs["groups"] = json.dumps(names if target.random.integers(2) else [*names, *old])


SPOILERS: tuple[Callable[[Target], None], ...] = (
    soft_link, external_link, link_on_the_way, dangling_link, external_storage, virtual,
    another_shape, another_type, a_type_that_numpy_has_not, no_value, another_object, missing,
    status, labels, texts, many_times_one_text, absurd_extent, absurd_chunk,
    a_filter_that_is_absent, odd_attribute, odd_json, odd_groups,
)  # fmt: skip
OF_LAYOUT: dict[str, tuple[Callable[[Target], None], ...]] = {
    "stack": (absurd_image,), "tree": (absurd_image, tree_names),
    "ragged": (offsets, first_shapes), "encoded": (offsets, image_bomb),
}  # fmt: skip


def spoil(path: Path, layout: str, prefix: str, turn: int, seed: int) -> str:
    """Spoil a good file in one way, which one by turns; return its name."""
    random = np.random.default_rng(seed)
    ways = (*SPOILERS, *OF_LAYOUT[layout])
    way = ways[turn % len(ways)]
    with h5py.File(path, "r+") as file:
        target = Target(file, random, prefix, layout)
        way(target)
    with path.open("r+b") as raw:
        for offset, data in target.patches:
            raw.seek(offset)
            raw.write(data)
    return way.__name__


def write_beside(folder: Path, good: Path) -> None:
    """Write the files that an enemy would like to be read: `BESIDE` and `OTHER`."""
    (folder / BESIDE).write_bytes(SECRET * 64)
    (folder / OTHER).write_bytes(good.read_bytes())

    def fill(_name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "iu":
            raw = (SECRET * (node.nbytes // len(SECRET) + 1))[: node.nbytes]
            node[...] = np.frombuffer(raw, node.dtype.str).reshape(node.shape)

    with h5py.File(folder / OTHER, "r+") as file:
        file.visititems(fill)
