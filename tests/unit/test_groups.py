"""What CI prints of the groups of tests, and the order in which they begin."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from helpers.order import long_first
from helpers.support import ROOT, explain, run


def test_each_group_is_listed_with_its_tests_and_seconds() -> None:
    chosen = [
        "tests/unit/test_core.py::test_options_cannot_be_changed",
        "tests/unit/test_core.py::test_the_core_has_examples",
        "tests/property/test_plan.py::test_shares_differ_by_at_most_one_chunk",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    completed = run([*command, "--durations=1"], cwd=ROOT)
    assert completed.returncode == 0, explain(completed)
    found = re.findall(r"^(\w+) +(\d+) tests +\d+\.\d s$", completed.stdout, re.MULTILINE)
    assert found == [("unit", "2"), ("property", "1")]


@dataclass(frozen=True, slots=True)
class Item:
    """Of pytest's, what decides where it comes."""

    name: str
    """Upper case: it takes long."""
    path: Path

    def get_closest_marker(self, name: str) -> bool:
        return name == "long" and self.name.isupper()


@pytest.mark.parametrize(
    ("names", "n_workers", "ordered"),
    [
        ("a/b c d/e f/G h I", 2, "G I a b/c d e f h"),
        ("a B/c D e/F/g h", 2, "B F a c/D e g h"),
        ("A B/C D e f/g", 3, "A B/C D/e f g"),
        ("A B C/d", 2, "A B C/d"),
        ("a b/c", 4, "/a/b/c"),
        ("", 4, "///"),
    ],
)
def test_every_worker_begins_with_long_tests(names: str, n_workers: int, ordered: str) -> None:
    """A slash is between files, and then between what the workers are given first."""
    items = [
        Item(name, Path(str(number)))
        for number, file in enumerate(names.split("/"))
        for name in file.split()
    ]
    found = [item.name for item in cast("list[Item]", long_first(cast("Any", items), n_workers))]
    expected = [share.split() for share in ordered.split("/")]
    assert found == [name for share in expected for name in share]
    ends = [len(items) * number // n_workers for number in range(1, n_workers + 1)]
    lengths = [sum(map(len, expected[: number + 1])) for number in range(n_workers)]
    assert all(abs(a - b) <= 1 for a, b in zip(ends, lengths, strict=True))
