"""Jobs drawn at random, with whatever may happen to them, against what their images say.

`scenario` says what is drawn, `launched_scenarios` what is played and compared. A scenario that
fails is printed with the command that plays it again. Programs of their own play them: they fork.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import ALL_FLAVOURS, say
from helpers.scenario import SITES, draw
from helpers.support import FLAVOURS, PROGRAMS, Completed, explain, run
from programs.launched_faults import SITES as KNOWN_SITES

PLAYER = PROGRAMS / "launched_scenarios.py"
SEED = os.environ.get("H5INGEST_SEED", "soak")
N_MANY = int(os.environ.get("H5INGEST_SCENARIOS", "2000"))
AT_ONCE = 2
"""Programs."""
A_BLOCK = 20
"""Scenarios that one program plays."""

Told = dict[str, Any]


def played(launch: Callable[..., Completed], seed: str, numbers: range, folder: Path) -> Told:
    """Have scenarios played; what is told of them."""
    more = {"TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    arguments = (PLAYER, "--seed", seed, numbers.start, len(numbers))
    completed = launch(*map(str, arguments), timeout_s=120 + 10 * len(numbers), env=more)
    assert completed.returncode in (0, 1), explain(completed)
    assert completed.stdout, explain(completed)
    told: Told = json.loads(completed.stdout.splitlines()[-1])
    assert told["scenarios"] == len(numbers)
    return told


def alone(*arguments: str, **how: Any) -> Completed:
    return run([sys.executable, *arguments], **how)


def played_alone(seed: str, numbers: range, folder: Path) -> tuple[list[str], Counter[str]]:
    """Have many played, in several programs at once; their problems and exit codes."""
    blocks = [numbers[start : start + A_BLOCK] for start in range(0, len(numbers), A_BLOCK)]
    problems: list[str] = []
    codes: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for told in pool.map(lambda block: played(alone, seed, block, folder), blocks):
            problems += told["problems"]
            codes.update(told["codes"])
            codes["older rows"] += told["mixed"]
            codes["scenarios"] += told["scenarios"]
            say(f"seed {seed}: {dict(codes)}, {len(problems)} wrong")
    return problems, codes


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", [0, A_BLOCK, 2 * A_BLOCK])
def test_sixty_random_jobs_end_as_documented(first: int, tmp_path: Path) -> None:
    told = played(alone, "5", range(first, first + A_BLOCK), tmp_path)
    assert not told["problems"], "\n".join(told["problems"])
    # Else it would prove nothing.
    assert told["codes"]["0"] >= A_BLOCK
    assert {"3", "5", "75", "-9"} <= told["codes"].keys(), told["codes"]


@pytest.mark.long
@pytest.mark.parametrize(("mpi", "n_ranks"), [("mpich", 3), ("openmpi", 2)])
def test_random_jobs_of_one_launch_end_as_documented(
    mpi: str, n_ranks: int, tmp_path: Path
) -> None:
    told = launched(mpi, n_ranks, "5", range(64, 76), tmp_path)
    assert not told["problems"], "\n".join(told["problems"])
    assert told["codes"]["0"] >= 12


def launched(mpi: str, n_ranks: int, seed: str, numbers: range, folder: Path) -> Told:
    flavour = ALL_FLAVOURS[mpi].checked()
    return played(
        lambda *arguments, **how: flavour.launch(
            n_ranks, flavour.bin / "python", *arguments, **how
        ),
        seed, numbers, folder,
    )  # fmt: skip


def test_a_scenario_follows_from_its_seed_and_number_and_is_one_line() -> None:
    one = [str(draw("a", number)) for number in range(50)]
    assert one == [str(draw("a", number)) for number in range(50)]
    assert len({*one, *(str(draw("b", number)) for number in range(50))}) == 100
    assert all(len(line.splitlines()) == 1 for line in one)
    assert SITES.keys() <= KNOWN_SITES.keys()


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_thousands_of_random_jobs_end_as_documented(tmp_path: Path) -> None:
    """`H5INGEST_SCENARIOS` says how many, `H5INGEST_SEED` which."""
    say(f"H5INGEST_SEED={SEED}")
    problems, codes = played_alone(SEED, range(N_MANY), tmp_path)
    assert not problems, "\n".join(problems)
    assert codes["scenarios"] == N_MANY


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("mpi", [*FLAVOURS, "wheels"])
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_many_random_jobs_on_launched_ranks(mpi: str, n_ranks: int, tmp_path: Path) -> None:
    say(f"H5INGEST_SEED={SEED}")
    for first in range(0, N_MANY // 20, A_BLOCK):
        told = launched(mpi, n_ranks, SEED, range(first, first + A_BLOCK), tmp_path)
        assert not told["problems"], "\n".join(told["problems"])
