"""Files with damage drawn at random: `verify` finds it, or an independent reader sees none.

In a process of its own, with each HDF5 that the tests have: `programs/flips.py`.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import say
from helpers.support import FLAVOURS, PROGRAMS, WHEELS, Flavour, explain, run
from programs.flips import Files, damaged

pytestmark = pytest.mark.long

ENVIRONMENTS = {"mpich": FLAVOURS["mpich"], "wheels": WHEELS}
"""HDF5 1.10 and 2."""


def flips(
    flavour: Flavour, first: int, count: int, folder: Path, *more: str, n_ranks: int = 1
) -> dict[str, Any]:
    """How so many cases came out, and which of them came out wrong."""
    python = flavour.checked().bin / "python"
    command: list[str | Path] = [python, PROGRAMS / "flips.py", folder, str(first), str(count)]
    command += more
    seconds = 200.0 + 2 * n_ranks * count
    if n_ranks > 1:
        done = flavour.launch(n_ranks, *command, timeout_s=seconds)
    else:
        done = run(command, timeout_s=seconds)
    progress = folder / "progress"
    under_way = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"case {under_way}: {explain(done)}"
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert sum(told["outcomes"].values()) == count
    return told


def table(outcomes: Counter[str]) -> str:
    """A line for each way of storing images and each filter."""
    rows: dict[str, Counter[str]] = {}
    for name, n in sorted(outcomes.items()):
        what, _, outcome = name.rpartition(" | ")
        rows.setdefault(what, Counter())[outcome] += n
    lines = ["| stored | filter | flips | found | harmless | missed |", "|---|---|---|---|---|---|"]
    for what, counts in rows.items():
        n_missed = counts.total() - counts["found"] - counts["harmless"]
        found, harmless = counts["found"], counts["harmless"]
        lines.append(f"| {what} | {counts.total()} | {found} | {harmless} | {n_missed} |")
    return "\n".join(lines)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_hundred_flips_are_found_or_harmless(name: str, tmp_path: Path) -> None:
    told = flips(ENVIRONMENTS[name], 0, 100, tmp_path)
    assert told["wrong"] == [], "\n".join(told["wrong"])
    outcomes: Counter[str] = Counter()
    for key, n in told["outcomes"].items():
        outcomes[key.rpartition(" | ")[2]] += n
    assert outcomes["found"] > 50, outcomes
    assert outcomes["harmless"] > 5, outcomes


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_flips_in_the_names_of_dimensions_are_found_or_harmless(name: str, tmp_path: Path) -> None:
    told = flips(ENVIRONMENTS[name], 0, 60, tmp_path, "scales")
    assert told["wrong"] == [], "\n".join(told["wrong"])
    assert sum(n for key, n in told["outcomes"].items() if key.endswith("found")) > 30, told


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_thousands_of_flips_are_found_or_harmless(name: str, tmp_path: Path) -> None:
    """Each on one rank and on two.

    `H5INGEST_FLIPS` says how many there are of both HDF5s, `H5INGEST_FIRST_FLIP` where they begin.
    """
    outcomes: Counter[str] = Counter()
    left = int(os.environ.get("H5INGEST_FLIPS", "5000")) // len(ENVIRONMENTS)
    first = int(os.environ.get("H5INGEST_FIRST_FLIP", "1000"))
    wrong: list[str] = []
    while left > 0:
        count = min(left, 250)
        told = flips(ENVIRONMENTS[name], first, count, tmp_path, n_ranks=2)
        outcomes.update(told["outcomes"])
        wrong += told["wrong"]
        first, left = first + count, left - count
    say(f"{name}\n{table(outcomes)}")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FLAVOURS)
def test_of_a_damaged_file_all_ranks_say_the_same(name: str, tmp_path: Path) -> None:
    """The command on two ranks: exit 0, 3 or 5, lines of errors, no traceback."""
    files = Files(tmp_path)
    jobs: list[list[str | Path]] = []
    wanted = []
    for number in range(5005, 5017):
        path = tmp_path / f"damaged-{number}.h5"
        dice = random.Random(number)
        path.write_bytes(
            damaged(files[files.kinds[number % len(files.kinds)]].read_bytes(), dice)[0]
        )
        jobs.append(["verify", path, "--progress", "off"])
        wanted.append(FLAVOURS[name].forked(*jobs[-1], timeout_s=200))
    ranks = FLAVOURS[name].run_many(2, jobs, tmp_path / "out", timeout_s=600)
    for one, two in zip(wanted, ranks, strict=True):
        assert one.returncode in (0, 3, 5), explain(one)
        assert (one.returncode, one.stdout) == (two.returncode, two.stdout), explain(one) + explain(
            two
        )
        told = one.stderr.splitlines()
        assert sorted(told) == sorted(two.stderr.splitlines()), explain(one) + explain(two)
        assert all(line.startswith(("h5ingest: error: ", "attribute ")) for line in told), explain(
            one
        )
    assert len({one.returncode for one in wanted}) > 1
