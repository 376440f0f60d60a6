"""Several images a row leave a file again: as files and tables; or for another file."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow.parquet
import pytest
from helpers.layout_runs import extent_chunks, ingest_on
from helpers.street import CLASSES, Street, draw_street
from helpers.support import write_manifest
from helpers.threads import on_ranks
from PIL import Image

from h5ingest import ExportOptions, IngestOptions, export
from h5ingest.cli.export_command import _flags
from h5ingest.core.errors import OutputError, SamplesFailedError, UsageError
from h5ingest.exports.run import ExportReport, export_image, export_references
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.extend import extend
from h5ingest.pipeline.report import Added, IngestReport
from h5ingest.pipeline.run import recompress

N = 12
PAIRS = IngestOptions(image=("mask:raw",), batch_bytes=4096)
LAYOUTS = {
    "cover": replace(PAIRS, fit="cover", size=(32, 32), chunk_rows=3),
    "cover zstd groups": replace(
        PAIRS, fit="cover", size=(32, 32), chunk_rows=3, compression="zstd:1", group_by="split"
    ),
    "contain": replace(PAIRS, image=("mask:raw:pad=255",), fit="contain", size=(24, 40)),
    "ragged groups": replace(PAIRS, layout="ragged", group_by="split"),
    "tree gzip": replace(PAIRS, layout="tree", compression="gzip:1"),
    "encoded": replace(PAIRS, layout="encoded"),
}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return draw_street(tmp_path_factory.mktemp("street"), N)


@pytest.fixture(scope="module")
def stores(street: Street, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the layouts make of the same scenes."""
    base = tmp_path_factory.mktemp("stores")
    with extent_chunks(3000):
        for k, options in enumerate(LAYOUTS.values()):
            ingest_on(2, street.manifest, base / f"{k}.h5", options)
    return {layout: base / f"{k}.h5" for k, layout in enumerate(LAYOUTS)}


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with extent_chunks(3000):
        yield


def export_on(n_ranks: int, path: Path, out: Path, **options: Any) -> ExportReport:
    """On ranks that are threads."""
    how = ExportOptions(**options)
    return on_ranks(n_ranks, lambda comm: export(path, out, how, comm))[0]


def digest(path: Path) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["content_digest"])


def members(out: Path) -> dict[str, bytes]:
    """Name -> content, of all that was exported."""
    if out.is_dir():
        return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    if out.suffix == ".zip":
        with zipfile.ZipFile(out) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if out.suffix == ".lmdb":
        with lmdb.open(str(out), subdir=False, readonly=True, lock=False) as base, \
                base.begin() as transaction:  # fmt: skip
            return {bytes(name).decode(): bytes(data) for name, data in transaction.cursor()}
    with tarfile.open(out) as archive:
        return {each.name: file.read() for each in archive if (file := archive.extractfile(each))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_ingested_again_to_the_same_file(
    layout: str, stores: dict[str, Path], street: Street, tmp_path: Path
) -> None:
    first = stores[layout]
    report = export_on(3, first, tmp_path / "out", keep_names=True)
    assert (report.n_images, report.n_renamed, report.n_apart) == (2 * N, 0, 0)
    manifest = tmp_path / "out" / "manifest.csv"
    assert manifest.read_text().splitlines()[:2] == [
        "path,mask,label,split", "images/0.png,masks/0.png,night,train",
    ]  # fmt: skip
    ingest_on(2, manifest, tmp_path / "again.h5", LAYOUTS[layout])
    assert digest(tmp_path / "again.h5") == digest(first)
    found = members(tmp_path / "out")
    assert len(found) == 2 * N + 1
    if layout == "encoded":
        assert found["images/1.jpg"] == street.path(1).read_bytes()
    else:
        with Image.open(tmp_path / "out" / "masks" / "5.png") as mask:
            assert mask.mode == "P", "it has its palette"
            assert set(np.unique(np.asarray(mask))) <= set(CLASSES)
    for suffix in ("tar", "zip", "lmdb") if layout in ("cover zstd groups", "encoded") else ():
        for n_ranks in (1, 3):
            out = tmp_path / f"{n_ranks}.{suffix}"
            assert export_on(n_ranks, first, out, keep_names=True).n_images == 2 * N
            assert members(out) == found
        assert (tmp_path / f"1.{suffix}").read_bytes() == out.read_bytes()
    if layout == "encoded":  # an archive is a folder on the way to a member
        lines = found["manifest.csv"].decode().replace("images/", "3.tar/images/")
        (tmp_path / "m.csv").write_text(lines.replace(",masks/", ",3.zip/masks/"))
        ingest_on(2, tmp_path / "m.csv", tmp_path / "within.h5", LAYOUTS[layout])
        with h5py.File(tmp_path / "within.h5") as file, h5py.File(first) as own:
            for name in ("checksums", "mask/checksums"):
                assert (file[name][:] == own[name][:]).all()


def test_the_members_of_a_sample_in_shards_have_one_stem(
    stores: dict[str, Path], street: Street, tmp_path: Path
) -> None:
    first = stores["ragged groups"]
    for n_ranks in (1, 3):
        (tmp_path / str(n_ranks)).mkdir()
        report = export_on(n_ranks, first, tmp_path / f"{n_ranks}" / "s-%03d.tar", shard_rows=5)
        assert (report.n_images, report.n_apart) == (2 * N, 0)
    found: dict[str, bytes] = {}
    for shard in sorted((tmp_path / "1").iterdir()):
        assert shard.read_bytes() == (tmp_path / "3" / shard.name).read_bytes()
        found |= members(shard)
    assert len(found) == 4 * N
    for row in range(N):
        about = json.loads(found[f"images/{row}.json"])
        assert about["path"] == os.path.relpath(street.path(row), street.manifest.parent)
        assert about["mask"] == f"masks/{row}.png"
        assert about["label"] == ("day", "night")[row % 3 == 0]
        assert about["group"] == ("test" if row % 4 == 3 else "train")
        image, mask = (
            np.asarray(Image.open(BytesIO(found[f"images/{row}.{ending}"])))
            for ending in ("png", "mask.png")
        )
        assert (image == street.images[row]).all()
        assert (mask == street.masks[row]).all()


def test_a_table_has_a_column_for_each_image(
    stores: dict[str, Path], street: Street, tmp_path: Path
) -> None:
    for n_ranks in (1, 3):
        export_on(n_ranks, stores["encoded"], tmp_path / f"{n_ranks}.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    table = pyarrow.parquet.read_table(tmp_path / "3.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert [*features] == ["image", "mask", "label", "split"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    for row, found in enumerate(table.to_pylist()):
        for column, name in (("path", "image"), ("mask", "mask")):
            source = street.path(row, column)
            assert found[name]["bytes"] == source.read_bytes()
            assert found[name]["path"] == os.path.relpath(source, street.manifest.parent)
    named = write_manifest(tmp_path / "m.csv", [
        "path,image", f"{street.path(0)},{street.path(0, 'mask')}",
    ])  # fmt: skip
    ingest_on(1, named, tmp_path / "n.h5", replace(PAIRS, image=("image:raw",), layout="ragged"))
    with pytest.raises(OutputError, match="a column is called 'image'"):
        export_on(1, tmp_path / "n.h5", tmp_path / "n.parquet")


def test_references_name_the_chunks_of_both(stores: dict[str, Path], tmp_path: Path) -> None:
    export_references(stores["cover zstd groups"], tmp_path / "refs.json", "x")
    refs = json.loads((tmp_path / "refs.json").read_text())["refs"]
    assert json.loads(refs["test/mask/images/.zarray"])["shape"] == [N // 4, 32, 32]
    assert json.loads(refs["test/images/.zarray"])["shape"] == [N // 4, 32, 32, 3]
    n_bytes = export_references(stores["cover zstd groups"], tmp_path / "test.json", "x", "test")
    assert (tmp_path / "test.json").stat().st_size == n_bytes
    of_group = json.loads((tmp_path / "test.json").read_text())["refs"]
    wanted = (".zgroup", "test/")
    assert of_group == {name: ref for name, ref in refs.items() if name.startswith(wanted)}
    assert len(of_group) < len(refs)
    with pytest.raises(UsageError, match=r"expected a group, one of .*got 'tset'"):
        export_references(stores["cover zstd groups"], tmp_path / "no.json", "x", "tset")


def test_one_image_of_a_row(stores: dict[str, Path], street: Street, tmp_path: Path) -> None:
    file = stores["ragged groups"]
    export_image(file, 1, tmp_path / "image.png", "test")
    export_image(file, 1, tmp_path / "mask.png", "test", "mask")
    for name, wanted in (("image", street.images[7]), ("mask", street.masks[7])):
        assert (np.asarray(Image.open(tmp_path / f"{name}.png")) == wanted).all()
    with pytest.raises(UsageError, match="expected an image, one of path, mask, got 'masks'"):
        export_image(file, 1, tmp_path / "no.png", "test", "masks")


def test_a_damaged_mask_takes_its_image_with_it(stores: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "damaged.h5"
    file.write_bytes(stores["contain"].read_bytes())
    with h5py.File(file, "r+") as own:
        own["mask/images"][4, 2, 2] ^= 1
    with pytest.raises(SamplesFailedError, match=r"1 of 12 rows of .* damaged.*\n.*masks/4\.png"):
        export_on(2, file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export_on(2, file, tmp_path / "out", skip_damaged=True)
    assert report.n_images == 2 * (N - 1)
    assert not [*tmp_path.glob("out/*/4.*")]
    assert len((tmp_path / "out" / "manifest.csv").read_text().splitlines()) == N


def test_what_is_to_be_typed_names_the_images(stores: dict[str, Path], tmp_path: Path) -> None:
    report = export_on(1, stores["contain"], tmp_path / "out")
    assert " ".join(_flags(report.options)).startswith("--image mask:raw:pad=255 ")


# --- another codec --------------------------------------------------------------------------------


def recompress_on(n_ranks: int, path: Path, out: Path, **options: Any) -> IngestReport:
    """On ranks that are threads."""
    how = IngestOptions(**options)
    return on_ranks(n_ranks, lambda comm: recompress(path, out, how, comm))[0]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "encoded"])
def test_pairs_are_recompressed(layout: str, stores: dict[str, Path], tmp_path: Path) -> None:
    first, codec = stores[layout], "none" if "groups" in layout else "zstd:3"
    for n_ranks in (1, 3):
        out = tmp_path / f"{n_ranks}.h5"
        report = recompress_on(n_ranks, first, out, compression=codec)
        assert report.content_digest == digest(out) == digest(first)
        assert (report.n_samples, report.n_each) == (N, 2)
    checked = verify(out)
    assert checked.ok, checked
    with h5py.File(first) as old, h5py.File(out) as new:
        assert new.attrs["images"] == old.attrs["images"]
        assert json.loads(new.attrs["options"])["image"] == list(LAYOUTS[layout].image)
        for name in ("mask/images", "test/mask/images/pixels"):
            if name in old:
                assert (new[name].compression is None) == (codec == "none")
                assert "palette" in new[name].attrs
    back = recompress_on(2, out, tmp_path / "back.h5", compression=LAYOUTS[layout].compression)
    assert back.content_digest == digest(first)


def test_a_row_of_which_an_image_is_damaged_fails_as_a_whole(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "damaged.h5"
    file.write_bytes(stores["contain"].read_bytes())
    with h5py.File(file, "r+") as own:
        own["mask/images"][4, 2, 2] ^= 1
    with pytest.raises(SamplesFailedError, match=r"1 of 12 images failed(.|\n)*masks/4\.png"):
        recompress_on(2, file, tmp_path / "out.h5", compression="zstd:1")
    report = recompress_on(3, file, tmp_path / "out.h5", compression="zstd:1", on_error="blank",
                           restart=True)  # fmt: skip
    assert [failure.index for failure in report.failures] == [4]
    with h5py.File(tmp_path / "out.h5") as new:
        assert new["status"][:].tolist() == new["mask/status"][:].tolist()
        assert np.flatnonzero(new["status"][:] != 1).tolist() == [4]
        assert not new["images"][4].any()
    assert verify(tmp_path / "out.h5").ok
    again = recompress_on(2, tmp_path / "out.h5", tmp_path / "again.h5", compression="gzip:1")
    assert again.content_digest == digest(tmp_path / "out.h5")
    assert any("1 rows had failed" in line for line in again.warnings)


def test_rows_that_do_not_fit_together_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    for name, change in (
        ("status", lambda own: own["mask/status"].__setitem__(3, 2)),
        ("rows", lambda own: (own.move("mask/status", "old"),
                              own.create_dataset("mask/status", data=own["old"][:-1]))),
        ("options", lambda own: own.attrs.__setitem__("options", "{}")),
    ):  # fmt: skip
        file = tmp_path / f"{name}.h5"
        file.write_bytes(stores["contain"].read_bytes())
        with h5py.File(file, "r+") as own:
            change(own)
        with pytest.raises(OutputError, match="expected"):
            recompress_on(2, file, tmp_path / "out.h5", compression="zstd:1")
    with pytest.raises(OutputError, match="expected images path, as its options say, found"):
        export_on(1, file, tmp_path / "out")


# --- and more rows --------------------------------------------------------------------------------

N_OLD = 7


def extend_on(n_ranks: int, manifest: Path, out: Path, **how: Any) -> IngestReport:
    """On ranks that are threads."""
    return on_ranks(n_ranks, lambda comm: extend(manifest, out, comm=comm, **how))[0]


@pytest.fixture(scope="module")
def deliveries(street: Street) -> tuple[Path, Path, Path]:
    """Manifests of the first rows; of the others; and of these and the last two of the first."""
    lines = street.manifest.read_text().splitlines()
    every = (lines[: N_OLD + 1], [lines[0], *lines[N_OLD + 1 :]], [lines[0], *lines[N_OLD - 1 :]])
    old, new, more = (
        write_manifest(street.manifest.parent / f"{name}.csv", rows)
        for name, rows in zip(("old", "new", "more"), every, strict=True)
    )
    return old, new, more


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_added_to_pairs(
    layout: str, stores: dict[str, Path], deliveries: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    (old, new, more), options = deliveries, LAYOUTS[layout]
    for number, (n_ranks, manifest, n_skipped) in enumerate(
        ((1, new, 0), (3, new, 0), (2, more, 2))
    ):
        out = tmp_path / f"{number}.h5"
        ingest_on(2, old, out, options)
        report = extend_on(n_ranks, manifest, out)
        assert report.content_digest == digest(out) == digest(stores[layout])
        assert report.added == Added(n_before=N_OLD, n_skipped=n_skipped)
    checked = verify(out)
    assert checked.ok, checked
    report = extend_on(3, more, out, again=True)
    assert report.added == Added(n_before=N, n_replaced=N - N_OLD + 2)
    order = [*range(N_OLD - 2), *range(N_OLD - 2, N)]
    with h5py.File(out) as file, h5py.File(stores[layout]) as own:
        for prefix in ("", "mask/") if "groups" not in layout else ():
            assert (file[f"{prefix}checksums"][:] == own[f"{prefix}checksums"][order]).all()
    assert verify(out).ok
    assert extend_on(2, more, out).added == Added(n_before=N, n_skipped=N - N_OLD + 2)


def test_pairs_with_a_bad_mask_are_added_as_blank_rows(
    deliveries: tuple[Path, Path, Path], street: Street, tmp_path: Path
) -> None:
    old, _, _ = deliveries
    ingest_on(1, old, tmp_path / "out.h5", LAYOUTS["ragged groups"])
    bad = street.manifest.parent / "masks" / "bad.png"
    bad.write_bytes(b"no image")
    new = write_manifest(street.manifest.parent / "bad.csv", [
        ("path", "mask", "label", "split"), ("images/8.png", "masks/8.png", "dusk", "train"),
        ("images/9.jpg", "masks/bad.png", "dusk", "new"),
    ])  # fmt: skip
    with pytest.raises(SamplesFailedError, match=r"masks/bad\.png"):
        extend_on(2, new, tmp_path / "out.h5")
    report = extend_on(2, new, tmp_path / "out.h5", options=IngestOptions(on_error="blank"))
    assert [failure.index for failure in report.failures] == [N_OLD + 1]
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(file.attrs["groups"]) == ["new", "test", "train"]
        assert file["new/status"][:].tolist() == file["new/mask/status"][:].tolist() == [2]
        assert file["new/samples"][:].tolist() == [N_OLD + 1]
    assert verify(tmp_path / "out.h5").ok
