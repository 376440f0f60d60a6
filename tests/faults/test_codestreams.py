"""HTJ2K codestreams changed at random: an error or the right pixels, never a crash of ours.

In a process of its own (`programs/codestreams.py`), with each HDF5 that the tests have. What the
decoders make of them that see them unchecked is counted, and printed by the soak test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.faults import say
from helpers.support import FLAVOURS, PROGRAMS, WHEELS, Flavour, explain, run

ENVIRONMENTS = {"mpich": FLAVOURS["mpich"], "wheels": WHEELS}
"""HDF5 1.10 and 2."""
OURS = ("ImageStore, auto", "ImageStore, first")


def outcomes(flavour: Flavour, first: int, count: int, folder: Path) -> dict[str, dict[str, int]]:
    """How so many cases came out for each reader; fails if one of ours did wrong."""
    python = flavour.checked().bin / "python"
    command = (python, PROGRAMS / "codestreams.py", folder, str(first), str(count))
    done = run(command, timeout_s=60 + count)
    assert done.returncode == 0, explain(done)
    told: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    for reader in OURS:
        assert set(told[reader]) <= {"right", "error"}, told
        assert told[reader]["error"] > count // 2, told
    assert all(sum(counts.values()) == count for counts in told.values()), told
    return told


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_forty_changed_codestreams_are_errors_or_right(name: str, tmp_path: Path) -> None:
    outcomes(ENVIRONMENTS[name], 0, 40, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_thousand_changed_codestreams_are_errors_or_right(name: str, tmp_path: Path) -> None:
    told = outcomes(ENVIRONMENTS[name], 40, 1000, tmp_path)
    say(f"{name}: {json.dumps(told)}")
