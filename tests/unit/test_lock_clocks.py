"""A lock of a host with a wrong clock: not stolen from who lives, nor kept for who is gone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.support import clean_environment

from h5ingest.core.errors import OutputError, StoppedError
from h5ingest.storage import file_systems, lock
from h5ingest.storage.lock import Lock

LIMIT_S = 1.2
"""As --peer-timeout; so there are heartbeats every 0.4 s."""
ELSEWHERE = """
import os, pathlib, sys, time
from h5ingest.storage.lock import Lock

names, touch, skew_s = os.uname(), os.utime, float(sys.argv[2])
os.uname = lambda: type(names)(("Linux", "elsewhere", *names[2:]))
os.utime = lambda path, **how: touch(path, (time.time() + skew_s,) * 2, **how)
held = Lock(pathlib.Path(sys.argv[1]), float(sys.argv[3]))
os.utime(held.path)
print("held", flush=True)
sys.stdin.read()
"""
"""A job on a host of another name and time, on a file system that takes its dates from there."""


@contextmanager
def held_elsewhere(path: Path, skew_s: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(path), str(skew_s), str(LIMIT_S)],
        env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every folder be on a file system of several hosts."""
    look = file_systems.look

    def looked(path: Path, **how: bool) -> file_systems.FileSystem:
        place = look(path, **how)
        assert place.mount is not None
        return replace(place, mount=replace(place.mount, type="fuse.glusterfs"))

    monkeypatch.setattr(file_systems, "look", looked)
    monkeypatch.setattr(lock, "_SERVED_LATE_S", 0.3)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("skew_s", [-30.0, 30.0])
def test_a_wrong_clock_neither_loses_a_lock_nor_keeps_it(skew_s: float, tmp_path: Path) -> None:
    path = tmp_path / "out.h5.lock"
    with held_elsewhere(path, skew_s) as process:
        token = json.loads(path.read_bytes())["token"]
        assert abs(path.stat().st_mtime - time.time()) > 25
        for _ in range(3):  # at different moments between two heartbeats
            with pytest.raises(OutputError, match=r"is being made by process \d+ on elsewhere"):
                Lock(path, LIMIT_S)
            time.sleep(0.13)
        assert json.loads(path.read_bytes())["token"] == token
        process.kill()
        process.wait()
        told: list[str] = []
        started_s = time.monotonic()
        taken = Lock(path, LIMIT_S, tell=told.append)
        assert time.monotonic() - started_s < 10
    assert [words.split()[0] for words in told] == ["watching", "took"]
    assert json.loads(path.read_bytes())["token"] == taken.token
    taken.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("shared")
def test_who_is_asked_to_stop_while_it_watches_stops_and_leaves_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "out.h5.lock"

    def asked() -> None:
        raise StoppedError("stopped as asked")

    with held_elsewhere(path, -30.0), pytest.raises(StoppedError):
        Lock(path, LIMIT_S, beat=asked)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_clock_that_agrees_is_believed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.h5.lock"
    with held_elsewhere(path, 0.0):
        started_s = time.monotonic()
        with pytest.raises(OutputError, match=r"its last sign of life is \d s old"):
            Lock(path, 300.0)
        assert time.monotonic() - started_s < 1
    time.sleep(2.5)  # more than the limit; and here one kernel dates all, so nothing is watched
    told: list[str] = []
    Lock(path, LIMIT_S, tell=told.append).release()
    assert [words.split()[0] for words in told] == ["took"]


def test_a_heartbeat_is_never_rarer_than_thrice_within_the_limit(tmp_path: Path) -> None:
    for limit_s, expected_s in ((300.0, 10.0), (30.0, 10.0), (6.0, 2.0)):
        held = Lock(tmp_path / "lock", limit_s)
        assert json.loads(held.path.read_bytes())["heartbeat_s"] == expected_s
        held.release()
