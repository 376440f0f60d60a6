"""`export`, on ranks that are processes: killed at any moment, on a full disk, as it is typed."""

from __future__ import annotations

import csv
import errno
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import pytest
from helpers.faults import ALL_FLAVOURS, FAULTS, Fault, Server, faulty, say, serving
from helpers.support import (
    MPICH_SOON,
    Completed,
    Flavour,
    clean_environment,
    end_session,
    error_lines,
    explain,
    make_pixels,
    reference_pixels,
    write_images,
    write_manifest,
)

import h5ingest
from h5ingest import ExportOptions, IngestOptions

N = 40
TARGETS = ("out", "out.tar", "out.zip", "out-%02d.tar", "out.lmdb", "out.parquet")
MORE = ["--shard-rows", "7", "--progress", "off"]
CALLS = {
    "lock": 1, "export begin": 1, "export mark": 7, "export image": N, "export lines": 1,
    "export sync": 1, "export folder": 1, "export file": 6, "export tidy": 3, "release": 1,
}  # fmt: skip
"""Where a run may be killed, and in which call at most; for some targets there are fewer."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("file")
    paths = write_images(base / "im", make_pixels(N, (6, 5, 3)))
    rows = [(f"im/{k % 3}/{name}", "xyz"[k % 3], k) for k, name in enumerate(paths)]
    for k, (path, _, _) in enumerate(rows):
        (base / path).parent.mkdir(exist_ok=True)
        (base / "im" / paths[k]).rename(base / path)
    manifest = write_manifest(base / "m.csv", [("path", "label", "n"), *rows])
    h5ingest.ingest(manifest, base / "f.h5", IngestOptions(chunk_rows=4, compression="gzip:1"))
    return base / "f.h5"


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Target -> what an export makes that nothing happened to."""
    found = {}
    for target in TARGETS:
        base = tmp_path_factory.mktemp("whole")
        options = ExportOptions(shard_rows=7) if "%" in target else ExportOptions()
        h5ingest.export(file, base / target, options)
        found[target] = contents(base)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ALL_FLAVOURS["mpich"]) as found:
        yield found


def contents(base: Path) -> dict[str, bytes]:
    """All files in a folder, at any depth."""
    return {str(f.relative_to(base)): f.read_bytes() for f in base.rglob("*") if f.is_file()}


def published(base: Path) -> dict[str, bytes]:
    """Those that do not show by their names that they are unfinished."""
    return {
        name: data
        for name, data in contents(base).items()
        if not name.startswith(("out.partial/", "out.lock", ".h5ingest-", "log"))
    }


def assert_old_or_new(found: dict[str, bytes], new: dict[str, bytes], target: str) -> bool:
    """Whether it is the new one; else nothing is there, or of shards some but not the first."""
    if "%" in target and "out-00.tar" not in found:
        assert found.items() <= new.items()
        return False
    assert found in ({}, new)
    return bool(found)


def run(
    server: Server, file: Path, out: Path, n_ranks: int = 1, faults: Sequence[Fault] = ()
) -> Completed:
    more = MORE if "%" in out.name else MORE[2:]
    arguments: list[str | Path] = ["export", file, out, *more]
    return server.run(arguments, faults, out.parent / "log", 60, n_ranks)


def kill_and_begin_again(
    seed: int, most_ranks: int, server: Server, file: Path,
    whole: dict[str, dict[str, bytes]], base: Path,
) -> int:  # fmt: skip
    """Kill an export some times, then let it end; return how often it was killed."""
    dice = random.Random(seed)
    target, base = TARGETS[seed % len(TARGETS)], base / str(seed)
    base.mkdir()
    out, n_killed, is_new = base / target, 0, False
    for _ in range(3):
        n_ranks = dice.randint(1, most_ranks)
        site = dice.choice([*CALLS, *["export image"] * 5])
        fault: Fault = {
            "act": "kill", "site": site, "when": dice.choice(("before", "after")),
            "call": dice.randint(1, -(-CALLS[site] // (2 * n_ranks))),
            "rank": dice.randrange(n_ranks),
        }  # fmt: skip
        killed = run(server, file, out, n_ranks, [fault])
        say(f"seed {seed}: {target}, {n_ranks} ranks, {fault}: {killed.returncode}")
        n_killed += killed.returncode != 0
        is_new = assert_old_or_new(published(base), whole[target], target)
        if is_new:
            break
    last = run(server, file, out, dice.randint(1, most_ranks))
    assert last.returncode == (5 if is_new and "%" not in target else 0), explain(last)
    assert published(base) == whole[target]
    if not is_new:
        assert not {*base.glob("out.*")} - {out}, "nothing is left beside it"
    return n_killed


def test_an_export_that_is_killed_is_begun_again(
    server: Server, file: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    n_killed = [kill_and_begin_again(seed, 1, server, file, whole, tmp_path) for seed in range(12)]
    assert sum(n_killed) >= 12


def test_an_export_on_several_ranks_that_is_killed_is_begun_again(
    server: Server, file: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    n_killed = [kill_and_begin_again(seed, 3, server, file, whole, tmp_path) for seed in (100, 101)]
    assert sum(n_killed) >= 1


@pytest.mark.long
def test_exports_that_are_killed_at_many_moments(
    server: Server, file: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    n_killed = [
        kill_and_begin_again(seed, 3 if seed % 5 == 0 else 1, server, file, whole, tmp_path)
        for seed in range(200, 255)
    ]
    assert sum(n_killed) >= 50


@MPICH_SOON
def test_it_runs_on_ranks_and_says_what_it_did(
    flavour: Flavour, file: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.h5"
    shutil.copy(file, damaged)
    with h5py.File(damaged, "r+") as changed:
        changed["images"][7] += 1
    jobs: list[list[str | Path]] = [
        ["export", file, tmp_path / target, *(MORE if "%" in target else MORE[2:])]
        for target in TARGETS[:4]
    ]
    jobs += [["export", file, tmp_path / "out"], ["export", file, tmp_path / "x", "--rows", "5"]]
    jobs += [
        ["export", file, "--row", "7", tmp_path / "a.png"],
        ["export", file, tmp_path / "z", "--where", "label=z", "--where", "n=5", "-q",
         "--report", tmp_path / "report.json"],
        [tmp_path / "out/manifest.csv", tmp_path / "again.h5", "-q"],
        ["export", damaged, tmp_path / "d", "-q", "--report", tmp_path / "damaged.json"],
        ["export", damaged, tmp_path / "e", "--skip-damaged"],
        ["export", file, "--row", "7", tmp_path / "b.png", "--where", "n=7"],
    ]  # fmt: skip
    done = flavour.run_many(3, jobs, tmp_path / "told")
    assert [each.returncode for each in done] == [0, 0, 0, 0, 5, 2, 0, 0, 0, 3, 0, 2], done
    made = [name for name in contents(tmp_path) if name.startswith("out")]
    expected = {k: v for target in TARGETS[:4] for k, v in whole[target].items()}
    assert {name: contents(tmp_path)[name] for name in made} == expected
    assert f"{tmp_path}/out: 40 images, " in done[0].stdout
    assert "on 3 ranks" in done[0].stdout
    again = f"h5ingest {tmp_path}/out/manifest.csv NEW.h5 --compression gzip:1 --chunk 4"
    assert f"to ingest them again: {again}\n" in done[0].stdout
    assert "found a folder with something in it: an export replaces nothing" in done[4].stderr
    assert len(error_lines(done[4])) == 1
    assert "expected FIRST:END" in done[5].stderr
    assert (reference_pixels(tmp_path / "a.png") == make_pixels(N, (6, 5, 3))[7]).all()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["n_images"], report["n_ranks"]) == ("complete", 1, 3)
    with (tmp_path / "z" / "manifest.csv").open(newline="") as table:
        assert [row["n"] for row in csv.DictReader(table)] == ["5"]
    with h5py.File(file) as old, h5py.File(tmp_path / "again.h5") as new:
        assert old.attrs["content_digest"] == new.attrs["content_digest"]
    report = json.loads((tmp_path / "damaged.json").read_text())
    assert report["status"] == "failed"
    assert 7 in {failure["index"] for failure in report["failures"]}
    assert len(error_lines(done[9])) == 1
    n_bad = report["n_failed"]  # those of a chunk
    assert f"left out, as they are damaged: {n_bad} image" in done[10].stdout
    assert f"{tmp_path}/e: {N - n_bad} images" in done[10].stdout
    assert "only --group and --image go with it" in done[11].stderr


@pytest.mark.parametrize(
    ("target", "match", "after"),
    [
        ("out", "out.partial/files", 1),
        ("out.tar", ".h5ingest-", 1),
        ("out-%d.tar", ".h5ingest-", 1),
        ("out.lmdb", ".h5ingest-", 0),
        ("out.lmdb", ".h5ingest-", 1),
    ],
)
def test_a_disk_that_gets_full_is_said_and_with_space_it_works(
    server: Server, file: Path, preload: Path, target: str, match: str, after: int, tmp_path: Path
) -> None:
    flavour, out = server.flavour, tmp_path / target
    env = faulty(preload, match=match, write=errno.ENOSPC, after=after)
    more = MORE if "%" in target else MORE[2:]
    full = flavour.run(3, "export", file, out, *more, env=env)
    assert full.returncode == 5, explain(full)
    assert len(error_lines(full)) == 1, explain(full)
    assert "No space left on device" in full.stderr
    assert not out.exists()
    assert not [*tmp_path.glob(".h5ingest-*")]
    again = run(server, file, out)
    assert again.returncode == 0, explain(again)
    assert [file.name for file in tmp_path.glob("out.*")] in ([], [target])


def test_a_second_export_of_the_same_name_is_refused(
    server: Server, file: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    naps: list[Fault] = [{"act": "nap:3", "site": "export image", "call": 5, "rank": 0}]
    python = server.flavour.bin / "python"
    command = [python, FAULTS, "run", json.dumps(naps), "export", file, tmp_path / "out", *MORE[2:]]
    first = subprocess.Popen(
        [*map(str, command)], env=clean_environment(), start_new_session=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 60
        while not (tmp_path / "out.partial" / "files" / "im").exists():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        second = run(server, file, tmp_path / "out")
        assert second.returncode == 5, explain(second)
        assert f"being made by process {first.pid}" in second.stdout + second.stderr
        assert first.wait(timeout=60) == 0
    finally:
        end_session(first)
        first.communicate()
    assert contents(tmp_path) == {**whole["out"], "log": (tmp_path / "log").read_bytes()}


def test_a_signal_ends_it_with_75(server: Server, file: Path, tmp_path: Path) -> None:
    fault: Fault = {"act": "term", "site": "export image", "call": 5, "rank": 0}
    stopped = run(server, file, tmp_path / "out", 2, [fault])
    assert stopped.returncode == 75, explain(stopped)
    assert published(tmp_path) == {}
    assert run(server, file, tmp_path / "out").returncode == 0
