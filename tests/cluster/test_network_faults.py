"""What goes wrong on a network file system: kills, lost servers and links, no space, late writers.

`make fs-test` runs this; it needs root and /dev/fuse. H5INGEST_KILLS is the number of kills, and
H5INGEST_SEED chooses them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.faults import ALL_FLAVOURS, Images, say
from helpers.hosts import Running, launched
from helpers.network_fs import BRICKS_BYTES, VOLUMES, Gluster, Network, wait_until
from helpers.network_jobs import SLOW, TRIED, Job
from helpers.support import PROGRAMS, explain, run

pytestmark = pytest.mark.fs

KILLS = int(os.environ.get("H5INGEST_KILLS", "4"))
SEED = os.environ.get("H5INGEST_SEED", "17")
KILLED = ("wheels", "mpich", "wheels", "openmpi")
LINK_TO = 0o101000
"""Mode of a file on a brick that only says on which other brick the file is."""
REFUSED = "this output is being made by"


def put_to_sleep(pids: Sequence[int]) -> None:
    """Stop processes, and wait until they are: one in a system call ends that first."""
    signal_all(pids, signal.SIGSTOP)
    end_s = time.monotonic() + 30
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    while any(
        (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T" for thread in threads
    ):
        assert time.monotonic() < end_s
        time.sleep(0.01)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_job_goes_on_from_the_other_host(
    network: Network, corpora: dict[str, Images], number: int
) -> None:
    dice = random.Random(f"{SEED} {number}")
    stack = ALL_FLAVOURS[KILLED[number % len(KILLED)]].checked()
    volume = dice.choice([*VOLUMES])
    # The first host may go on at once, it knows that its process is gone; the other after minutes,
    # when nothing is cached any more.
    second = dice.choice(("h1", "h2", "h2", "h2"))
    cached = second == "h1" and bool(VOLUMES[volume].cached)
    job = Job.new(network, stack, corpora["many"], dice.choice(TRIED), volume, cached=cached)
    with launched(job.command("h1", [SLOW])) as running:
        end_s = time.monotonic() + 60
        while not job.seen_from("h1", ".lock").exists() and time.monotonic() < end_s:
            time.sleep(0.01)
        after_s = dice.uniform(0, 5)
        time.sleep(after_s)
        while ranks := job.ranks():
            signal_all(ranks, signal.SIGKILL)
        code, printed = running.end(timeout_s=60)
    there = "all"
    if not job.seen_from(second).exists():
        assert code != 0, printed
        if second == "h2":
            if job.seen_from("h2", ".lock").exists():
                alone = run(job.command("h2", n_ranks=1))
                assert alone.returncode == 5, explain(alone)
                assert REFUSED in alone.stderr, explain(alone)
            job.let_time_pass("h2")
        there = job.go_on(second)["n_resumed"]
    elif code:  # it had its name already; what lies beside it is removed by whoever comes next
        job.let_time_pass(second)
        again = run(job.command(second, n_ranks=1))
        assert again.returncode == 5, explain(again)
        assert "exists already" in again.stderr, explain(again)
    job.check("h2" if second == "h1" else "h1")
    say(f"kill {number}: {stack.name} {volume}{' cached' * cached} {job.layout}, after "
        f"{after_s:.2f} s, {there} of 96 were there; went on from {second}")  # fmt: skip


@pytest.mark.parametrize("volume", list(VOLUMES))
def test_of_two_jobs_on_one_output_one_is_refused(
    network: Network, corpora: dict[str, Images], volume: str, tmp_path: Path
) -> None:
    stack = ALL_FLAVOURS["mpich"].checked()
    meet = "touch $(hostname); until [ -e h1 -a -e h2 ]; do sleep 0.01; done"
    both_at_once = {"act": f"sh:cd {tmp_path}; {meet}", "site": "lock"}
    job = Job.new(network, stack, corpora["few"], "stack zstd", volume)
    with contextlib.ExitStack() as both:
        running = [
            both.enter_context(launched(job.command(host, [both_at_once, SLOW], n_ranks=1)))
            for host in ("h1", "h2")
        ]
        ended = [one.end(timeout_s=60) for one in running]
    assert sorted(code for code, _ in ended) == [0, 5], ended
    assert REFUSED in max(ended)[1] or "has just taken" in max(ended)[1], ended
    job.check("h1")
    job.check("h2")
    job = Job.new(network, stack, corpora["many"], "stack", volume)
    with job.under_way("h1") as running_first:
        put_to_sleep(job.ranks())  # it is still there, however slow the second one is
        second = run(job.command("h2"), timeout_s=120)
        signal_all(job.ranks(), signal.SIGCONT)
        assert second.returncode == 5, explain(second)
        assert REFUSED in second.stderr, explain(second)
        code, printed = running_first.end(timeout_s=60)
    assert code == 0, printed
    job.check("h2")


PLACES = [(name, False) for name in VOLUMES]
PLACES += [(name, True) for name, kind in VOLUMES.items() if kind.cached]


def test_a_lock_has_one_holder_whatever_its_state(network: Network, tmp_path: Path) -> None:
    python = ALL_FLAVOURS["wheels"].checked().bin / "python"
    with contextlib.ExitStack() as stack:
        running = {}
        for volume, cached in PLACES:
            folder = network.mounted(volume, cached=cached)
            words: list[str | Path] = [python, PROGRAMS / "launched_turns.py", "turns"]
            words += [folder / "turns.lock", tmp_path / folder.name, "10"]
            running[folder.name] = [
                stack.enter_context(launched(network.hosts.command(host, words)))
                for host in ("h1", "h2")
            ]
        ended = {name: [one.end(timeout_s=150) for one in both] for name, both in running.items()}
    say(f"turns: {ended}")
    assert ended == dict.fromkeys(ended, [(0, "10\n")] * 2)


def test_a_lock_that_has_been_taken_over_meanwhile_is_left_alone(
    network: Network, tmp_path: Path
) -> None:
    program = [ALL_FLAVOURS["wheels"].checked().bin / "python", PROGRAMS / "launched_turns.py"]
    folders = [network.mounted(volume, cached=cached) for volume, cached in PLACES]
    gos = [tmp_path / folder.name for folder in folders]
    locks = [folder / f"{folder.name}.lock" for folder in folders]
    with contextlib.ExitStack() as stack:

        def start(host: str, *words: str | Path) -> Running:
            return stack.enter_context(launched(network.hosts.command(host, [*program, *words])))

        left = [start("h1", "leave", lock) for lock in locks]
        assert [one.end(timeout_s=60)[0] for one in left] == [0] * len(locks)
        late = [start("h2", "late", lock, go) for lock, go in zip(locks, gos, strict=True)]
        wait_until(lambda: all(Path(f"{go}.waits").exists() for go in gos), "one that takes over")
        seen = [network.hosts.seen_from("h1", lock) for lock in locks]
        before = [lock.read_bytes() for lock in seen]
        first = start("h1", "hold", "10", *locks)
        wait_until(lambda: all(lock.read_bytes() not in before for lock in seen), "new lock")
        for go in gos:
            go.touch()
        told = [one.end(timeout_s=60) for one in late]
        assert [code for code, _ in told] == [1] * len(locks), told
        assert all("has just taken or released" in text for _, text in told), told
        assert first.end(timeout_s=60) == (0, "held\n")
        assert not any(lock.exists() for lock in seen)


def test_a_job_that_lives_keeps_its_lock_though_attributes_are_cached(network: Network) -> None:
    program = [ALL_FLAVOURS["wheels"].checked().bin / "python", PROGRAMS / "launched_turns.py"]
    locks = [network.mounted(name, cached=True) / "held.lock" for name, cached in PLACES if cached]
    hold = network.hosts.command("h1", [*program, "hold", "40", *locks])
    attempt = network.hosts.command("h2", [*program, "try", "11", *locks])
    with launched(hold) as holder, launched(attempt) as other:
        code, printed = other.end(timeout_s=60)
        assert holder.process.poll() is None, holder.end(timeout_s=1)
    say(printed)
    assert code == 0
    assert "taken\n" not in printed


@pytest.mark.parametrize(
    ("volume", "stack", "layout"),
    [("replicated", "mpich", "stack"), ("replicated", "wheels", "tree gzip"),
     ("dispersed", "openmpi", "ragged"), ("moose", "wheels", "stack zstd")],
)  # fmt: skip
def test_a_copy_of_the_data_is_lost_in_mid_run(
    network: Network, corpora: dict[str, Images], volume: str, stack: str, layout: str
) -> None:
    job = Job.new(network, ALL_FLAVOURS[stack].checked(), corpora["many"], layout, volume)
    with job.under_way() as running:
        network.kill_a_server(volume)
        code, printed = running.end(timeout_s=120)
    try:
        assert code == 0, printed
        job.check("h2")
    finally:
        network.start_it_again(volume)


def on_brick(network: Network, job: Job, number: int) -> bool:
    """Whether the output that is being made is on this brick of a distributed volume."""
    brick = VOLUMES["distributed"].place(network, "distributed", number)
    partial = brick / job.out.parent.name / f"{job.out.name}.partial"
    seen = network.hosts.seen_from("server", partial)
    return seen.exists() and seen.stat().st_mode != LINK_TO  # of another brick


def test_the_only_copy_of_the_data_is_lost_in_mid_run(
    network: Network, corpora: dict[str, Images]
) -> None:
    stack = ALL_FLAVOURS["wheels"].checked()
    job = Job.new(network, stack, corpora["many"], "stack zstd", "distributed")
    with job.under_way() as running:
        (number,) = (number for number in (1, 2, 3) if on_brick(network, job, number))
        network.kill_a_server("distributed", number)
        began_s = time.monotonic()
        try:
            code, printed = running.end(timeout_s=120)
        finally:
            network.start_it_again("distributed", number)
    say(f"brick killed: exit {code} after {time.monotonic() - began_s:.0f} s\n{printed}")
    assert code == 5, printed
    job.let_time_pass("h2")
    job.go_on("h2")
    job.check("h1")


def where(pid: int) -> str:
    """Where in the kernel the threads of a process wait."""
    with contextlib.suppress(OSError):
        threads = Path(f"/proc/{pid}/task").iterdir()
        return " ".join((thread / "wchan").read_text() for thread in threads)
    return "ended"


@pytest.mark.parametrize(
    ("volume", "stack"), [("replicated", "wheels"), ("moose", "mpich"), ("distributed", "openmpi")]
)
def test_the_link_of_a_host_is_cut_in_mid_run(
    network: Network, corpora: dict[str, Images], volume: str, stack: str
) -> None:
    flavour = ALL_FLAVOURS[stack].checked()
    job = Job.new(network, flavour, corpora["many"], "stack", volume, "--peer-timeout", "12")
    with job.under_way():
        here = {host: set(network.hosts.pids(host)) & set(job.ranks()) for host in ("h1", "h2")}
        network.hosts.cut("h2")
        began_s, ended_s = time.monotonic(), dict[str, float]()
        try:
            while len(ended_s) < 2 and time.monotonic() < began_s + 40:
                for host, pids in here.items():
                    if host not in ended_s and not pids & set(job.ranks()):
                        ended_s[host] = time.monotonic() - began_s
                time.sleep(0.1)
            left = {
                host: [where(pid) for pid in pids & set(job.ranks())] for host, pids in here.items()
            }
        finally:
            signal_all(job.ranks(), signal.SIGKILL)
            network.hosts.join("h2")
        mended_s = time.monotonic()
        while job.ranks() and time.monotonic() < mended_s + 120:  # their clients connect anew
            time.sleep(0.1)
    took = {host: f"{seconds:.0f} s" for host, seconds in ended_s.items()}
    say(f"link cut, {volume} {stack}: ranks ended after {took}; left after 40 s: {left}; "
        f"ended {time.monotonic() - mended_s:.0f} s after it was mended")  # fmt: skip
    assert not job.ranks()
    job.let_time_pass("h1")
    job.go_on("h1")
    job.check("h2")


@pytest.mark.parametrize(
    ("volume", "stack", "layout"),
    [("replicated", "wheels", "stack zstd"), ("replicated", "wheels", "ragged"),
     ("replicated", "mpich", "stack"), ("moose", "openmpi", "stack")],
)  # fmt: skip
def test_no_space_in_mid_run(
    network: Network, corpora: dict[str, Images], volume: str, stack: str, layout: str
) -> None:
    job = Job.new(network, ALL_FLAVOURS[stack].checked(), corpora["many"], layout, volume)
    with job.under_way() as running, no_space(network, volume, job.out.parent):
        code, printed = running.end(timeout_s=120)
    say(f"no space, {volume} {stack} {layout}: exit {code}\n{printed}")
    assert code == 5, printed
    assert "space" in printed or "quota" in printed, printed
    job.let_time_pass("h2")
    assert job.go_on("h2")["n_resumed"] > 0
    job.check("h1")


@contextlib.contextmanager
def no_space(network: Network, volume: str, folder: Path) -> Iterator[None]:
    """Leave next to no space for what is written into a folder."""
    if volume == "moose":
        network.on("h1", "mfssetquota", "-S", "70KiB", folder)
        yield
        network.on("h1", "mfsdelquota", "-A", folder)
    else:
        bricks = network.hosts.seen_from("server", network.data / "bricks")

        def is_full() -> bool:
            told = os.statvfs(bricks)
            used = (told.f_blocks - told.f_bfree) * told.f_frsize
            try:
                Gluster.resize(network, used + 50_000)
            except pytest.fail.Exception:
                return False  # by now more is used than that
            return True

        wait_until(is_full, f"{bricks}: next to no space")
        yield
        Gluster.resize(network, BRICKS_BYTES)
        time.sleep(6)  # every 5 s a brick looks whether it has room again (storage.reserve)


@pytest.mark.parametrize(
    ("volume", "stack", "layout", "still"),
    [("replicated", "wheels", "stack zstd", True), ("replicated", "mpich", "stack", False),
     ("moose", "wheels", "ragged", False), ("distributed", "openmpi", "ragged", True)],
)  # fmt: skip
def test_a_job_that_slept_and_was_replaced_writes_nothing(
    network: Network, corpora: dict[str, Images], volume: str, stack: str, layout: str, still: bool
) -> None:  # fmt: skip
    flavour = ALL_FLAVOURS[stack].checked()
    job = Job.new(network, flavour, corpora["many"], layout, volume)
    with job.under_way() as running:
        asleep = job.ranks()
        assert len(asleep) == 4
        try:
            put_to_sleep(asleep)
            job.let_time_pass("h2")
            if still:
                lock = job.seen_from("h2", ".lock").read_bytes()
                with launched(job.command("h2", [SLOW])) as other:
                    while job.seen_from("h2", ".lock").read_bytes() == lock:
                        assert other.process.poll() is None
                        time.sleep(0.02)
                    time.sleep(1.5)
                    signal_all(asleep, signal.SIGCONT)
                    code, printed = other.end(timeout_s=90)
                assert code == 0, printed
            else:
                job.go_on("h2")
                before = hashlib.sha256(job.seen_from("h2").read_bytes()).digest()
        finally:
            signal_all(asleep, signal.SIGCONT)
        woken_s = time.monotonic()
        code, printed = running.end(timeout_s=90)
    say(f"slept, {volume} {stack} {layout}, {still=}: "
        f"exit {code} after {time.monotonic() - woken_s:.1f} s\n{printed}")  # fmt: skip
    job.check("h1")
    job.check("h2")
    if not still:
        assert hashlib.sha256(job.seen_from("h2").read_bytes()).digest() == before
    assert code == 5, printed
