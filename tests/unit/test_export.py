"""`export`: what it writes has the same pixels, and is ingested again to the same file."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import png
import pytest
from helpers.layout_runs import CHUNK_BYTES, extent_chunks, ingest_on
from helpers.oracle import Kind, encode
from helpers.pictures import by_pillow, smooth
from helpers.support import make_pixels, write_images, write_manifest
from helpers.threads import on_ranks
from numpy.typing import NDArray
from PIL import Image

from h5ingest import ExportOptions, ImageStore, IngestOptions, export, ingest
from h5ingest.core.errors import (
    OutputError,
    SamplesFailedError,
    StoppedError,
    UsageError,
)
from h5ingest.exports import folder
from h5ingest.exports.run import ExportReport, export_image
from h5ingest.mpi.comm import Comm
from h5ingest.mpi.signals import Interrupt

N = 24
WAYS: dict[str, dict[str, Any]] = {
    "stack": {"chunk_rows": 5},
    "stack zstd": {"chunk_rows": 5, "compression": "zstd:1", "group_by": "split"},
    "padded": {"fit": "pad", "pad_value": 7, "group_by": "split"},
    "indices": {"fit": "pad", "samples": "raw"},
    "ragged": {"layout": "ragged", "dtype": "uint16", "group_by": "split"},
    "ragged gzip": {"layout": "ragged", "dtype": "uint16", "compression": "gzip:1"},
    "tree": {"layout": "tree"},
    "tree of indices": {"layout": "tree", "samples": "raw", "group_by": "split"},
    "tree zstd": {"layout": "tree", "compression": "zstd:1"},
    "encoded": {"layout": "encoded", "group_by": "split"},
    "recoded": {"layout": "encoded", "recode": "jxl:1"},
}
"""What the file is like."""


def export_on(n_ranks: int, path: Path, out: Path, **options: Any) -> ExportReport:
    """On ranks that are threads."""
    how = ExportOptions(**options)
    reports = on_ranks(n_ranks, lambda comm: export(path, out, how, comm))
    assert all(_plain(each) == _plain(reports[0]) for each in reports)
    return reports[0]


def _plain(report: ExportReport) -> ExportReport:
    return replace(report, options={}, seconds=0.0)


def digest(path: Path) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["content_digest"])


def write_sources(base: Path, way: str) -> Path:
    """N images in three groups; odd names, labels and columns."""
    rows: list[tuple[object, ...]] = [("path", "label", "split", "age", "code", '"no,te"', "n")]
    labels = (-1, 7, 12) if way == "tree zstd" else ("ant", "caf\udce9", "bee")
    for row in range(N):
        height, width = (8, 9) if "stack" in way else (1 + row * 5 % 17, 1 + row * 11 % 23)
        colour = ("gray", "gray+alpha", "rgb", "rgba")[row % 4]
        depth = 16 if "tree" in way or way == "encoded" else 8
        kind = Kind(colour=colour, depth=(8, depth)[row // 4 % 2])
        if "stack" in way:
            kind = Kind(colour="rgb", depth=16)
        if "indices" in way:
            kind = Kind(colour="palette", depth=4)
        data = encode(kind, height, width, row).data
        if way == "recoded" and row % 3:
            data = by_pillow(smooth(40, 40 + row, 3, "uint8", row), ("PNG", "JPEG")[row % 3 - 1])
        suffix = ".jpg" if data.startswith(b"\xff\xd8") else ".png"
        name = f'{"./" * (row % 2)}d{row % 5}//im\udcff "{row}", x{suffix}'
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(data)
        quoted = name.replace('"', '""')
        rows.append(
            (f'"{quoted}"', labels[row % 3], ("tr", "a/b", "..")[row // 2 % 3],
             ("", row / 4, 1e22, "-inf", "-nan")[row % 5], f"00{row}",
             ("x", '"pl,ain"', "caf\udce9")[row % 3], row)
        )  # fmt: skip
    return write_manifest(base / "m.csv", rows)


def decoded(path: Path) -> NDArray[Any]:
    """The samples of a PNG, by pypng."""
    width, height, rows, info = png.Reader(bytes=path.read_bytes()).read()
    samples = np.array([list(row) for row in rows], np.uint16 if info["bitdepth"] > 8 else np.uint8)
    return samples.reshape(
        (height, width, info["planes"]) if info["planes"] > 1 else (height, width)
    )


def stored_images(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Path and pixels of all images of a file, without their padding."""
    with ImageStore(path) as whole:
        groups = whole.groups or (None,)
    for group in groups:
        with ImageStore(path, group=group) as store:
            for row, (image, _) in enumerate(store):
                height, width = store.sizes[row] if store.sizes is not None else image.shape[:2]
                yield store.paths[row], image[:height, :width]


@pytest.mark.parametrize("way", WAYS)
def test_an_export_has_the_same_pixels_and_is_ingested_again_to_the_same_file(
    way: str, tmp_path: Path
) -> None:
    options = IngestOptions(**WAYS[way])
    manifest = write_sources(tmp_path / "src", way)
    first = tmp_path / "first.h5"
    with extent_chunks(CHUNK_BYTES):
        ingest_on(1, manifest, first, options)
        sources = {file: file.read_bytes() for file in (tmp_path / "src").rglob("im*")}
        for n_ranks in (1, 3):
            out = tmp_path / f"out{n_ranks}"
            report = export_on(n_ranks, first, out)
            assert (report.n_images, report.n_renamed, report.n_apart) == (N, 0, 0)
            again = tmp_path / f"again{n_ranks}.h5"
            ingest_on(2, out / "manifest.csv", again, options)
            assert digest(again) == digest(first)
            assert not {*tmp_path.glob("out*.*")}, "nothing is left beside it"
    made = {file.relative_to(out): file.read_bytes() for file in out.rglob("im*")}
    assert len(made) == N
    assert made == {
        file.relative_to(tmp_path / "out1"): file.read_bytes()
        for file in (tmp_path / "out1").rglob("im*")
    }, "the number of ranks does not show"
    for path, image in stored_images(first):
        file = out / path
        if way == "encoded" or path.endswith(".jpg"):
            assert file.read_bytes() == sources[tmp_path / "src" / path]
        else:
            assert np.array_equal(decoded(file), image), path
            assert decoded(file).dtype == image.dtype
    if "indices" in way:
        with Image.open(file) as picture, Image.open(tmp_path / "src" / path) as source:
            assert picture.mode == source.mode == "P"
            assert picture.convert("RGB").tobytes() == source.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in groups, with labels and columns, two of which have failed."""
    base = tmp_path_factory.mktemp("grouped")
    pixels = make_pixels(30, (6, 5, 3))
    paths = write_images(base / "im", pixels)
    for row in (3, 8):
        (base / "im" / paths[row]).write_bytes(b"no image")
    rows = [
        (f"im/{name}", ("cat", "dog", "emu")[row % 3], "ab"[row % 2], row / 2, f"0{row}", row)
        for row, name in enumerate(paths)
    ]
    manifest = write_manifest(
        base / "m.csv", [("path", "label", "split", "age", "code", "n"), *rows]
    )
    ingest(manifest, base / "grouped.h5", IngestOptions(group_by="split", on_error="blank"))
    ingest(manifest, base / "plain.h5", IngestOptions(on_error="blank"))
    return base / "grouped.h5"


def listed(out: Path) -> list[int]:
    """The numbers of the images of an export, of its manifest and of the folder."""
    with (out / "manifest.csv").open(newline="") as file:
        found = [Path(row["path"]) for row in csv.DictReader(file)]
    assert {file.relative_to(out) for file in out.rglob("*.png")} == set(found)
    return [int(path.stem) for path in found]


GOOD = [row for row in range(30) if row not in (3, 8)]


@pytest.mark.parametrize(
    ("file", "options", "wanted", "n_failed"),
    [
        ("grouped", {}, GOOD, 2),
        ("grouped", {"group": "a"}, [row for row in GOOD if row % 2 == 0], 1),
        ("grouped", {"group": "b", "rows": (0, 4)}, [1, 5, 7], 1),
        ("grouped", {"where": (("label", "dog"),)}, [row for row in GOOD if row % 3 == 1], 0),
        ("grouped", {"where": (("label", "emu"), ("split", "a"))}, [2, 14, 20, 26], 1),
        ("plain", {"rows": (2, 10)}, [2, 4, 5, 6, 7, 9], 2),
        ("plain", {"rows": (25, None)}, [25, 26, 27, 28, 29], 0),
        ("plain", {"where": (("age", "3.5"),)}, [7], 0),
        ("plain", {"where": (("code", "07"),)}, [7], 0),
        ("plain", {"where": (("n", "7"),), "rows": (7, 8)}, [7], 0),
        ("plain", {"where": (("path", "im/0007.png"),)}, [7], 0),
    ],
)
def test_chosen_rows(
    grouped: Path,
    tmp_path: Path,
    file: str,
    options: dict[str, Any],
    wanted: list[int],
    n_failed: int,
) -> None:
    report = export_on(2, grouped.with_stem(file), tmp_path / "out", **options)
    assert listed(tmp_path / "out") == wanted
    assert (report.n_images, report.n_failed) == (len(wanted), n_failed)


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        ("grouped", {"rows": (0, 3)}, "expected a group, one of a, b; got none"),
        ("grouped", {"group": "c"}, "expected a group, one of a, b; got 'c'"),
        ("plain", {"group": "a"}, "expected no group"),
        ("plain", {"rows": (30, None)}, "--rows 30:: expected rows within 0:30"),
        ("plain", {"rows": (0, 31)}, "--rows 0:31: expected rows within 0:30"),
        ("plain", {"rows": (3, 4)}, "found none except 1 that failed"),
        ("plain", {"where": (("label", "cta"),)}, "expected a label, one of 'cat', 'dog', 'emu'"),
        ("plain", {"where": (("class", "cat"),)}, "expected a column, one of path, label, age,"),
        ("plain", {"where": (("age", "x"),)}, "expected a number, as that column has float64"),
        ("plain", {"where": (("age", "99"),)}, "expected rows to export, found none"),
    ],
)
def test_what_chooses_nothing_is_refused(
    grouped: Path, tmp_path: Path, file: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        export_on(2, grouped.with_stem(file), tmp_path / "out", **options)
    assert says in str(caught.value)
    assert not [*tmp_path.iterdir()]


def make_file(base: Path, paths: list[str], **options: Any) -> tuple[Path, NDArray[Any]]:
    """A file of images with these paths in its manifest, whatever they lead to."""
    pixels = make_pixels(len(paths), (4, 3))
    root = base / "a" / "b" / "c"
    sources = write_images(root, pixels)
    ingest(write_manifest(root / "m.csv", [("path",), *sources]), base / "f.h5",
           IngestOptions(**options))  # fmt: skip
    with h5py.File(base / "f.h5", "r+") as file:
        file["paths"][:] = [os.fsencode(path) for path in paths]
    return base / "f.h5", pixels


ODD = [
    "a.png", "a.png", "/etc/x.png", "../../up.png", "a/../b.png", "x.jpg", "x.png", "x.tiff", "d",
    "d/e.png", "manifest.csv", "manifest.csv/y.png", "..", "w\nz.png", "a~2.png",
    "l" * 300 + ".png",
    "noext", "./t/./u//v.png", "C:\\..\\v.png",
]  # fmt: skip
SAFE = [
    "a.png", "a~3.png", "etc/x.png", "up.png", "a/b.png", "x~2.png", "x.png", "x~3.png", "d~2",
    "d/e.png", "_manifest~2.csv", "_manifest.csv/y.png", "image", "w_z.png", "a~2.png", None,
    "noext", "t/u/v.png", "C:\\..\\v.png",
]  # fmt: skip
"""What becomes of their names; None: something that is short enough."""


def test_names_are_safe_and_told_apart(tmp_path: Path) -> None:
    path, pixels = make_file(tmp_path, ODD)
    for n_ranks in (1, 3):
        out = tmp_path / f"out{n_ranks}"
        report = export_on(n_ranks, path, out)
        with (out / "manifest.csv").open(newline="") as file:
            found = [row["path"] for row in csv.DictReader(file)]
        for row, (name, wanted) in enumerate(zip(found, SAFE, strict=True)):
            assert Path(name) == Path(wanted or name)
            assert len(os.path.basename(name)) <= 255
            assert np.array_equal(decoded(out / name), pixels[row])
        assert report.n_apart == 5
        assert report.n_renamed == sum(map(str.__ne__, ODD, found)) == 12
        assert {file.name for file in tmp_path.iterdir()} <= {"a", "f.h5", "out1", "out3"}
    for suffix in (".tar", ".zip"):
        archives = [tmp_path / f"{n}{suffix}" for n in (1, 3)]
        for n_ranks, archive in zip((1, 3), archives, strict=True):
            export_on(n_ranks, path, archive)
        assert archives[0].read_bytes() == archives[1].read_bytes()
        inside = members(archives[0])
        assert not [name for name in inside if name.startswith("/") or ".." in name.split("/")]
        assert len(inside) == len(ODD) + 1
    assert b"C:%5C..%5Cv.png" in inside["manifest.csv"]


def members(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path, errors="surrogateescape") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_a_png_made_of_a_jpeg_has_its_name_only_if_asked(tmp_path: Path) -> None:
    base = tmp_path / "src"
    base.mkdir()
    for row in range(3):
        (base / f"{row}.jpg").write_bytes(by_pillow(smooth(20, 20, 3, "uint8", row), "JPEG"))
    manifest = write_manifest(base / "m.txt", [f"{row}.jpg" for row in range(3)])
    ingest(manifest, tmp_path / "first.h5", IngestOptions())
    report = export_on(1, tmp_path / "first.h5", tmp_path / "honest")
    assert report.n_renamed == 3
    assert sorted(file.name for file in (tmp_path / "honest").glob("[0-9]*")) == [
        "0.png", "1.png", "2.png",
    ]  # fmt: skip
    report = export_on(1, tmp_path / "first.h5", tmp_path / "kept", keep_names=True)
    assert report.n_renamed == 0
    assert (tmp_path / "kept" / "1.jpg").read_bytes() == (
        tmp_path / "honest" / "1.png"
    ).read_bytes()
    ingest(tmp_path / "kept" / "manifest.csv", tmp_path / "again.h5", IngestOptions())
    assert digest(tmp_path / "again.h5") == digest(tmp_path / "first.h5")


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_an_archive_has_what_the_folder_has(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_sources(tmp_path / "src", "tree")
    first = tmp_path / "first.h5"
    ingest(manifest, first, IngestOptions(layout="tree"))
    made = [tmp_path / f"{n}.{suffix}" for n in (1, 2, 3)]
    for n_ranks, out in zip((1, 2, 3), made, strict=True):
        report = export_on(n_ranks, first, out)
        assert report.n_images == N
    assert len({out.read_bytes() for out in made}) == 1
    inside = tmp_path / "inside"
    if suffix == "tar":
        with tarfile.open(made[0], errors="surrogateescape") as tar:
            assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}
            tar.extractall(inside, filter="data")
        export_on(1, first, tmp_path / "folder")
        found = {f.relative_to(inside): f.read_bytes() for f in inside.rglob("*") if f.is_file()}
        assert found == {
            f.relative_to(tmp_path / "folder"): f.read_bytes()
            for f in (tmp_path / "folder").rglob("*")
            if f.is_file()
        }
        ingest(inside / "manifest.csv", tmp_path / "again.h5", IngestOptions(layout="tree"))
        assert digest(tmp_path / "again.h5") == digest(first)
    else:
        assert report.n_renamed == N, "zip has no such bytes in names"
        with zipfile.ZipFile(made[0]) as archive:
            assert {m.date_time for m in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            assert archive.testzip() is None
            archive.extractall(inside)
        ingest(inside / "manifest.csv", tmp_path / "again.h5", IngestOptions(layout="tree"))
        with ImageStore(tmp_path / "again.h5") as again, ImageStore(first) as store:
            for row in range(N):
                assert np.array_equal(again[row][0], store[row][0])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = tmp_path / f"dated.{suffix}"
    export_on(1, first, dated)
    assert dated.read_bytes() != made[0].read_bytes()
    assert members(dated) == members(made[0])


def test_shards_are_the_same_on_any_number_of_ranks(grouped: Path, tmp_path: Path) -> None:
    for n_ranks in (1, 2, 3, 5):
        (tmp_path / str(n_ranks)).mkdir()
        report = export_on(n_ranks, grouped, tmp_path / str(n_ranks) / "s-%03d.tar", shard_rows=9)
        assert (report.n_images, report.n_failed, report.n_kept) == (28, 2, 0)
    found = {
        n: {f.name: f.read_bytes() for f in (tmp_path / str(n)).iterdir()} for n in (1, 2, 3, 5)
    }
    assert all(each == found[1] for each in found.values())
    assert sorted(found[1]) == [f"s-{number:03}.tar" for number in range(4)]
    seen = []
    with ImageStore(grouped, group="a") as a, ImageStore(grouped, group="b") as b:
        for number in range(4):
            inside = members(tmp_path / "1" / f"s-{number:03}.tar")
            assert len(inside) == 3 * (9 if number < 3 else 1)
            for stem in dict.fromkeys(os.path.splitext(name)[0] for name in inside):
                about = json.loads(inside[f"{stem}.json"])
                row = int(Path(stem).stem)
                store, label = (a, b)[row % 2], ["cat", "dog", "emu"][row % 3]
                seen.append(row)
                assert about == {
                    "path": f"{stem}.png", "group": "ab"[row % 2], "split": "ab"[row % 2],
                    "label": label, "age": row / 2, "code": f"0{row}", "n": row,
                }  # fmt: skip
                assert int(inside[f"{stem}.cls"]) == (a.label_names or ()).index(label)
                (tmp_path / "x.png").write_bytes(inside[f"{stem}.png"])
                assert np.array_equal(decoded(tmp_path / "x.png"), store[row // 2][0])
    assert sorted(seen) == GOOD
    assert seen == [row for row in GOOD if row % 2 == 0] + [row for row in GOOD if row % 2]


def test_shards_go_on_where_an_earlier_run_ended_and_replace_nothing_else(
    grouped: Path, tmp_path: Path
) -> None:
    pattern = tmp_path / "s-%d.tar"
    export_on(1, grouped, pattern, shard_rows=9)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for gone in ("s-0.tar", "s-2.tar"):
        (tmp_path / gone).unlink()
    report = export_on(3, grouped, pattern, shard_rows=9)
    assert report.n_kept == 2
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    for options in ({"shard_rows": 10}, {"shard_rows": 9, "where": (("label", "cat"),)}):
        with pytest.raises(OutputError, match=r"s-\d.tar: expected"):
            export_on(2, grouped, pattern, **options)
    (tmp_path / "s-0.tar").unlink()
    (tmp_path / "s-3.tar").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"s-3.tar: expected a name that is free"):
        export_on(2, grouped, pattern, shard_rows=9)
    (tmp_path / "s-3.tar").unlink()
    (tmp_path / "s-4.tar").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"s-4.tar: expected 4 shards of this export, and no"):
        export_on(2, grouped, pattern, shard_rows=9)
    assert {file.name for file in tmp_path.iterdir()} == {"s-1.tar", "s-2.tar", "s-4.tar"}
    for wrong in ("a.png", "a.npz", "a.tar.gz", "a.h5"):
        with pytest.raises(UsageError, match="expected a folder"):
            export_on(1, grouped, tmp_path / wrong)
    for wrong in ("%d-%d.tar", "100%.tar", "s-%d.zip", "s%s.tar"):
        with pytest.raises(UsageError, match="expected one number in the name of shards"):
            export_on(1, grouped, tmp_path / wrong)


@pytest.mark.parametrize(
    "target", ["out", "out.tar", "out.zip", "out-%d.tar", "out.lmdb", "out.parquet"]
)
def test_a_damaged_image_is_named_and_nothing_is_published(target: str, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, [f"{row}.png" for row in range(12)])
    with h5py.File(path, "r+") as file:
        file["images"][7] += 1
    more: dict[str, Any] = {"shard_rows": 4} if "%" in target else {}
    for n_ranks in (1, 3):
        with pytest.raises(SamplesFailedError, match=r"1 of 12 images .* damaged.*") as caught:
            export_on(n_ranks, path, tmp_path / target, **more)
        assert [(each.index, each.path) for each in caught.value.failures] == [(7, "7.png")]
        assert "7.png: expected the checksum" in str(caught.value)
        left = {file.name for file in tmp_path.glob("out*")}
        assert not left - {"out-2.tar", "out.partial"}
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    for file in tmp_path.glob("out-*"):
        file.unlink()
    report = export_on(2, path, tmp_path / target, skip_damaged=True, **more)
    assert (report.n_images, [each.index for each in report.failures]) == (11, [7])
    if target == "out":
        assert listed(tmp_path / "out") == [row for row in range(12) if row != 7]
    elif target in ("out.tar", "out.zip"):
        assert len(members(tmp_path / target)) == 12


def test_nothing_is_replaced(grouped: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "a.tar").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "taken.partial").mkdir()
    (tmp_path / "taken.partial" / "mine").write_text("mine")
    (tmp_path / "busy.partial").write_text("mine")
    (tmp_path / "trap.partial").mkdir()
    (tmp_path / "trap.partial" / folder.MARK).touch()
    (tmp_path / "trap.partial" / "files").symlink_to(tmp_path / "full")
    before = sorted(tmp_path.rglob("*"))
    for name in ("full", "file", "a.tar", "link", "taken", "busy", "trap", "no/such", "no/a.zip"):
        with pytest.raises(OutputError, match="expected"):
            export_on(2, grouped, tmp_path / name)
        assert sorted(tmp_path.rglob("*")) == before
    export_on(2, grouped, tmp_path / "empty")
    assert listed(tmp_path / "empty") == GOOD


def test_an_archive_that_cannot_be_begun_is_an_error_on_all_ranks(
    grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f".h5ingest-{'00' * 8}").touch()
    monkeypatch.setattr(os, "urandom", bytes)  # so its first name is taken
    with pytest.raises(OutputError, match="exists"):
        export_on(2, grouped, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


def test_a_folder_that_appears_meanwhile_is_kept(
    grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish = folder._publish

    def meddled(unfinished: Path, of: Path) -> None:
        out.mkdir()
        (out / "mine").write_text("mine")
        publish(unfinished, of)

    monkeypatch.setattr(folder, "_publish", meddled)
    with pytest.raises(OutputError, match="a folder with something in it"):
        export_on(2, grouped, out)
    assert [file.name for file in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    monkeypatch.undo()
    export_on(2, grouped, out)  # what was left is removed
    assert {file.name for file in tmp_path.iterdir()} == {"out"}
    assert listed(out) == GOOD


def test_what_does_not_reach_the_disk_is_not_published(
    grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(where: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folder, "_sync_file_system", fail)
    with pytest.raises(OutputError, match=r"brought to the disk: .*Input/output error"):
        export_on(2, grouped, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"out.partial"}
    monkeypatch.undo()
    export_on(2, grouped, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


def test_a_signal_stops_it(grouped: Path, tmp_path: Path) -> None:
    asked = Interrupt()
    asked.requested = True

    def work(name: str, comm: Comm) -> object:
        interrupt = asked if comm.rank else None
        return export(grouped, tmp_path / name, None, comm, interrupt=interrupt)

    for name in ("out", "out.tar", "out-%d.tar"):
        with pytest.raises(StoppedError, match="start the same command again"):
            on_ranks(2, partial(work, name))
    assert {file.name for file in tmp_path.iterdir()} <= {"out.partial"}


def test_one_image(grouped: Path, tmp_path: Path) -> None:
    plain = grouped.with_stem("plain")
    with ImageStore(plain) as store:
        export_image(plain, 12, tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), store[12][0])
        export_image(grouped, 6, tmp_path / "b.png", "a")
        assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OutputError, match="expected a name that is free, found an image"):
        export_image(plain, 13, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    for row, name, group, says in (
        (30, "c.png", None, "--row 30: expected 0 to 29, as .*plain"),
        (3, "c.png", None, "row 3 failed when it was ingested"),
        (1, "c.jpg", None, "expected the suffix of PNG"),
        (1, "c.png", "a", "expected no group"),
    ):
        with pytest.raises(UsageError, match=says):
            export_image(plain, row, tmp_path / name, group)
    with pytest.raises(UsageError, match="expected a group"):
        export_image(grouped, 1, tmp_path / "c.png")
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_one_image_of_stored_files(tmp_path: Path) -> None:
    data = by_pillow(smooth(20, 20, 3, "uint8"), "JPEG")
    (tmp_path / "1.jpg").write_bytes(data)
    manifest = write_manifest(tmp_path / "m.txt", ["1.jpg"])
    for recode in (None, "jxl"):
        out = tmp_path / f"{recode}.h5"
        ingest(manifest, out, IngestOptions(layout="encoded", recode=recode))
        export_image(out, 0, out.with_suffix(".jpeg"))
        assert out.with_suffix(".jpeg").read_bytes() == data
        export_image(out, 0, out.with_suffix(".png"))
        with ImageStore(out) as store:
            assert np.array_equal(decoded(out.with_suffix(".png")), store[0][0])
