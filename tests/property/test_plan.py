"""Laws of the division of work: they hold for any rows, chunks, groups, ranks and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import pytest
from helpers.threads import on_ranks
from hypothesis import given
from hypothesis import strategies as st

from h5ingest.core.group_datasets import extent_group, stack_group, tree_group
from h5ingest.core.layout import (
    DatasetSpec,
    Filter,
    ImageSpec,
    Layout,
)
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.partition import Cut, Piece, batches, cut, overlap, pieces, unit
from h5ingest.core.sample_table import PLACE, Samples
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.redistribute import Shard, redistribute

CHUNK_ROWS = st.integers(1, 50)
SIZES = st.integers(1, 70)


@st.composite
def datasets(draw: st.DrawFn, most_rows: int = 3000) -> DatasetSpec:
    return DatasetSpec(
        name="/images",
        shape=(draw(st.integers(1, most_rows)), draw(st.integers(1, 40))),
        dtype=draw(st.sampled_from(["uint8", "uint16"])),
        chunk_rows=draw(st.one_of(st.none(), CHUNK_ROWS)),
    )


def all_pieces(pixels: Sequence[DatasetSpec], size: int) -> list[list[Piece]]:
    cuts = cut(pixels, size)
    return [pieces(cuts, [spec.shape[0] for spec in pixels], rank) for rank in range(size)]


def rows_of(spec: DatasetSpec, size: int) -> list[range]:
    """Rows of each rank."""
    found = all_pieces([spec], size)
    assert all(len(mine) == 1 for mine in found)
    return [mine[0].span for mine in found]


def n_chunks(spec: DatasetSpec) -> int:
    return -(-spec.shape[0] // unit(spec))


intervals = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ab: range(*sorted(ab)))


@st.composite
def partitions(draw: st.DrawFn, n_rows: int, size: int) -> list[range]:
    cuts = draw(st.lists(st.integers(0, n_rows), min_size=size - 1, max_size=size - 1))
    return [range(a, b) for a, b in pairwise([0, *sorted(cuts), n_rows])]


# --- one group: rows in whole chunks -------------------------------------------------------------


@given(datasets(), SIZES)
def test_the_ranks_together_have_every_row_once_and_in_order(spec: DatasetSpec, size: int) -> None:
    rows = [row for mine in rows_of(spec, size) for row in mine]
    assert rows == list(range(spec.shape[0]))


@given(datasets(most_rows=10**12), SIZES)
def test_intervals_join_without_gap_at_any_number_of_rows(spec: DatasetSpec, size: int) -> None:
    parts = rows_of(spec, size)
    assert parts[0].start == 0
    assert parts[-1].stop == spec.shape[0]
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert all(part.step == 1 and part.start <= part.stop for part in parts)


@given(datasets(), SIZES)
def test_no_chunk_has_two_owners(spec: DatasetSpec, size: int) -> None:
    owners: dict[int, set[int]] = {}
    for rank, rows in enumerate(rows_of(spec, size)):
        for row in rows:
            owners.setdefault(row // unit(spec), set()).add(rank)
    assert len(owners) == n_chunks(spec)
    assert all(len(ranks) == 1 for ranks in owners.values())


@given(datasets(most_rows=10**12), SIZES)
def test_shares_differ_by_at_most_one_chunk(spec: DatasetSpec, size: int) -> None:
    chunks = [-(-len(rows) // unit(spec)) for rows in rows_of(spec, size)]
    assert max(chunks) - min(chunks) <= 1


@given(datasets(), SIZES)
def test_no_rank_is_idle_if_there_are_chunks_for_all(spec: DatasetSpec, size: int) -> None:
    idle = sum(not rows for rows in rows_of(spec, size))
    assert idle == max(0, size - n_chunks(spec))


# --- batches -------------------------------------------------------------------------------------


@given(datasets(), SIZES, st.integers(0, 500))
def test_batches_are_the_rows_of_the_rank_in_order(
    spec: DatasetSpec, size: int, batch_rows: int
) -> None:
    for rows in rows_of(spec, size):
        found = [row for batch in batches(rows, unit(spec), batch_rows) for row in batch]
        assert found == list(rows)


@given(datasets(), SIZES, st.integers(0, 500))
def test_batches_are_whole_chunks_and_full_but_for_the_last(
    spec: DatasetSpec, size: int, batch_rows: int
) -> None:
    step = unit(spec)
    full = max(1, batch_rows // step) * step
    for rows in rows_of(spec, size):
        found = batches(rows, step, batch_rows)
        for batch in found:
            assert 0 < len(batch) <= full
            assert batch.start % step == 0
            assert batch.stop % step == 0 or batch.stop == spec.shape[0]
        assert all(len(batch) == full for batch in found[:-1])


@given(
    st.integers(1, 10**6),
    CHUNK_ROWS,
    st.integers(1, 10**4),
    st.sampled_from(["uint8", "uint16"]),
    st.integers(1, 10**9),
)
def test_a_batch_is_as_many_whole_chunks_as_fit_and_at_least_one(
    n_rows: int, chunk_rows: int, width: int, dtype: str, batch_bytes: int
) -> None:
    spec = DatasetSpec(name="/a", shape=(n_rows, 3, width), dtype=dtype, chunk_rows=chunk_rows)
    first = batches(range(n_rows), unit(spec), batch_bytes // spec.row_bytes)[0]
    chunk_bytes = chunk_rows * 3 * width * {"uint8": 1, "uint16": 2}[dtype]
    whole, rest = divmod(len(first), chunk_rows)
    assert rest == 0 or len(first) == n_rows
    assert whole <= 1 or len(first) * spec.row_bytes <= batch_bytes
    assert len(first) == n_rows or (whole + 1) * chunk_bytes > batch_bytes


@given(datasets(most_rows=500), SIZES, SIZES)
def test_where_the_chunks_are_does_not_depend_on_the_ranks(
    spec: DatasetSpec, size: int, other: int
) -> None:
    step = unit(spec)
    starts = {
        row
        for n_ranks in (size, other)
        for rows in rows_of(spec, n_ranks)
        for batch in batches(rows, step, 3 * step)
        for row in range(batch.start, batch.stop, step)
    }
    assert starts == set(range(0, spec.shape[0], step))


def test_a_dataset_without_chunks_may_be_cut_anywhere() -> None:
    spec = DatasetSpec(name="/a", shape=(7,), dtype="uint8")
    assert unit(spec) == 1
    assert cut([spec], 3) == [Cut(0, 2), Cut(0, 4)]


# --- several groups ------------------------------------------------------------------------------


EMPTY = DatasetSpec(name="/empty", shape=(0,), dtype="uint8")


@given(st.lists(st.one_of(datasets(300), st.just(EMPTY)), min_size=1, max_size=8), SIZES)
def test_groups_are_divided_one_after_the_other(pixels: list[DatasetSpec], size: int) -> None:
    found = all_pieces(pixels, size)
    for group, spec in enumerate(pixels):
        spans = [piece.span for mine in found for piece in mine if piece.group == group]
        assert [row for span in spans for row in span] == list(range(spec.shape[0]))
        assert all(a.stop == b.start for a, b in pairwise(spans))
        assert all(
            end % unit(spec) == 0 or end == spec.shape[0]
            for span in spans
            for end in (span.start, span.stop)
        )
    order = [piece.group for mine in found for piece in mine]
    assert order == sorted(order)
    assert set(order) == set(range(len(pixels)))


@given(st.lists(datasets(300), min_size=1, max_size=8), SIZES)
def test_bytes_are_balanced_over_groups(pixels: list[DatasetSpec], size: int) -> None:
    total = sum(spec.stored_bytes for spec in pixels)
    most = max(unit(spec) * spec.row_bytes for spec in pixels)
    for mine in all_pieces(pixels, size):
        n_bytes = sum(
            -(-len(piece.span) // unit(pixels[piece.group]))
            * unit(pixels[piece.group])
            * pixels[piece.group].row_bytes
            for piece in mine
        )
        assert abs(n_bytes - total / size) <= most + 1


# --- the samples that go with it -----------------------------------------------------------------


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Layout, list[list[int]], list[list[Samples]]]:
    """A layout, the lengths of the images of each group, what each rank holds."""
    kind = draw(st.sampled_from(["stack", "ragged", "tree", "encoded"]))
    size = draw(st.integers(1, 6))
    n_groups = draw(st.integers(1, 4))
    of_row = draw(st.lists(st.integers(0, n_groups - 1), min_size=1, max_size=25))
    of_row += [group for group in range(n_groups) if group not in of_row]
    lengths = [draw(st.one_of(st.just(0), st.integers(0, 40))) for _ in of_row]
    every = [[n for n, g in zip(lengths, of_row, strict=True) if g == i] for i in range(n_groups)]
    filters = (Filter(id=1, options=()),) if draw(st.booleans()) else ()
    made = []
    for group, mine in enumerate(every):
        about = (str(group), f"/{group}", len(mine))
        if kind == "stack":
            image = ImageSpec(height=1, width=2, channels=1, dtype="uint8")
            made.append(stack_group(*about, image, chunk_rows=draw(st.integers(1, 4))))
        elif kind == "tree":
            made.append(tree_group(*about, sum(mine)))
        else:
            made.append(extent_group(kind, *about, sum(mine), "uint8", filters=filters))
    chunk = draw(st.integers(1, 60))
    if filters and kind in ("ragged", "encoded"):  # smaller chunks than real ones
        made = [
            replace(g, pixels=replace(g.pixels, chunk_rows=min(chunk, max(1, g.pixels.shape[0]))))
            for g in made
        ]
    layout = Layout(kind=kind, groups=tuple(made), grouped=True)
    held = []
    for part in draw(partitions(len(of_row), size)):
        runs = []
        for group, mine in enumerate(every):
            before = sum(g == group for g in of_row[: part.start])
            indices = [i for i in part if of_row[i] == group]
            if not indices:
                continue
            ends = list(accumulate(mine))
            rows = range(before, before + len(indices))
            flat = kind == "stack"
            runs.append(
                Samples(
                    group=group, rows=rows, indices=np.array(indices, np.int64),
                    paths=PackedStrings.pack([b"%d" % i for i in indices]),
                    shapes=np.zeros((0 if flat else len(rows), 4), np.int32),
                    starts=np.array([] if flat else [ends[r] - mine[r] for r in rows], np.int64),
                    lengths=np.array([] if flat else [mine[r] for r in rows], np.int64),
                    folders=PackedStrings.pack([]),
                )
            )  # fmt: skip
        held.append(runs)
    return layout, every, held


@given(divisions())
def test_every_rank_gets_the_samples_that_it_writes(
    job: tuple[Layout, list[list[int]], list[list[Samples]]],
) -> None:
    layout, every, held = job
    told = on_ranks(len(held), lambda comm: redistribute(comm, layout, held[comm.rank]))
    for group, lengths in enumerate(every):
        mine = [shard for shards in told for shard in shards if shard.group == group]
        owned = [row for shard in mine for row in shard.owned]
        assert owned == list(range(len(lengths)))  # each once, in order
        if layout.kind == "stack":
            assert [row for shard in mine for row in shard.span] == owned
            assert all(shard.span == shard.owned == shard.samples.rows for shard in mine)
            continue
        spans = [shard.span for shard in mine]
        assert [i for span in spans for i in span] == list(range(sum(lengths)))
        for shard in mine:
            check_portion(shard, lengths, unit(layout.groups[group].pixels))
    indices = [
        shard.samples.indices[row - shard.samples.rows.start]
        for shards in told
        for shard in shards
        for row in shard.owned
    ]
    assert sorted(indices) == list(range(sum(map(len, every))))


def check_portion(shard: Shard, lengths: list[int], step: int) -> None:
    samples, span = shard.samples, shard.span
    starts = [0, *accumulate(lengths)]
    assert samples.starts.tolist() == [starts[row] for row in samples.rows]
    assert samples.lengths.tolist() == [lengths[row] for row in samples.rows]
    assert list(samples.paths) == [b"%d" % i for i in samples.indices]
    assert set(shard.owned) <= set(samples.rows)
    assert len(samples.rows) - len(shard.owned) <= 1
    for row in shard.owned:
        assert span.start <= starts[row] <= span.stop
    needed = {r for r in range(len(lengths)) if overlap(span, range(starts[r], starts[r + 1]))}
    assert needed <= set(samples.rows)
    assert set(samples.rows) - set(shard.owned) <= needed  # nothing is decoded in vain
    if step == 1:  # no image is cut
        assert {span.start, span.stop} <= set(starts)
        assert samples.rows == shard.owned


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 9))
def test_whole_images_are_shared_out_evenly(lengths: list[int], size: int) -> None:
    total = sum(lengths)
    layout = Layout(
        kind="ragged", grouped=False,
        groups=(extent_group("ragged", "", "", len(lengths), total, "uint8"),),
    )  # fmt: skip
    run = samples_of(lengths)
    told = on_ranks(size, lambda comm: redistribute(comm, layout, [run] if comm.rank == 0 else []))
    for shards in told:
        n_bytes = sum(len(shard.span) for shard in shards)
        assert abs(n_bytes - total / size) <= max(lengths) + 1


def samples_of(lengths: list[int]) -> Samples:
    ends = np.cumsum(lengths, dtype=np.int64)
    return Samples(
        group=0, rows=range(len(lengths)), indices=np.arange(len(lengths)),
        paths=PackedStrings.pack([b"%d" % i for i in range(len(lengths))]),
        shapes=np.zeros((len(lengths), 4), np.int32), starts=ends - lengths,
        lengths=np.array(lengths, np.int64), folders=PackedStrings.pack([]),
        places=np.array([(i % 2 - 1, i, i) for i in range(len(lengths))], PLACE),
    )  # fmt: skip


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_samples_are_sliced_and_joined_again(lengths: list[int], data: st.DataObject) -> None:
    whole = samples_of(lengths)
    parts = [whole.slice(rows) for rows in data.draw(partitions(len(lengths), 4))]
    again = Samples.concatenate(parts)
    assert again.rows == whole.rows
    for name in ("indices", "shapes", "starts", "lengths", "places"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert list(again.paths) == list(whole.paths)


def test_parts_that_do_not_follow_each_other_are_refused() -> None:
    whole = samples_of([1, 2, 3])
    with pytest.raises(ValueError, match="expected parts in order"):
        Samples.concatenate([whole.slice(range(0, 1)), whole.slice(range(2, 3))])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_a_single_rank_keeps_what_it_has(lengths: list[int]) -> None:
    whole = samples_of(lengths)
    group = extent_group("ragged", "", "", len(lengths), sum(lengths), "uint8")
    layout = Layout(kind="ragged", grouped=False, groups=(group,))
    (shard,) = redistribute(SerialComm(), layout, [whole])
    assert shard.owned == whole.rows
    assert list(shard.samples.paths) == list(whole.paths)


# --- intervals -----------------------------------------------------------------------------------


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
    found = [overlap(mine, rows) for rows in data.draw(partitions(n_rows, size))]
    assert [row for piece in found for row in piece] == list(mine)


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
