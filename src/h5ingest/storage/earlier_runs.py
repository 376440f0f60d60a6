"""What the records of a journal say was done, by all runs before this one and by each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from h5ingest.core.intervals import merged
from h5ingest.core.moments import ByKind, joined_if_known
from h5ingest.storage.journal_records import Done, Record, Run, Sums, Undone, moments_of


def done_spans(records: Iterable[Record], n_groups: int) -> list[list[range]]:
    """Return, for each group, what is done: disjoint intervals in order.

    What is undone in part is no more done at all: its sums are those of the whole.

    >>> done_spans([Done(0, 4, 8), Done(0, 0, 4), Done(0, 10, 12)], 1)
    [[range(0, 8), range(10, 12)]]
    >>> done_spans([Done(0, 0, 8), Done(0, 8, 9), Undone(0, 2, 4), Done(0, 2, 3)], 1)
    [[range(2, 3), range(8, 9)]]
    """
    spans: list[list[range]] = [[] for _ in range(n_groups)]
    for record in records:
        if isinstance(record, Done):
            spans[record.group].append(range(record.start, record.stop))
        elif isinstance(record, Undone):
            spans[record.group] = [span for span in spans[record.group] if not _meets(record, span)]
    return [merged(group) for group in spans]


def sums_before(records: Sequence[Record]) -> dict[int, ByKind | None]:
    """Return, for each group, the sums of the pixels of what is done; None: not known."""
    undone = [(at, record) for at, record in enumerate(records) if isinstance(record, Undone)]
    found: dict[int, ByKind | None] = {}
    sums: list[Sums] = []
    for at, record in enumerate(records):
        if isinstance(record, Run):
            sums = []  # those of a run that ended while it wrote them
        elif isinstance(record, Sums):
            sums.append(record)
        elif isinstance(record, Done):
            span = range(record.start, record.stop)
            if not any(
                later > at and each.group == record.group and _meets(each, span)
                for later, each in undone
            ):
                of_it = moments_of(one for one in sums if one.group == record.group)
                found[record.group] = joined_if_known([found.get(record.group, {}), of_it])
            sums = []
    return found


def _meets(undone: Undone, span: range) -> bool:
    return undone.start < span.stop and span.start < undone.stop


class Earlier(NamedTuple):
    """What a run before this one did."""

    time_ns: int
    """When it began: see `Run`."""
    done: list[list[range]]
    """For each group, disjoint intervals in order."""


def spans_by_run(records: Iterable[Record], n_groups: int) -> list[Earlier]:
    """Return what each run did, in order, without what was undone later.

    >>> spans_by_run([Run(5), Done(0, 0, 8), Run(9), Undone(0, 2, 4), Done(0, 2, 4)], 1)
    [Earlier(time_ns=5, done=[[]]), Earlier(time_ns=9, done=[[range(2, 4)]])]
    """
    runs: list[tuple[int, list[Record]]] = []
    for record in records:
        if isinstance(record, Run):
            runs.append((record.time_ns, []))
        else:
            for _, of_run in runs if isinstance(record, Undone) else runs[-1:]:
                of_run.append(record)
    return [Earlier(time_ns, done_spans(of_run, n_groups)) for time_ns, of_run in runs]
