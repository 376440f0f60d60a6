"""`recompress`, killed at any moment: the next run goes on and loses nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.faults import (
    ALL_FLAVOURS,
    SMALL,
    Fault,
    Images,
    Runner,
    differences,
    n_done,
    say,
    serving,
)
from helpers.support import Completed, explain, soon

JOBS = {
    "stack": ["--compression", "zstd:1", "--chunk", "3"],
    "stack groups": ["--compression", "htj2k"],
    "stack zstd": ["--compression", "none", "--chunk", "2"],
    "ragged": ["--compression", "gzip:1"],
    "ragged gzip": ["--compression", "none"],
    "tree": ["--compression", "lzf"],
    "encoded": ["--layout", "tree", "--compression", "zstd:1"],
    "stack direct": ["--layout", "ragged", "--compression", "none"],
    "tree gzip": ["--layout", "encoded", "--recode", "jxl:1"],
}
"""What the file was ingested as (`helpers.faults.LAYOUTS`), and what it is to become."""
CALLS = {
    "lock": 1, "spool": 20, "begin": 1, "create": 1, "metadata": 6, "images": 1, "copy": 40,
    "write": 10, "book": 10, "mark": 10, "place": 20, "raw": 8, "sync": 6, "checkpoint": 6,
    "journal": 8, "finish": 1, "close": 1, "join": 1, "final": 1, "table": 5, "digest": 6,
    "publish": 1, "rename": 2, "discard": 1, "release": 1,
}  # fmt: skip
"""Where a run may be killed, and in which call at most; some jobs make fewer."""
TORN = ("metadata", "raw", "journal", "spool")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    images = Images.write(tmp_path_factory.mktemp("sources"))
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=images, folder=tmp_path_factory.mktemp("made"))


def run(
    runner: Runner, path: Path, out: Path, more: Sequence[str], n_ranks: int = 1,
    faults: Sequence[Fault] = (),
) -> Completed:  # fmt: skip
    arguments: list[str | Path] = ["recompress", path, out, *SMALL, *more]
    arguments += ["--report", out.with_suffix(".json")]
    return runner.server.run(arguments, faults, out.with_suffix(".log"), 60, n_ranks)


def drawn(dice: random.Random, n_ranks: int) -> Fault:
    site = dice.choice([*CALLS, *["copy"] * 6, *["write"] * 3])
    when = dice.choice(("before", "after", *["torn"] * (site in TORN)))
    call, rank = dice.randint(1, CALLS[site]), dice.randrange(n_ranks)
    return {"act": "kill", "site": site, "when": when, "call": call, "rank": rank}


def kill_and_go_on(seed: int, most_ranks: int, runner: Runner, folder: Path) -> int:
    """Kill a job up to four times, then let it end; return how often it was killed."""
    dice = random.Random(seed)
    layout = list(JOBS)[seed % len(JOBS)]
    path, out, expected = runner.one_shot(layout), folder / "out.h5", folder / "expected.h5"
    before = path.read_bytes()
    whole = run(runner, path, expected, JOBS[layout])
    assert whole.returncode == 0, explain(whole)
    n_killed = 0
    for _ in range(dice.randint(1, 4)):
        n_ranks = dice.randint(1, most_ranks)
        fault = drawn(dice, n_ranks)
        killed = run(runner, path, out, JOBS[layout], n_ranks, [fault])
        n_killed += killed.returncode != 0
        say(f"seed {seed}: {layout}, {n_ranks} ranks, {fault}: {killed.returncode}")
        if out.exists():
            break
    published, known = out.exists(), n_done(out)
    if published:  # the last kill came when it had its name, or too late
        assert differences(expected, out) == []
    last = run(runner, path, out, JOBS[layout], dice.randint(1, most_ranks))
    told = explain(last)
    if published:
        assert last.returncode == 5, told
        assert "exists already" in last.stderr, told
    else:
        assert last.returncode == 0, told
        report = json.loads(out.with_suffix(".json").read_text())
        assert (report["n_resumed"] > 0) >= (known > 0), told
    assert differences(expected, out) == [], told
    assert path.read_bytes() == before
    beside = {file.name for file in folder.glob("out.h5.*")}
    assert beside == set(), told
    return n_killed


@pytest.mark.parametrize("seeds", soon(["012"], ["012", "345"]))
def test_a_job_that_is_killed_goes_on(runner: Runner, seeds: str, tmp_path: Path) -> None:
    """Each of `JOBS` in turn."""
    n_killed = 0
    for seed in map(int, seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        n_killed += kill_and_go_on(seed, 1, runner, folder)
    assert n_killed >= len(seeds) // 2 + 1


def test_a_job_on_several_ranks_that_is_killed_goes_on(runner: Runner, tmp_path: Path) -> None:
    assert sum(kill_and_go_on(seed, 3, runner, tmp_path) for seed in (100,)) > 0


def test_a_job_that_is_killed_while_it_codes_images_goes_on(runner: Runner, tmp_path: Path) -> None:
    """By one rank, then by two; then by three, which store what all have coded."""
    path, out = runner.one_shot("tree gzip"), tmp_path / "out.h5"
    job, expected = JOBS["tree gzip"], tmp_path / "expected.h5"
    assert run(runner, path, expected, job).returncode == 0
    sizes = []
    for n_ranks, site, when, call in ((1, "spool", "torn", 20), (2, "write", "before", 1)):
        fault = {"act": "kill", "site": site, "when": when, "call": call, "rank": n_ranks - 1}
        killed = run(runner, path, out, job, n_ranks, [fault])
        assert killed.returncode != 0, explain(killed)
        spools = list((tmp_path / "out.h5.recoded").iterdir())
        sizes.append(sum(spool.stat().st_size for spool in spools))
    last = run(runner, path, out, job, 3)
    assert last.returncode == 0, explain(last)
    assert 0 < sizes[0] < sizes[1]
    assert differences(expected, out) == []
    assert {file.name for file in tmp_path.glob("out.h5*")} == {"out.h5"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1120))
def test_many_jobs_that_are_killed_go_on(seed: int, runner: Runner, tmp_path: Path) -> None:
    kill_and_go_on(seed, 3, runner, tmp_path)
