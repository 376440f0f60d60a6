"""`h5ingest bench`: what it counts, compares, writes and shows. No time is judged."""

from __future__ import annotations

import ast
import base64
import doctest
import importlib
import io
import itertools
import json
import mmap
import os
import platform
import re
import struct
import time
from html import unescape
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.browser import browse
from helpers.support import (
    ROOT,
    WHEELS,
    Flavour,
    damage,
    error_lines,
    explain,
    make_pixels,
    reference_pixels,
    run,
    soon,
    without_status,
    write_images,
    write_manifest,
    write_png,
)
from numpy.typing import NDArray
from PIL import Image

from h5ingest.bench import backends, measure, reading, storage, storage_page
from h5ingest.bench.backends import LmdbFiles, LmdbRaw, Reader, by_pillow
from h5ingest.bench.corpus import Corpus, gather
from h5ingest.bench.readers import InProcessReader, Order
from h5ingest.bench.report import Description
from h5ingest.bench.storage_report import Result, StorageReport
from h5ingest.core import outfiles
from h5ingest.core.errors import SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

BENCH = ROOT / "src/h5ingest/bench"
N, RUNS = 30, 2
BACKENDS = (
    "png",
    "lmdb-raw",
    "lmdb-files",
    "hdf5-loop",
    "hdf5-stack",
    "h5ingest-raw",
    "h5ingest-zstd",
)
TIMES = ("store", "store_durable", "read_cold", "read_warm", "one_cold", "one_warm")
PICTURES = ("store", "read", "one", "disk")

pytestmark = pytest.mark.filterwarnings(
    # A machine with fewer cores than workers is no fault of ours.
    "ignore:This DataLoader will create:UserWarning"
)


def make_manifest(folder: Path, pixels: NDArray[Any] | list[NDArray[Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for row, image in enumerate(pixels):
        write_png(folder / f"{row}.png", image)
    return write_manifest(folder / "m.txt", [f"{row}.png" for row in range(len(pixels))])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("bench"), make_pixels(N, (12, 10)))


@pytest.fixture(scope="module")
def stored(
    manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """What `bench storage` made: the folder, its results, what was printed."""
    out = tmp_path_factory.mktemp("stored") / "out"
    completed = Flavour.alone(
        WHEELS.checked(), "bench", "storage", manifest, "--cutoffs", "5,100,7000",
        "--runs", str(RUNS), "--out", out,
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    assert without_status(completed.stderr) == ""
    return out, json.loads((out / "results.json").read_text()), completed.stdout


# --- what is counted ---------------------------------------------------------------------------


def test_disk_usage_is_that_of_du(tmp_path: Path) -> None:
    place = tmp_path / "a"
    (place / "deep/er").mkdir(parents=True)
    (place / "one").write_bytes(b"x" * 5000)
    (place / "deep/two").write_bytes(b"x" * 70_000)
    os.link(place / "one", place / "deep/er/same")
    (place / "link").symlink_to(place / "deep")
    with (place / "holes").open("wb") as file:
        file.truncate(10**7)
        file.write(b"x")
    measure.flush(place)
    for what in (place, place / "one"):
        du = [run(["du", "-s", *how, what]).stdout.split()[0] for how in (["-B1"], ["--inodes"])]
        assert measure.usage(what) == tuple(int(text) for text in du)
    assert measure.usage(place)[1] == 7


def test_cold_files_are_not_in_memory(tmp_path: Path) -> None:
    if run(["stat", "-f", "-c", "%T", tmp_path]).stdout.strip() in ("tmpfs", "overlayfs"):
        pytest.skip("nothing of this file system can be forgotten")
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(os.urandom(300_000))
    (tmp_path / "empty").touch()

    def pages() -> int:
        told = run(["fincore", "-nb", "-o", "PAGES", *files]).stdout.split()
        return sum(map(int, told))

    measure.flush(tmp_path)
    assert measure.resident(tmp_path) == 1
    assert pages() == 2 * -(-300_000 // mmap.PAGESIZE)
    measure.evict(tmp_path)
    assert measure.resident(tmp_path) == 0
    assert pages() == 0
    files[0].read_bytes()
    assert measure.resident(tmp_path) == 0.5
    assert measure.resident(files[0]) == 1


def test_bytes_and_inodes_of_each_backend_are_those_of_its_files(
    manifest: Path, tmp_path: Path
) -> None:
    corpus = gather(manifest, IngestOptions(), lambda n: n)[0].take(N)
    experiment = storage._Experiment(corpus.uniform)
    for backend in experiment.backends:
        place = tmp_path / backend.key
        backend.store(corpus, place)
        measure.flush(tmp_path)
        du = run(["du", "-s", "--inodes", place]).stdout.split()[0]
        assert int(du) == {"png": N + 2, "lmdb-raw": 3, "lmdb-files": 3}.get(backend.key, 1)
        assert measure.usage(place)[1] == int(du)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BACKENDS)


# --- equal work --------------------------------------------------------------------------------


def test_the_corpus_has_the_pixels_of_the_files(manifest: Path) -> None:
    corpus, n = gather(manifest, IngestOptions(), lambda n: 7)
    assert (n, len(corpus)) == (N, 7)
    assert len({file.name for file in corpus.files}) == 7
    for file, image in zip(corpus.files, corpus.pixels, strict=True):
        assert np.array_equal(image, reference_pixels(file))
    assert corpus.take(3).labels == (0, 1, 2)
    assert corpus.file_bytes == sum(file.stat().st_size for file in corpus.files)


def wrong_pixel(value: memoryview) -> Any:
    image, label = _right(value)
    image[3, 4] ^= 1
    return image, label


def wrong_type(value: memoryview) -> Any:
    image, label = _right(value)
    return image.astype(np.int16), label


def wrong_label(value: memoryview) -> Any:
    image, label = _right(value)
    return image, label + 1


_right = LmdbRaw().sample


@pytest.mark.parametrize("wrong", [wrong_pixel, wrong_type, wrong_label])
def test_a_backend_that_gives_something_else_back_is_noticed(
    wrong: Any, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LmdbRaw, "sample", lambda _, value: wrong(value))
    with pytest.raises(AssertionError, match="LMDB, raw arrays: gave "):
        storage.measure(manifest, IngestOptions(), tmp_path, cutoffs=[5], n_runs=1)
    with pytest.raises(AssertionError, match="LMDB, raw arrays: gave "):
        reading.measure(manifest, IngestOptions(), tmp_path, n_wanted=5, n_runs=1, seconds=0.001)
    assert list(tmp_path.iterdir()) == []


def test_images_in_another_order_are_noticed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to ask for several, though single images are right."""

    def turned(samples: Any) -> Any:
        images, labels = samples
        return images[::-1], labels

    right_span, right_many = backends.Reader.span, backends.Reader.many
    with monkeypatch.context() as patch:
        patch.setattr(backends.Reader, "span", lambda *a: turned(right_span(*a)))
        with pytest.raises(AssertionError, match="gave other pixels"):
            storage.measure(manifest, IngestOptions(), tmp_path, cutoffs=[5], n_runs=1)
        with pytest.raises(AssertionError, match="gave other pixels"):
            reading.measure(
                manifest, IngestOptions(), tmp_path, n_wanted=5, n_runs=1, seconds=0.001
            )
    with monkeypatch.context() as patch:
        patch.setattr(backends.Reader, "many", lambda *a: turned(right_many(*a)))
        with pytest.raises(AssertionError, match="gave other pixels"):
            reading.measure(
                manifest, IngestOptions(), tmp_path, n_wanted=5, n_runs=1, seconds=0.001
            )


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7), "uint16"), ((5, 7, 3), "uint8")])
def test_lmdb_holds_plain_values(
    shape: tuple[int, ...], dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmdb

    pixels = make_pixels(4, shape, dtype)
    files = [tmp_path / name for name in write_images(tmp_path, pixels)]
    corpus = Corpus(files=tuple(files), pixels=tuple(pixels), labels=(7, 0, 300, 2))
    LmdbRaw().store(corpus, tmp_path / "raw")
    LmdbFiles().store(corpus, tmp_path / "files")
    monkeypatch.setattr("pickle.loads", None)  # nobody needs it
    with lmdb.open(str(tmp_path / "raw"), readonly=True).begin() as transaction:
        values = [value for _, value in transaction.cursor()]
    for value, image, label in zip(values, pixels, (7, 0, 300, 2), strict=True):
        channels = shape[2] if len(shape) == 3 else 0
        head = struct.pack("<IIiBBH", *shape[:2], label, channels, image.itemsize, 0)
        assert value == head + image.tobytes()
    with lmdb.open(str(tmp_path / "files"), readonly=True).begin() as transaction:
        values = [value for _, value in transaction.cursor()]
    assert values[2] == struct.pack("<i", 300) + files[2].read_bytes()
    assert len(values) == 4


def test_pillow_gives_colours_and_gray(tmp_path: Path) -> None:
    squares = np.arange(16, dtype=np.uint8).reshape(4, 4)
    picture = Image.fromarray(squares)
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("palette", picture, {}),
        ("clear", picture, {"transparency": bytes(range(16))}),
        ("bits", Image.fromarray(squares > 7), {}),
    ]
    for name, image, how in cases:
        image.save(tmp_path / f"{name}.png", **how)
        found = by_pillow((tmp_path / f"{name}.png").read_bytes())
        assert np.array_equal(found, reference_pixels(tmp_path / f"{name}.png")), name


def test_an_image_that_imageio_reads_otherwise_is_refused(tmp_path: Path) -> None:
    deep = make_manifest(tmp_path, make_pixels(2, (4, 4, 3), "uint16"))  # Pillow: 8 bits
    with pytest.raises(SamplesFailedError, match="imageio gives other pixels"):
        gather(deep, IngestOptions(), lambda n: n)


# --- bench storage -----------------------------------------------------------------------------


def test_storage_writes_what_it_says(stored: tuple[Path, dict[str, Any], str]) -> None:
    out, _, printed = stored
    names = ["results.json", "index.html", *(f"{name}.png" for name in PICTURES)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert printed.splitlines()[-len(names) :] == [str(out / name) for name in names]
    kinds = {".json": outfiles.RESULTS, ".html": outfiles.PAGE, ".png": outfiles.PICTURE}
    for name in names:
        outfiles.check(out / name, kinds[Path(name).suffix])  # it may be written again
    assert printed.count("h5ingest, zstd:3") == 3, "a row for each number of images"
    assert "Cutoffs 100, 7,000 are more than there are: all images were taken." in printed
    for name in PICTURES:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width >= 1000
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "nothing is drawn"


def test_storage_results_are_complete(stored: tuple[Path, dict[str, Any], str]) -> None:
    _, results, _ = stored
    assert results["schema"] == "h5ingest bench storage 1"
    assert (results["n_images"], results["counts"], results["dropped"]) == (
        N, [1, 5, N], [100, 7000],
    )  # fmt: skip
    assert [way["key"] for way in results["ways"]] == list(BACKENDS)
    assert [(r["way"], r["n"]) for r in results["results"]] == [
        (key, n) for n in (1, 5, N) for key in BACKENDS
    ]
    for result in results["results"]:
        for name in TIMES:
            spread = result[name]
            assert len(spread["runs"]) == RUNS
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
            assert {spread["min"], spread["max"]} == set(spread["runs"])
        assert all(
            durable >= store
            for store, durable in zip(
                result["store"]["runs"], result["store_durable"]["runs"], strict=True
            )
        )
        assert result["n_bytes"] % 512 == 0
        assert 0 <= result["resident_when_cold"] <= 1
        files = {"png": result["n"] + 2, "lmdb-raw": 3, "lmdb-files": 3}
        assert result["n_inodes"] == files.get(result["way"], 1)
        least = 0 if result["way"].endswith(("zstd", "files", "png")) else result["n"] * 120
        assert result["n_bytes"] >= least
    assert [(r["n"], r["pixel_bytes"]) for r in results["references"]] == [
        (n, n * 120) for n in (1, 5, N)
    ]
    assert {"processor", "memory", "file system", "h5py", "lmdb"} <= set(results["machine"])
    # Two readings of all and of one, of each way, in each run; and once before, of one image.
    compared = len(BACKENDS) * (RUNS * sum(2 * n + 2 for n in (1, 5, N)) + 4)
    assert results["all_pixels_compared"] is True
    assert results["n_compared"] == compared
    assert any(f"({compared:,} images.)" in note for note in results["notes"])


def test_no_place_of_this_machine_is_told(stored: tuple[Path, dict[str, Any], str]) -> None:
    out, _, _ = stored
    for name in ("results.json", "index.html"):
        text = (out / name).read_text()
        for place in (platform.node(), str(out.parent), str(ROOT), str(Path.home())):
            assert len(place) < 4 or not re.search(rf"(?<![\w/]){re.escape(place)}(?!\w)", text)


def test_images_of_many_sizes_cannot_be_stacked(tmp_path: Path) -> None:
    images = [make_pixels(1, (height, 9, 3))[0] for height in range(5, 9)]
    manifest = make_manifest(tmp_path / "in", images)
    (tmp_path / "out").mkdir()
    report = storage.measure(manifest, IngestOptions(), tmp_path / "out", cutoffs=[4], n_runs=1)
    assert [backend.key for backend in report.backends] == [
        key for key in BACKENDS if key != "hdf5-stack"
    ]
    assert report.left_out == ("HDF5 by hand, one dataset: the images have several sizes",)
    assert report.images == "9x5x3 uint8, 9x6x3 uint8, 9x7x3 uint8 and 1 other kinds"
    assert list((tmp_path / "out").iterdir()) == []


# --- the page ----------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(stored: tuple[Path, dict[str, Any], str]) -> None:
    out, _, _ = stored
    html = (out / "index.html").read_text()
    without_data = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", html)
    assert without_data.count('src="DATA"') == html.count("src=") == len(PICTURES)
    for outside in ("http", "//", "url(", "@import", "<link", "<script", "href=", "<iframe"):
        assert outside not in without_data
    for name, data in re.findall(
        r'<figure id="plot-(\w+)">\s*<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', html
    ):
        assert base64.b64decode(data, validate=True) == (out / f"{name}.png").read_bytes()


def test_the_page_shows_markup_as_text(stored: tuple[Path, dict[str, Any], str]) -> None:
    results = stored[1]
    spread = measure.Spread((1.0,))
    backends_ = tuple(Description(**way) for way in results["ways"])
    name = "<b>&{{ 7 * 7 }}.csv"
    report = StorageReport(
        manifest=name, n_images=1, images="1x1 gray uint8", counts=(1,), dropped=(), n_runs=1,
        machine={"disk": "<i>"}, load=(0.0, 0.0), backends=backends_, left_out=(),
        results=tuple(
            Result(backend=one.key, n=1, n_bytes=2048, n_inodes=1, resident_when_cold=0.0,
                   **dict.fromkeys(TIMES, spread))
            for one in backends_
        ),
        references=(), decode_imageio=spread, decode_fast=spread, n_compared=1,
    )  # fmt: skip
    html = storage_page.page(report, dict.fromkeys(PICTURES, b"x"))
    assert "<b>" not in html
    assert "<i>" not in html
    lead = re.search(r'<p class="lead">(.*?):', html)
    assert lead is not None
    assert unescape(lead[1]) == name
    rows = re.findall(r"<tr[^>]*><td>([^<]*)</td>(.*?)</tr>", html, re.DOTALL)
    ratios = [re.findall(r"<td>(.*?)</td>", cells) for _, cells in rows[: len(backends_)]]
    assert ratios == [["1.00"] * (len(TIMES) + 2)] * len(backends_)
    assert rows[len(backends_)][1].count("<td>1.00 s<small>1.00 s to 1.00 s</small></td>") == 6
    assert "<td>2.0 KiB</td><td>1</td>" in rows[len(backends_)][1]


LARGE = "--window-size=1200,6000"


def test_a_browser_shows_the_page(stored: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    page = stored[0] / "index.html"
    shot = tmp_path / "shot.png"
    browse(page, tmp_path / "one", LARGE, f"--screenshot={shot}")
    # Where everything is: told by the page itself, in a copy with a script.
    measured = tmp_path / "measured.html"
    script = (
        "<script>onload = () => { for (const e of document.querySelectorAll('[id]')) {"
        "const r = e.getBoundingClientRect(), i = e.querySelector('img');"
        "e.dataset.box = [r.left, r.top, r.right, r.bottom].map(Math.round)"
        ".concat(i ? i.naturalWidth : 0).join(' ') } }</script></body>"
    )
    measured.write_text(page.read_text().replace("</body>", script))
    told = browse(measured, tmp_path / "two", LARGE, "--dump-dom")
    boxes = {
        name: [int(number) for number in box.split()]
        for name, box in re.findall(r'id="([\w-]+)"[^>]* data-box="([-\d ]+)"', told)
    }
    tables = ["ratios", *(f"results-{n}" for n in (N, 5, 1)), "backends", "notes", "machine"]
    assert list(boxes) == ["title", "ratios", *(f"plot-{p}" for p in PICTURES), *tables[1:]]
    with Image.open(shot) as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    assert seen.shape == (6000, 1200, 3)
    for one, next_ in itertools.pairwise(boxes[f"plot-{name}"] for name in PICTURES):
        assert one[3] <= next_[1], "one below the other"
    for name in PICTURES:
        left, top, right, bottom, width = boxes[f"plot-{name}"]
        assert width >= 1000, f"{name} was not loaded"
        assert right - left > 900
        crop = seen[top:bottom, left:right]
        assert crop.std() > 15, f"{name} is blank"
        for colour in ((0, 158, 115), (77, 77, 77), (0, 114, 178)):  # h5ingest, PNG, LMDB
            assert (np.abs(crop - colour).max(axis=2) < 12).sum() > 100, (name, colour)
    for name in ("title", "ratios", f"results-{N}", "backends", "machine"):
        left, top, right, bottom, _ = boxes[name]
        assert seen[top:bottom, left:right].std() > 5, f"{name} is blank"


# --- bench read --------------------------------------------------------------------------------


def check_reading(out: Path, printed: str, sources: str, n: int) -> dict[str, Any]:
    assert sorted(path.name for path in out.iterdir()) == ["read.png", "results.json"]
    assert printed.splitlines()[-2:] == [str(out / "results.json"), str(out / "read.png")]
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    assert results["schema"] == "h5ingest bench read 1"
    assert (results["source"], results["n_used"]) == (sources, n)
    names = {way["key"]: way["name"] for way in results["ways"]}
    assert list(results["kinds"]) == ["one", "batch", "epoch"]
    expected = {
        (way, kind) for way in names for kind in results["kinds"]
        if kind != "one" or not way.startswith("loader")
    }  # fmt: skip
    assert {(rate["way"], rate["kind"]) for rate in results["rates"]} == expected
    medians = {}
    for rate in results["rates"]:
        spread = rate["images_per_s"]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        medians[rate["way"], rate["kind"]] = spread["median"]
    for told in results["ratios"]:
        ours, other = medians[told["of"], told["kind"]], medians[told["over"], told["kind"]]
        assert told["ratio"] == pytest.approx(ours / other)
    for name in names.values():
        assert name in printed
    assert results["all_pixels_compared"] is True
    # One by one (but by loaders), in order, and eight random batches of 64.
    n_loaders = sum(key.startswith("loader") for key in names)
    assert results["n_compared"] == len(names) * (n + 512) + (len(names) - n_loaders) * n
    with Image.open(io.BytesIO((out / "read.png").read_bytes())) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "nothing is drawn"
    return results


def test_a_pass_in_order_is_timed_without_the_opening_before_it() -> None:
    opened = []

    class Slow(Reader):
        def __init__(self) -> None:
            time.sleep(0.05)
            self.read: list[range] = []
            opened.append(self)

        def span(self, start: int, stop: int) -> Any:
            self.read.append(range(start, stop))

    reader = InProcessReader("slow", "slow", "opens slowly", Slow, Order.of(150))
    n_images, seconds = reading._run(reader, "epoch", 8)
    assert n_images == 2 * 150 + 128
    assert seconds < 0.05
    passes = [range(64), range(64, 128), range(128, 150)]
    assert [slow.read for slow in opened] == [passes, passes, passes[:2]]


def read_bench(flavour: Flavour, source: Path, out: Path, *more: str) -> str:
    completed = flavour.forked(
        "bench", "read", source, "--out", out, "--runs", "1", "--seconds", "0.002", *more
    )
    assert completed.returncode == 0, explain(completed)
    assert "Error" not in completed.stderr
    return completed.stdout


def test_reading_from_a_manifest(manifest: Path, tmp_path: Path, mpich: Flavour) -> None:
    printed = read_bench(mpich, manifest, tmp_path / "out", "--images", "20")
    results = check_reading(tmp_path / "out", printed, "m.txt", 20)
    assert [way["key"] for way in results["ways"]] == [
        "png", "png-fast", "lmdb-files", "lmdb-raw", "hdf5-loop", "hdf5-stack", "memmap",
        "h5ingest-raw", "h5py-h5ingest-zstd", "h5ingest-zstd", "h5ingest-zstd-small", "loader-png",
        "loader-store",
    ]  # fmt: skip
    assert results["n_images"] == N


def test_reading_without_torch_says_so(manifest: Path, tmp_path: Path) -> None:
    printed = read_bench(WHEELS.checked(), manifest, tmp_path / "out")
    results = check_reading(tmp_path / "out", printed, "m.txt", N)
    assert not any(way["key"].startswith("loader") for way in results["ways"])
    assert "PyTorch (extra 'torch')" in printed


@pytest.mark.parametrize(
    ("layout", "codec"),
    soon(
        [("stack", "gzip:1")],
        [("stack", "gzip:1"), ("encoded", None), ("stack", None), ("ragged", None)],
    ),
)
def test_reading_a_file(layout: str, codec: str | None, tmp_path: Path, mpich: Flavour) -> None:
    images = list(make_pixels(8, (6, 7, 3)))
    if layout != "stack":
        images[3] = images[3][:5]
    make_manifest(tmp_path / "in", images)
    rows = [("path", "label", "set"), *((f"{i}.png", i * 3, f"s{i % 2}") for i in range(8))]
    table = write_manifest(tmp_path / "in/t.tsv", rows)
    options = IngestOptions(layout=layout, compression=codec, group_by="set")
    ingest(table, tmp_path / "a.h5", options)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["s1/labels"][()].tolist() == [3, 9, 15, 21]
    printed = read_bench(mpich, tmp_path / "a.h5", tmp_path / "out", "--group", "s1")
    results = check_reading(tmp_path / "out", printed, "a.h5", 4)
    keys = [way["key"] for way in results["ways"]]
    assert ("memmap" in keys) == (layout == "stack" and codec is None)
    assert ("h5py-h5ingest-file" in keys) == (codec is not None)
    assert ("hdf5-stack" in keys) == (layout == "stack")
    assert keys[-1] == "loader-store"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["storage", "m.txt", "--cutoffs", "10,x"], 2, "--cutoffs: expected numbers of images"),
        (["storage", "m.txt", "--cutoffs", "10,0"], 2, "--cutoffs: expected numbers of images"),
        (["storage", "m.txt", "--runs", "0"], 2, "--runs"),
        (["storage", "m.txt", "--out", "m.txt"], 5, "--out m.txt: File exists"),
        (["storage", "missing.txt"], 4, "missing.txt"),
        (["storage", "bad.txt"], 3, "1 image cannot be read: 1 damaged"),
        (["read", "missing.h5"], 4, "missing.h5"),
        (["read", "other.h5"], 5, "other.h5"),
        (["read", "m.txt", "--images", "0"], 2, "--images"),
    ],
)
def test_errors_have_their_exit_codes(
    arguments: list[str], code: int, message: str, tmp_path: Path, mpich: Flavour
) -> None:
    make_manifest(tmp_path, make_pixels(2, (4, 4)))
    write_png(tmp_path / "bad.png", make_pixels(1, (9, 9))[0])
    damage(tmp_path / "bad.png")
    write_manifest(tmp_path / "bad.txt", ["0.png", "bad.png"])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    completed = mpich.forked("bench", *arguments, cwd=tmp_path)
    assert completed.returncode == code, explain(completed)
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
    assert not list(tmp_path.rglob("h5ingest-bench-*"))


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        *itertools.product(["storage", "read"], ["lmdb", "matplotlib"]),
        ("storage", "jinja2"),
    ],
)
def test_a_missing_extra_is_told_before_any_work(
    verb: str, missing: str, manifest: Path, tmp_path: Path, mpich: Flavour
) -> None:
    (tmp_path / f"{missing}.py").write_text("raise ImportError('no such package')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    completed = mpich.alone(
        "bench", verb, manifest, "--out", tmp_path / "out", env={"PYTHONPATH": paths}
    )
    assert completed.returncode == 6, explain(completed)
    assert error_lines(completed) == [
        f"h5ingest: error: h5ingest bench needs the package {missing}: "
        f"pip install 'h5ingest[bench]'"
    ]
    assert not (tmp_path / "out").exists()


def test_it_runs_on_one_rank_only(manifest: Path) -> None:
    completed = WHEELS.checked().run(2, "bench", "storage", manifest)
    assert completed.returncode == 2, explain(completed)
    assert error_lines(completed) == [
        "h5ingest: error: h5ingest bench storage runs on one rank, but this job has 2: "
        "start it without mpirun or srun"
    ]


# --- the modules -------------------------------------------------------------------------------


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_only_figures_draw_and_nothing_pickles() -> None:
    for path in BENCH.glob("*.py"):
        assert ("matplotlib" in imported(path)) == (path.stem == "figures")
        assert ("jinja2" in imported(path)) == (path.stem == "storage_page")
        assert not imported(path) & {"pickle", "typer", "mpi4py"}


def test_nothing_heavy_is_imported_for_help(mpich: Flavour) -> None:
    code = (
        "import sys; import h5ingest.cli.app; "
        "print(sorted({'matplotlib', 'lmdb', 'torch', 'h5py', 'numpy'} & set(sys.modules)))"
    )
    completed = run([mpich.bin / "python", "-c", code])
    assert completed.returncode == 0, explain(completed)
    assert "'lmdb'" not in completed.stdout
    assert "'matplotlib'" not in completed.stdout
    assert "'torch'" not in completed.stdout


@pytest.mark.parametrize("module", ["measure", "storage", "figures"])
def test_the_examples_are_true(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"h5ingest.bench.{module}"))
    assert (failed, tried > 0) == (0, True)
