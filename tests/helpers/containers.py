"""Files in which many images lie, as other programs write them."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from numpy.typing import NDArray

from helpers.archives import Member, packed, tar


def write_parquet(
    path: Path, files: Sequence[Member], labels: Sequence[int], *, class_names: Sequence[str] = (),
    rows: int = 17, **columns: Any,
) -> Path:  # fmt: skip
    """As `datasets` writes them."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": name} for name, data in files], kind)
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64()), **columns})
    if class_names:
        features = {"label": {"names": list(class_names), "_type": "ClassLabel"}}
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(about)
    pq.write_table(table, path, row_group_size=rows)
    return path


def write_lmdb(path: Path, values: Mapping[bytes, bytes], *, subdir: bool = True) -> Path:
    with (
        lmdb.open(str(path), map_size=1 << 28, subdir=subdir) as environment,
        environment.begin(write=True) as changes,
    ):
        for key, value in values.items():
            changes.put(key, value)
    return path


def write_shards(
    folder: Path, files: Sequence[Member], each: int, about: Callable[[int], Mapping[str, bytes]]
) -> Path:
    """WebDataset shards `s-000000.tar` ...; `about` says what lies beside the k-th image."""
    folder.mkdir()
    for first in range(0, len(files), each):
        members = []
        for k, (name, data) in enumerate(files[first : first + each], first):
            stem, _, ending = name.rpartition(".")
            beside = [(f"{stem}.{end}", text) for end, text in about(k).items()]
            members += [(f"{stem}.{ending}", data), *beside]
        tar(folder / f"s-{first // each:06d}.tar", members)
    return folder


def idx(array: NDArray[np.uint8]) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def write_idx(folder: Path, images: NDArray[np.uint8], labels: Sequence[int]) -> Path:
    """As MNIST's: images packed, labels not."""
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array(labels, np.uint8)))
    return path


def compress(path: Path, ending: str) -> Path:
    """A packed copy beside a file."""
    data = path.read_bytes()
    zstd = zstandard.ZstdCompressor(write_checksum=True)  # as the program does
    compressed = zstd.compress(data) if ending.endswith("zst") else gzip.compress(data)
    copy = path.with_name(path.name.removesuffix(".tar") + ending)
    copy.write_bytes(compressed)
    return copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """The same images in all ways."""

    folder: Path
    """The files themselves."""
    manifest: Path
    """Of them, with labels."""
    labelled: dict[str, Path]
    plain: dict[str, Path]
    """Without labels."""


def write_everything(
    top: Path, files: Sequence[Member], pixels: Sequence[NDArray[Any]], labels: Sequence[int]
) -> Everything:
    """Write files and pixels, which are the same, in all ways that can hold them."""
    rows = "".join(f"{name},{k}\n" for (name, _), k in zip(files, labels, strict=True))
    (top / "photos").mkdir()
    for name, data in files:
        (top / "photos" / name).write_bytes(data)
    (top / "photos.csv").write_text("path,label\n" + rows)

    def about(k: int) -> dict[str, bytes]:
        return {"cls": b"%d" % labels[k], "json": json.dumps({"path": files[k][0]}).encode()}

    archive = tar(top / "photos.tar", files)
    values = {name.encode(): data for name, data in files}
    plain = {
        "tar": archive,
        "stored": packed(top / "photos.zip", files),
        "deflated": packed(top / "deflated.zip", files, zipfile.ZIP_DEFLATED),
        **{ending: compress(archive, ending) for ending in (".tar.gz", ".tgz", ".tar.zst")},
        "lmdb": write_lmdb(top / "a.lmdb", values),
        "lmdb file": write_lmdb(top / "b.lmdb", values, subdir=False),
    }
    labelled = {
        "shards": write_shards(top / "wds", files, -(-len(files) // 3), about),
        "parquet": write_parquet(top / "a.parquet", files, labels),
    }
    if len({each.shape for each in pixels}) == 1:
        stack = np.stack(pixels)
        np.savez(top / "a.npz", images=stack, labels=np.array(labels))
        np.savez_compressed(top / "b.npz", images=stack, labels=np.array(labels))
        (top / "a.pkl").write_bytes(pickle.dumps({"data": stack, "labels": list(labels)}))
        with h5py.File(top / "a.h5", "w") as file:
            file["some/images"], file["some/labels"] = stack, labels
        labelled |= {
            "npz": top / "a.npz",
            "npz deflated": top / "b.npz",
            "pickle": top / "a.pkl",
            "HDF5": Path(f"{top / 'a.h5'}:/some/images"),
            "idx": write_idx(top, stack, labels),
        }
    return Everything(
        folder=top / "photos", manifest=top / "photos.csv", labelled=labelled, plain=plain
    )
