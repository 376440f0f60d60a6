"""How long each group of tests took; a group is a folder of tests/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def group_lines(stats: Mapping[str, Iterable[Any]]) -> list[str]:
    """Return a line for each group: its name, how many tests ran, the sum of their seconds.

    Args:
        stats: outcome -> pytest's reports, as its terminal reporter has them.
    """
    tests: dict[str, set[str]] = {}
    seconds: dict[str, float] = {}
    for report in (report for reports in stats.values() for report in reports):
        if hasattr(report, "duration"):  # there are warnings and deselected tests, too
            folder = report.nodeid.partition("::")[0].removeprefix("tests/").partition("/")[0]
            tests.setdefault(folder, set()).add(report.nodeid)
            seconds[folder] = seconds.get(folder, 0.0) + report.duration
    return [f"{name:10}{len(tests[name]):6,} tests {seconds[name]:9,.1f} s" for name in seconds]
