"""`extend`: what an ingest of both manifests makes, from the file and the new images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.archives import packed, tar
from helpers.containers import compress, write_parquet, write_shards
from helpers.faults import differences
from helpers.layout_runs import CHUNK_BYTES, extent_chunks, ingest_on
from helpers.oracle import Kind, encode
from helpers.statistics import assert_as_in_numpy
from helpers.support import MPICH_SOON, Flavour, write_manifest
from helpers.threads import on_ranks

from h5ingest import ImageStore
from h5ingest.core.errors import IngestError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.extend import extend
from h5ingest.pipeline.report import Added, IngestReport
from h5ingest.pipeline.write_loop import WriteLoop

N, N_OLD = 60, 37
WAYS: dict[str, dict[str, Any]] = {
    "stack": {"layout": "stack", "chunk_rows": 3},
    "padded": {"layout": "stack", "fit": "pad", "pad_value": 7, "size": (20, 30)},
    "indices": {"layout": "stack", "fit": "pad", "samples": "raw", "size": (20, 30)},
    "ragged": {"layout": "ragged", "dtype": "uint16"},
    "tree": {"layout": "tree"},
    "encoded": {"layout": "encoded"},
    "recoded": {"layout": "encoded", "recode": "jxl"},
}
CODECS: dict[str, dict[str, Any]] = {
    "none": {}, "zstd": {"compression": "zstd:3"},
    "shuffle": {"compression": "gzip:1", "shuffle": True},
    "htj2k": {"compression": "htj2k", "chunk_rows": None}, "auto": {"compression": "auto"},
}  # fmt: skip
CASES = {
    "stack": ("none", "zstd grouped", "htj2k", "auto grouped"), "indices": ("none",),
    "padded": ("shuffle", "none grouped"), "ragged": ("zstd", "none grouped", "auto"),
    "tree": ("none", "shuffle grouped", "htj2k"), "encoded": ("none", "none grouped"),
    "recoded": ("none",),
}  # fmt: skip
"""Of each way, codecs, with groups or without."""
BLANK = IngestOptions(on_error="blank", batch_bytes=700)
IGNORED = {"attribute manifest_name", "attribute manifest_sha256"}
Row = tuple[object, ...]


def extend_on(
    n_ranks: int, manifest: Path, out: Path, options: IngestOptions = BLANK, *, again: bool = False
) -> IngestReport:
    """On ranks that are threads."""
    return on_ranks(n_ranks, lambda comm: extend(manifest, out, options, comm, again=again))[0]


def h5_attribute(path: Path, name: str) -> str:
    with h5py.File(path) as file:
        return str(file.attrs.get(name, ""))


def digest(path: Path) -> str:
    return h5_attribute(path, "content_digest")


def write_sources(folder: Path, kind: str) -> list[Row]:
    """Sixty images in three groups, some of which fail; odd names, columns, labels."""
    rows: list[Row] = [("path", "label", "split", "age", "note")]
    labels = ("ant", "caf\udce9", "paths") if kind == "palette" else ("01", "2", "3")
    for row in range(N):
        height, width = (8, 9) if kind == "equal" else (1 + row * 5 % 17, 1 + row * 11 % 23)
        colour = "palette" if kind == "palette" else "rgb"
        colour = "gray" if kind == "mixed" and row % 3 == 0 else colour
        seed = row if kind != "palette" else 1
        data = encode(Kind(colour=colour, depth=8), height, width, seed).data
        if row in (0, 17, N_OLD, N - 1):
            data = b"no image"
        elif row in (5, 41):  # its header is good
            data = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        name = f"{kind}/{row}/im\udcff_{row % 7}.png"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(data)
        rows.append(
            (name, labels[row % 3], ("tr", "a/b", "..")[row // 2 % 3], row if row < 50 else row / 4,
             ("x", "", "caf\udce9")[row % 3])
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Path]]:
    """Kind -> the manifests of all images, of the first ones and of the others."""
    folder, found = tmp_path_factory.mktemp("sources"), {}
    for kind in ("equal", "mixed", "palette"):
        rows = write_sources(folder, kind)
        found[kind] = (
            write_manifest(folder / f"{kind}-all.csv", rows),
            write_manifest(folder / f"{kind}-old.csv", rows[: N_OLD + 1]),
            write_manifest(folder / f"{kind}-new.csv", [rows[0], *rows[N_OLD + 1 :]]),
        )
    return found


@pytest.mark.parametrize("way", WAYS)
def test_it_makes_what_an_ingest_of_both_makes(
    way: str, sources: dict[str, tuple[Path, Path, Path]], tmp_path: Path
) -> None:
    kind = "palette" if way == "indices" else "equal" if way == "stack" else "mixed"
    every, old, new = sources[kind]
    for number, case in enumerate(CASES[way]):
        codec, _, grouped = case.partition(" ")
        more = {"group_by": "split"} if grouped else {}
        options = IngestOptions(**{**WAYS[way], **CODECS[codec], **more, "on_error": "blank"})
        told = f"{way} {case}"
        whole, out = tmp_path / f"{number}-whole.h5", tmp_path / f"{number}.h5"
        with extent_chunks(CHUNK_BYTES):
            ingest_on(2, every, whole, options)
            ingest_on(1, old, out, options)
            report = extend_on(1 + number % 3, new, out)
        ignored = {*IGNORED, *["attribute options"] * (codec == "auto")}  # of another sample
        assert set(differences(whole, out)) <= ignored, told
        assert digest(whole) == digest(out) == report.content_digest, told
        for group in json.loads(h5_attribute(out, "groups") or "[null]"):
            assert_as_in_numpy(out, group)
        if number == 0:
            found = verify(out)
            assert found.ok, (told, found.problems, found.bad)
        assert report.added == Added(n_before=N_OLD), told
        assert {failure.index for failure in report.failures} == {N_OLD, 41, N - 1}, told
        assert not [*tmp_path.glob(f"{number}.h5.*.csv"), *tmp_path.glob(f"{number}.h5.partial")]


@pytest.mark.parametrize("case", ["stack", "ragged", "tree", "padded groups"])
def test_compressed_chunks_are_copied_and_not_compressed_again(
    case: str,
    sources: dict[str, tuple[Path, Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way, _, grouped = case.partition(" ")
    every, old, new = sources["equal" if way == "stack" else "mixed"]
    more: dict[str, Any] = {"group_by": "split", "chunk_rows": 2} if grouped else {}
    level = {"compression": "zstd:2", "on_error": "blank", **more}
    options, out = IngestOptions(**{**WAYS[way], **level}), tmp_path / "out.h5"
    seen: list[int] = []

    def copied(loop: WriteLoop, n_images: int, chunks: Sequence[tuple[int, bytes]]) -> None:
        seen.append(n_images)
        count_copied(loop, n_images, chunks)

    count_copied = WriteLoop._count_copied
    with extent_chunks(CHUNK_BYTES):
        ingest_on(3, every, tmp_path / "whole.h5", options)
        ingest_on(2, old, out, options)
        monkeypatch.setattr(WriteLoop, "_count_copied", copied)
        report = extend_on(3, new, out)
    assert report.content_digest == digest(tmp_path / "whole.h5")
    assert N_OLD - 10 <= sum(seen) <= N_OLD, seen
    assert set(differences(tmp_path / "whole.h5", out)) <= IGNORED


# --- which images ---------------------------------------------------------------------------------


def write_rows(folder: Path, names: str, rows: Sequence[int], first: int = 0) -> Path:
    """A manifest with a label for each letter, and an image for each number."""
    lines: list[Row] = [("path", "label")]
    for letter, row in zip(names, rows, strict=True):
        path = folder / f"{row}.png"
        if not path.exists():
            path.write_bytes(encode(Kind(colour="gray", depth=8), 4, 5, row).data)
        lines.append((path.name, letter))
    return write_manifest(folder / f"{names}{first}.csv", lines)


def content(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Classes in their order, and label and path of each row."""
    with h5py.File(path) as file:
        names = file["label_names"].asstr()[:].tolist()
        labels = [names[label] for label in file["labels"][:]]
        return names, labels, [Path(name).stem for name in file["paths"].asstr()[:]]


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_images_whose_paths_are_known_are_left_out_or_replaced(
    n_ranks: int, tmp_path: Path
) -> None:
    out, old = tmp_path / "out.h5", write_rows(tmp_path, "bcbcb", range(5))
    ingest_on(1, old, out, IngestOptions())
    first = digest(out)
    new = write_rows(tmp_path, "xaza", (3, 6, 1, 5))  # x and z are of images that are there
    report = extend_on(n_ranks, new, out)
    assert report.added == Added(n_before=5, n_skipped=2)
    assert content(out) == (["b", "c", "a"], [*"bcbcbaa"], [*"0123465"])
    assert verify(out).ok
    ingest_on(1, old, tmp_path / "again.h5", IngestOptions())
    assert digest(tmp_path / "again.h5") == first, "the same job again"
    (tmp_path / "3.png").write_bytes(encode(Kind(colour="gray", depth=8), 4, 5, 77).data)
    report = extend_on(n_ranks, new, out, again=True)
    assert report.added == Added(n_before=7, n_replaced=4)
    assert content(out) == (["b", "c", "a", "x", "z"], [*"bbbxaza"], [*"0243615"])
    assert verify(out).ok
    rows = write_rows(tmp_path, "bbbxaza", (0, 2, 4, 3, 6, 1, 5))
    ingest_on(2, rows, tmp_path / "whole.h5", IngestOptions())
    with h5py.File(out) as one, h5py.File(tmp_path / "whole.h5") as other:
        assert (one["images"][:] == other["images"][:]).all()


def test_an_extension_with_classes_that_come_last_is_an_ingest_of_both(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    ingest_on(1, write_rows(tmp_path, "bc", (0, 1)), out, IngestOptions())
    extend_on(2, write_rows(tmp_path, "dbe", (2, 3, 4)), out)
    ingest_on(1, write_rows(tmp_path, "bcdbe", range(5)), tmp_path / "whole.h5", IngestOptions())
    assert digest(out) == digest(tmp_path / "whole.h5")


def test_with_nothing_new_the_file_is_not_touched(tmp_path: Path) -> None:
    out, old = tmp_path / "out.h5", write_rows(tmp_path, "bcb", range(3))
    ingest_on(1, old, out, IngestOptions())
    before, inode = out.read_bytes(), out.stat().st_ino
    report = extend_on(3, old, out)
    assert (report.added, report.n_samples) == (Added(n_before=3, n_skipped=3), 3)
    assert report.content_digest == digest(out)
    assert (out.read_bytes(), out.stat().st_ino) == (before, inode)
    assert {path.name for path in tmp_path.glob("out*")} == {"out.h5"}


def test_a_dry_run_says_what_would_be_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    ingest_on(1, write_rows(tmp_path, "bcb", range(3)), out, IngestOptions())
    before = out.read_bytes()
    new = write_rows(tmp_path, "bab", (1, 3, 4))
    known = {*tmp_path.iterdir()}
    report = extend_on(2, new, out, IngestOptions(dry_run=True))
    assert (report.n_samples, report.dry_run) == (5, True)
    assert report.added == Added(n_before=3, n_skipped=1)
    assert {*tmp_path.iterdir()} == known
    assert out.read_bytes() == before


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, bytes]]]:
    """A folder of thirty images in three classes; and their names and files in order."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    files = []
    for row in range(30):
        name = f"{('ant', 'bee', 'cat')[row % 3]}/{row:02}.png"
        data = encode(Kind(colour="rgb", depth=8), 5 + row % 4, 7, row).data
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        files.append((name, data))
    return folder, sorted(files)


def test_a_folder_or_an_archive_is_added_like_a_manifest(
    photos: tuple[Path, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    folder, files = photos
    old = [file for file in files if int(file[0][4:6]) < 12]
    new = [file for file in files if int(file[0][4:6]) >= 12]
    ragged = IngestOptions(layout="ragged")
    first = tmp_path / "first.h5"
    ingest_on(2, packed(tmp_path / "old.zip", old), first, ragged)
    rows = [("path", "label"), *((name, name[:3]) for name, _ in old + new)]
    both = write_manifest(tmp_path / "both.csv", rows)
    root = IngestOptions(layout="ragged", root=folder)
    wanted = ingest_on(1, both, tmp_path / "both.h5", root).content_digest
    (tmp_path / "june").mkdir()
    for name, data in new:
        (tmp_path / "june" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "june" / name).write_bytes(data)
    sources = {
        "june": 0, "june.tar": 0, "june.zip": 0, "june.tar.gz": 0, "photos": len(old),
        "photos.tar": len(old), "photos.parquet": len(old), "s": len(old),
    }  # fmt: skip
    tar(tmp_path / "june.tar", new)
    packed(tmp_path / "june.zip", new)
    compress(tmp_path / "june.tar", ".tar.gz")
    (tmp_path / "photos").symlink_to(folder)
    tar(tmp_path / "photos.tar", files)
    labels = [("ant", "bee", "cat").index(name[:3]) for name, _ in files]
    write_parquet(tmp_path / "photos.parquet", files, labels, class_names=("ant", "bee", "cat"))

    def beside(k: int) -> dict[str, bytes]:
        name = files[k][0]
        return {"cls": name[:3].encode(), "json": json.dumps({"path": name}).encode()}

    write_shards(tmp_path / "s", files, 7, beside)
    for number, (name, n_skipped) in enumerate(sources.items()):
        for n_ranks in (1, 3)[number % 2 :] if n_skipped else (1, 3):
            out = tmp_path / "out.h5"
            out.write_bytes(first.read_bytes())
            report = extend_on(n_ranks, tmp_path / name, out)
            assert report.added == Added(n_before=len(old), n_skipped=n_skipped), name
            assert report.content_digest == digest(out) == wanted, name
            left = {path.name for path in tmp_path.glob("*out.h5*")}
            assert left == {"out.h5"}, "nothing is left beside it"
    found = verify(out)
    assert found.ok, found.problems
    with h5py.File(out) as file:
        assert file.attrs["manifest_name"] == "old.zip, s/"
    report = extend_on(3, tmp_path / "photos.tar", out, again=True)
    assert report.added == Added(n_before=30, n_replaced=30)
    with ImageStore(out) as store:
        assert store.paths[:] == [name for name, _ in files]
    dry = IngestOptions(dry_run=True, on_error="blank")
    for name in ("june.zip", "photos.parquet"):
        out.write_bytes(first.read_bytes())
        report = extend_on(3, tmp_path / name, out, dry)
        assert report.added == Added(n_before=len(old), n_skipped=sources[name])
        assert out.read_bytes() == first.read_bytes()
    assert not [*tmp_path.glob("out.h5.*"), *tmp_path.glob(".h5*")]


def test_numbered_samples_of_two_files_are_not_taken_for_each_other(tmp_path: Path) -> None:
    pixels = np.arange(8 * 5 * 4, dtype=np.uint8).reshape(8, 5, 4)
    for name, some in (("may", pixels[:4]), ("june", pixels[4:])):
        np.save(tmp_path / f"{name}.npy", some)
    out = tmp_path / "out.h5"
    ingest_on(1, tmp_path / "may.npy", out, IngestOptions())
    for n_skipped in (0, 4):
        report = extend_on(2, tmp_path / "june.npy", out)
        assert report.added == Added(n_before=4 + n_skipped, n_skipped=n_skipped)
    with ImageStore(out) as store:
        assert np.array_equal(store[:][0], pixels)
        assert [path.rpartition("/")[0] for path in store.paths] == [""] * 4 + ["june.npy"] * 4


def test_manifests_without_a_heading_and_with_blank_lines(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    ingest_on(1, write_rows(tmp_path, "bcb", range(3)), out, IngestOptions())
    write_rows(tmp_path, "xyz", range(3, 6))
    new = tmp_path / "more.txt"
    new.write_text("\n1.png\tb\n\n3.png\tc\n  \n0.png\tc\n4.png\tb")
    report = extend_on(3, new, out)
    assert report.added == Added(n_before=3, n_skipped=2)
    assert content(out) == (["b", "c"], [*"bcbcb"], [*"01234"])


# --- what is refused ------------------------------------------------------------------------------


def refused(manifest: Path, out: Path, options: IngestOptions = BLANK, n_ranks: int = 2) -> str:
    """Why it is; the file stays as it is, and nothing is left beside it."""
    before = out.read_bytes()
    with pytest.raises(IngestError) as caught:
        extend_on(n_ranks, manifest, out, options)
    assert out.read_bytes() == before
    left = {path.suffix for path in out.parent.glob(f"{out.name}.*")} - {".tsv"}
    assert not left, left
    return str(caught.value)


def test_what_does_not_fit_the_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    ingest_on(1, write_rows(tmp_path, "bcb", range(3)), out, IngestOptions())
    new = write_rows(tmp_path, "bb", (5, 6))
    options = IngestOptions(compression="zstd:3")
    assert "--compression cannot apply" in refused(new, out, options)
    bare = write_manifest(tmp_path / "bare.csv", ["path", "5.png"])
    assert "expected the columns of the file, path, label; found path" in refused(bare, out)
    (tmp_path / "7.png").write_bytes(encode(Kind(colour="rgb", depth=8), 4, 5, 1).data)
    told = refused(write_rows(tmp_path, "b", (7,)), out)
    assert "its images are 4x5 gray uint8; with those of the manifest all would be 4x5 RGB" in told
    (tmp_path / "8.png").write_bytes(encode(Kind(colour="gray", depth=8), 9, 9, 1).data)
    told = refused(write_rows(tmp_path, "c", (8,)), out)
    assert "3 x 4x5 gray uint8 (first: in the file already)" in told
    numbers = write_manifest(tmp_path / "n.csv", ["path,label", "5.png,1"])
    plain = tmp_path / "plain.h5"
    ingest_on(1, numbers, plain, IngestOptions())
    assert "expected labels that are numbers" in refused(new, plain)
    table = write_manifest(tmp_path / "t.csv", ["path,n", "5.png,1"])
    words = write_manifest(tmp_path / "w.csv", ["path,n", "6.png,007"])
    counted = tmp_path / "counted.h5"
    ingest_on(1, table, counted, IngestOptions())
    assert "column 'n': expected int64, as in the file, found text" in refused(words, counted)
    gone = write_manifest(tmp_path / "g.csv", ["path,label", "gone.png,b", "6.png,b"])
    assert "1 missing" in refused(gone, out, IngestOptions())
    with pytest.raises(IngestError, match=r"none\.h5: "):
        extend_on(1, new, tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("name", "compression", "why"),
    [("labels", None, "content digest"), ("paths", None, "content digest"),
     ("checksums", "zstd:1", "content digest"), ("images", None, "damaged"),
     ("images", "zstd:1", "damaged")],
)  # fmt: skip
def test_a_file_that_was_changed_is_not_extended(
    name: str, compression: str | None, why: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    options = IngestOptions(compression=compression, chunk_rows=2)
    ingest_on(1, write_rows(tmp_path, "bcbcb", range(5)), out, options)
    with h5py.File(out, "r+") as file:
        if name == "paths":
            file[name][1] = "other.png"
        elif compression and name == "images":
            mask, data = file[name].id.read_direct_chunk((2, 0, 0))
            changed = data[:-1] + bytes([data[-1] ^ 1])
            file[name].id.write_direct_chunk((2, 0, 0), changed, mask)
        else:
            file[name][1] ^= 1
    new = write_rows(tmp_path, "bb", (5, 6))
    before = out.read_bytes()
    with pytest.raises(IngestError, match=why):
        extend_on(2, new, out, IngestOptions(batch_bytes=1))
    assert out.read_bytes() == before


@MPICH_SOON
def test_the_command_says_what_it_did(flavour: Flavour, tmp_path: Path) -> None:
    out, old = tmp_path / "out.h5", write_rows(tmp_path, "bcbcb", range(5))
    new = write_rows(tmp_path, "xaza", (3, 6, 1, 5))
    jobs: list[list[str | Path]] = [
        [old, out, "-q", "--compression", "gzip:1", "--chunk", "2"],
        ["extend", new, out, "--report", tmp_path / "report.json", "--progress", "off"],
        ["extend", new, out], ["extend", new, out, "--again", "--dry-run"], ["verify", out, "-q"],
        ["extend", out, out], ["extend", new, new],
    ]  # fmt: skip
    done = flavour.run_many(3, jobs, tmp_path / "told")
    assert [each.returncode for each in done] == [0, 0, 0, 0, 0, 2, 2], done
    assert "2 images after the 5 that were there" in done[1].stdout
    assert "2 whose paths are in it already" in done[1].stdout
    assert "none is added" in done[2].stdout
    assert "4 rows, by new images" in done[3].stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["added"] == {"n_before": 5, "n_skipped": 2, "n_replaced": 0}
    assert report["content_digest"] == digest(out)
    with h5py.File(out) as file:
        assert file.attrs["manifest_name"] == f"{old.name}, {new.name}"
        assert file["images"].chunks == (2, 4, 5)
