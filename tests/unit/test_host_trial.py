"""`doctor` on several hosts: what two of them see of each other's files, and what that means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.threads import ThreadComm, on_ranks

from h5ingest.core.errors import OutputError, StoppedError
from h5ingest.diagnostics import host_blocks, host_pair, host_trial
from h5ingest.diagnostics.host_trial import Trial, try_hosts
from h5ingest.diagnostics.trial_report import conclusion, describe_trial, judge
from h5ingest.mpi.signals import Interrupt

HOSTS = ["h1", "h1", "h2", "h2"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pair, "LONGEST_S", 0.5)
    for module in (host_pair, host_trial):
        monkeypatch.setattr(module, "MEASURE_S", 0.05)


def trial_on(folders: list[Path], interrupt: Interrupt | None = None) -> list[Trial]:
    """What all ranks are told; each may see the folder in its own way."""

    def on_rank(comm: ThreadComm) -> Trial:
        comm.hosts, comm.n_hosts = HOSTS, 2
        return try_hosts(folders[comm.rank], comm, interrupt or Interrupt())

    return on_ranks(4, on_rank)


def test_two_ranks_that_share_a_folder_see_each_other(tmp_path: Path) -> None:
    first, *others = trial_on([tmp_path] * 4)
    assert others == [first] * 3
    assert (first.hosts, first.shared, first.refused) == (("h1", "h2"), True, ())
    for wrong in (first.wrong_parts, first.wrong_neighbours):
        assert set(wrong) >= {"read", "reopened", "cache dropped"}
        assert not any(wrong.values())
    assert (first.exclusive, first.linked) == ((50, 0), (50, 0))
    assert first.looks[0] > 0
    assert first.looks[1] == 0
    assert first.rename_s is not None
    assert first.size_s is not None
    assert abs(first.clocks_s) < 5
    assert first.locks["flock"] is True
    assert first.locks["fcntl"] is False, "both are in one process, which such a lock does not part"
    assert min(first.fsync_s, first.made_per_s, first.opened_per_s, first.written_per_s) > 0
    assert not list(tmp_path.iterdir())
    (advice,) = judge(first)
    assert "locks of files hold on one host only" in advice.problem
    assert "own writer is safe here; HDF5's MPI-IO driver: safe" in conclusion(first)


def test_a_folder_of_each_host_is_no_shared_one(tmp_path: Path) -> None:
    folders = [tmp_path / host for host in HOSTS]
    for folder in {*folders}:
        folder.mkdir()
    first = trial_on(folders)[0]
    assert not first.shared
    (advice,) = judge(first)
    assert advice.fatal
    assert "what h1 makes in this folder, h2 does not see" in advice.problem
    assert conclusion(first) == "Not safe over several hosts: see PROBLEM."
    assert "nothing of each other" in describe_trial(first)
    assert not [file for folder in folders for file in folder.iterdir()]


def test_nothing_is_left_if_it_is_stopped_or_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Interrupt()

    def ask(*_: Any) -> bytes:
        interrupt.requested = True
        return b""

    def crash(*_: Any) -> bytes:
        raise ZeroDivisionError

    for act, error in ((ask, StoppedError), (crash, ZeroDivisionError)):
        interrupt.requested = False
        monkeypatch.setitem(host_blocks._WAYS, "reopened", act)
        with pytest.raises(error):
            trial_on([tmp_path] * 4, interrupt)
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_on_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="making a folder: No such file or directory") as caught:
        trial_on([tmp_path / "absent"] * 4)
    assert caught.value.agreed


GOOD = Trial(
    hosts=("h1", "h2"), shared=True, wrong_parts={"read": 0, "cache dropped": 0, "O_DIRECT": 0},
    wrong_neighbours={"read": 0, "cache dropped": 0, "O_DIRECT": 0}, exclusive=(50, 0),
    linked=(50, 0), looks=(100, 0), rename_s=0.01, size_s=0.9, locks={"fcntl": True},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem", "fatal", "end"),
    [
        ({}, None, False, "own writer is safe here; HDF5's MPI-IO driver: safe"),
        (  # GlusterFS and NFS
            {"wrong_parts": {"read": 64, "cache dropped": 0}},
            "goes on reading its own copy", False, "MPI-IO driver: not to be relied on",
        ),
        (
            {"wrong_parts": {"read": 64, "cache dropped": 64, "O_DIRECT": 3}},
            "bytes are lost where two hosts write into one block", False, "driver: not safe",
        ),
        (
            {"wrong_neighbours": {"read": 9, "O_DIRECT": 1}},
            "whole blocks that two hosts wrote side by side", True, "Not safe over several hosts",
        ),
        ({"exclusive": (50, 2)}, "2 of 50 names (O_EXCL)", True, "Not safe"),
        ({"linked": (50, 1)}, "1 of 50 names (hard links)", True, "Not safe"),
        ({"looks": (100, 7)}, "missing in 7 of 100 looks", False, "is safe here"),
        ({"rename_s": None}, "new name or size more than 3 s late", False, "is safe here"),
        ({"clocks_s": -31.0}, "clocks of h1 and h2 are 31 s apart", False, "is safe here"),
        ({"locks": {"flock": False}}, "locks of files hold on one host", False, "is safe here"),
        ({"wrong_neighbours": {}, "wrong_parts": {}}, None, False, "could not be tried"),
        ({"hosts": ("h1", "h1")}, None, False, "one kernel with one cache"),
    ],
)  # fmt: skip
def test_what_was_seen_is_judged(
    changes: dict[str, Any], problem: str | None, fatal: bool, end: str
) -> None:
    trial = replace(GOOD, **changes)
    found = list(judge(trial))
    assert len(found) == (problem is not None)
    for advice in found:
        assert problem is not None
        assert problem in advice.problem
        assert advice.fatal == fatal
        assert advice.remedy
    assert end in conclusion(trial)
    assert describe_trial(trial).count("\n") >= 7
