"""Shards, compressed tars, Parquet, LMDB, idx, NumPy, pickles, HDF5: the file is that of PNGs."""

from __future__ import annotations

import collections
import gzip
import io
import json
import os
import pickle
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers.archives import Member, tar
from helpers.containers import (
    compress,
    idx,
    write_everything,
    write_idx,
    write_lmdb,
    write_parquet,
    write_shards,
)
from helpers.support import (
    MPICH_SOON,
    Flavour,
    Stops,
    error_lines,
    make_pixels,
    read_file,
    write_png,
)
from helpers.threads import on_ranks
from PIL import Image

from h5ingest.cli.main import run
from h5ingest.core.errors import (
    IngestError,
    ManifestError,
    OutputError,
    SampleError,
    SamplesFailedError,
    SetupError,
    StoppedError,
)
from h5ingest.core.options import IngestOptions
from h5ingest.images import unpacked
from h5ingest.images.archives import PathReader
from h5ingest.images.containers import parquet, safe_pickle
from h5ingest.images.containers.container import as_png
from h5ingest.images.decode import decode_into, probe
from h5ingest.images.scan import ScanOptions
from h5ingest.images.unpacked import Unpacker
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.job import ProgressListener
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest

N = 200
PIXELS = make_pixels(N, (5, 6))
LABELS = [k % 3 for k in range(N)]
NAMES = [f"{k:05d}.png" for k in range(N)]
SMALL: dict[str, Any] = {"cache_bytes": 0, "batch_bytes": 300, "chunk_rows": 1}
NO_LABELS = ScanOptions(label="none")

_opened: Counter[str] = Counter()


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        _opened[os.path.basename(os.fsdecode(arguments[0]))] += 1


sys.addaudithook(_count)


def png(pixels: Any, folder: Path) -> bytes:
    write_png(folder / "one.png", pixels)
    data = (folder / "one.png").read_bytes()
    (folder / "one.png").unlink()
    return data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    folder = tmp_path_factory.mktemp("png")
    return [(name, png(each, folder)) for name, each in zip(NAMES, PIXELS, strict=True)]


def stored(
    source: Path | str, out: Path, n: int = 1, scan: ScanOptions | None = None, **options: Any
) -> IngestReport:
    """Ingest; nothing is left beside the output, whether it succeeds or not."""
    chosen, before = IngestOptions(**{"overwrite": True, **options}), set(os.listdir(out.parent))
    try:
        if n == 1:
            return ingest(Path(source), out, chosen, SerialComm(), scan=scan)
        return on_ranks(n, lambda comm: ingest(Path(source), out, chosen, comm, scan=scan))[0]
    finally:
        left = set(os.listdir(out.parent)) - before - {out.name}
        assert not [name for name in left if "failed" not in name], left


def columns(out: Path) -> dict[str, list[Any]]:
    """All 1-D datasets of a file, texts decoded."""
    with h5py.File(out) as file:
        found = {}
        for name, item in [*file.items(), *file.get("columns", {}).items()]:
            if isinstance(item, h5py.Dataset) and item.ndim == 1 and "checksum" not in name:
                found[name] = list(item.asstr() if h5py.check_string_dtype(item.dtype) else item)
        return found


# --- the same content from everything ------------------------------------------------------------


def test_the_content_is_that_of_the_files(tmp_path: Path, files: list[Member]) -> None:
    every = write_everything(tmp_path, files, list(PIXELS), LABELS)
    out = tmp_path / "out.h5"
    ragged: dict[str, Any] = {"layout": "ragged", "compression": "gzip", "probe": "all"}
    for scan, ways, source, root in (
        (None, every.labelled, every.manifest, every.folder),
        (NO_LABELS, every.plain, every.folder, None),
    ):
        wanted, in_ragged = (
            stored(source, out, scan=scan, root=root, **options).content_digest
            for options in ({}, ragged)
        )
        for way, path in ways.items():
            report = stored(path, out, scan=scan, **SMALL)
            assert (report.content_digest, report.warnings) == (wanted, ()), way
            if way in ("shards", ".tar.gz", "parquet", "npz deflated", "lmdb"):
                found = stored(path, out, 3, scan=scan, **ragged)
                assert found.content_digest == in_ragged, way


@MPICH_SOON
def test_the_content_is_the_same_on_real_ranks(
    tmp_path: Path, files: list[Member], flavour: Flavour
) -> None:
    every = write_everything(tmp_path, files, list(PIXELS), LABELS)
    jobs: list[list[str | Path]] = [[every.manifest, "--root", every.folder]]
    jobs += [[source, "--cache-bytes=0"] for source in every.labelled.values()]
    jobs += [[source, "--label=none"] for source in (every.folder, *every.plain.values())]
    outs = [tmp_path / f"{k}.h5" for k in range(len(jobs))]
    commands = [[job[0], out, *job[1:]] for job, out in zip(jobs, outs, strict=True)]
    done = flavour.checked().run_many(3, commands, tmp_path / "told")
    assert [each.returncode for each in done] == [0] * len(jobs)
    digests = [read_file(out).attrs["content_digest"] for out in outs]
    n = 1 + len(every.labelled)
    assert len(set(digests[:n])) == len(set(digests[n:])) == 1
    assert not [name for name in os.listdir(tmp_path) if ".h5." in name or name.startswith(".")]


@pytest.mark.parametrize("corpus", ["mnist/test/7", "kodak"])
def test_real_images(tmp_path: Path, corpora: Path, corpus: str) -> None:
    paths = sorted((corpora / corpus).rglob("*.png"))[: 6 if corpus == "kodak" else 150]
    some = [(f"{k:05d}.png", path.read_bytes()) for k, path in enumerate(paths)]
    pixels = [np.asarray(Image.open(path)) for path in paths]
    every = write_everything(tmp_path, some, pixels, [k % 7 for k in range(len(some))])
    out = tmp_path / "out.h5"
    options: dict[str, Any] = {"layout": "ragged"}
    for wanted, ways, scan in (
        (stored(every.manifest, out, root=every.folder, **options), every.labelled, None),
        (stored(every.folder, out, scan=NO_LABELS, **options), every.plain, NO_LABELS),
    ):
        for n, (way, source) in enumerate(ways.items()):
            report = stored(source, out, 1 + 2 * (n % 2), scan=scan, **options)
            assert report.content_digest == wanted.content_digest, way


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 2), (3, 4, 3), (3, 4, 4), (3, 7, 9)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
def test_pixels_as_a_png(shape: tuple[int, ...], dtype: str) -> None:
    pixels = make_pixels(1, shape, "uint8" if dtype == "uint8" else "uint16")[0].astype(dtype)
    expected = np.moveaxis(pixels, 0, 2) if shape[-1] == 9 else pixels
    expected = expected[..., 0] if shape[-1] == 1 else expected
    data = as_png(pixels)
    spec = probe(data)
    assert spec is not None
    found = np.empty(spec.shape, spec.dtype)
    decode_into(data, found)
    assert (found == expected).all()
    assert found.shape == expected.shape


# --- WebDataset ----------------------------------------------------------------------------------


def test_what_lies_beside_an_image(tmp_path: Path, files: list[Member]) -> None:
    def about(k: int) -> dict[str, bytes]:
        extra = {"width": k, "score": k / 8, "ok": k % 2 == 0, "who": 'é,"x"', "deep": {"a": 1}}
        found = {"cls": b"cat\n" if k % 2 else b"dog", "json": json.dumps(extra).encode()}
        return found | ({"txt": f"caption {k}\nof two".encode()} if k != 3 else {})

    folder = write_shards(tmp_path / "wds", files[:30], 12, about)
    out = tmp_path / "out.h5"
    notices: list[str] = []

    class Watch(ProgressListener):
        def notice(self, text: str) -> None:
            notices.append(text)

    ingest(folder, out, IngestOptions(), SerialComm(), watch=Watch())
    found = columns(out)
    assert found["paths"][:2] == ["s-000000.tar/00000.png", "s-000000.tar/00001.png"]
    assert found["paths"][29] == "s-000002.tar/00029.png"
    with h5py.File(out) as file:
        assert list(file["label_names"].asstr()) == ["cat", "dog"]
    assert found["labels"] == [int(k % 2 == 0) for k in range(30)]
    assert found["width"] == list(range(30))
    assert found["score"] == [k / 8 for k in range(30)]
    assert found["ok"] == [int(k % 2 == 0) for k in range(30)]
    assert set(found["who"]) == {'é,"x"'}
    assert found["txt"][2:5] == ["caption 2 of two", "", "caption 4 of two"]
    assert "deep" not in found
    said = "\n".join(notices)
    assert "30 x value in a .json that is not plain" in said
    assert "29 x text with line ends or tabs, which become blanks" in said
    assert run(["verify", str(out), "--sources", "-q", "--root", str(folder)]) == 0


def test_shards_are_told_by_their_names(tmp_path: Path, files: list[Member]) -> None:
    folder = write_shards(tmp_path / "wds", files[:40], 10, lambda k: {"cls": b"%d" % (k % 4)})
    out = tmp_path / "out.h5"
    for name, n in (("s-{000001..000002}.tar", 20), ("s-00000[13].tar", 20), ("*.tar", 40),
                    ("{s-000003,s-000000}.tar", 20), ("s-000001.tar", 10)):  # fmt: skip
        report = stored(folder / name, out)
        assert report.n_samples == n, name
        found = columns(out)
        numbers = [int(Path(path).stem) for path in found["paths"]]
        assert found["labels"] == [number % 4 for number in numbers]
    assert columns(out)["paths"][0] == "00010.png", "a shard alone is a folder"
    stored(folder / "{s-000003,s-000000}.tar", out)
    assert columns(out)["paths"][0] == "s-000003.tar/00030.png"
    for name, said in (("s-{000003..000004}.tar", "s-000004.tar: no such file, though"),
                       ("x*.tar", "no such files"),
                       ("{s-000001,s-000001}.tar", "one of them twice"),
                       ("../wds/../*", "expected archives")):  # fmt: skip
        with pytest.raises(ManifestError, match=said):
            stored(folder / name, out)
    (tmp_path / "[x]").mkdir()
    (tmp_path / "[x]" / "m.txt").write_text("path\n../wds/s-000001.tar/00010.png\n")
    assert stored(tmp_path / "[x]" / "m.txt", out).n_samples == 1


def test_archives_of_classes_are_folders(tmp_path: Path, files: list[Member]) -> None:
    for k, name in enumerate(("n01", "n02")):
        (tmp_path / "tars").mkdir(exist_ok=True)
        tar(tmp_path / "tars" / f"{name}.tar", files[k * 5 : k * 5 + 5][::-1])
    compress(tmp_path / "tars" / "n01.tar", ".tar.zst")
    (tmp_path / "tars" / "n01.tar").unlink()
    out = tmp_path / "out.h5"
    for n in (1, 3):
        stored(tmp_path / "tars", out, n)
        found = columns(out)
        with h5py.File(out) as file:
            assert list(file["label_names"].asstr()) == ["n01", "n02"]
        assert found["labels"] == [0] * 5 + [1] * 5
        assert found["paths"] == [
            f"n0{1 + k // 5}.tar{'' if k > 4 else '.zst'}/{NAMES[k]}" for k in range(10)
        ]


@pytest.mark.parametrize("n", [1, 3])
def test_shards_are_opened_by_those_who_read_them(
    tmp_path: Path, files: list[Member], n: int
) -> None:
    folder = write_shards(tmp_path / "wds", files, 50, lambda k: {"cls": b"1"})
    _opened.clear()
    stored(folder, tmp_path / "out.h5", n, **SMALL, readers=4)
    counts = [_opened[f"s-{k:06d}.tar"] for k in range(4)]
    # once to look through it, and by one or two ranks, or three where borders move, to read
    assert all(2 <= each <= 1 + min(n, 3) for each in counts), counts
    assert sum(counts) <= 4 + 4 + 2 * (n - 1)
    assert not [name for name in _opened if name.endswith(".png")]


def shard(folder: Path, members: list[Member]) -> Path:
    return tar(folder / "s-000000.tar", members)


def test_shards_that_cannot_be(tmp_path: Path, files: list[Member]) -> None:
    one, two = files[0][1], files[1][1]
    bad: list[tuple[list[Member], str]] = [
        ([("a.png", one), ("a.cls", b"1"), ("a.seg.png", two)], "image in a sample, found a.png"),
        ([("a.png", one), ("a.cls", b"1"), ("a.json", b"{")], "a .json that is none"),
        ([("a.png", one), ("a.cls", b"1"), ("a.json", b"[1]")], "expected names and values"),
        ([("a.png", one), ("a.cls", b"1"), ("b.png", two)], "no label, though others have one"),
        ([("a.png", one), ("a.cls", b"1"), ("a.json", b'{"path": "x\\ny"}')], "a line end or tab"),
        ([("a.png", one), ("a.cls", b"1"), ("a.txt", bytes(2**20 + 1))], "at most 1,048,576"),
        ([("a.cls", b"1"), ("a.txt", b"2")], "expected images"),
    ]  # fmt: skip
    for members, said in bad:
        with pytest.raises(ManifestError, match=said):
            stored(shard(tmp_path, members), tmp_path / "out.h5", 3)
    whole = shard(tmp_path, [*files[:9], *((f"{k:05d}.cls", b"1") for k in range(9))])
    whole.write_bytes(whole.read_bytes()[:8720])
    (tmp_path / "s-000001.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ManifestError, match=r"s-000000\.tar ends within a member"):
        stored(tmp_path / "s-*.tar", tmp_path / "out.h5")
    report = stored(tmp_path / "s-*.tar", tmp_path / "out.h5", scan=NO_LABELS, on_error="blank")
    assert (report.n_samples, len(report.failures)) == (9, 1)


# --- compressed tars -----------------------------------------------------------------------------


def test_an_output_among_its_sources(tmp_path: Path, files: list[Member]) -> None:
    tar(tmp_path / "a.tar", files[:9])
    compress(tar(tmp_path / "b.tar", files[9:15]), ".tar.gz")
    report = ingest(tmp_path, tmp_path / "out.h5", IngestOptions(), SerialComm())
    assert report.n_samples == 21
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar", "b.tar.gz", "out.h5"]


def test_members_of_compressed_tars_in_a_manifest(tmp_path: Path, files: list[Member]) -> None:
    archive = tar(tmp_path / "a.tar", files[:20])
    compress(archive, ".tar.gz")
    compress(archive, ".tar.zst")
    ends = (".tar", ".tar.gz", ".tar.zst")
    (tmp_path / "m.txt").write_text("".join(f"a{e}/{NAMES[k]}\n" for k in range(20) for e in ends))
    out = tmp_path / "out.h5"
    for n in (1, 3):
        stored(tmp_path / "m.txt", out, n, **SMALL)
        with h5py.File(out) as file:
            assert (file["images"][:] == np.repeat(PIXELS[:20], 3, axis=0)).all()
    assert run(["verify", str(out), "--sources", "-q"]) == 0
    assert stored(tmp_path / "m.txt", out, dry_run=True).dry_run
    made = tmp_path / "made.csv"
    assert run(["manifest", str(tmp_path / "a.tar.gz"), "-o", str(made), "-q"]) == 0
    assert made.read_text().splitlines()[:2] == ["path,label", "a.tar.gz/00000.png,a"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_compressed_tars_that_are_damaged(
    tmp_path: Path, files: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, archive = tmp_path / "out.h5", tar(tmp_path / "a.tar", files)
    for end in (".tar.gz", ".tar.zst"):
        path = compress(archive, end)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        for data in (whole[: len(whole) // 2], bytes(flipped), whole[:-9], b""):
            path.write_bytes(data)
            with pytest.raises(ManifestError, match=r"unpacked beyond|cut off|damaged|no tar"):
                stored(path, out, 3 if data else 1)
        path.write_bytes(whole[: len(whole) * 4 // 5])
        assert 0 < stored(path, out, on_error="blank").n_samples < N
        path.write_bytes(whole)
    monkeypatch.setattr(unpacked, "ALWAYS_BYTES", 10_000)
    bomb = tmp_path / "bomb.tar.zst"
    bomb.write_bytes(zstandard.compress(bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ManifestError, match="250 times its size"):
        stored(bomb, out)
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_no_space_to_unpack(tmp_path: Path, files: list[Member]) -> None:
    path = compress(tar(tmp_path / "a.tar", files), ".tar.gz")
    (tmp_path / "out.h5.unpacked").write_text("somebody's file")
    with pytest.raises(OutputError, match="cannot be unpacked into"):
        ingest(path, tmp_path / "out.h5", IngestOptions(), SerialComm())
    assert (tmp_path / "out.h5.unpacked").read_text() == "somebody's file"


def test_a_job_goes_on_with_what_was_unpacked(
    tmp_path: Path, files: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, watch = (
        compress(tar(tmp_path / "a.tar", files), ".tar.gz"),
        tmp_path / "o.h5",
        Stops(),
    )
    options = IngestOptions(batch_bytes=30, checkpoint_s=0.001, readers=0)
    with pytest.raises(StoppedError):
        ingest(path, out, options, SerialComm(), watch=watch, interrupt=watch.interrupt)
    [name] = os.listdir(tmp_path / "o.h5.unpacked")
    assert name.endswith(".whole.tar")

    def never(*_: Any) -> Any:
        raise AssertionError("it is unpacked again")

    with monkeypatch.context() as patch:
        patch.setattr(unpacked, "_copy", never)
        report = on_ranks(3, lambda comm: ingest(path, out, options, comm))[0]
    assert report.n_resumed
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.gz", "o.h5"]
    with h5py.File(out) as file:
        assert (file["images"][:] == PIXELS).all()


def test_what_was_unpacked_stays_where_a_job_is_stopped(
    tmp_path: Path, files: list[Member]
) -> None:
    path, out = compress(tar(tmp_path / "a.tar", files), ".tar.gz"), tmp_path / "o.h5"

    class StopsEarly(Stops):
        def phase(self, name: str, n_images: int) -> None:
            self.interrupt.requested = name == "probe"

    watch = StopsEarly()
    with pytest.raises(StoppedError):
        ingest(path, out, IngestOptions(), SerialComm(), watch=watch, interrupt=watch.interrupt)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.gz", "o.h5.unpacked"]
    [name] = os.listdir(tmp_path / "o.h5.unpacked")
    assert name.endswith(".whole.tar")
    with pytest.raises(SamplesFailedError):
        ingest(path, out, IngestOptions(max_pixels=1, probe="all"), SerialComm())
    (tmp_path / "o.h5.failed.tsv").unlink()
    assert "o.h5.unpacked" not in os.listdir(tmp_path), "a job that is refused leaves nothing"
    ingest(path, out, IngestOptions(), SerialComm())
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.gz", "o.h5"]


@pytest.mark.parametrize("name", ["*.tar", "a.npz:x"])
def test_a_job_goes_on_with_several(tmp_path: Path, files: list[Member], name: str) -> None:
    folder = write_shards(tmp_path / "wds", files, 50, lambda k: {"cls": b"1"})
    np.savez(folder / "a.npz", x=PIXELS, y=PIXELS)
    out, watch = tmp_path / "o.h5", Stops()
    options = IngestOptions(batch_bytes=30, checkpoint_s=0.001, readers=0)
    with pytest.raises(StoppedError):
        ingest(folder / name, out, options, SerialComm(), watch=watch, interrupt=watch.interrupt)
    with pytest.raises(OutputError, match="with other input"):
        ingest(folder / "s-000000.tar", out, options, SerialComm())
    report = on_ranks(3, lambda comm: ingest(folder / name, out, options, comm))[0]
    assert report.n_resumed
    assert sorted(os.listdir(tmp_path)) == ["o.h5", "wds"]
    with h5py.File(out) as file:
        assert (file["images"][:] == PIXELS).all()


def test_an_archive_that_changes_while_it_is_read(tmp_path: Path, files: list[Member]) -> None:
    path = compress(tar(tmp_path / "a.tar", files), ".tar.gz")

    class Changes(ProgressListener):
        def phase(self, name: str, n_images: int) -> None:
            if name == "store":
                os.utime(path, ns=(1, time.time_ns()))

    with pytest.raises(ManifestError, match="was changed while the job ran"):
        ingest(path, tmp_path / "out.h5", IngestOptions(), SerialComm(), watch=Changes())
    assert not (tmp_path / "out.h5").exists()


# --- Parquet -------------------------------------------------------------------------------------


def test_columns_of_parquet(tmp_path: Path, files: list[Member]) -> None:
    n, out = 40, tmp_path / "out.h5"
    more = {
        "text": pa.array(["a\tb" if k == 5 else f"t{k}" for k in range(n)]),
        "score": pa.array([None if k == 7 else k / 4 for k in range(n)]),
        "flag": pa.array([k % 2 == 0 for k in range(n)]),
        "list": pa.array([[k] for k in range(n)]),
        "kind": pa.array(["x", "y"] * (n // 2)).dictionary_encode(),
    }
    (tmp_path / "data").mkdir()
    for part in range(2):
        some = slice(part * n // 2, (part + 1) * n // 2)
        write_parquet(
            tmp_path / "data" / f"{part}.parquet", files[:n][some], LABELS[:n][some],
            class_names=["zebra", "ant", "cat"], rows=7,
            **{name: values[some] for name, values in more.items()},
        )  # fmt: skip
    for source, ranks in ((tmp_path / "data", 1), (tmp_path / "data" / "*.parquet", 3)):
        report = stored(source, out, ranks, **SMALL)
        assert report.n_samples == n
        found = columns(out)
        with h5py.File(out) as file:
            assert list(file["label_names"].asstr()) == ["ant", "cat", "zebra"]
            assert (file["images"][:] == PIXELS[:n]).all()
        assert found["labels"] == [(2, 0, 1)[k] for k in LABELS[:n]]
        assert found["paths"] == NAMES[:n]
        assert found["text"][4:6] == ["t4", "a\tb"]
        assert np.isnan(found["score"][7])
        assert found["score"][8] == 2
        assert found["flag"] == [1, 0] * (n // 2)
        assert found["kind"] == ["x", "y"] * (n // 2)
        assert "list" not in found


def test_images_in_a_plain_column(tmp_path: Path, files: list[Member]) -> None:
    n, out, path = 30, tmp_path / "out.h5", tmp_path / "a.parquet"
    data = [data for _, data in files[:n]]
    table = pa.table({"jpg": data, "mask": data[::-1], "n": list(range(n))})
    pq.write_table(table, path, row_group_size=8)
    assert stored(path, out).n_samples == n
    stored(f"{path}:mask", out, 3)
    with h5py.File(out) as file:
        assert (file["images"][:] == PIXELS[:n][::-1]).all()
    assert columns(out)["paths"][:2] == ["00000.png", "00001.png"]
    assert run(["verify", str(out), "--sources", "-q", "--root", str(path)]) == 3, (
        "the other column"
    )
    with pytest.raises(ManifestError, match="no column 'none' of bytes"):
        stored(f"{path}:none", out)
    pq.write_table(pa.table({"a": data, "b": data}), path)
    with pytest.raises(ManifestError, match=r"several columns of bytes.*: a, b\. Name one"):
        stored(path, out)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ManifestError, match="no column of bytes"):
        stored(path, out)


def test_parquet_that_cannot_be_read(
    tmp_path: Path, files: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = tmp_path / "out.h5", write_parquet(tmp_path / "a.parquet", files, LABELS)
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 3 : len(whole) // 3 + 200] = bytes(200)
    for data in (whole[:-5], whole[: len(whole) // 2], b"PAR1", b""):
        path.write_bytes(data)
        with pytest.raises(ManifestError, match="pyarrow cannot read it"):
            stored(path, out, 3)
    path.write_bytes(middle)
    with pytest.raises(IngestError):
        stored(path, out)
    path.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "MOST_GROUP_BYTES", 1000)
        with pytest.raises(IngestError, match="its row group has"):
            stored(path, out)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": files[0][1], "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path)
    report = stored(path, out, on_error="blank")
    assert [(each.path, each.kind) for each in report.failures] == [
        ("b.png", "missing"), ("00002.png", "missing"),
    ]  # fmt: skip
    write_parquet(path, files[:3], [0, 1, 7], class_names=["a", "b"])
    with pytest.raises(ManifestError, match="numbers that its class names do not have"):
        stored(path, out)


@pytest.mark.parametrize(
    ("package", "extra", "name"),
    [("pyarrow", "parquet", "a.parquet"), ("zstandard", "zstd", "a.tar.zst")],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"some bytes")
    for n in (1, 3):
        with pytest.raises(SetupError, match=rf"package {package} .*h5ingest\[{extra}\]"):
            stored(tmp_path / name, tmp_path / "out.h5", n)


# --- LMDB ----------------------------------------------------------------------------------------


def test_trees_of_lmdb(tmp_path: Path, files: list[Member]) -> None:
    """Several levels of pages, values in pages and beside them, keys of any bytes and order."""
    data = dict(files)
    values = {f"{k % 7}/{k:06d}".encode(): data[NAMES[k % N]] for k in range(3000)}
    large = png(make_pixels(1, (90, 91))[0], tmp_path)
    values |= {b"0/large": large, b"\x00\x01": large, b"__len__": b"3001", b"zz": b""}
    path = write_lmdb(tmp_path / "a.lmdb", values)
    out = tmp_path / "out.h5"
    for n in (1, 3):
        report = stored(path, out, n, layout="ragged")
        assert report.n_samples == 3002
    found = columns(out)
    names = sorted(values)
    wanted = ["0001", *(os.fsdecode(name) for name in names if b"/" in name)]
    assert found["paths"] == wanted
    with h5py.File(out) as file:
        assert list(file["label_names"].asstr()) == [*"0123456", "a"]
    assert run(["verify", str(out), "--sources", "-q", "--root", str(path)]) == 0


def test_lmdb_that_is_damaged(tmp_path: Path, files: list[Member]) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {n.encode(): d for n, d in files}, subdir=False)
    whole, out = path.read_bytes(), tmp_path / "out.h5"
    for data in (whole[: len(whole) // 2 // 4096 * 4096], whole[:9000], whole[:50], b""):
        path.write_bytes(data)
        with pytest.raises(ManifestError):
            stored(path, out)
    random = np.random.default_rng(5)
    for _ in range(150):
        broken = bytearray(whole)
        for at in random.integers(0, len(whole), 20):
            broken[at] = random.integers(256)
        for page in random.integers(2, len(whole) // 4096, 2):
            broken[page * 4096 + 8 : page * 4096 + 60] = random.bytes(52)
        path.write_bytes(broken)
        reader = PathReader(os.fsencode(tmp_path))
        for name in NAMES[::40]:
            try:
                found, size = reader.read(b"a.lmdb/" + name.encode())
            except SampleError:
                continue
            assert len(found) == size
    path.write_bytes(whole.replace((0xBEEFC0DE).to_bytes(4, "little"), bytes(4)))
    with pytest.raises(ManifestError, match=r"expected a file of LMDB 0\.9"):
        stored(path, out)


class CifarImage:
    """As in the notebooks that compare ways to store images."""

    def __init__(self, image: Any, label: int) -> None:
        self.channels, self.size = image.shape[2], image.shape[:2]
        self.image, self.label = image.tobytes(), label


def test_pickled_images_are_read_and_not_run(tmp_path: Path) -> None:
    pixels, out = make_pixels(20, (8, 9, 3)), tmp_path / "out.h5"
    for protocol, what in (
        (4, [CifarImage(pixels[k], k % 3) for k in range(20)]),
        (2, [(pixels[k], k % 3) for k in range(20)]),
        (5, [(pixels[k], np.int64(k % 3)) for k in range(20)]),
    ):
        values = {b"%08d" % k: pickle.dumps(each, protocol) for k, each in enumerate(what)}
        path = write_lmdb(tmp_path / f"{protocol}.lmdb", values)
        stored(path, out, 3)
        with h5py.File(out) as file:
            assert (file["images"][:] == pixels).all()
            assert file["labels"][:].tolist() == [k % 3 for k in range(20)]
    values = {b"evil": pickle.dumps(Evil(tmp_path)), b"text": pickle.dumps("x")}
    with pytest.raises(ManifestError, match="2 x value that is no image"):
        stored(write_lmdb(tmp_path / "evil.lmdb", values), out)
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder / "ran"),)


def test_pickles_cannot_do_anything(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(Evil(tmp_path))) is None
    (tmp_path / "ran").rmdir()
    evil = [
        pickle.dumps(Evil(tmp_path)),
        pickle.dumps({"data": Evil(tmp_path), "labels": [1]}),
        b"cos\nmkdir\n(V" + os.fsencode(tmp_path / "ran") + b"\ntR.",
        b"(V" + os.fsencode(tmp_path / "ran") + b"\nios\nmkdir\n.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nV__class__\ntR.",
        b"\x80\x04r\xff\xff\xff\xffN.",  # a number that would take memory
        b"\x80\x04X\xff\xff\xff\xff.",
        b"\x80\x02Pid\n.",
        b"\x80\x02\x82\x01.",
        pickle.dumps(collections.OrderedDict(a=1)),
        pickle.dumps(np.array([object()])),
        pickle.dumps(np.zeros(3))[:-30] + b".",
        b"",
        b"some text",
    ]
    tracemalloc.start()
    for data in evil:
        try:
            found = safe_pickle.load(data)
        except ValueError:
            continue
        assert type(found) in (dict, safe_pickle.Thing, np.ndarray, type(None))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert not (tmp_path / "ran").exists()
    random = np.random.default_rng(1)
    whole = pickle.dumps({"data": make_pixels(3, (4, 5)), "labels": [1, 2, 3]})
    for _ in range(500):
        broken = bytearray(whole)
        broken[int(random.integers(len(whole)))] = int(random.integers(256))
        try:
            safe_pickle.load(bytes(broken))
        except ValueError:
            continue


# --- stacks --------------------------------------------------------------------------------------


def test_batches_of_cifar(tmp_path: Path) -> None:
    pixels, out = make_pixels(30, (32, 32, 3)), tmp_path / "out.h5"
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for k in range(3):
        some = pixels[k * 10 : k * 10 + 10]
        batch = {
            b"batch_label": b"x", b"labels": [(k + j) % 2 for j in range(10)],
            b"data": some.transpose(0, 3, 1, 2).reshape(10, -1).copy(), b"filenames": [b"a"] * 10,
        }  # fmt: skip
        name = f"data_batch_{k + 1}" if k < 2 else "test_batch"
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {"label_names": ["truck", "airplane"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    (folder / "readme.html").write_text("text")
    for n in (1, 3):
        stored(folder, out, n, **SMALL)
        found = columns(out)
        with h5py.File(out) as file:
            assert (file["images"][:] == pixels).all()
            assert list(file["label_names"].asstr()) == ["airplane", "truck"]
        assert found["paths"][11] == "data_batch_2/00001.png"
        assert found["labels"] == [1 - (k + j) % 2 for k in range(3) for j in range(10)]
    stored(folder / "data_batch_*", out)
    assert len(columns(out)["paths"]) == 20


def test_several_stacks_in_a_file(tmp_path: Path) -> None:
    out, path = tmp_path / "out.h5", tmp_path / "a.npz"
    first, second = make_pixels(9, (4, 5)), make_pixels(7, (4, 5))
    arrays: dict[str, Any] = {
        "x_train": first,
        "y_train": np.arange(9),
        "x_test": second,
        "y_test": np.arange(7),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        with pytest.raises(ManifestError, match=r"several stacks of .*FILE:NAME.*x_train \(9"):
            stored(path, out)
        for name, array in (("x_train", first), ("x_test", second)):
            stored(f"{path}:{name}", out, 3)
            with h5py.File(out) as file:
                assert (file["images"][:] == array).all()
                assert file["labels"][:].tolist() == list(range(len(array)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file[f"deep/{name}"] = array
        file.create_dataset("packed", data=make_pixels(9, (4, 5, 3)), chunks=(2, 4, 5, 3),
                            compression="gzip")  # fmt: skip
    stored(f"{tmp_path / 'a.h5'}:/packed", out)
    with h5py.File(out) as file:
        assert (file["images"][:] == make_pixels(9, (4, 5, 3))).all()
    with pytest.raises(ManifestError, match="no array 'x_train'; there are: deep/x_test"):
        stored(f"{tmp_path / 'a.h5'}:x_train", out)
    with pytest.raises(ManifestError, match="h5ingest has made: h5ingest show") as caught:
        stored(out, tmp_path / "other.h5")
    assert str(caught.value).startswith(f"{out}: expected a text file")
    assert "whole copy" not in str(caught.value)  # that would mend a damaged file


def _npy(array: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def _truncated_idx(folder: Path) -> Path:
    path = write_idx(folder, PIXELS[:9], LABELS[:9])
    path.write_bytes(gzip.compress(idx(PIXELS[:9])[:-40]))
    return path


def _written(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _with_labels(n: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return write_idx(folder, PIXELS[:9], LABELS[:n])

    return write


STACK = make_pixels(9, (4, 5))
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated idx": (_truncated_idx, "7 of 9 images are whole"),
    "other labels": (_with_labels(8), "a label for each of 9 images, found 8"),
    "idx": (_written("a-idx3-ubyte", b"no idx" * 100), "expected an idx file"),
    "idx of floats": (_written("a-idx3-ubyte", b"\0\0\x0d\x03" + bytes(99)), "unsigned bytes"),
    "idx gz": (_written("a-idx3-ubyte.gz", b"\x1f\x8b and so on"), "cannot be unpacked|idx file"),
    "huge idx": (_written("a-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12), "0 of 4,294,967,295"),
    "floats": (_written("a.npy", _npy(STACK / 7)), "uint8 or uint16, found float64"),
    "fortran": (_written("a.npy", _npy(np.asfortranarray(STACK))), "found Fortran's"),
    "flat": (_written("a.npy", _npy(STACK[0])), r"a stack of images, .*found \(4, 5\)"),
    "objects": (_written("a.npy", _npy(np.array([{}]), allow_pickle=True)), "found object"),
    "cut": (_written("a.npy", _npy(STACK)[:-30]), "7 of 9 images are whole"),
    "npy": (_written("a.npy", b"no npy"), "expected arrays of NumPy"),
    "npz": (_written("a.npz", b"no npz"), "expected arrays of NumPy"),
    "hdf5": (_written("a.h5", b"\x89HDF\r\n\x1a\n and so on"), "HDF5 cannot read it"),
    "pickle": (_written("a.pkl", b"\x80\x04 and so on"), "expected a pickle of arrays"),
    "other pickle": (_written("a.pkl", pickle.dumps({"a": 1})), "expected a batch with an array"),
}


@pytest.mark.parametrize("what", BAD)
def test_stacks_that_cannot_be(tmp_path: Path, what: str) -> None:
    write, said = BAD[what]
    path = write(tmp_path)
    for n in (1, 3):
        with pytest.raises(ManifestError, match=said):
            stored(path, tmp_path / "out.h5", n)
    assert not (tmp_path / "out.h5").exists()


def test_what_is_whole_of_a_stack_can_be_taken(tmp_path: Path) -> None:
    report = stored(_truncated_idx(tmp_path), tmp_path / "out.h5", on_error="blank")
    assert report.n_samples == 7
    assert columns(tmp_path / "out.h5")["labels"] == LABELS[:7]


def test_the_output_is_no_source(tmp_path: Path, files: list[Member]) -> None:
    np.savez(tmp_path / "a.npz", images=STACK)
    stored(tmp_path / "a.npz", tmp_path / "out.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["images"] = STACK
    with pytest.raises(OutputError, match="is one of the files that"):
        stored(tmp_path / "*.h5", tmp_path / "out.h5")


def test_containers_in_a_manifest(tmp_path: Path, files: list[Member]) -> None:
    write_parquet(tmp_path / "a.parquet", files[:9], LABELS[:9])
    write_lmdb(tmp_path / "a.lmdb", {name.encode(): data for name, data in files[:9]})
    np.save(tmp_path / "a.npy", PIXELS[:9])
    out = tmp_path / "out.h5"
    for name in ("a.parquet", "a.lmdb", "a.npy"):
        manifest = tmp_path / f"{name}.csv"
        assert run(["manifest", str(tmp_path / name), "-o", str(manifest), "-q"]) == 0
        lines = manifest.read_text().splitlines()
        assert lines[-1].partition(",")[0] == f"{name}/00008.png"
        stored(manifest, out, 3)
        with h5py.File(out) as file:
            assert (file["images"][:] == PIXELS[:9]).all()
            if name == "a.parquet":
                assert file["labels"][:].tolist() == LABELS[:9]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@MPICH_SOON
def test_bad_sources_on_real_ranks(tmp_path: Path, files: list[Member], flavour: Flavour) -> None:
    cut = compress(tar(tmp_path / "a.tar", files), ".tar.gz")
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and so on")
    jobs: list[list[str | Path]] = [
        [cut, tmp_path / "1.h5"], [tmp_path / "a.parquet", tmp_path / "2.h5"],
        [tmp_path / "none-{0..3}.tar", tmp_path / "3.h5"], [tmp_path / "*.csv", tmp_path / "4.h5"],
        [cut, tmp_path / "5.h5", "--on-error=blank", "--label=none"],
    ]  # fmt: skip
    done = flavour.checked().run_many(3, jobs, tmp_path / "told")
    assert [each.returncode for each in done] == [4, 4, 4, 4, 0]
    assert [len(error_lines(each)) for each in done] == [1, 1, 1, 1, 0]
    assert sorted(name for name in os.listdir(tmp_path) if ".h5" in name) == [
        "5.h5",
        "5.h5.failed.tsv",
    ]


def test_unpacked_files_of_a_killed_job_are_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"content" * 1000))
    folder = os.fsencode(tmp_path / "u")
    about = (path.stat().st_size, path.stat().st_mtime_ns)
    found, _ = Unpacker(folder).unpack(os.fsencode(path), b"", about, b".tar", lambda: None)
    part = found.replace(b".whole.", b".part.")
    os.rename(found, part)
    with open(part, "ab") as file:
        file.write(b"more")
    again, problem = Unpacker(folder).unpack(os.fsencode(path), b"", about, b".tar", lambda: None)
    assert (again, problem, os.listdir(folder)) == (found, "", [os.path.basename(found)])
    assert Path(os.fsdecode(again)).read_bytes() == b"content" * 1000
    other, _ = Unpacker(folder).unpack(os.fsencode(path), b"x", about, b".tar", lambda: None)
    assert other != found
