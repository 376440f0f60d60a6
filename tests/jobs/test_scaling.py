"""`h5ingest bench scaling`: what it runs, counts, compares and writes. No time is judged."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import (
    FLAVOURS,
    WHEELS,
    Flavour,
    damage,
    error_lines,
    explain,
    make_pixels,
    reference_pixels,
    without_status,
    write_images,
    write_manifest,
)
from PIL import Image

from h5ingest.bench import launching, scaling, synthetic
from h5ingest.bench.image_sets import write_some
from h5ingest.bench.scaling import Plan
from h5ingest.core.errors import SetupError
from h5ingest.core.options import IngestOptions

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(450),  # a dozen launches one after the other, on a busy machine
]
STEPS = ["start-up", "manifest", "probe", "store", "finish"]
SIZES = {"12x10x1": 120, "9x7x3": 189}
"""Name of the drawn images -> bytes of one."""
RUNS = 2


def scale(
    flavour: Flavour, out: Path, *arguments: str | Path, timeout_s: float = 400, **how: Any
) -> tuple[dict[str, Any], str]:
    """Run it; return its results and what it printed."""
    completed = flavour.forked(
        "bench", "scaling", *arguments, "--out", out, timeout_s=timeout_s, **how
    )
    assert completed.returncode == 0, explain(completed)
    assert without_status(completed.stderr) == ""
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "scaling.png"]
    assert completed.stdout.splitlines()[-2:] == [
        str(out / "results.json"), str(out / "scaling.png"),
    ]  # fmt: skip
    return json.loads((out / "results.json").read_text()), completed.stdout


def points(results: dict[str, Any]) -> list[tuple[str, int, int, list[str]]]:
    return [(r["images"], r["ranks"], r["n_images"], r["scalings"]) for r in results["results"]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """What a run on drawn images made: the folder, its results, what was printed."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    results, printed = scale(
        WHEELS.checked(), out, "--sizes", ",".join(SIZES), "--images", "12", "--ranks", "2,1",
        "--runs", str(RUNS),
    )  # fmt: skip
    return out, results, printed


def test_every_number_of_ranks_is_run_and_counted(
    drawn: tuple[Path, dict[str, Any], str],
) -> None:
    _, results, printed = drawn
    assert results["schema"] == "h5ingest bench scaling 1"
    # Strong and weak scaling meet at the largest number of ranks.
    assert points(results) == [
        (size, ranks, n, scalings)
        for size in SIZES
        for ranks, n, scalings in (
            (1, 12, ["strong"]), (2, 12, ["strong", "weak"]), (1, 6, ["weak"]),
        )
    ]  # fmt: skip
    assert (results["n_runs"], results["arguments"]) == (RUNS, "")
    assert results["launcher"] == "mpiexec -n {n}"
    for result in results["results"]:
        assert result["readers"] is None
        assert result["image_bytes"] == result["n_images"] * SIZES[result["images"]]
        assert result["file_bytes"] > 60 * result["n_images"]
        assert list(result["steps"]) == STEPS
    for heading in ("Strong scaling", "Weak scaling"):
        assert printed.count(heading) == len(SIZES)
    for size in SIZES:
        assert f"{size}: 12 drawn images." in results["notes"]


def test_the_steps_make_up_the_whole_time(drawn: tuple[Path, dict[str, Any], str]) -> None:
    for result in drawn[1]["results"]:
        steps, wall = result["steps"], result["wall"]["runs"]
        assert len(wall) == len(result["work"]["runs"]) == RUNS
        for run in range(RUNS):
            each = [steps[name]["runs"][run] for name in STEPS]
            assert min(each) > 0
            assert sum(each) == pytest.approx(wall[run])
            assert sum(each[1:]) == pytest.approx(result["work"]["runs"][run])
        assert result["cpu"]["min"] > 0
        assert result["cpu_start"]["min"] > 0.01, "Python's imports alone take that"


def test_ratios_follow_from_the_times(drawn: tuple[Path, dict[str, Any], str]) -> None:
    results = drawn[1]["results"]
    for result in results:
        rate = result["n_images"] / result["work"]["median"]
        assert result["images_per_s"] == pytest.approx(rate)
        assert result["mb_per_s"] == pytest.approx(rate * SIZES[result["images"]] / 1e6)
        assert result["cpu_s_per_image"] == pytest.approx(
            result["cpu"]["median"] / result["n_images"]
        )
        for name in result["scalings"]:
            base = next(
                other for other in results
                if other["images"] == result["images"] and name in other["scalings"]
                and other["ranks"] == 1
            )  # fmt: skip
            speed_up = rate / base["images_per_s"]
            assert result["speed_up"][name] == pytest.approx(speed_up)
            assert result["efficiency"][name] == pytest.approx(speed_up / result["ranks"])


def test_there_is_a_picture(drawn: tuple[Path, dict[str, Any], str]) -> None:
    with Image.open(drawn[0] / "scaling.png") as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0, 158, 115), (0, 114, 178)):  # the two sizes
        assert (np.abs(seen - colour).max(axis=2) < 12).sum() > 100, colour


def test_a_users_manifest_options_and_launcher(mpich: Flavour, tmp_path: Path) -> None:
    names = write_images(tmp_path / "in/images", make_pixels(9, (6, 5)))
    rows = [("path", "set", "label"), *((n, f"s{i % 2}", i) for i, n in enumerate(names))]
    manifest = write_manifest(tmp_path / "in/m.csv", rows)
    results, printed = scale(
        mpich, tmp_path / "out", manifest, "--root", tmp_path / "in/images", "--ranks", "1,2",
        "--images", "8", "--scaling", "weak", "--runs", "1", "--launcher", "mpirun.mpich -n {n}",
        "--ingest-options", "--group-by set --compression gzip:1",
    )  # fmt: skip
    assert points(results) == [("m.csv", 1, 4, ["weak"]), ("m.csv", 2, 8, ["weak"])]
    assert results["launcher"] == "mpirun.mpich -n {n}"
    assert results["arguments"] == "--group-by set --compression gzip:1"
    assert "m.csv: 9 images of a manifest, 8 of them taken evenly." in results["notes"]
    assert "Strong scaling" not in printed


def test_open_mpi_is_found_and_may_have_more_ranks_than_cores(tmp_path: Path) -> None:
    n = len(os.sched_getaffinity(0)) + 1
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    results, _ = scale(
        FLAVOURS["openmpi"].checked(), tmp_path / "out", "--sizes", "5x4x4", "--images", "7",
        "--ranks", str(n), "--runs", "1", env=allowed,
    )  # fmt: skip
    assert points(results) == [("5x4x4", n, 7, ["strong", "weak"])]
    assert results["launcher"].endswith("--oversubscribe -n {n}")


def test_one_rank_needs_no_launcher(mpich: Flavour, tmp_path: Path) -> None:
    results, _ = scale(
        mpich, tmp_path / "out", "--sizes", "5x4x1", "--images", "3", "--ranks", "1",
        "--runs", "1", "--launcher", "",
    )  # fmt: skip
    assert points(results) == [("5x4x1", 1, 3, ["strong", "weak"])]


def test_no_place_of_this_machine_is_told(drawn: tuple[Path, dict[str, Any], str]) -> None:
    text = (drawn[0] / "results.json").read_text()
    for place in (drawn[0].parent, Path.home()):
        assert str(place) + "/" not in text


def test_a_file_of_other_content_does_not_count(tmp_path: Path) -> None:
    pixels = make_pixels(3, (5, 4))
    names = write_images(tmp_path / "in", pixels)
    manifest = write_manifest(tmp_path / "in/m.txt", names)
    (tmp_path / "out").mkdir()

    def meddle(text: str) -> None:
        if "run 1 of 1" in text:
            write_images(tmp_path / "in", pixels[::-1])

    plan = Plan(
        ranks=(1,), readers=(None,), scalings=("strong",), n_images=None, n_runs=1, launcher="",
        arguments=(),
    )  # fmt: skip
    with pytest.raises(AssertionError, match="3 images, 1 ranks: the file has other content"):
        scaling.measure(manifest, IngestOptions(), tmp_path / "out", plan, tell=meddle)
    assert list((tmp_path / "out").iterdir()) == []


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_wanted", "expected"), [(1, "e"), (2, "ce"), (5, "abcde")])
def test_some_lines_are_taken_evenly(n_wanted: int, expected: str, tmp_path: Path) -> None:
    whole, some = tmp_path / "m.csv", tmp_path / "some.csv"
    whole.write_bytes(b'\xef\xbb\xbfpath,x\r\na,"1,2"\r\n\r\nb,2\nc,3\n \nd,4\ne,5')
    write_some(whole, len(b"\xef\xbb\xbfpath,x\r\n"), 5, n_wanted, some)
    head, *lines = some.read_bytes().split(b"\n")
    assert head == b"\xef\xbb\xbfpath,x\r"
    assert "".join(line[:1].decode() for line in lines) == expected


@pytest.mark.parametrize("text", ["28x28x1", "70x66x1", "9x31x3", "8x8x4"])
def test_drawn_images_are_what_their_size_says(text: str, tmp_path: Path) -> None:
    shape = synthetic.parse_shape(text)
    manifest, n_files = synthetic.write_images(tmp_path / "images", shape, 3)
    assert manifest.read_text() == "0.png\n1.png\n2.png\n"
    assert n_files == 3
    for i in range(3):
        pixels = reference_pixels(tmp_path / f"images/{i}.png")
        expected = synthetic.draw(shape, i)
        assert pixels.shape == shape.array_shape
        np.testing.assert_array_equal(pixels, expected)
        colours = expected[:, :, :3] if shape.channels > 1 else expected
        assert 5 < colours.std() < 120
        assert not np.array_equal(expected, synthetic.draw(shape, i + 1))


def test_many_images_are_few_files_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "_MOST_BYTES", 50)
    manifest, n_files = synthetic.write_images(tmp_path / "i", synthetic.Shape(5, 4, 1), 5)
    assert n_files == 2
    assert manifest.read_text().split() == ["0.png", "1.png", "0.png", "1.png", "0.png"]


def test_srun_starts_the_ranks_of_a_slurm_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "srun" not in launching.default_launcher((1, 2))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert launching.default_launcher((1, 2)) == "srun --kill-on-bad-exit=1 -n {n}"


def test_without_a_launcher_it_asks_for_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert shutil.which("mpirun.mpich"), "MPICH's launcher is there, on PATH"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launching.default_launcher((1,)) == ""
    with pytest.raises(SetupError, match="no launcher for MPI ranks is found: name one"):
        launching.default_launcher((1, 2))


@pytest.mark.parametrize("module", ["scaling", "image_sets", "synthetic", "launching"])
def test_the_examples_are_true(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"h5ingest.bench.{module}"))
    assert (failed, tried > 0) == (0, True)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ranks", "1,x"], 2, "--ranks: expected ranks such as 1,2,4, got '1,x'"),
        (["--ranks", "0"], 2, "--ranks: expected ranks such as 1,2,4, got '0'"),
        (["--readers", "4,many"], 2, "--readers: expected numbers or auto"),
        (["--sizes", "28x28"], 2, "--sizes: expected HEIGHTxWIDTHxCHANNELS"),
        (["--sizes", "28x0x1"], 2, "--sizes: expected HEIGHTxWIDTHxCHANNELS"),
        (["m.txt", "--sizes", "28x28x1"], 2, "--sizes is for synthetic images"),
        (["--launcher", "mpirun -n 2"], 2, "--launcher: expected a command with {n}"),
        (["--launcher", "mpirun '-n {n}"], 2, "--launcher: No closing quotation"),
        (["--ingest-options", "'"], 2, "--ingest-options: No closing quotation"),
        (["--out", "m.txt"], 5, "--out m.txt: File exists"),
        (["missing.txt"], 4, "missing.txt"),
        (["m.txt", "--launcher", "no-such-mpirun -n {n}"], 6, "no-such-mpirun: No such file"),
        (["m.txt", "--ingest-options", "--layout cube"], 2, "exit code 2 of"),
        (["bad.txt"], 3, "1 damaged"),
    ],
)  # fmt: skip
def test_errors_have_their_exit_codes(
    arguments: list[str], code: int, message: str, tmp_path: Path, mpich: Flavour
) -> None:
    write_manifest(tmp_path / "m.txt", write_images(tmp_path, make_pixels(2, (4, 4))))
    write_images(tmp_path / "bad", make_pixels(1, (9, 9)))
    damage(tmp_path / "bad/0000.png")
    (tmp_path / "bad/0000.png").rename(tmp_path / "bad.png")
    write_manifest(tmp_path / "bad.txt", ["bad.png"])
    completed = mpich.forked(
        "bench", "scaling", *arguments, "--runs", "1", "--images", "2", cwd=tmp_path
    )
    assert completed.returncode == code, explain(completed)
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
    assert not list(tmp_path.rglob("h5ingest-bench-*"))


def test_it_is_not_started_by_a_launcher(mpich: Flavour, tmp_path: Path) -> None:
    completed = mpich.run(1, "bench", "scaling", cwd=tmp_path)
    assert completed.returncode == 2, explain(completed)
    assert error_lines(completed) == [
        "h5ingest: error: h5ingest bench scaling starts ranks itself: start it without mpirun or "
        "srun"
    ]


def test_a_missing_matplotlib_is_told_before_any_work(tmp_path: Path, mpich: Flavour) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no such package')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    completed = mpich.alone(
        "bench", "scaling", "--out", tmp_path / "out", env={"PYTHONPATH": paths}
    )
    assert completed.returncode == 6, explain(completed)
    assert "needs the package matplotlib: pip install 'h5ingest[bench]'" in completed.stderr
    assert not (tmp_path / "out").exists()
