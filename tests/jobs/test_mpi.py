"""Whole jobs as users launch them, on several ranks, with each MPI.

pytest never runs inside MPI: one rank that fails would leave the others waiting.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.support import (
    FLAVOURS,
    MPICH_SOON,
    Completed,
    Flavour,
    damage,
    error_lines,
    explain,
    make_pixels,
    read_file,
    truncate,
    write_images,
    write_manifest,
)
from PIL import Image
from xxhash import xxh3_64_intdigest

from h5ingest.pipeline.run import ingest

N_RANKS = (1, 2, 3, 5)
FEW = (1, 3)
"""Images."""
LATE_CHUNKS = ("--compression", "gzip:9", "--chunk", "1", "--batch-bytes", "90")
MOMENT = {"SOURCE_DATE_EPOCH": "1700000000"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """23 small images in a table with all kinds of columns."""

    folder: Path
    manifest: Path
    arrays: dict[str, np.ndarray]
    """What the file must hold."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("table")
    pixels = make_pixels(23, (6, 5, 3))
    names = write_images(folder / "images", pixels)
    label_names = ["zebra", "ant", "été"]
    labels = [label_names[row % 3] for row in range(23)]
    rows = [
        (f"images/{name}", label, row * row, "" if row % 5 == 1 else row / 4, f"note {row}")
        for row, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    manifest = write_manifest(
        folder / "manifest.csv", [("path", "label", "square", "age", "note"), *rows]
    )
    text = [[str(cell).encode() for cell in column] for column in zip(*rows, strict=True)]
    in_order = sorted(set(text[1]))
    arrays = {
        "images": pixels,
        "labels": np.array([in_order.index(label) for label in text[1]]),
        "label_names": np.array(in_order, object),
        "paths": np.array(text[0], object),
        "status": np.ones(23, np.uint8),
        "checksums": np.array([xxh3_64_intdigest(image.tobytes()) for image in pixels], np.uint64),
        "columns/square": np.arange(23) ** 2,
        "columns/age": np.array([float(cell or "nan") for cell in text[3]]),
        "columns/note": np.array(text[4], object),
    }
    return Table(folder=folder, manifest=manifest, arrays=arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One launched job and the file it made."""

    completed: Completed
    file: Path


@pytest.fixture(scope="module")
def runs(flavour: Flavour, table: Table) -> dict[int, Run]:
    """The same command at the same place on each number of ranks: 12 chunks, 6 batches."""
    found = {}
    for n_ranks in N_RANKS:
        completed = flavour.run(
            n_ranks, "manifest.csv", "out.h5", "--chunk", "2", "--batch-bytes", "400",
            "--report", "report.json", cwd=table.folder, env=MOMENT,
        )  # fmt: skip
        assert completed.returncode == 0, explain(completed)
        assert not (table.folder / "out.h5.partial").exists()
        file = table.folder / f"{flavour.name}-{n_ranks}.h5"
        (table.folder / "out.h5").rename(file)
        (table.folder / "report.json").rename(file.with_suffix(".json"))
        found[n_ranks] = Run(completed=completed, file=file)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Thousand:
    """1,000 good images of 4x4, three damaged ones, three of another shape."""

    folder: Path
    names: list[str]

    def manifest(self, name: str, instead: dict[int, str]) -> Path:
        """Write a manifest of the good images, but for some rows."""
        rows = [instead.get(row, f"good/{name}") for row, name in enumerate(self.names)]
        return write_manifest(self.folder / name, rows)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Thousand:
    folder = tmp_path_factory.mktemp("thousand")
    names = write_images(folder / "good", make_pixels(1000, (4, 4)))
    bad = write_images(folder / "bad", make_pixels(3, (4, 4)))
    damage(folder / "bad" / bad[0])
    truncate(folder / "bad" / bad[1])
    damage(folder / "bad" / bad[2])
    write_images(folder / "wide", make_pixels(3, (4, 9)))
    return Thousand(folder=folder, names=names)


def test_any_number_of_ranks_stores_what_was_written(runs: dict[int, Run], table: Table) -> None:
    for n_ranks, one in runs.items():
        stored = read_file(one.file)
        assert stored.arrays.keys() == table.arrays.keys()
        for name, expected in table.arrays.items():
            np.testing.assert_array_equal(stored.arrays[name], expected, f"{name}, {n_ranks} ranks")
        assert stored.attrs["status"] == "complete"
        assert (stored.attrs["n_samples"], stored.attrs["n_failed"]) == (23, 0)
        assert stored.attrs["created"] == "2023-11-14T22:13:20Z"


def test_the_bytes_of_the_file_do_not_depend_on_the_number_of_ranks(runs: dict[int, Run]) -> None:
    contents = {n_ranks: one.file.read_bytes() for n_ranks, one in runs.items()}
    assert [n_ranks for n_ranks in contents if contents[n_ranks] != contents[1]] == []


def test_the_content_digest_is_that_of_a_single_process_without_mpi(
    runs: dict[int, Run], table: Table, tmp_path: Path
) -> None:
    expected = ingest(table.manifest, tmp_path / "serial.h5").content_digest
    for one in runs.values():
        assert read_file(one.file).attrs["content_digest"] == expected
        assert expected in one.completed.stdout


SLURM_JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_RESTART_COUNT": "1",
}


def test_the_file_says_which_job_made_it_unless_it_is_to_be_reproducible(
    flavour: Flavour, table: Table, runs: dict[int, Run], tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    completed = flavour.run(2, table.manifest, out, "-q", env=SLURM_JOB)
    assert completed.returncode == 0, explain(completed)
    attrs = read_file(out).attrs
    assert json.loads(attrs["job"]) == {
        "ranks": 2, "hosts": 1,
        "slurm_job": "4711", "slurm_nodes": "n[1-2]", "slurm_restarts": "1",
    }  # fmt: skip
    assert {"mpich": "MPICH", "openmpi": "Open MPI"}[flavour.name] in attrs["libraries"]
    shown = flavour.forked("show", out, "--all")
    assert "slurm_job 4711, slurm_nodes n[1-2], slurm_restarts 1" in shown.stdout, explain(shown)
    kept = runs[2].file  # made with SOURCE_DATE_EPOCH
    assert attrs["content_digest"] == read_file(kept).attrs["content_digest"]
    assert "job" not in read_file(kept).attrs
    assert "MPI" not in json.loads(read_file(kept).attrs["libraries"])


@MPICH_SOON
def test_a_reproducible_file_does_not_depend_on_the_job_or_on_mpi(
    flavour: Flavour, table: Table, tmp_path: Path
) -> None:
    command = (table.manifest, "out.h5", "-q")
    for folder in ("alone", "job"):
        (tmp_path / folder).mkdir()
    done = flavour.forked(*command, cwd=tmp_path / "alone", env=MOMENT)
    assert done.returncode == 0, explain(done)
    done = flavour.run(3, *command, cwd=tmp_path / "job", env={**MOMENT, **SLURM_JOB})
    assert done.returncode == 0, explain(done)
    alone, job = (tmp_path / folder / "out.h5" for folder in ("alone", "job"))
    assert alone.read_bytes() == job.read_bytes()


def test_progress_goes_to_a_log_as_one_line_a_phase(runs: dict[int, Run]) -> None:
    for one in runs.values():
        lines = one.completed.stderr.splitlines()
        assert [line.partition(",")[0] for line in lines] == [
            "reading headers: 23 of 23 images (100%)",
            "storing: 23 of 23 images (100%)",
        ]


def test_the_report_counts_over_all_ranks(runs: dict[int, Run], table: Table) -> None:
    bytes_in = sum(file.stat().st_size for file in (table.folder / "images").iterdir())
    for n_ranks, one in runs.items():
        report = json.loads(one.file.with_suffix(".json").read_text())
        assert report["n_ranks"] == n_ranks
        assert report["n_samples"] == report["files_before"] == 23
        assert report["files_after"] == 1
        assert report["image"] == "images of 6x5 RGB uint8"
        assert report["bytes_in"] == bytes_in
        assert report["bytes_out"] == one.file.stat().st_size
        assert report["failures"] == []
        assert report["phases"].keys() >= {"manifest", "probe", "decode", "write", "finalize"}
        for spread in report["phases"].values():
            assert 0 <= spread["min"] <= spread["median"] <= spread["max"] <= report["seconds"]


ASKED: dict[str, tuple[str, ...]] = {
    "help": ("--help",), "version": ("--version",), "nonsense": ("a.txt", "b.h5", "--nonsense"),
    "chunk": ("a.txt", "b.h5", "--chunk", "none"),
}  # fmt: skip


@MPICH_SOON
def test_help_version_and_usage_errors_are_printed_once(
    flavour: Flavour, ended: dict[str, Ended]
) -> None:
    help_, version, nonsense, chunk = (ended[name].completed for name in ASKED)
    for shown in (help_, flavour.run(2, "--help")):
        assert (shown.returncode, shown.stdout.count("Usage:")) == (0, 1), explain(shown)
    assert version.returncode == 0, explain(version)
    assert re.fullmatch(r"h5ingest \d+\.\S+\n", version.stdout)
    assert (nonsense.returncode, nonsense.stderr.count("--nonsense")) == (2, 1), explain(nonsense)
    assert (chunk.returncode, chunk.stderr.count("--chunk: expected")) == (2, 1), explain(chunk)


def assert_refused(completed: Completed, code: int, out: Path, *said: str) -> None:
    """Assert one message, the exit code, and that nothing was published."""
    assert completed.returncode == code, explain(completed)
    assert len(error_lines(completed)) == 1, explain(completed)
    for text in said:
        assert text in completed.stderr, explain(completed)
    assert not out.exists(), explain(completed)
    assert not out.with_name(f"{out.name}.lock").exists(), explain(completed)


DAMAGED = {7: "bad/0000.png", 500: "bad/0001.png", 999: "bad/0002.png"}
MISSING = {0: "nowhere/a.png", 400: "nowhere/b.png", 999: "nowhere/c.png"}
MIXED = {10: "wide/0000.png", 11: "wide/0001.png", 900: "wide/0002.png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that has ended in good order."""

    completed: Completed
    out: Path


@pytest.fixture(scope="module")
def ended(
    flavour: Flavour, table: Table, thousand: Thousand, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """Jobs on three ranks that start but once."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "file").touch()
    damaged = thousand.manifest("corrupt.txt", DAMAGED)
    good = thousand.manifest("good.txt", {})
    jobs: dict[str, tuple[str | Path, ...]] = {
        "blank": (damaged, folder / "blank.h5", "--chunk", "16", "--on-error", "blank",
                  "--report", folder / "report.json"),
        "missing": (thousand.manifest("missing.txt", MISSING), folder / "missing.h5"),
        "mixed": (thousand.manifest("mixed.txt", MIXED), folder / "mixed.h5"),
        "elsewhere": (good, folder / "elsewhere.h5", "--root", folder),
        "bad line": (bad_line(folder), folder / "bad.h5"),
        "empty": (write_manifest(folder / "empty.txt", []), folder / "empty.h5"),
        "absent": (folder / "absent.txt", folder / "none.h5"),
        "no folder": (table.manifest, folder / "absent" / "out.h5"),
        "in a file": (table.manifest, folder / "file" / "out.h5"),
        # Even root, to whom no permission is denied, cannot make a file there.
        "proc": (table.manifest, Path("/proc/out.h5")),
        "dry run": (good, folder / "dry" / "out.h5", "--chunk", "16", "--dry-run"),
        "late chunks": (table.manifest, folder / "late.h5", *LATE_CHUNKS),
        "exists": (table.manifest, folder / "precious.h5"),
        **ASKED,
    }  # fmt: skip
    (folder / "dry").mkdir()
    (folder / "precious.h5").write_text("precious")
    return run_all(flavour, 3, jobs, folder / "told")


@pytest.fixture(scope="module")
def on_five(
    flavour: Flavour, table: Table, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """Small jobs on five ranks."""
    folder = tmp_path_factory.mktemp("five")
    jobs: dict[str, tuple[str | Path, ...]] = {"bad line": (bad_line(folder), folder / "bad.h5")}
    for n_images in FEW:
        rows = [(table.folder / f"images/{row:04}.png", row - 1) for row in range(n_images)]
        manifest = write_manifest(folder / f"{n_images}.txt", rows)
        jobs[f"{n_images} images"] = (manifest, folder / f"{n_images}.h5", "--chunk", "1")
    return run_all(flavour, 5, jobs, folder / "told")


def run_all(
    flavour: Flavour, n_ranks: int, jobs: dict[str, tuple[str | Path, ...]], told: Path
) -> dict[str, Ended]:
    """Run jobs, (manifest, out, options...) each or less, on ranks that start but once."""
    done = flavour.run_many(n_ranks, list(jobs.values()), told, timeout_s=120)
    outs = (Path(*job[1:2]) for job in jobs.values())
    return {
        name: Ended(completed=completed, out=out)
        for name, completed, out in zip(jobs, done, outs, strict=True)
    }


def bad_line(folder: Path) -> Path:
    """A manifest whose line 618 has another number of cells."""
    labels = ["only a path" if row == 617 else (f"{row}.png", row) for row in range(1000)]
    return write_manifest(folder / "labels.txt", labels)


def test_three_corrupt_images_of_a_thousand_are_named_and_nothing_is_published(
    flavour: Flavour, thousand: Thousand, tmp_path: Path
) -> None:
    manifest = thousand.manifest("corrupt.txt", DAMAGED)
    out = tmp_path / "out.h5"
    completed = flavour.run(3, manifest, out, "--chunk", "16")
    assert_refused(completed, 3, out, "3 of 1,000 images failed", "3 damaged", *DAMAGED.values())


@MPICH_SOON
def test_corrupt_images_may_be_stored_as_zeros(ended: dict[str, Ended]) -> None:
    completed, out = ended["blank"].completed, ended["blank"].out
    assert completed.returncode == 0, explain(completed)
    stored = read_file(out)
    expected, status = make_pixels(1000, (4, 4)), np.ones(1000)
    expected[list(DAMAGED)], status[list(DAMAGED)] = 0, 2
    np.testing.assert_array_equal(stored.arrays["images"], expected)
    np.testing.assert_array_equal(stored.arrays["status"], status)
    assert stored.attrs["n_failed"] == 3
    report = json.loads(out.with_name("report.json").read_text())
    assert report["n_failed"] == 3
    assert {failure["index"]: failure["path"] for failure in report["failures"]} == DAMAGED


@MPICH_SOON
def test_missing_files_and_mixed_shapes_are_found_before_anything_is_written(
    ended: dict[str, Ended],
) -> None:
    completed, out = ended["missing"].completed, ended["missing"].out
    assert_refused(completed, 3, out, "3 of 1,000 files cannot be read", *MISSING.values())
    assert "store:" not in completed.stderr
    assert_refused(
        ended["mixed"].completed, 3, ended["mixed"].out,
        "997 x 4x4 gray uint8 (first: line 1: good/0000.png)",
        "3 x 4x9 gray uint8 (first: line 11: wide/0000.png)",
    )  # fmt: skip


@MPICH_SOON
def test_if_all_files_are_missing_the_message_points_to_the_root_option(
    ended: dict[str, Ended],
) -> None:
    completed, out = ended["elsewhere"].completed, ended["elsewhere"].out
    root = out.parent
    assert_refused(completed, 3, out, "none of its 1,000 files", f"{root}/good/0000", "--root")


@MPICH_SOON
def test_a_manifest_error_names_the_file_and_the_line(
    ended: dict[str, Ended], on_five: dict[str, Ended]
) -> None:
    for jobs in (ended, on_five):
        completed, out = jobs["bad line"].completed, jobs["bad line"].out
        manifest = out.with_name("labels.txt")
        said = f"{manifest}, line 618: expected 2", "'only a path'"
        assert_refused(completed, 4, out, *said)


@MPICH_SOON
def test_a_phase_ends_with_one_line_though_its_chunks_are_still_on_their_way(
    flavour: Flavour, table: Table, ended: dict[str, Ended], tmp_path: Path
) -> None:
    alone = flavour.forked(table.manifest, tmp_path / "out.h5", *LATE_CHUNKS)
    for completed in (alone, ended["late chunks"].completed):
        assert completed.returncode == 0, explain(completed)
        for phase in ("storing", "reading headers"):
            assert completed.stderr.count(f"{phase}: 23 of 23 images (100%)") == 1, phase


@MPICH_SOON
def test_an_empty_or_absent_manifest_is_refused(ended: dict[str, Ended]) -> None:
    empty, absent = ended["empty"], ended["absent"]
    said = f"{empty.out.with_suffix('.txt')}: expected one image path per line"
    assert_refused(empty.completed, 4, empty.out, said)
    said = f"{absent.out.with_name('absent.txt')}: cannot be read: No such file"
    assert_refused(absent.completed, 4, absent.out, said)


@MPICH_SOON
def test_an_output_that_exists_is_kept(ended: dict[str, Ended]) -> None:
    completed, out = ended["exists"].completed, ended["exists"].out
    assert completed.returncode == 5, explain(completed)
    assert len(error_lines(completed)) == 1
    assert "exists already, as a text file" in completed.stderr
    assert out.read_text() == "precious"


@MPICH_SOON
@pytest.mark.parametrize("n_images", FEW)
def test_there_may_be_more_ranks_than_images(
    on_five: dict[str, Ended], table: Table, n_images: int
) -> None:
    job = on_five[f"{n_images} images"]
    assert job.completed.returncode == 0, explain(job.completed)
    arrays = read_file(job.out).arrays
    np.testing.assert_array_equal(arrays["images"], table.arrays["images"][:n_images])
    assert arrays["labels"].tolist() == list(range(-1, n_images - 1))
    assert arrays["status"].tolist() == [1] * n_images


@MPICH_SOON
def test_a_place_where_no_file_can_be_made_is_refused(ended: dict[str, Ended]) -> None:
    absent, file = ended["no folder"], ended["in a file"]
    said = f"expected an existing folder {absent.out.parent}"
    assert_refused(absent.completed, 5, absent.out, said)
    assert_refused(file.completed, 5, file.out, str(file.out))


@MPICH_SOON
def test_a_file_system_that_refuses_the_file_is_reported_once(ended: dict[str, Ended]) -> None:
    assert_refused(ended["proc"].completed, 5, Path("/proc/out.h5"), "/proc/out.h5")


def go_wrong(flavour: Flavour, thousand: Thousand, how: str, rank: int, out: Path) -> Completed:
    """What becomes of a job on three ranks when one of them crashes, is killed, has no space."""
    return flavour.run_launched(
        3, how, str(rank), "20", thousand.manifest("good.txt", {}), out,
        "--chunk", "4", "--batch-bytes", "64",
    )  # fmt: skip


@pytest.mark.parametrize("rank", [0, 2])
def test_a_crash_of_one_rank_ends_all_with_its_traceback(
    flavour: Flavour, thousand: Thousand, rank: int, tmp_path: Path
) -> None:
    completed = go_wrong(flavour, thousand, "crash", rank, tmp_path / "out.h5")
    assert completed.returncode == 1, explain(completed)
    assert f"[rank {rank} of 3] Traceback" in completed.stderr, explain(completed)
    assert f"[rank {rank} of 3] ZeroDivisionError: arranged by a test" in completed.stderr
    assert completed.stderr.count("ZeroDivisionError: ") == 1
    assert not (tmp_path / "out.h5").exists()


def test_a_rank_that_is_killed_ends_the_job(
    flavour: Flavour, thousand: Thousand, tmp_path: Path
) -> None:
    # MPICH's mpirun then exits with 9, that of Open MPI with 128 + 9.
    completed = go_wrong(flavour, thousand, "kill", 1, tmp_path / "out.h5")
    assert completed.returncode in (9, 137), explain(completed)
    assert not (tmp_path / "out.h5").exists()


def test_a_disk_that_is_full_for_one_rank_ends_all_with_its_message(
    flavour: Flavour, thousand: Thousand, tmp_path: Path
) -> None:
    completed = go_wrong(flavour, thousand, "full", 1, tmp_path / "out.h5")
    assert completed.returncode == 5, explain(completed)
    (line,) = error_lines(completed)
    assert line.startswith("[rank 1 of 3] ")
    assert "out.h5.partial: writing rows" in line
    assert not (tmp_path / "out.h5").exists()


def test_ranks_that_do_not_see_each_other_refuse_to_work(
    flavour: Flavour, table: Table, tmp_path: Path
) -> None:
    (other,) = (one for one in FLAVOURS.values() if one != flavour)
    out = tmp_path / "out.h5"
    completed = flavour.launch(3, other.checked().bin / "h5ingest", table.manifest, out)
    assert_refused(completed, 6, out, "started 3 processes, but MPI sees a world of 1")


def test_srun_with_the_wrong_mpi_is_refused_by_every_task(
    flavour: Flavour, table: Table, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    for task in range(2):
        slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(task), "SLURM_JOB_ID": "1"}
        completed = flavour.forked(table.manifest, out, env=slurm)
        if task == 0:
            assert_refused(completed, 6, out, "started 2 processes", "srun --mpi=")
        else:
            assert (completed.returncode, completed.stderr) == (6, ""), explain(completed)
    assert not out.exists()


@MPICH_SOON
def test_a_dry_run_says_what_would_be_made_and_writes_nothing(ended: dict[str, Ended]) -> None:
    completed, out = ended["dry run"].completed, ended["dry run"].out
    assert completed.returncode == 0, explain(completed)
    assert "would hold 1,000 images of 4x4 gray uint8" in completed.stdout
    # 63 chunks of 16 images of 16 bytes, and 9 bytes of status and checksum an image
    assert re.search(r"size +24\.5 KiB from ", completed.stdout), completed.stdout
    assert "of image files: 1 file instead of 1,000\n" in completed.stdout
    assert list(out.parent.iterdir()) == []


def read_labels(table: Path) -> tuple[list[str], list[int]]:
    with table.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [path for path, _ in rows], [int(label) for _, label in rows]


@MPICH_SOON
def test_mnist_is_stored_exactly(flavour: Flavour, corpora: Path, tmp_path: Path) -> None:
    manifest = corpora / "mnist" / "test.csv"
    completed = flavour.run(2, manifest, tmp_path / "mnist.h5")
    assert completed.returncode == 0, explain(completed)
    paths, labels = read_labels(manifest)
    arrays = read_file(tmp_path / "mnist.h5").arrays
    assert arrays["images"].shape == (10_000, 28, 28)
    assert arrays["paths"].tolist() == [path.encode() for path in paths]
    assert arrays["labels"].tolist() == labels
    for path, stored in zip(paths, arrays["images"], strict=True):
        with Image.open(manifest.parent / path) as image:
            assert image.tobytes() == stored.tobytes(), path


def test_a_rank_needs_little_memory_however_many_images(
    mpich: Flavour, corpora: Path, tmp_path: Path
) -> None:
    # With threads that read ahead, 10 MB; else it depends on the machine's load whether they do.
    # And it depends on the load how many arenas glibc makes for them: 10 MB, on a busy machine 25.
    completed = mpich.run_launched(
        2, "peak", corpora / "mnist" / "train.csv", tmp_path / "mnist.h5", "--readers", "16",
        "--cache-bytes", "0",  # with one arena and threads, a small file takes 2 KB there
        timeout_s=120, env={"MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    peaks_kib = [int(kib) for kib in re.findall(r"peak of rank \d: (\d+) KiB", completed.stderr)]
    assert len(peaks_kib) == 2
    assert max(peaks_kib) < 160e6 / 1024
    assert len(read_file(tmp_path / "mnist.h5").arrays["images"]) == 60_000
