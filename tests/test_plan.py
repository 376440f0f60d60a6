"""Laws of the division of work: they hold for any rows, chunks, ranks and batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h5ingest.comm import SerialComm, redistribute
from h5ingest.layout import DatasetSpec
from h5ingest.packed import PackedStrings
from h5ingest.plan import Plan, overlap

settings.register_profile("laws", deadline=None)  # the machine may be busy
settings.load_profile("laws")

CHUNK_ROWS = st.integers(1, 50)
SIZES = st.integers(1, 70)


@st.composite
def plans(draw: st.DrawFn, most_rows: int = 3000) -> Plan:
    chunk_rows = draw(CHUNK_ROWS)
    return Plan(
        n_rows=draw(st.integers(0, most_rows)),
        chunk_rows=chunk_rows,
        size=draw(SIZES),
        batch_rows=chunk_rows * draw(st.integers(1, 9)),
    )


intervals = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ab: range(*sorted(ab)))


@st.composite
def partitions(draw: st.DrawFn, n_rows: int, size: int) -> list[range]:
    cuts = draw(st.lists(st.integers(0, n_rows), min_size=size - 1, max_size=size - 1))
    return [range(a, b) for a, b in pairwise([0, *sorted(cuts), n_rows])]


@given(plans())
def test_the_ranks_together_have_every_row_once_and_in_order(plan: Plan) -> None:
    rows = [row for rank in range(plan.size) for row in plan.rows(rank)]
    assert rows == list(range(plan.n_rows))


@given(plans(most_rows=10**12))
def test_intervals_join_without_gap_at_any_number_of_rows(plan: Plan) -> None:
    parts = [plan.rows(rank) for rank in range(plan.size)]
    assert parts[0].start == 0
    assert parts[-1].stop == plan.n_rows
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert all(part.step == 1 and part.start <= part.stop for part in parts)


@given(plans())
def test_no_chunk_has_two_owners(plan: Plan) -> None:
    owners: dict[int, set[int]] = {}
    for rank in range(plan.size):
        for row in plan.rows(rank):
            owners.setdefault(row // plan.chunk_rows, set()).add(rank)
    assert len(owners) == plan.n_chunks
    assert all(len(ranks) == 1 for ranks in owners.values())


@given(plans(most_rows=10**12))
def test_shares_differ_by_at_most_one_chunk(plan: Plan) -> None:
    chunks = [-(-len(plan.rows(rank)) // plan.chunk_rows) for rank in range(plan.size)]
    assert max(chunks) - min(chunks) <= 1


@given(plans())
def test_no_rank_is_idle_if_there_are_chunks_for_all(plan: Plan) -> None:
    idle = sum(not plan.rows(rank) for rank in range(plan.size))
    assert idle == max(0, plan.size - plan.n_chunks)


@given(plans())
def test_batches_are_the_rows_of_the_rank_in_order(plan: Plan) -> None:
    for rank in range(plan.size):
        rows = [row for batch in plan.batches(rank) for row in batch]
        assert rows == list(plan.rows(rank))


@given(plans())
def test_batches_are_whole_chunks_and_full_but_for_the_last(plan: Plan) -> None:
    for rank in range(plan.size):
        batches = list(plan.batches(rank))
        for batch in batches:
            assert 0 < len(batch) <= plan.batch_rows
            assert batch.start % plan.chunk_rows == 0
            assert batch.stop % plan.chunk_rows == 0 or batch.stop == plan.n_rows
        assert all(len(batch) == plan.batch_rows for batch in batches[:-1])


@given(plans(most_rows=500), SIZES)
def test_where_the_chunks_are_does_not_depend_on_the_ranks(plan: Plan, size: int) -> None:
    other = Plan(
        n_rows=plan.n_rows, chunk_rows=plan.chunk_rows, size=size, batch_rows=plan.chunk_rows
    )
    starts = {
        row
        for p in (plan, other)
        for rank in range(p.size)
        for batch in p.batches(rank)
        for row in range(batch.start, batch.stop, p.chunk_rows)
    }
    assert starts == set(range(0, plan.n_rows, plan.chunk_rows))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": -1},
        {"chunk_rows": 0},
        {"size": 0},
        {"batch_rows": 0},
        {"batch_rows": 4},
        {"batch_rows": -3},
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"plan|batches"):
        Plan(**({"n_rows": 9, "chunk_rows": 3, "size": 2, "batch_rows": 3} | wrong))


@given(
    st.integers(1, 10**6),
    CHUNK_ROWS,
    st.integers(1, 10**4),
    st.sampled_from(["uint8", "uint16"]),
    SIZES,
    st.integers(1, 10**9),
)
def test_a_batch_is_as_many_whole_chunks_as_fit_and_at_least_one(
    n_rows: int, chunk_rows: int, width: int, dtype: str, size: int, batch_bytes: int
) -> None:
    images = DatasetSpec(name="/a", shape=(n_rows, 3, width), dtype=dtype, chunk_rows=chunk_rows)
    plan = Plan.of(images, size=size, batch_bytes=batch_bytes)
    assert (plan.n_rows, plan.chunk_rows, plan.size) == (n_rows, chunk_rows, size)
    chunk_bytes = chunk_rows * 3 * width * {"uint8": 1, "uint16": 2}[dtype]
    n_chunks, rest = divmod(plan.batch_rows, chunk_rows)
    assert rest == 0
    assert n_chunks == 1 or n_chunks * chunk_bytes <= batch_bytes
    assert (n_chunks + 1) * chunk_bytes > batch_bytes


def test_a_dataset_without_chunks_has_no_plan() -> None:
    with pytest.raises(ValueError, match="expected a chunked dataset"):
        Plan.of(DatasetSpec(name="/a", shape=(5,), dtype="uint8"), size=1, batch_bytes=1)


@given(intervals, intervals)
def test_overlap_is_the_intersection_and_lies_within_the_first(a: range, b: range) -> None:
    common = overlap(a, b)
    assert set(common) == set(a) & set(b)
    assert a.start <= common.start <= common.stop <= a.stop


@given(st.data(), st.integers(0, 60), st.integers(1, 8))
def test_overlaps_with_a_partition_are_the_interval_again(
    data: st.DataObject, n_rows: int, size: int
) -> None:
    mine = data.draw(st.sampled_from(data.draw(partitions(n_rows, size))))
    pieces = [overlap(mine, rows) for rows in data.draw(partitions(n_rows, size))]
    assert [row for piece in pieces for row in piece] == list(mine)


@given(st.data(), st.integers(0, 60), st.integers(1, 8))
def test_strings_sent_by_overlap_arrive_whole_and_in_order(
    data: st.DataObject, n_rows: int, size: int
) -> None:
    strings = [b"%d" % row * (row % 4) for row in range(n_rows)]
    held = data.draw(partitions(n_rows, size))
    wanted = data.draw(partitions(n_rows, size))
    sent = []  # sent[source][destination]
    for mine in held:
        packed = PackedStrings.pack(strings[mine.start : mine.stop])
        common = [overlap(mine, rows) for rows in wanted]
        sent.append(
            [packed.slice(range(c.start - mine.start, c.stop - mine.start)) for c in common]
        )
    for destination, rows in enumerate(wanted):
        received = PackedStrings.concatenate(parts[destination] for parts in sent)
        assert list(received) == strings[rows.start : rows.stop]


@given(st.lists(st.binary(max_size=5), max_size=30))
def test_redistribution_to_oneself_changes_nothing(strings: list[bytes]) -> None:
    rows = [range(len(strings))]
    assert list(redistribute(SerialComm(), PackedStrings.pack(strings), rows, rows)) == strings
