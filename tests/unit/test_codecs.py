"""`h5ingest codecs`: sizes next to other tools, every pixel compared, and what is recommended."""

from __future__ import annotations

import json
import lzma
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import (
    REAL,
    WHEELS,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    run,
    truncate,
    without_status,
    write_images,
    write_manifest,
)
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.errors import OutputError, SamplesFailedError
from h5ingest.core.layout import DatasetSpec, Filter, ImageSpec
from h5ingest.core.options import IngestOptions
from h5ingest.core.sampling import evenly, spread
from h5ingest.inspect import codec_table, codecs
from h5ingest.inspect.codec_table import CodecReport, Measured
from h5ingest.storage.auto_codec import Part
from h5ingest.storage.filters import available, filter_pipeline

CI_CODECS = ("none", "gzip:1", "lzf", "szip", "zstd:3", "lz4", "bzip2:9", "blosc:lz4:5:bitshuffle")


def waves(n: int, dtype: str = "uint8") -> NDArray[Any]:
    """(n, 40, 50) smooth pixels, all different."""
    row, y, x = np.ogrid[:n, :40, :50]
    top = np.iinfo(np.dtype(dtype)).max
    return ((np.sin(x / 9 + row) + np.cos(y / 7) + 2) / 4 * top).astype(dtype)


def make_manifest(folder: Path, pixels: NDArray[Any]) -> Path:
    return write_manifest(folder / "m.txt", write_images(folder, pixels))


def measure(manifest: Path, n_wanted: int = 500) -> dict[str, Measured]:
    report = codecs.measure(manifest, IngestOptions(), n_wanted=n_wanted)
    return {m.label: m for m in report.measured}


# --- what is measured --------------------------------------------------------------------------


def test_every_codec_is_measured_and_every_one_is_offered() -> None:
    names = {text.partition(":")[0] for text in codecs.CODECS} - {"none"}
    assert names == set(available())


def test_sizes_are_those_of_the_codec(tmp_path: Path) -> None:
    pixels = waves(70)
    manifest = make_manifest(tmp_path, pixels)
    found = measure(manifest)
    n_files = sum(path.stat().st_size for path in tmp_path.glob("*.png"))
    assert found["none"].n_bytes == pixels.nbytes
    assert found["none"].of_raw == 1
    # 140 KB in one chunk: what zlib itself makes of it, byte for byte
    assert found["gzip:9"].n_bytes == len(zlib.compress(pixels.tobytes(), 9))
    for m in found.values():
        assert m.of_files == pytest.approx(m.n_bytes / n_files)
        assert m.of_raw == pytest.approx(m.n_bytes / pixels.nbytes)
        assert m.write_mb_s > 0
        assert m.read_mb_s > 0
        assert 3 <= m.n_runs <= 15
    assert found["zstd:19"].n_bytes < found["zstd:1"].n_bytes < pixels.nbytes
    assert found["zstd:19"].n_bytes > 0.5 * len(lzma.compress(pixels.tobytes()))
    assert not any(m.shuffle for m in found.values())


def test_16_bit_images_are_measured_with_shuffle_too(tmp_path: Path) -> None:
    found = measure(make_manifest(tmp_path, waves(9, "uint16")))
    assert {m.codec for m in found.values() if m.shuffle} == set(codecs.SHUFFLED)
    assert found["lzf --shuffle"].n_bytes < found["lzf"].n_bytes


def test_incompressible_images_take_no_more_than_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "CODECS", CI_CODECS)
    found = measure(make_manifest(tmp_path, make_pixels(20, (30, 30, 3))))
    assert all(m.of_raw < 1.02 for m in found.values())
    assert found["lzf"].of_raw == 1


def spec_of(image: ImageSpec, n: int, filters: tuple[Filter, ...]) -> DatasetSpec:
    return Part(np.broadcast_to(np.zeros((), image.dtype), (n, *image.shape))).spec(filters)


def test_chunks_are_those_of_an_ingest_but_hardly_padded(tmp_path: Path) -> None:
    image = ImageSpec(height=32, width=32, channels=3, dtype="uint8")
    spec = spec_of(image, 500, filter_pipeline("gzip", shuffle=False))
    assert spec.chunk_rows == 167  # an ingest's 170 would leave a last chunk of 160
    assert spec_of(image, 100_000, filter_pipeline("gzip", shuffle=False)).chunk_rows == 170
    assert spec_of(image, 341, ()).chunk_rows == 341
    photo = ImageSpec(height=512, width=768, channels=3, dtype="uint8")
    assert spec_of(photo, 24, ()).chunk_rows == 1


# --- the sample --------------------------------------------------------------------------------


def test_the_sample_is_even_and_the_same_every_time() -> None:
    assert evenly(1_000_000, 4) == [125_000, 375_000, 625_000, 875_000]
    assert evenly(5, 500) == [0, 1, 2, 3, 4]
    for n, k in ((7, 3), (100, 99), (10_000, 500)):
        rows = evenly(n, k)
        steps = np.diff(rows)
        assert len(rows) == k
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("n", [1, 2, 3, 100, 128])
def test_what_is_left_when_memory_ends_is_spread_too(n: int) -> None:
    order = list(spread(n))
    assert sorted(order) == list(range(n))
    if n == 100:
        assert np.diff(sorted(order[:25])).max() <= 8


def test_a_large_sample_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "CODECS", ("none", "zstd:3"))
    monkeypatch.setattr(codecs, "MOST_BYTES", 10 * 2000)
    report = codecs.measure(make_manifest(tmp_path, waves(64)), IngestOptions(), n_wanted=50)
    assert (report.n_images, report.n_sampled, report.bytes_raw) == (64, 10, 20_000)


def test_images_of_several_sizes_are_measured_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "CODECS", CI_CODECS)
    names = [f"a/{n}" for n in write_images(tmp_path / "a", make_pixels(5, (20, 30, 3)))]
    names += [f"b/{n}" for n in write_images(tmp_path / "b", make_pixels(3, (30, 20, 3)))]
    report = codecs.measure(
        write_manifest(tmp_path / "m.txt", names), IngestOptions(), n_wanted=500
    )
    assert report.images == ("20x30 RGB uint8", "30x20 RGB uint8")
    assert report.n_sampled == 8
    assert report.measured[0].n_bytes == 8 * 1800


def test_images_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "CODECS", ("none", "zstd:3"))
    manifest = make_manifest(tmp_path, waves(5))
    truncate(tmp_path / "0003.png")
    (tmp_path / "0001.png").unlink()
    report = codecs.measure(manifest, IngestOptions(), n_wanted=500)
    assert sorted((f.index, f.kind) for f in report.failures) == [(1, "missing"), (3, "damaged")]
    assert report.n_sampled == 3
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(SamplesFailedError, match="none of the 5 sampled images"):
        codecs.measure(manifest, IngestOptions(), n_wanted=500)


# --- the recommendation ------------------------------------------------------------------------


def made(codec: str, of_raw: float, write_mb_s: float, read_mb_s: float) -> Measured:
    return Measured(
        codec=codec, shuffle=False, n_bytes=int(of_raw * 1e6), of_files=of_raw * 2,
        of_raw=of_raw, write_mb_s=write_mb_s, read_mb_s=read_mb_s, n_runs=3,
    )  # fmt: skip


def reported(*measured: Measured) -> CodecReport:
    return CodecReport(
        manifest="m.txt", n_images=1, n_sampled=1, images=("2x2 gray uint8",), bytes_files=500_000,
        bytes_raw=1_000_000, libraries={}, measured=measured,
    )  # fmt: skip


RAW = made("none", 1.0, 2000, 5000)
SMALL = made("bzip2:9", 0.5, 10, 20)
QUICK = made("lz4", 0.9, 800, 3000)
MIDDLE = made("zstd:3", 0.6, 200, 1000)


def test_the_table_has_speeds_in_megabytes_and_in_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    codec_table.print_table(replace(reported(RAW, SMALL), n_sampled=50, n_images=60))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(": 976.6 KiB of pixels from 488.3 KiB of files")
    cells = [line.split()[:7] for line in lines]  # 50 images of a megabyte together
    assert ["bzip2:9", "1.00", "0.50", "10", "500", "20", "1,000"] in cells
    assert ["none", "2.00", "1.00", "2,000", "100,000", "5,000", "250,000"] in cells


def test_the_recommendations() -> None:
    report = reported(RAW, SMALL, QUICK, MIDDLE)
    assert report.smallest is SMALL
    assert report.fastest_to_read is QUICK
    # once 1/200 + 0.6/100, ten times 1/1000 + 0.6/100
    assert MIDDLE.balance_s == pytest.approx(0.005 + 0.006 + 10 * (0.001 + 0.006))
    assert report.balanced is MIDDLE


def test_what_saves_nothing_is_not_recommended_for_speed() -> None:
    useless = replace(QUICK, of_raw=0.99)
    assert reported(RAW, useless).fastest_to_read is RAW
    assert reported(RAW, useless, SMALL).fastest_to_read is SMALL


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("codecs"), waves(12))


def test_the_command_prints_writes_and_draws(
    manifest: Path, tmp_path: Path, mpich: Flavour
) -> None:
    completed = mpich.alone(
        "codecs", manifest, "--sample", "8",
        "--json", tmp_path / "codecs.json", "--plot", tmp_path / "codecs.png",
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    assert without_status(completed.stderr) == ""
    assert completed.stdout.startswith("8 of 12 images (40x50 gray uint8)")
    told = json.loads((tmp_path / "codecs.json").read_text())
    assert [m["codec"] for m in told["measured"]] == list(codecs.CODECS)
    rows = re.findall(r"^(\S+(?: --shuffle)?) +([\d.]+) +([\d.]+) ", completed.stdout, re.M)
    assert {row[0] for row in rows} == set(codecs.CODECS)
    assert [float(row[2]) for row in rows] == sorted(float(row[2]) for row in rows)
    for want in ("smallest", "fastest_to_read", "balanced"):
        mark = want.replace("_", " ")
        assert re.search(rf"^{re.escape(told[want])} .*\b{mark}\b", completed.stdout, re.M)
    with Image.open(tmp_path / "codecs.png") as picture:
        assert picture.size == (1350, 900)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "nothing is drawn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codecs.json", "codecs.png"]


def test_root_and_delimiter_are_those_of_an_ingest(manifest: Path, tmp_path: Path) -> None:
    rows = [("path", "label"), *((name, 1) for name in manifest.read_text().split())]
    table = tmp_path / "t.txt"
    table.write_text("".join(f"{path};{label}\n" for path, label in rows))
    completed = WHEELS.checked().forked(
        "codecs", table, "--delimiter", ";", "--root", manifest.parent, "--sample", "2"
    )
    assert completed.returncode == 0, explain(completed)
    assert completed.stdout.startswith("2 of 12 images")


def test_it_runs_on_one_rank_only(manifest: Path, tmp_path: Path) -> None:
    jobs: list[list[str | Path]] = [["codecs", manifest], ["codecs", "--help"]]
    completed, helped = WHEELS.checked().run_many(3, jobs, tmp_path / "told")
    assert completed.returncode == 2, explain(completed)
    assert error_lines(completed) == [
        "h5ingest: error: h5ingest codecs runs on one rank, but this job has 3: "
        "start it without mpirun or srun"
    ]
    assert completed.stdout == ""
    assert helped.returncode == 0
    assert helped.stdout.count("--sample") == 1


def test_one_rank_under_a_launcher_is_one_rank(manifest: Path) -> None:
    completed = WHEELS.checked().run(1, "codecs", manifest, "--sample", "1")
    assert completed.returncode == 0, explain(completed)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["m.txt", "--sample", "0"], 2, "--sample"),
        (["m.txt", "--json", "no/folder.json"], 2, "--json: expected an existing folder"),
        (["m.txt", "--plot", "no/folder.png"], 2, "--plot: expected an existing folder"),
        (["m.txt", "--delimiter", "ab"], 2, "--delimiter"),
        (["missing.txt"], 4, "missing.txt"),
        (["m.txt", "--root", "nowhere"], 3, "none of the 12 sampled images can be read"),
    ],
)
def test_errors_have_their_exit_codes(
    arguments: list[str], code: int, message: str, manifest: Path, mpich: Flavour
) -> None:
    completed = mpich.forked("codecs", *arguments, cwd=manifest.parent)
    assert completed.returncode == code, explain(completed)
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr


def test_without_matplotlib_a_plot_is_refused_before_any_work(
    manifest: Path, tmp_path: Path, mpich: Flavour
) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no such package')")
    completed = mpich.alone(
        "codecs", manifest, "--plot", tmp_path / "a.png", env={"PYTHONPATH": str(tmp_path)}
    )
    assert completed.returncode == 6, explain(completed)
    assert error_lines(completed) == [f"h5ingest: error: {codec_table.NO_MATPLOTLIB}"]
    assert completed.stdout == ""


def test_a_plot_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--plot"):
        codec_table.draw(reported(RAW, SMALL), tmp_path / "a.nonsense")


def test_matplotlib_is_imported_only_to_draw(manifest: Path, mpich: Flavour) -> None:
    code = (
        "import sys; import h5ingest.cli.app, h5ingest.inspect.codecs; "
        "print('matplotlib' in sys.modules)"
    )
    completed = run([mpich.bin / "python", "-c", code])
    assert completed.stdout == "False\n", explain(completed)


# --- photographs -------------------------------------------------------------------------------

KODAK = {
    "none": 1.70, "gzip:9": 1.12, "lzf": 1.37, "bzip2:9": 0.865, "zstd:3": 1.195, "zstd:19": 0.955,
    "lz4": 1.495,
}  # fmt: skip
"""Every fourth image, one in a chunk, relative to the PNGs."""
DRAWN = {
    "none": 2.365, "gzip:9": 1.75, "lzf": 2.03, "bzip2:9": 1.345, "zstd:3": 1.83, "zstd:19": 1.625,
    "lz4": 2.09,
}  # fmt: skip
"""The same of `drawn.py`'s."""


def test_kodak(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "CODECS", tuple(KODAK))
    monkeypatch.setattr(codecs, "_LONG_S", 0.0001)  # sizes are wanted: one run
    paths = sorted((corpora / "kodak").rglob("*.png"))
    assert len(paths) == 24
    found = measure(write_manifest(tmp_path / "kodak.txt", paths[::4]))
    assert {name: m.of_files for name, m in found.items()} == pytest.approx(
        KODAK if REAL else DRAWN, abs=0.02
    )
    assert found["gzip:9"].n_runs == 1
