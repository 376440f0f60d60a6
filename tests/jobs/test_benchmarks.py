"""`make bench`: the scripts in benchmarks/ store what is in the files. No time is judged."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.support import ROOT, Flavour, explain, make_pixels, run, write_images

pytestmark = pytest.mark.long

BENCHMARKS = ROOT / "benchmarks"
WAYS = {
    "decoded": ["h5ingest", "expert", "pool", "notebook"],
    "encoded": ["h5ingest", "tar", "lmdb"],
}
N = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as `--data` expects them, those of the size of CIFAR's to be cut from photographs."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "mnist/a", make_pixels(N + 2, (28, 28)))
    write_images(folder / "kodak", make_pixels(3, (70, 90, 3)))
    write_images(folder / "kodak/upright", make_pixels(2, (90, 70, 3)))
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, mpich: Flavour, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "out"
    completed = run(
        [
            mpich.bin / "python", BENCHMARKS / "against_baselines.py", "--data", data, "--out", out,
            "--images", str(N), "--runs", "2",
        ],
        timeout_s=250,
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    assert completed.stdout == (out / "bench.md").read_text()
    return out


def test_every_way_stores_every_corpus(measured: Path) -> None:
    told = json.loads((measured / "bench.json").read_text())
    assert [(c["name"], c["n_images"]) for c in told["corpora"]] == [
        ("MNIST", N), ("CIFAR-size", N), ("photographs", 30),
    ]  # fmt: skip
    assert told["corpora"][2]["about"].startswith("30 RGB photographs of 90x70: the 3 of that size")
    found = {(r["corpus"], r["kind"], r["way"]): r for r in told["results"]}
    assert list(found) == [
        (corpus, kind, way)
        for corpus in ("MNIST", "CIFAR-size", "photographs")
        for kind, keys in WAYS.items()
        for way in keys
    ]
    for (_, _, way), result in found.items():
        assert len(result["runs"]) == 2
        for took in result["runs"]:
            assert 0 < took["work"] <= took["whole"]
            assert took["cpu"] >= 0
            assert ("probe" in took["phases"]) == (way == "h5ingest")
    assert sorted(path.name for path in measured.iterdir()) == ["bench.json", "bench.md", "images"]


def test_the_table_has_the_ratios(measured: Path) -> None:
    told = json.loads((measured / "bench.json").read_text())
    text = (measured / "bench.md").read_text()
    ours, expert = (
        next(r["median"] for r in told["results"] if (r["corpus"], r["way"]) == ("MNIST", way))
        for way in ("h5ingest", "expert")
    )
    whole, work = (expert[what] / ours[what] for what in ("whole", "work"))
    [line, *_] = [line for line in text.splitlines() if "expert's MPI script" in line]
    assert line.endswith(f"| {whole:.2f}x | {work:.2f}x | 1.0x |")
    assert "Load of the machine:" in text


def test_the_hot_path_is_compared_with_its_parts(
    measured: Path, mpich: Flavour, tmp_path: Path
) -> None:
    command = [mpich.bin / "python", BENCHMARKS / "hot_path.py", measured / "images/MNIST.txt"]
    completed = run([*command, "--runs", "2"], cwd=tmp_path)
    assert completed.returncode == 0, explain(completed)
    title, head, *rows = completed.stdout.splitlines()
    assert title.startswith(f"{N} images of uint8 (28, 28), ")
    assert head.split() == ["bare", "h5ingest", "ratio"]
    assert [row.split()[0] for row in rows] == ["read", "decode", "write", "together", "all"]
    assert all(float(value) > 0 for row in rows for value in row.split()[1:])
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_other_pixels_does_not_count(measured: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        bench: Any = importlib.import_module("against_baselines")
        corpora: Any = importlib.import_module("corpora")
    finally:
        sys.path.remove(str(BENCHMARKS))
    [corpus, *_] = corpora.prepare(None, tmp_path / "drawn", 5)
    [ours, *_] = bench.ways(2, "mpirun.mpich -n {n}")["decoded"]
    pixels = make_pixels(5, (28, 28))
    with h5py.File(tmp_path / "out", "w") as file:
        file["images"] = pixels
    with pytest.raises(AssertionError, match="row 0 is not 0"):
        bench.compare(ours, corpus, tmp_path / "out")
    assert len(os.listdir(tmp_path / "drawn/drawn-28x28x1")) == 5 + 1  # and a manifest


def test_the_table_of_codecs_says_what_the_files_take(
    data: Path, mpich: Flavour, tmp_path: Path
) -> None:
    script, options = BENCHMARKS / "codec_table.py", ("--speeds", "--only", "MNIST", "photographs")
    page = tmp_path / "page.md"
    begin, end = "<!-- tables of benchmarks/codec_table.py -->", "<!-- end of the tables -->"
    page.write_text(f"one\n{begin}\n\nas before\n\n{end}\ntwo\n")
    completed = run(
        [mpich.bin / "python", script, "--data", data, "--work", tmp_path / "work", *options,
         "--write", page],
        cwd=tmp_path,
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    before, _, rest = page.read_text().partition(begin)
    tables, _, after = rest.partition(end)
    assert (before, after) == ("one\n", "\ntwo\n")
    assert completed.stdout.strip() in tables
    assert "as before" not in tables
    threads = completed.stdout.partition("#### The same photographs by one and two threads")[2]
    assert sum(line.startswith(("| PNG", "| `")) for line in threads.splitlines()) == 8
    for name, pattern, n in (
        ("MNIST", "mnist/**/*.png", N + 2),
        ("photographs", "kodak/**/*.png", 5),
    ):
        n_png = sum(path.stat().st_size for path in data.glob(pattern))
        _, section = completed.stdout.split(f"### {name}: {n} images")
        section = section.partition("###")[0]
        assert f"PNG files: {n_png:,} bytes." in section
        rows = {
            cells[1].strip(" `"): cells[2:-1]
            for line in section.splitlines()
            if (cells := line.split("|"))[0] == "" and len(cells) > 2
        }
        for kept in ("none", "zstd:9", "htj2k", "zip", "LMDB of PNGs"):
            n_bytes = int(rows[kept][0].replace(",", ""))
            assert float(rows[kept][1]) == round(n_bytes / n_png, 2)
        assert all(int(speed.replace(",", "")) > 0 for speed in rows["htj2k"][2:])
        [chosen] = [key for key in rows if key.startswith("auto")]
        codec = chosen.removeprefix("auto`: ")
        least = min(int(rows[name][0].replace(",", "")) for name in ("none", "zstd:3", "htj2k"))
        assert int(rows[chosen][0].replace(",", "")) <= 1.02 * least, codec


def test_the_tools_of_debian_read_every_codec_with_the_plugins(
    data: Path, mpich: Flavour, tmp_path: Path
) -> None:
    script = BENCHMARKS / "codec_table.py"
    completed = run([mpich.bin / "python", script, "--data", data, "--tools"], cwd=tmp_path)
    assert completed.returncode == 0, explain(completed)
    rows = [line.strip("| ").split(" | ") for line in completed.stdout.splitlines()[2:]]
    told = {row[0].strip("`"): row[1:] for row in rows}
    assert len(told) == 7
    for codec, (plain, *with_plugins) in told.items():
        assert with_plugins == ["yes", "yes"], codec
        assert plain == ("yes" if codec in ("none", "gzip:4") else "no"), codec
