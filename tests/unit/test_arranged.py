"""`h5ingest manifest` with an order, a split, labels from a pattern, and several folders."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.archives import tar
from helpers.containers import write_parquet
from helpers.support import make_pixels, write_png
from helpers.threads import on_ranks

from h5ingest import ImageStore
from h5ingest.cli.main import run
from h5ingest.core.errors import ManifestError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.images.arrangement import Split, natural_key
from h5ingest.images.header_index import SEEN
from h5ingest.images.scan import ScanOptions
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest

SHARES = "train:0.8,val:0.1,test:0.1"


def plant(folder: Path, names: list[str]) -> Path:
    (folder / "one.png").parent.mkdir(parents=True, exist_ok=True)
    write_png(folder / "one.png", make_pixels(1, (3, 4))[0])
    data = (folder / "one.png").read_bytes()
    (folder / "one.png").unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def rows(
    source: Path | list[Path], out: Path, n: int = 1, **options: object
) -> list[dict[str, str]]:
    scan = ScanOptions(**{"overwrite": True, **options})  # type: ignore[arg-type]
    on_ranks(n, lambda comm: write_manifest(source, out, scan, comm))
    with out.open(newline="") as file:
        delimiter = "," if out.suffix == ".csv" else "\t"
        return list(csv.DictReader(file, delimiter=delimiter))


def test_the_natural_order(tmp_path: Path) -> None:
    names = [
        "a/z10.png", "a/z2.png", "a/z02.png", "a/Z1.png", "a10/1.png", "a9/1.png", "a/z.png",
        "a-b/1.png", "a/b/10/1.png", "a/b/9/1.png", "a/7.png", "a/007.png", "a/é.png",
    ]  # fmt: skip
    folder = plant(tmp_path / "photos", names)
    by_name = [row["path"] for row in rows(folder, tmp_path / "m.csv")]
    assert by_name == sorted((f"photos/{name}" for name in names), key=str.encode)
    natural = [
        "a/007.png", "a/7.png", "a/Z1.png", "a/b/9/1.png", "a/b/10/1.png", "a/z02.png", "a/z2.png",
        "a/z10.png", "a/z.png", "a/é.png", "a9/1.png", "a10/1.png", "a-b/1.png",
    ]  # fmt: skip
    for n in (1, 3):
        for name in ("m.csv", "m.tsv"):
            found = rows(folder, tmp_path / name, n, sort="natural", index=True)
            assert [row["path"] for row in found] == [f"photos/{each}" for each in natural]
    found_keys = sorted((each.encode() for each in natural), key=natural_key)
    assert [key.decode() for key in found_keys] == natural
    ingest(folder, tmp_path / "out.h5", IngestOptions(), SerialComm(),
           scan=ScanOptions(sort="natural"))  # fmt: skip
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file["paths"].asstr()) == natural


def test_the_index_follows_the_order(tmp_path: Path) -> None:
    folder = plant(tmp_path / "photos", [f"{k}.png" for k in (2, 10)])
    write_png(folder / "10.png", make_pixels(1, (7, 9))[0])
    rows(folder, tmp_path / "m.csv", sort="natural", index=True, split="a:1")
    records = np.fromfile(tmp_path / "m.csv.index", SEEN, offset=_after_line(tmp_path))
    assert records["height"].tolist() == [3, 7]
    ingest(tmp_path / "m.csv", tmp_path / "o.h5", IngestOptions(layout="ragged"))
    with ImageStore(tmp_path / "o.h5") as store:
        assert [store[k][0].shape for k in range(2)] == [(3, 4), (7, 9)]


def _after_line(folder: Path) -> int:
    return len((folder / "m.csv.index").read_bytes().split(b"\n", 1)[0]) + 1


def test_a_split_stays_what_it_is(tmp_path: Path) -> None:
    names = [f"{k % 4}/{k:04d}.png" for k in range(1000)]
    folder, out = plant(tmp_path / "photos", names), tmp_path / "m.csv"
    before = {row["path"]: row["split"] for row in rows(folder, out, split=SHARES)}
    counts = Counter(before.values())
    assert set(counts) == {"train", "val", "test"}
    assert abs(counts["train"] - 800) < 50
    assert abs(counts["val"] - 100) < 40
    for n, more in ((3, {}), (1, {"sort": "natural"}), (1, {"label": "none"})):
        assert {r["path"]: r["split"] for r in rows(folder, out, n, split=SHARES, **more)} == before
    plant(folder, [f"{k % 4}/new{k}.png" for k in range(200)])
    after = {row["path"]: row["split"] for row in rows(folder, out, split=SHARES)}
    assert {path: after[path] for path in before} == before
    other = {row["path"]: row["split"] for row in rows(folder, out, split=SHARES, seed=7)}
    assert sum(other[path] != after[path] for path in after) > 200
    (tmp_path / "deep").mkdir()
    moved = rows(folder, tmp_path / "deep" / "m.csv", split=SHARES)
    assert {row["path"].removeprefix("../"): row["split"] for row in moved} == after


def test_strata_have_exact_shares(tmp_path: Path) -> None:
    names = [f"{'rare' if k % 20 == 0 else 'often'}/{k:04d}.png" for k in range(400)]
    folder, out = plant(tmp_path / "photos", names), tmp_path / "m.csv"
    found = rows(folder, out, 3, split=SHARES, stratify="label")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in found:
        counts[row["label"]][row["split"]] += 1
    assert counts["rare"] == {"train": 16, "val": 2, "test": 2}
    assert counts["often"] == {"train": 304, "val": 38, "test": 38}
    assert rows(folder, out, split=SHARES, stratify="label") == found


def test_what_is_kept_together(tmp_path: Path) -> None:
    names = [f"p{k % 50}_{'cat' if k % 2 else 'dog'}_{k}.png" for k in range(500)]
    folder, out = plant(tmp_path / "photos", names), tmp_path / "m.csv"
    pattern = r"(?P<patient>p\d+)_(?P<label>\w+)_"
    found = rows(folder, out, label_from=pattern, split=SHARES, keep_together="patient")
    assert found[0].keys() == {"path", "label", "patient", "split"}
    splits: dict[str, set[str]] = defaultdict(set)
    for row in found:
        splits[row["patient"]].add(row["split"])
        assert row["label"] in row["path"]
        assert f"/{row['patient']}_" in row["path"]
    assert len(splits) == 50
    assert all(len(each) == 1 for each in splits.values())
    exact = rows(folder, out, label_from=pattern, split=SHARES, keep_together="patient",
                 stratify="label")  # fmt: skip
    patients = {(row["patient"], row["label"], row["split"]) for row in exact}
    assert Counter((label, split) for _, label, split in patients) == {
        ("cat", "train"): 20, ("cat", "val"): 2, ("cat", "test"): 3,
        ("dog", "train"): 20, ("dog", "val"): 2, ("dog", "test"): 3,
    }  # fmt: skip
    nested = plant(tmp_path / "deep", [f"{k % 9}/{k}.png" for k in range(90)])
    found = rows(nested, out, split=SHARES, keep_together="folder")
    assert len({(row["label"], row["split"]) for row in found}) == 9
    with pytest.raises(ManifestError, match="one value for all that is kept together"):
        rows(folder, out, split="a:0.5,b:0.5", label_from=r"p\d+_(\w+)_\d*0?", stratify="label",
             keep_together="folder")  # fmt: skip


def test_labels_from_a_pattern(tmp_path: Path) -> None:
    folder = plant(tmp_path / "photos", ["x/cat.7.png", "y/dog.8.png"])
    out = tmp_path / "m.csv"
    for pattern, labels in ((r"(\w+)\.\d", ["cat", "dog"]), (r"^\w", ["x", "y"]),
                            (r"(?P<n>\d)\D*(?P<label>png)", ["png", "png"])):  # fmt: skip
        assert [row["label"] for row in rows(folder, out, label_from=pattern)] == labels
    with pytest.raises(ManifestError, match=r"does not match --label-from\n *'y/dog"):
        rows(folder, out, label_from="cat")
    for wrong in ("(", "(?P<path>x)", "(?P<split>x)"):
        with pytest.raises(UsageError, match="--label-from"):
            ScanOptions(label_from=wrong)
    with pytest.raises(UsageError, match="does not go with --label"):
        ScanOptions(label_from="x", label="path")


def test_several_folders_at_once(tmp_path: Path) -> None:
    first = plant(tmp_path / "b", ["cat/1.png", "dog/2.png"])
    second = plant(tmp_path / "a", ["cat/3.png", "top.png"])
    archive = tar(tmp_path / "c.tar", [("dog/4.png", (first / "cat/1.png").read_bytes())])
    for n in (1, 3):
        found = rows([first, second, archive], tmp_path / "m.csv", n)
        assert [(row["path"], row["label"]) for row in found] == [
            ("b/cat/1.png", "cat"), ("b/dog/2.png", "dog"), ("a/cat/3.png", "cat"),
            ("a/top.png", "a"), ("c.tar/dog/4.png", "dog"),
        ]  # fmt: skip
        report = ingest(tmp_path / "m.csv", tmp_path / "o.h5", IngestOptions(overwrite=True))
        assert report.n_samples == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no files at all"):
        rows([first, tmp_path / "empty"], tmp_path / "m.csv", 3)
    write_parquet(tmp_path / "x.parquet", [("a", b"")], [1])
    with pytest.raises(UsageError, match="expected a folder or an archive"):
        rows([first, tmp_path / "x.parquet"], tmp_path / "m.csv", 3)


def test_the_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = plant(tmp_path / "photos", [f"{'ab'[k % 2]}/{k}.png" for k in range(100)])
    out, manifest = tmp_path / "out.h5", tmp_path / "m.csv"
    options = ["--split", "train:0.5,test:0.5", "--seed=3", "--stratify=label", "--sort=natural"]
    assert run([str(folder), str(out), "-q", *options]) == 0
    with h5py.File(out) as file:
        inner = file["columns/split"].asstr()[:].tolist()
    assert Counter(inner) == {"train": 50, "test": 50}
    assert run(["manifest", str(folder), "-o", str(manifest), "-q", *options]) == 0
    with manifest.open(newline="") as stream:
        assert [row["split"] for row in csv.DictReader(stream)] == inner
    grouped = ["--group-by=split", "--overwrite", "-q"]
    assert run([str(folder), str(out), *options, *grouped]) == 0
    with h5py.File(out) as file:
        assert len(file["train/images"]) == 50
    capfd.readouterr()
    for wrong in (
        ["--split=a:0.5"], ["--split=a:0.5,a:0.5"], ["--split=a"], ["--split=a:0,b:1"],
        ["--split=,:1"], ["--seed=3"], ["--stratify=label"], ["--sort=size"],
        ["--split=a:1", "--stratify=none"], ["--split=a:1", "--keep-together=path"],
        ["--label-from=("],
    ):  # fmt: skip
        assert run(["manifest", str(folder), "-o", str(tmp_path / "n.csv"), *wrong]) == 2, wrong
    assert not (tmp_path / "n.csv").exists()


def test_shares_add_up() -> None:
    assert Split.parse("a:0.1,b:0.2,c:0.7").ends == (0.1, 0.3, 1.0)
    assert Split.parse(",".join(f"x{k}:0.1" for k in range(10))).ends[-1] == 1.0
