"""Small writes joined into large ones: the file is the same, whatever came in which order."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from h5ingest.storage.gathered_writes import GatheredWrites, WrittenBlocks
from h5ingest.storage.shared_blocks import BLOCK, Bytes

N_BLOCKS = 40


def into(file: bytearray, calls: list[range]) -> Callable[[int, Bytes], None]:
    def write(offset: int, data: Bytes) -> None:
        file[offset : offset + len(data)] = data
        calls.append(range(offset, offset + len(data)))

    return write


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_two_writers_that_share_blocks_lose_nothing(seed: int, fresh: bool) -> None:
    """As rank 0 has them: HDF5's metadata, and what other ranks hand over; others fill blocks."""
    dice = random.Random(seed)
    before = bytes(N_BLOCKS * BLOCK) if fresh else dice.randbytes(N_BLOCKS * BLOCK)
    file, wanted = bytearray(before), bytearray(before)
    calls: list[range] = []
    written = WrittenBlocks(fresh=fresh)
    writers = [GatheredWrites(into(file, calls), written) for _ in range(2)]
    others = set(dice.sample(range(N_BLOCKS), 12))  # blocks that another process fills
    pieces = []
    for number in range(N_BLOCKS):
        at = number * BLOCK
        while number not in others and at < (number + 1) * BLOCK:
            length = min(dice.randrange(1, 900), (number + 1) * BLOCK - at)
            if dice.random() < 0.8:
                pieces.append((at, dice.randbytes(length)))
            at += length
    dice.shuffle(pieces)
    for number in others:
        pieces.insert(dice.randrange(len(pieces)), (number * BLOCK, dice.randbytes(BLOCK)))
    for offset, data in pieces:
        wanted[offset : offset + len(data)] = data
        if offset // BLOCK in others:
            file[offset : offset + len(data)] = data
            continue
        writer = dice.choice(writers)
        writer.put(offset, data)
        if dice.random() < 0.05:
            writer.flush()
    for writer in writers:
        writer.flush()
    assert file == wanted
    touched = {
        number for call in calls for number in range(call.start // BLOCK, -(-call.stop // BLOCK))
    }
    assert not touched & others


def test_neighbours_become_one_write_and_gaps_too_where_they_are_known() -> None:
    file, calls = bytearray(10 * BLOCK), list[range]()
    writer = GatheredWrites(into(file, calls), WrittenBlocks(fresh=True))
    for offset in range(0, 2 * BLOCK, 100):
        writer.put(offset, b"x" * 60)
    writer.flush()
    assert len(calls) == 1
    calls.clear()
    alone = GatheredWrites(into(file, calls))
    for offset in range(0, 1000, 100):
        alone.put(offset, b"y" * 60)
    alone.put(60, b"y" * 40)
    alone.flush()
    assert [len(call) for call in calls] == [160, *[60] * 8]


def test_what_another_process_may_have_written_is_not_taken_for_known() -> None:
    written = WrittenBlocks(fresh=True)
    written.note(10, b"abc")
    assert written.get(8, 15) == b"\0\0abc\0\0"
    assert written.get(10, 13, all_written=True) == b"abc"
    assert written.get(8, 13, all_written=True) is None
    assert written.get(5 * BLOCK, 5 * BLOCK + 4, all_written=True) is None


def test_what_is_no_longer_remembered_is_not_written_again() -> None:
    n_blocks = 20_000  # more than are remembered
    file, calls = bytearray(2 * n_blocks * BLOCK), list[range]()
    written = WrittenBlocks(fresh=True)
    writer = GatheredWrites(into(file, calls), written)
    for number in range(n_blocks):
        writer.put(2 * number * BLOCK + 7, bytes([number % 251 + 1]) * 3)
    writer.flush()
    assert written.get(0, 10) is None
    assert written.get(2 * (n_blocks - 1) * BLOCK, 2 * n_blocks * BLOCK) is not None
    writer.put(0, b"a")
    writer.put(20, b"b")
    writer.flush()
    assert bytes(file[:21]) == b"a" + bytes(6) + b"\1\1\1" + bytes(10) + b"b"
