"""What enters the journal: only what lay on the disk when one rank of its client asked for it."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.threads import ThreadComm, on_ranks

from h5ingest.core.errors import OutputError
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.journal import Journal, read
from h5ingest.storage.journal_records import Done, Run

ONE, TWO = Done(0, 0, 4), Done(0, 4, 8)


class Disk:
    """Counts what each rank brings to the disk, and fails where it is told to."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.asked: Counter[int] = Counter()
        self.broken: set[int] = set()
        self.rank = threading.local()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, fd: int) -> None:
        if os.path.samestat(os.fstat(fd), self.path.stat()):
            self.asked[self.rank.number] += 1
            if self.rank.number in self.broken:
                raise OSError(errno.ENOSPC, "No space left on device")
        self._fsync(fd)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    (tmp_path / "a.h5").write_bytes(bytes(64))
    return Disk(tmp_path / "a.h5", monkeypatch)


def known(disk: Disk) -> list[Done]:
    """Return what the journal has as done."""
    return [record for record in read(journal_of(disk))[1].spans() if isinstance(record, Done)]


def journal_of(disk: Disk) -> Path:
    return disk.path.with_name("a.journal")


def on_two(
    disk: Disk, hosts: list[str], work: Callable[[Checkpoints, ThreadComm], Iterator[None]]
) -> None:
    """Do the steps of `work` on two ranks, in turns: first one of rank 1, then one of rank 0."""

    def run(comm: ThreadComm) -> None:
        comm.hosts, comm.n_hosts = hosts, len(set(hosts))
        disk.rank.number = comm.rank
        journal = Journal(journal_of(disk), {}) if comm.rank == 0 else None
        checkpoints = Checkpoints(comm, disk.path, journal, None, 0)
        checkpoints.open()
        steps = work(checkpoints, comm)
        for _ in range(4):
            for turn in (1, 0):
                if turn == comm.rank:
                    next(steps, None)
                comm.allgather(None)

    on_ranks(2, run)


def test_what_another_rank_has_written_is_entered_after_an_fsync_that_began_later(
    disk: Disk,
) -> None:
    found: list[list[Done]] = []

    def work(checkpoints: Checkpoints, comm: ThreadComm) -> Iterator[None]:
        if comm.rank == 1:
            checkpoints.note(ONE)
        while True:
            checkpoints.tick()
            if comm.rank == 0:
                found.append(known(disk))
            yield

    on_two(disk, ["a", "a"], work)
    assert [ONE] in found
    assert found[-1] == [ONE]
    assert disk.asked[0] >= 3
    assert disk.asked[1] == 0, "rank 0 does it for the whole client"


@pytest.mark.parametrize("hosts", [["a", "a"], ["a", "b"]])
def test_nothing_is_entered_if_it_did_not_reach_the_disk(disk: Disk, hosts: list[str]) -> None:
    leader = hosts.index(hosts[1])
    failed: list[int] = []

    def work(checkpoints: Checkpoints, comm: ThreadComm) -> Iterator[None]:
        checkpoints.tick()
        yield
        disk.broken.add(leader)
        if comm.rank == 1:
            checkpoints.note(ONE)
        while comm.rank not in failed:
            try:
                checkpoints.tick()
            except OutputError as error:
                assert "No space left" in str(error)  # noqa: PT017 - on a thread
                failed.append(comm.rank)
            yield

    on_two(disk, hosts, work)
    assert failed == [leader]
    assert known(disk) == []


def test_the_last_checkpoint_fails_on_all_ranks_if_one_client_cannot(disk: Disk) -> None:
    disk.broken.add(1)

    def work(comm: ThreadComm) -> None:
        comm.hosts, comm.n_hosts = ["a", "b"], 2
        disk.rank.number = comm.rank
        journal = Journal(journal_of(disk), {}) if comm.rank == 0 else None
        checkpoints = Checkpoints(comm, disk.path, journal, None, 1000)
        checkpoints.open()
        checkpoints.enter(Run(5).pack() if comm.rank == 0 else b"")
        checkpoints.note((ONE, TWO)[comm.rank])
        with pytest.raises(OutputError, match="No space left"):
            checkpoints.finish()

    on_ranks(2, work)
    assert known(disk) == []


def test_ranks_of_one_host_with_clients_of_their_own_ask_for_themselves(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        found = [*plain(path, **how)]
        found[2] += getattr(disk.rank, "number", 0)  # st_dev
        return os.stat_result(found)

    def work(comm: ThreadComm) -> None:
        disk.rank.number = comm.rank
        journal = Journal(journal_of(disk), {}) if comm.rank == 0 else None
        checkpoints = Checkpoints(comm, disk.path, journal, None, 1000)
        monkeypatch.setattr(os, "stat", stat)
        checkpoints.open()
        monkeypatch.setattr(os, "stat", plain)
        checkpoints.note((ONE, TWO)[comm.rank])
        checkpoints.finish()

    on_ranks(2, work)
    assert disk.asked == {0: 1, 1: 1}
    assert known(disk) == [ONE, TWO]
