"""Other libraries read what h5ingest makes, and what it exports for them, without it."""

from __future__ import annotations

import csv
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import dask.array
import fsspec
import h5py
import lmdb
import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr
from helpers.layout_runs import ingest_on
from helpers.oracle import Kind, encode
from helpers.support import Flavour, make_pixels, write_images, write_manifest
from helpers.threads import on_ranks
from PIL import Image

from h5ingest import ExportOptions, ImageStore, IngestOptions, export
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.exports.run import ExportReport, export_references
from h5ingest.inspect.verify import verify

N = 23
WAYS: dict[str, dict[str, Any]] = {
    "stack": {}, "groups": {"group_by": "split", "compression": "zstd:1"},
    "encoded": {"layout": "encoded"},
}  # fmt: skip


def export_on(n_ranks: int, path: Path, out: Path, **options: Any) -> ExportReport:
    """On ranks that are threads."""
    how = ExportOptions(**options)
    return on_ranks(n_ranks, lambda comm: export(path, out, how, comm))[0]


def digest(path: Path) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["content_digest"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the ways make of the same images."""
    base = tmp_path_factory.mktemp("files")
    rows: list[tuple[object, ...]] = [("path", "label", "split", "age", "note", "n")]
    for row in range(N):
        data = encode(Kind(colour="rgb", depth=8), 6, 5, row).data
        name = f"d{row % 3}/im é {row}.png"
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(data)
        rows.append(
            (name, ("ant", "bée", "cat")[row % 3], ("tr", "te")[row // 5 % 2],
             ("", row / 4, "-inf")[row % 3], ("x", "", "é")[row % 3], row)
        )  # fmt: skip
    manifest = write_manifest(base / "m.csv", rows)
    for way, options in WAYS.items():
        ingest_on(2, manifest, base / f"{way}.h5", IngestOptions(**options))
    return {way: base / f"{way}.h5" for way in WAYS}


# --- LMDB and Parquet: out, and in again by the few lines of a reader of their own ----------------


@pytest.mark.parametrize("way", WAYS)
def test_an_lmdb_has_image_files_and_their_manifest(
    way: str, files: dict[str, Path], tmp_path: Path
) -> None:
    for n_ranks in (1, 3):
        report = export_on(n_ranks, files[way], tmp_path / f"{n_ranks}.lmdb")
        assert (report.n_images, report.n_renamed) == (N, 0)
    assert (tmp_path / "1.lmdb").read_bytes() == (tmp_path / "3.lmdb").read_bytes()
    again = tmp_path / "again"
    with lmdb.open(
        str(tmp_path / "3.lmdb"), subdir=False, readonly=True, lock=False
    ) as base, base.begin() as transaction:  # fmt: skip
        for name, data in transaction.cursor():
            path = again / os.fsdecode(bytes(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    assert len([*again.rglob("*.png")]) == N
    options = IngestOptions(**WAYS[way])
    ingest_on(2, again / "manifest.csv", tmp_path / "again.h5", options)
    assert digest(tmp_path / "again.h5") == digest(files[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_parquet_file_is_a_data_set_of_hugging_face(
    way: str, files: dict[str, Path], tmp_path: Path
) -> None:
    for n_ranks in (1, 3):
        report = export_on(n_ranks, files[way], tmp_path / f"{n_ranks}.parquet")
        assert (report.n_images, report.n_renamed) == (N, 0)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    table = pyarrow.parquet.read_table(tmp_path / "3.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    kinds = {"split": "string", "age": "float64", "note": "string", "n": "int64"}
    value = {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()}
    grouped = {"sample": {"dtype": "int64", "_type": "Value"}} if way == "groups" else {}
    label = {"names": ["ant", "bée", "cat"], "_type": "ClassLabel"}
    assert features == {"image": {"_type": "Image"}, "label": label, **value, **grouped}
    rows = table.to_pylist()
    if grouped:
        rows.sort(key=lambda row: row["sample"])
    again = tmp_path / "again"
    again.mkdir()
    with (again / "m.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("path", "label", *value))
        for row in rows:
            path = again / row["image"]["path"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(row["image"]["bytes"])
            cells = ("" if row[name] != row[name] else row[name] for name in value)
            out.writerow((row["image"]["path"], label["names"][row["label"]], *cells))
    ingest_on(2, again / "m.csv", tmp_path / "again.h5", IngestOptions(**WAYS[way]))
    assert digest(tmp_path / "again.h5") == digest(files[way])


def test_hugging_face_reads_the_file_and_the_table(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="in the extra `ecosystem`")

    def rows(path: str) -> Iterator[dict[str, Any]]:
        with ImageStore(path) as store:
            for image, label in store:
                yield {"image": image, "label": label}

    with ImageStore(files["stack"]) as store:
        wanted: Any
        wanted, names = store[:], store.label_names
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names or ()))}
    export_on(2, files["stack"], tmp_path / "t.parquet")
    for found in (
        datasets.Dataset.from_generator(
            rows, gen_kwargs={"path": str(files["stack"])}, features=datasets.Features(kinds),
            cache_dir=str(tmp_path / "cache"),
        ),
        datasets.Dataset.from_parquet(
            str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache")
        ),
    ):  # fmt: skip
        assert len(found) == N
        assert found.features["label"].names == list(names or ())
        for row, (image, label) in enumerate(zip(*wanted, strict=True)):
            assert (np.asarray(found[row]["image"]) == image).all()
            assert found[row]["label"] == label


def test_what_a_table_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(2, (3, 4)))
    for number, (column, cell) in enumerate((("note", "caf\udce9"), ("image2", "x"))):
        rows = [("path", column), ("0000.png", cell), ("0001.png", "y")]
        file = tmp_path / f"{number}.h5"
        manifest = write_manifest(tmp_path / f"{number}.csv", rows)
        ingest_on(1, manifest, file, IngestOptions())
    out = tmp_path / "out.parquet"
    with pytest.raises(OutputError, match=r"column 'note': expected UTF-8"):
        export_on(2, tmp_path / "0.h5", out)
    assert not [*tmp_path.glob("out*"), *tmp_path.glob(".h5ingest*")]
    export_on(2, tmp_path / "1.h5", out)
    with pytest.raises(OutputError, match="replaces nothing"):
        export_on(2, tmp_path / "1.h5", out)


def test_long_and_odd_names_in_an_lmdb(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(3, (3, 4)))
    deep = "/".join("x" * 200 for _ in range(3))
    names = [f"{deep}/{k}.png" for k in range(2)] + ["caf\udce9.png"]
    (tmp_path / deep).mkdir(parents=True)
    for k, name in enumerate(names):
        (tmp_path / f"{k:04}.png").rename(tmp_path / name)
    ingest_on(1, write_manifest(tmp_path / "m.csv", ["path", *names]), tmp_path / "f.h5",
              IngestOptions())  # fmt: skip
    report = export_on(2, tmp_path / "f.h5", tmp_path / "out.lmdb")
    assert (report.n_images, report.n_renamed) == (3, 2)
    with lmdb.open(
        str(tmp_path / "out.lmdb"), subdir=False, readonly=True, lock=False
    ) as base, base.begin() as transaction:  # fmt: skip
        found = {bytes(name): bytes(data) for name, data in transaction.cursor()}
    assert len(found) == 4
    assert max(map(len, found)) == 511
    lines = found[b"manifest.csv"].splitlines()[1:]
    for line, pixels in zip(lines, make_pixels(3, (3, 4)), strict=True):
        assert (np.asarray(Image.open(BytesIO(found[line]))) == pixels).all()


@pytest.mark.parametrize("out", ["out", "out.tar", "out.parquet"])
def test_shard_rows_without_shards_is_refused(
    out: str, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--shard-rows goes with a pattern"):
        export_on(2, files["stack"], tmp_path / out, shard_rows=10_000)
    assert not [*tmp_path.iterdir()]


# --- zarr, through references, over HTTP ----------------------------------------------------------


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves ranges of bytes, and notes them."""

    seen: list[str]

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        data = Path(self.translate_path(self.path)).read_bytes()
        self.seen.append(asked)
        if match is None:
            self.send_response(200)
        else:
            first, last = map(int, match.groups())
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder over HTTP: its URL, and the ranges that are asked for."""
    seen: list[str] = []

    class Handler(_Ranges):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

    Handler.seen = seen
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def opened(references: Path) -> Any:
    """The zarr group that references describe."""
    files = fsspec.filesystem(
        "reference", fo=str(references), remote_protocol="http", asynchronous=True,
        remote_options={"asynchronous": True},
    )  # fmt: skip
    store = zarr.storage.FsspecStore(files, read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=2)


CODECS: dict[str, dict[str, Any]] = {
    "none": {}, "gzip": {"compression": "gzip:6", "shuffle": True},
    "zstd": {"compression": "zstd:3"}, "blosc": {"compression": "blosc:lz4:5"},
    "bzip2": {"compression": "bzip2:9"},
}  # fmt: skip


def test_zarr_reads_a_stack_over_http_through_references(tmp_path: Path) -> None:
    base = tmp_path / "served"
    pixels = np.repeat(make_pixels(N, (6, 5, 3), "uint16") // 256, 4, axis=2)
    write_images(base, pixels)
    rows = [(f"{k:04}.png", "ab"[k % 2], k * 3) for k in range(N)]
    manifest = write_manifest(base / "m.csv", [("path", "label", "age"), *rows])
    with served(base) as (url, seen):
        for codec, options in CODECS.items():
            file, references = base / f"{codec}.h5", tmp_path / f"{codec}.json"
            every: dict[str, Any] = {"chunk_rows": 4, **options}
            ingest_on(1, manifest, file, IngestOptions(**every))
            export_references(file, references, f"{url}/{file.name}")
            seen.clear()
            group = opened(references)
            assert (group["images"][5:9] == pixels[5:9]).all(), codec
            assert len(seen) == 2, "chunks that are needed"
            assert all(seen), "ranges only"
            assert (group["images"][:] == pixels).all(), codec
            assert (group["labels"][:] == np.arange(N) % 2).all()
            assert group["labels"].attrs["label_names"] == ["a", "b"]
            assert (group["columns/age"][:] == np.arange(N) * 3).all()
            dims = group["images"].attrs["_ARRAY_DIMENSIONS"]
            assert tuple(dims) == ("sample", "y", "x", "channel")
            with xarray.open_zarr(
                group.store, consolidated=False, zarr_format=2, chunks=None
            ) as found:
                assert found["images"].dims == ("sample", "y", "x", "channel"), codec
                assert (found["images"].isel(sample=7) == pixels[7]).all()


def test_references_that_zarr_cannot_follow_are_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    write_images(tmp_path, make_pixels(4, (30, 30)))
    manifest = write_manifest(tmp_path / "m.csv", ["path", *(f"{k:04}.png" for k in range(4))])
    out = tmp_path / "refs.json"
    for codec, told in (("lzf", r"filter 32000 \(lzf\)"), ("lz4", "filter 32004"),
                        ("blosc:lz4:5", "chunk 0 is not compressed")):  # fmt: skip
        file = tmp_path / f"{codec}.h5"
        ingest_on(1, manifest, file, IngestOptions(compression=codec))
        with pytest.raises(UsageError, match=told):
            export_references(file, out, "http://127.0.0.1/x")
    with pytest.raises(UsageError, match="expected a stack"):
        export_references(files["encoded"], out, "x")
    assert not out.exists()


def test_the_command_writes_references_that_zarr_follows_on_this_machine(
    flavour: Flavour, files: dict[str, Path], tmp_path: Path
) -> None:
    out, file = tmp_path / "refs.json", files["groups"]
    jobs: list[list[str | Path]] = [
        ["export", file, out, "--kerchunk"],
        ["export", file, out, "--kerchunk"],
        ["export", file, tmp_path / "b.json", "--kerchunk", "--rows", "1:2"],
        ["export", file, tmp_path / "c", "--url", "x"],
        ["export", file, tmp_path / "d.tar", "--shard-rows", "7"],
        ["export", file, tmp_path / "e.parquet", "-q"],
    ]
    done = flavour.run_many(3, jobs, tmp_path / "told")
    assert [each.returncode for each in done] == [0, 0, 2, 2, 2, 0], done
    references = fsspec.filesystem("reference", fo=str(out), asynchronous=True)
    store = zarr.storage.FsspecStore(references, read_only=True)
    group: Any = zarr.open_group(store, mode="r", zarr_format=2)
    with h5py.File(file) as own:
        assert (group["tr/images"][:] == own["tr/images"][:]).all()
        assert (group["te/samples"][:] == own["te/samples"][:]).all()


# --- the file itself ------------------------------------------------------------------------------


def test_dask_reads_the_images(files: dict[str, Path]) -> None:
    with h5py.File(files["stack"]) as own:
        pixels = own["images"][:]
        from_array: Any = dask.array.from_array
        lazy = from_array(own["images"], chunks=(5, -1, -1, -1))
        assert (lazy.sum(axis=(1, 2, 3)).compute() == pixels.sum(axis=(1, 2, 3))).all()


LABELS: dict[str, tuple[object, ...]] = {
    "names": ("cat", "dog", "owl"), "numbers": (4, 0, 7), "none": (),
    "lists": ("[]", '["dog"]', '["dog", "cat", "dog"]'), "groups": ("a", "b", "a"),
}  # fmt: skip
DIMENSIONS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "names": ({"compression": "gzip:1"},
              {"chunk_checksums": ("chunk",), "label_names": ("class",)}),
    "numbers": ({"channels": "gray"}, {}),
    "none": ({"fit": "pad"}, {"sizes": ("sample", "y_x")}),
    "lists": ({"multi_label": True}, {"label_names": ("class",)}),
    "groups": ({"group_by": "split"}, {"samples": ("sample",), "label_names": ("class",)}),
}  # fmt: skip
"""Labels -> options, and the dimensions of what not every stack has."""
PER_SAMPLE = ("paths", "status", "checksums")


@pytest.mark.parametrize("labels", DIMENSIONS)
def test_xarray_knows_the_dimensions_of_a_stack_by_name(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    options, more = DIMENSIONS[labels]
    has_labels = bool(LABELS[labels])
    rows: list[tuple[object, ...]] = [("path", "split", "age", "note", "box", "label")]
    for row in range(9):
        (tmp_path / f"{row}.png").write_bytes(encode(Kind(colour="rgb", depth=8), 6, 5, row).data)
        cells = "ab"[row % 2], row / 2, f"é{row}", ("[[1, 2, 3, 4]]", "[]", "")[row % 3]
        rows.append((f"{row}.png", *cells, LABELS[labels][row % 3] if has_labels else ""))
    manifest = tmp_path / "m.csv"
    with manifest.open("w", newline="") as text:
        csv.writer(text).writerows(row[: 5 + has_labels] for row in rows)
    file, made = tmp_path / "out.h5", []
    for n_ranks in (1, 3):
        ingest_on(n_ranks, manifest, file, IngestOptions(chunk_rows=2, **options))
        made.append(file.read_bytes())
        file.unlink()
    assert made[0] == made[1] or "compression" in options  # where chunks come as they are ready
    file.write_bytes(made[0])
    assert verify(file).ok
    prefix = "/b" if labels == "groups" else ""
    with h5py.File(file) as own:
        pixels = own[f"{prefix}/images"][:]
    how: dict[str, Any] = {"engine": "h5netcdf", "filename_or_obj": file}
    with xarray.open_dataset(group=prefix or None, chunks={}, **how) as found:
        wanted = dict.fromkeys(PER_SAMPLE, ("sample",)) | more
        wanted |= {"images": ("sample", "y", "x", "channel")[: pixels.ndim]}
        wanted |= {"labels": ("sample",)} if has_labels and labels != "lists" else {}
        assert {name: found[name].dims for name in found} == wanted
        assert (found["images"].isel(sample=slice(1, 3), x=2).values == pixels[1:3, :, 2]).all()
        assert (found["images"].mean("sample").compute().values == pixels.mean(axis=0)).all()
    with xarray.open_dataset(group=f"{prefix}/columns", **how) as found:
        assert {found[name].dims for name in ("split", "age", "note")} == {("sample",)}
    with xarray.open_datatree(**how) as tree:
        names = {name for group in tree.subtree for name in group.sizes}
        assert names >= {"sample", "y", "x", "value", "item_1", "offset"}
        assert not [name for name in names if "phony" in str(name)]


def test_a_further_image_with_the_name_of_a_dimension_leaves_its_group_without(
    tmp_path: Path,
) -> None:
    write_images(tmp_path, make_pixels(4, (6, 5)))
    rows = [(f"{k:04}.png", f"{k:04}.png") for k in range(4)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "y"), *rows])
    out = tmp_path / "out.h5"
    ingest_on(1, manifest, out, IngestOptions(image=("y",)))
    assert verify(out).ok
    with h5py.File(out) as file:
        assert not [dim for dim in file["images"].dims if len(dim)]
        assert "sample" not in file
    how: dict[str, Any] = {"engine": "h5netcdf", "phony_dims": "access"}
    with xarray.open_dataset(out, group="y", **how) as found:
        assert found["images"].dims == ("sample", "y", "x")


def test_dlio_reads_a_hard_link_to_the_images(files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "img_0_of_1.hdf5"
    file.write_bytes(files["stack"].read_bytes())
    with h5py.File(file, "r+") as own:
        own["records_0"] = own["images"]
    with ImageStore(file) as store:
        wanted = store[:][0]
    opened = h5py.File(file, "r")  # as DLIO's HDF5Reader does: `open` and `get_sample`
    for sample_index in range(N):
        image = opened[f"records_{0}"][sample_index]
        assert image.nbytes == 6 * 5 * 3
        assert (image == wanted[sample_index]).all()
    opened.close()
    found = verify(file)
    assert found.ok, found
    assert digest(file) == digest(files["stack"])
