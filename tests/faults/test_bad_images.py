"""Images that are bad, or go bad between the look at their headers and their storing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.faults import ALL_FLAVOURS, N_IMAGES, Fault, Images, Runner, serving
from helpers.support import Completed, checkered, damage, explain, read_file, soon, truncate

WHERE = {
    "on one rank": [25],
    "on every rank": [5, 25, 45],
    "first": [0],
    "last": [N_IMAGES - 1],
    "all": list(range(N_IMAGES)),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("bad")
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=Images.write(folder / "sources"), folder=folder)


def mine(alone: Runner, folder: Path) -> Runner:
    """A runner whose images a test may spoil; their good selves are those of `alone`."""
    (folder / "made").mkdir(parents=True)
    return Runner(server=alone.server, images=Images.write(folder / "sources"), folder=folder)


def listed(out: Path) -> dict[int, tuple[str, ...]]:
    """Return index -> (path, kind, reason) of the list beside the output."""
    first, *lines = out.with_name(out.name + ".failed.tsv").read_text().splitlines()
    assert first == "index\tpath\tkind\treason"
    rows = [line.split("\t") for line in lines]
    return {int(index): tuple(rest) for index, *rest in rows}


def assert_all_are_named(completed: Completed, out: Path, rows: list[int]) -> None:
    assert f"{len(rows)} of {N_IMAGES} " in completed.stderr, explain(completed)
    table = listed(out)
    report = json.loads(out.with_suffix(".json").read_text())
    in_report = {
        failure["index"]: (failure["path"], failure["kind"], failure["reason"])
        for failure in report["failures"]
    }
    assert sorted(table) == rows
    assert in_report == table
    assert report["n_failed"] == len(rows)
    for row, (path, _, reason) in table.items():
        assert path.endswith(f"/{row:03}.png")
        assert reason
    for row in rows[:10]:  # the message names the first few
        assert f"line {row + 2}: {table[row][0]}: " in completed.stderr


def assert_only_these_are_blank(alone: Runner, layout: str, out: Path, rows: list[int]) -> None:
    good, found = read_file(alone.one_shot(layout)), read_file(out)
    assert found.attrs["n_failed"] == len(rows)
    assert np.flatnonzero(found.arrays["status"] == 2).tolist() == rows
    assert np.flatnonzero(found.arrays["status"] == 1).tolist() == [
        row for row in range(N_IMAGES) if row not in rows
    ]
    for row in range(N_IMAGES):
        if layout.startswith("stack"):
            image, other = found.arrays["images"][row], good.arrays["images"][row]
        elif layout.startswith("tree"):
            name = found.arrays["datasets"][row].decode().lstrip("/")
            image, other = found.arrays[name], good.arrays[name]
        else:
            start, stop = good.arrays["images/offsets"][row : row + 2]
            image, other = (file.arrays["images/pixels"][start:stop] for file in (found, good))
        np.testing.assert_array_equal(image, other * (row not in rows), f"row {row}")


CASES = [(where, layout) for where in WHERE for layout in ("stack", "ragged gzip", "tree")]
"""Where images are bad, and the layout: on one rank."""
ON_THREE = [
    *((where, "stack") for where in ("on one rank", "on every rank", "last", "all")),
    ("on every rank", "ragged gzip"), ("first", "tree"),
]  # fmt: skip


def spoilt(alone: Runner, folder: Path, where: str, layout: str) -> tuple[Runner, Path]:
    """A runner with bad images, and its output."""
    runner = mine(alone, folder)
    for row in WHERE[where]:
        (damage if row % 2 else truncate)(runner.images.file(layout, row))
    return runner, folder / "made" / "out.h5"


def assert_refused(completed: Completed, out: Path, rows: list[int]) -> None:
    assert completed.returncode == 3, explain(completed)
    assert_all_are_named(completed, out, rows)
    assert not out.exists()


def assert_blank(
    alone: Runner, layout: str, completed: Completed, out: Path, rows: list[int]
) -> None:
    assert completed.returncode == 0, explain(completed)
    assert sorted(listed(out)) == rows
    assert_only_these_are_blank(alone, layout, out, rows)


@pytest.mark.parametrize(("where", "layout"), soon(CASES[::2], CASES))
def test_every_corrupt_image_is_listed_and_costs_only_itself(
    alone: Runner, where: str, layout: str, tmp_path: Path
) -> None:
    runner, out = spoilt(alone, tmp_path, where, layout)
    assert_refused(runner.run(layout, out), out, WHERE[where])
    completed = runner.run(layout, out, 1, (), "--on-error", "blank")
    assert_blank(alone, layout, completed, out, WHERE[where])


@pytest.fixture(scope="module")
def on_three(
    alone: Runner, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Completed, Path, Completed, Path]]:
    """What becomes of each of `ON_THREE` on ranks that start but twice: refused, then blank."""
    folder = tmp_path_factory.mktemp("three")
    cases = {
        case: spoilt(alone, folder / str(number), *case) for number, case in enumerate(ON_THREE)
    }
    done = []
    for more in ((), ("--on-error", "blank")):
        jobs = [runner.arguments(case[1], out, *more) for case, (runner, out) in cases.items()]
        done.append(alone.flavour.run_many(3, jobs, folder / "told", small_chunks=True))
        if not more:
            for _, out in cases.values():
                shutil.copytree(out.parent, out.parent.with_name("refused"))
    return {
        case: (refused, out.parent.with_name("refused") / out.name, blank, out)
        for (case, (_, out)), refused, blank in zip(cases.items(), *done, strict=True)
    }


@pytest.mark.parametrize(("where", "layout"), ON_THREE)
def test_every_corrupt_image_of_three_ranks_is_listed_and_costs_only_itself(
    alone: Runner,
    on_three: dict[tuple[str, str], tuple[Completed, Path, Completed, Path]],
    where: str,
    layout: str,
) -> None:
    refused, before, blank, out = on_three[where, layout]
    assert_refused(refused, before, WHERE[where])
    assert_blank(alone, layout, blank, out, WHERE[where])


SPOIL = {
    "vanishes": "rm {file}",
    "shrinks": "truncate -s -20 {file}",
    "is emptied": "truncate -s 0 {file}",
    "becomes text": "echo hello > {file}",
    "becomes another image": "cp {other} {file}",
    "becomes a folder": "rm {file}; mkdir {file}",
    "becomes a FIFO": "rm {file}; mkfifo {file}",
}


@pytest.mark.parametrize(
    ("layout", "what"), checkered(["stack", "ragged gzip", "tree", "encoded"], SPOIL)
)
def test_a_file_that_goes_bad_after_its_header_was_read_is_a_failed_sample(
    alone: Runner, layout: str, what: str, tmp_path: Path
) -> None:
    runner, out = mine(alone, tmp_path), tmp_path / "made" / "out.h5"
    file = runner.images.file(layout, 33)
    other = runner.images.file("ragged" if layout == "stack" else layout, 7)
    command = SPOIL[what].format(file=file, other=other)
    fault: Fault = {"act": f"sh:{command}", "site": "begin"}
    n_ranks = 2 if what == "vanishes" else 1
    more = ["--cache-bytes", "0", "--on-error", "blank"]
    completed = runner.run(layout, out, n_ranks, [fault], *more)
    assert completed.returncode == 0, explain(completed)
    assert sorted(listed(out)) == [33]
    if layout != "encoded":
        assert_only_these_are_blank(alone, layout, out, [33])


def test_a_wrong_root_is_told_from_the_headers_without_a_list_of_everything(
    alone: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    completed = alone.run("stack", out, 3, (), "--root", tmp_path)
    assert completed.returncode == 3, explain(completed)
    assert "none of its 60 files exists" in completed.stderr
    assert "--root DIR" in completed.stderr
    assert not list(tmp_path.glob("out.h5*"))


def test_images_that_are_missing_are_listed_before_anything_is_made(
    alone: Runner, tmp_path: Path
) -> None:
    runner, out = mine(alone, tmp_path), tmp_path / "made" / "out.h5"
    for row in (0, 30, 59):
        runner.images.file("stack", row).unlink()
    completed = runner.run("stack", out, 3)
    assert completed.returncode == 3, explain(completed)
    assert {row: kind for row, (_, kind, _) in listed(out).items()} == dict.fromkeys(
        (0, 30, 59), "missing"
    )
    assert not list(out.parent.glob("out.h5.partial"))


def test_odd_paths_are_one_line_each_in_the_list(alone: Runner, tmp_path: Path) -> None:
    good = alone.images.file("stack", 0)
    manifest = tmp_path / "odd.txt"
    manifest.write_bytes(b"c\\d.png\ng\xc3\xb6.png\n\xff.png\n" + bytes(good) + b"\n")
    completed = alone.server.run([manifest, tmp_path / "out.h5"], (), tmp_path / "log", 60)
    assert completed.returncode == 3, explain(completed)
    lines = (tmp_path / "out.h5.failed.tsv").read_bytes().splitlines()[1:]
    assert [line.split(b"\t")[1] for line in lines] == [
        rb"c\\d.png", "gö.png".encode(), b"\xff.png",
    ]  # fmt: skip
