"""What the records of a journal say was done, by all runs before this one and by each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from h5ingest.core.intervals import merged
from h5ingest.storage.journal import Done, Record, Run, Undone


def done_spans(records: Iterable[Record], n_groups: int) -> list[list[range]]:
    """Return, for each group, what is done: disjoint intervals in order.

    >>> done_spans([Done(0, 4, 8), Done(0, 0, 4), Done(0, 10, 12)], 1)
    [[range(0, 8), range(10, 12)]]
    >>> done_spans([Done(0, 0, 8), Undone(0, 2, 4), Done(0, 2, 3)], 1)
    [[range(0, 3), range(4, 8)]]
    """
    spans: list[list[range]] = [[] for _ in range(n_groups)]
    for record in records:
        if isinstance(record, Done):
            spans[record.group].append(range(record.start, record.stop))
        elif isinstance(record, Undone):
            spans[record.group] = [
                part
                for span in spans[record.group]
                for part in (
                    range(span.start, min(span.stop, record.start)),
                    range(max(span.start, record.stop), span.stop),
                )
                if part
            ]
    return [merged(group) for group in spans]


class Earlier(NamedTuple):
    """What a run before this one did."""

    time_ns: int
    """When it began: see `Run`."""
    done: list[list[range]]
    """For each group, disjoint intervals in order."""


def spans_by_run(records: Iterable[Record], n_groups: int) -> list[Earlier]:
    """Return what each run did, in order, without what was undone later.

    >>> spans_by_run([Run(5), Done(0, 0, 8), Run(9), Undone(0, 2, 4), Done(0, 2, 4)], 1)[0]
    Earlier(time_ns=5, done=[[range(0, 2), range(4, 8)]])
    """
    runs: list[tuple[int, list[Record]]] = []
    for record in records:
        if isinstance(record, Run):
            runs.append((record.time_ns, []))
        else:
            for _, of_run in runs if isinstance(record, Undone) else runs[-1:]:
                of_run.append(record)
    return [Earlier(time_ns, done_spans(of_run, n_groups)) for time_ns, of_run in runs]
