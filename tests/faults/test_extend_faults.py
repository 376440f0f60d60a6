"""`extend`, killed at any moment: the file is what it was, or the new one whole; never less."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.faults import (
    ALL_FLAVOURS,
    LAYOUTS,
    SMALL,
    Fault,
    Images,
    Runner,
    differences,
    n_done,
    say,
    serving,
)
from helpers.support import Completed, explain

N_OLD = 37
KINDS = ("stack", "stack zstd", "stack groups", "ragged gzip", "tree gzip", "encoded", "ragged")
CALLS = {
    "lock": 1, "known": 1, "probe": 20, "begin": 1, "create": 1, "metadata": 6, "images": 1,
    "copy": 30, "chunks": 8, "decode": 20, "write": 8, "book": 8, "mark": 8, "place": 10, "raw": 8,
    "sync": 6, "checkpoint": 6, "journal": 8, "finish": 1, "close": 1, "join": 1, "final": 1,
    "table": 5, "digest": 6, "publish": 1, "name": 1, "rename": 2, "discard": 1, "release": 1,
}  # fmt: skip
"""Where a run may be killed, and in which call at most; some jobs make fewer."""
ENDS = ("publish", "name", "rename", "discard")
TORN = ("metadata", "raw", "journal")
OF_BOTH = {"attribute manifest_name", "attribute manifest_sha256"}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    images = Images.write(tmp_path_factory.mktemp("sources"))
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=images, folder=tmp_path_factory.mktemp("made"))


def parts(runner: Runner, layout: str) -> tuple[Path, Path]:
    """The file of the first images, and the manifest of the others."""
    lines = runner.images.manifest(layout).read_text().splitlines(keepends=True)
    old, new = (runner.images.folder / f"{part}.csv" for part in ("old", "new"))
    old.write_text("".join(lines[: N_OLD + 1]))
    new.write_text("".join([lines[0], *lines[N_OLD + 1 :]]))
    file = runner.folder / f"old-{layout}.h5"
    if not file.exists():
        arguments: list[str | Path] = [old, file, *LAYOUTS[layout], "-q"]
        made = runner.server.run(arguments, [], file.with_suffix(".log"), 60)
        assert made.returncode == 0, explain(made)
    return file, new


def run(
    runner: Runner, manifest: Path, out: Path, n_ranks: int = 1, faults: Sequence[Fault] = ()
) -> Completed:
    arguments: list[str | Path] = ["extend", manifest, out, *SMALL]
    arguments += ["--report", out.with_suffix(".json")]
    return runner.server.run(arguments, faults, out.with_suffix(".log"), 60, n_ranks)


def drawn(dice: random.Random, n_ranks: int) -> Fault:
    site = dice.choice([*CALLS, *["copy"] * 3, *["decode"] * 3, *["write"] * 2, *ENDS])
    when = dice.choice(("before", "after", *["torn"] * (site in TORN)))
    call = dice.randint(1, -(-CALLS[site] // n_ranks))
    return {
        "act": "kill", "site": site, "when": when, "call": call, "rank": dice.randrange(n_ranks),
    }  # fmt: skip


def kill_and_go_on(seed: int, most_ranks: int, runner: Runner, folder: Path) -> int:
    """Kill a job up to four times, then let it end; return how often it was killed."""
    dice = random.Random(seed)
    layout, folder = KINDS[seed % len(KINDS)], folder / str(seed)
    folder.mkdir()
    expected, (file, manifest) = runner.one_shot(layout), parts(runner, layout)
    old, out = file.read_bytes(), folder / "out.h5"
    shutil.copy(file, out)

    def is_new() -> bool:
        if out.read_bytes() == old:
            return False
        assert set(differences(expected, out)) == OF_BOTH
        return True

    n_killed = 0
    for _ in range(dice.randint(1, 4)):
        n_ranks = dice.randint(1, most_ranks)
        fault = drawn(dice, n_ranks)
        killed = run(runner, manifest, out, n_ranks, [fault])
        n_killed += killed.returncode != 0
        say(f"seed {seed}: {layout}, {n_ranks} ranks, {fault}: {killed.returncode}")
        if is_new():
            break
    was_new, known = is_new(), n_done(out)
    last = run(runner, manifest, out, dice.randint(1, most_ranks))
    told = explain(last)
    assert last.returncode == 0, told
    report = json.loads(out.with_suffix(".json").read_text())
    assert (report["n_resumed"] > 0) >= (known > 0 and not was_new), told
    assert report["added"]["n_skipped"] == (23 if was_new else 0), told
    assert is_new(), told
    beside = {path.name for path in folder.glob("out.h5.*")}
    assert beside == set(), told
    return n_killed


def test_a_file_whose_extension_is_killed_is_the_old_or_the_new_one(
    runner: Runner, tmp_path: Path
) -> None:
    n_killed = [kill_and_go_on(seed, 1, runner, tmp_path) for seed in range(5)]
    n_killed.append(kill_and_go_on(101, 3, runner, tmp_path))
    assert sum(n_killed) >= 6


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1050))
def test_many_extensions_that_are_killed_go_on(seed: int, runner: Runner, tmp_path: Path) -> None:
    kill_and_go_on(seed, 3, runner, tmp_path)
