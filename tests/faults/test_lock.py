"""One job at a time on one output, and no late writer; nothing beside it leads anywhere else."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import (
    ALL_FLAVOURS,
    FAULTS,
    LAYOUTS,
    SMALL,
    Fault,
    Images,
    Runner,
    n_done,
    serving,
)
from helpers.support import (
    PROGRAMS,
    Flavour,
    clean_environment,
    damage,
    end_session,
    error_lines,
    explain,
    run,
    soon,
    write_manifest,
)

SLOW: Fault = {"act": "nap:0.15", "site": "decode", "rank": "all", "call": 0}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("locks")
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=Images.write(folder / "sources"), folder=folder)


@contextmanager
def slow_job(
    flavour: Flavour, images: Images, layout: str, out: Path, n_ranks: int, *more: Fault
) -> Iterator[subprocess.Popen[str]]:
    """A job that takes some seconds; it has its lock, and has stored something."""
    launcher = [*flavour.mpirun, "-n", str(n_ranks)] if n_ranks > 1 else []
    command = [
        *launcher, flavour.bin / "python", FAULTS, "run", json.dumps([SLOW, *more]),
        images.manifest(layout), out, *SMALL, *LAYOUTS[layout], "--cache-bytes", "0",
    ]  # fmt: skip
    process = subprocess.Popen(
        [str(word) for word in command], env=clean_environment(), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8",
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 60
        while n_done(out) < 2:
            assert time.monotonic() < end_s, "it does not get on"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            end_session(process)
        if process.stdout is not None:
            process.stdout.close()


def rewrite(lock: Path, **changes: Any) -> None:
    """Replace a lock by one that says something else."""
    content = {**json.loads(lock.read_bytes()), **changes}
    beside = lock.with_name("new")
    beside.write_text(json.dumps(content))
    beside.replace(lock)


def settled(file: Path, seconds: float) -> bytes:
    """What is in a file once nothing has been written there for so long."""
    content, since_s = file.read_bytes(), time.monotonic()
    end_s = since_s + 20
    while time.monotonic() < min(since_s + seconds, end_s):
        time.sleep(0.05)
        if (now := file.read_bytes()) != content:
            content, since_s = now, time.monotonic()
    return content


def abandoned(runner: Runner, out: Path) -> Path:
    """The lock of a job that has been killed."""
    slowly = {"act": "nap:0.01", "site": "decode", "call": 0}  # so that there are checkpoints
    kill = {"act": "kill", "site": "mark", "call": 4, "when": "after"}
    assert runner.run("stack", out, 1, [slowly, kill]).returncode == -9
    lock = out.with_name(out.name + ".lock")
    assert lock.exists()
    return lock


def test_a_second_job_is_refused_at_once_and_told_whose_the_first_is(
    runner: Runner, mpich: Flavour, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    hold = tmp_path / "hold"
    hold.touch()
    held: Fault = {
        "act": f"sh:while [ -e {hold} ]; do sleep 0.1; done", "site": "decode", "call": 20,
    }  # fmt: skip
    with slow_job(mpich, runner.images, "stack", out, 2, held) as first:
        holder = json.loads((tmp_path / "out.h5.lock").read_bytes())
        assert Path(f"/proc/{holder['pid']}").exists()
        second = runner.run("stack", out)
        assert second.returncode == 5, explain(second)
        (line,) = error_lines(second)
        whose = f"process {holder['pid']} on {socket.gethostname()} since {holder['since']}"
        assert whose in line
        third = mpich.run(2, runner.images.manifest("stack"), out, "--restart")
        assert third.returncode == 5, explain(third)
        assert first.poll() is None, "it should have been held until now"
        hold.unlink()
        said, _ = first.communicate(timeout=60)
        assert first.returncode == 0, said
    assert not list(tmp_path.glob("out.h5.*"))


def test_the_lock_of_a_dead_process_is_taken_over_with_a_notice(
    runner: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    holder = json.loads(abandoned(runner, out).read_bytes())
    completed = runner.run("stack", out, 1, (), "--progress", "line")
    runner.check("stack", out, completed, resumed=True)
    assert f"took over from process {holder['pid']} on {holder['host']}" in completed.stderr
    assert "which is gone" in completed.stderr


def test_a_process_with_the_same_number_is_another_one(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    rewrite(abandoned(runner, out), pid=os.getpid())  # which lives, but started at another time
    runner.check("stack", out, runner.run("stack", out), resumed=True)


@pytest.mark.parametrize("where", ["host", "pids"])
def test_a_lock_of_another_host_or_container_is_judged_by_its_heartbeat(
    runner: Runner, where: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    lock = abandoned(runner, out)
    rewrite(lock, **{where: "elsewhere"})
    completed = runner.run("stack", out)
    assert completed.returncode == 5, explain(completed)
    assert re.search(r"its last sign of life is \d s old", completed.stderr)
    assert "taken for dead after 300 s: --peer-timeout" in completed.stderr
    assert lock.exists()
    long_ago = time.time() - 301
    os.utime(lock, (long_ago, long_ago))
    runner.check("stack", out, runner.run("stack", out), resumed=True)


def test_what_cannot_be_read_as_a_lock_is_left_alone_until_it_is_old(
    runner: Runner, tmp_path: Path
) -> None:
    out, lock = tmp_path / "out.h5", tmp_path / "out.h5.lock"
    for junk in (b"", b"junk", b"[" * 100_000, b'{"pid": [1]}', b'{"token": '):
        lock.write_bytes(junk)
        completed = runner.run("stack", out)
        assert completed.returncode == 5, explain(completed)
        assert lock.read_bytes() == junk
    long_ago = time.time() - 301
    os.utime(lock, (long_ago, long_ago))
    runner.check("stack", out, runner.run("stack", out), resumed=False)


def test_what_is_no_lock_is_never_taken_away(runner: Runner, tmp_path: Path) -> None:
    """Nor what only has a name like those beside it, when a lock is taken over."""
    out, lock, notes = (tmp_path / f"out.h5{ending}" for ending in ("", ".lock", ".lock.notes"))
    long_ago = time.time() - 301
    for file in (lock, notes):
        file.write_text("precious")
        os.utime(file, (long_ago, long_ago))
    completed = runner.run("stack", out)
    assert completed.returncode == 5, explain(completed)
    assert "out.h5.lock: expected the lock of a job that is gone" in completed.stderr
    assert lock.read_text() == "precious"
    lock.write_text("")
    os.utime(lock, (long_ago, long_ago))
    completed = runner.run("stack", out)
    assert notes.read_text() == "precious"
    notes.unlink()
    runner.check("stack", out, completed, resumed=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_of_many_that_take_over_at_once_exactly_one_succeeds(seed: int, tmp_path: Path) -> None:
    """In whatever order, and whoever is killed meanwhile; and the next one can always go on."""
    python = ALL_FLAVOURS["mpich"].bin / "python"
    script = PROGRAMS / "launched_locks.py"
    completed = run([python, script, tmp_path, str(seed), "61", "5"], timeout_s=120)
    assert completed.returncode == 0, explain(completed)
    generations = completed.stdout.splitlines()
    assert len(generations) == 61
    assert set(generations[::2]) == {"0 1 True 0"}
    killed = [line.split() for line in generations[1::2]]
    assert {int(n_won) for _, n_won, _, _ in killed} <= {0, 1}, generations
    assert {is_winners for _, _, is_winners, _ in killed} == {"True"}, generations
    assert sum(int(n_killed) for n_killed, _, _, _ in killed) > 10


@pytest.mark.parametrize(
    ("layout", "n_ranks"),
    soon([("stack", 1), ("stack zstd", 3)], [("stack", 1), ("stack", 3), ("stack zstd", 3)]),
)
def test_a_job_that_has_lost_its_lock_writes_no_more(
    runner: Runner, layout: str, n_ranks: int, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out.h5", tmp_path / "out.h5.partial"
    with slow_job(runner.flavour, runner.images, layout, out, n_ranks) as job:
        rewrite(tmp_path / "out.h5.lock", token="another's", pid=1)
        before = settled(partial, 4)  # it looks once a second
        said, _ = job.communicate(timeout=20)
        assert job.returncode == 5, said
        assert "this job has lost the output to another one" in said
    assert partial.read_bytes() == before
    assert json.loads((tmp_path / "out.h5.lock").read_bytes())["token"] == "another's"
    assert not out.exists()


@pytest.mark.parametrize("site", ["final", "publish"])
def test_a_job_that_has_lost_its_lock_publishes_nothing(
    runner: Runner, site: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    command = [
        runner.flavour.bin / "python", FAULTS, "run",
        json.dumps([{"act": "nap:2", "site": "digest", "when": "after"}]),
        runner.images.manifest("stack"), out, *SMALL, *LAYOUTS["stack"],
    ]  # fmt: skip
    process = subprocess.Popen(
        [str(word) for word in command], env=clean_environment(), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8",
    )  # fmt: skip
    try:
        lock = tmp_path / "out.h5.lock"
        while not lock.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        if site == "publish":  # in the final pass; else at any moment before
            time.sleep(1.0)
        rewrite(lock, token="another's")
        said, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            end_session(process)
    assert process.returncode == 5, said
    assert "has lost the output" in said
    assert not out.exists()
    assert lock.exists()


def test_no_lock_is_left_by_a_job_that_ends(runner: Runner, tmp_path: Path) -> None:
    good, out = runner.images.manifest("stack"), tmp_path / "out.h5"
    lock = tmp_path / "out.h5.lock"
    bad = tmp_path / "bad.png"
    bad.write_bytes(runner.images.file("stack", 0).read_bytes())
    damage(bad)
    runs: dict[int, list[str | Path]] = {
        0: [good, out],
        5: [good, out],  # it exists
        3: [write_manifest(tmp_path / "bad.txt", [bad]), tmp_path / "out.h5", "--overwrite"],
        4: [write_manifest(tmp_path / "empty.txt", []), out, "--overwrite"],
        6: [good, out, "--overwrite", "--compression", "nonsense"],
    }
    for code, arguments in runs.items():
        completed = runner.server.run(arguments, (), tmp_path / "log", 60)
        assert completed.returncode in (code, 2), explain(completed)
        assert not lock.exists(), explain(completed)


@pytest.mark.parametrize("to", ["a file", "nothing"])
@pytest.mark.parametrize("ending", ["partial", "journal", "lock"])
def test_a_link_beside_the_output_is_not_followed(
    runner: Runner, ending: str, to: str, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    out, victim = tmp_path / "made" / "out.h5", tmp_path / "victim"
    if to == "a file":
        victim.write_text("precious")
    link = out.with_name(f"out.h5.{ending}")
    link.symlink_to(victim)
    completed = runner.run("stack", out)
    assert completed.returncode == 5, explain(completed)
    assert f"out.h5.{ending}" in completed.stderr
    completed = runner.run("stack", out, 1, (), "--restart")
    if ending == "lock":
        assert completed.returncode == 5, explain(completed)
    else:
        runner.check("stack", out, completed, resumed=False)
    assert victim.exists() == (to == "a file")
    assert not victim.exists() or victim.read_text() == "precious"


def test_a_fifo_beside_the_output_does_not_make_a_job_wait(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    for ending in ("lock", "journal", "partial"):
        fifo = tmp_path / f"out.h5.{ending}"
        os.mkfifo(fifo)
        completed = runner.run("stack", out, timeout_s=20)
        assert completed.returncode == 5, explain(completed)
        fifo.unlink()
        (tmp_path / "out.h5.journal").unlink(missing_ok=True)


def test_the_list_of_failures_and_the_report_go_through_no_link(
    runner: Runner, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    made = tmp_path / "made"
    made.mkdir()
    for name in ("out.h5.failed.tsv.partial", "out.json.partial"):
        (made / name).symlink_to(victim)
    bad = tmp_path / "bad.png"
    bad.write_bytes(runner.images.file("stack", 0).read_bytes())
    damage(bad)
    manifest = write_manifest(tmp_path / "bad.txt", [bad])
    arguments: list[str | Path] = [manifest, made / "out.h5", "--report", made / "out.json"]
    completed = runner.server.run(arguments, (), tmp_path / "log", 60)
    assert completed.returncode == 3, explain(completed)
    assert victim.read_text() == "precious"
    assert (made / "out.h5.failed.tsv").read_text().count("\n") == 2
    assert json.loads((made / "out.json").read_text())["n_failed"] == 1


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(runner: Runner, mask: int, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    python = runner.flavour.bin / "python"
    arguments = [str(runner.images.manifest("stack")), str(out)]
    completed = run(
        ["sh", "-c", f'umask {mask:o}; exec "$@"', "sh", python, "-m", "h5ingest", *arguments]
    )
    assert completed.returncode == 0, explain(completed)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask
