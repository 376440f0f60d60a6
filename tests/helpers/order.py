"""The order in which tests begin where several workers run them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest


def long_first(items: Sequence[pytest.Item], n_workers: int) -> list[pytest.Item]:
    """The same tests: in each of as many pieces as there are workers, those marked `long` first.

    Those of one file stay together, since they may share what takes so long.
    """
    of_file: dict[Path, list[pytest.Item]] = defaultdict(list)
    others = []
    for item in items:
        if item.get_closest_marker("long"):
            of_file[item.path].append(item)
        else:
            others.append(item)
    heads: list[list[pytest.Item]] = [[] for _ in range(n_workers)]
    for number, together in enumerate(of_file.values()):
        heads[number % n_workers] += together
    ordered: list[pytest.Item] = []
    for number, head in enumerate(heads, 1):
        ordered += head
        n_more = max(0, len(items) * number // n_workers - len(ordered))
        ordered += others[:n_more]
        del others[:n_more]
    return ordered + others
