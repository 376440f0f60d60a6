"""What CI prints of the groups of tests."""

from __future__ import annotations

import re
import sys

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
