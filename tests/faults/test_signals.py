"""Asked to stop, or left alone by another rank: every rank ends soon, and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.faults import (
    ALL_FLAVOURS,
    FAULTS,
    LAYOUTS,
    SMALL,
    Fault,
    Images,
    Runner,
    differences,
    n_done,
    say,
    serving,
)
from helpers.support import (
    FLAVOURS,
    Completed,
    Flavour,
    checkered,
    clean_environment,
    end_session,
    error_lines,
    explain,
    soon,
)

SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "usr1": signal.SIGUSR1}
SLOW: list[Fault] = [
    {"act": "nap:0.3", "site": "probe", "rank": "all", "call": 0},
    {"act": "nap:0.6", "site": "decode", "rank": "all", "call": 0},
    {"act": "nap:0.15", "site": "final beat", "call": 0},
]
"""On 3 ranks: 6 s of probing, 12 s of storing, 9 s of the final pass."""
AT = {
    "probe": {"site": "probe", "call": 2},
    "store": {"site": "decode", "call": 2},
    "final pass": {"site": "digest", "call": 1},
}
STANDS_STILL: dict[str, Fault] = {
    "while it stores": {"site": "decode", "call": 5},
    "before MPI_Comm_dup": {"site": "share"},
    "before H5Fopen": {"site": "open"},
    "before H5Fclose": {"site": "finish", "when": "after"},
}
"""In the last three the others wait inside of HDF5."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images.write(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def runner(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=images, folder=tmp_path_factory.mktemp("signals"))


def launch(
    flavour: Flavour, images: Images, layout: str, out: Path, n_ranks: int, faults: list[Fault],
    *more: str,
) -> subprocess.Popen[str]:  # fmt: skip
    command = [
        *flavour.mpirun, "-n", str(n_ranks), flavour.checked().bin / "python", FAULTS, "run",
        json.dumps(faults), images.manifest(layout), out, *SMALL, *LAYOUTS[layout],
        "--cache-bytes", "0", "--report", out.with_suffix(".json"), *more,
    ]  # fmt: skip
    return subprocess.Popen(
        [str(word) for word in command], env=clean_environment(), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8",
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout_s: float) -> Completed:
    """Wait for the end; leave nothing behind."""
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end_session(process)
        _, said = process.communicate()
        pytest.fail(f"did not end within {timeout_s} s\n{said}")
    words = [str(word) for word in process.args]  # type: ignore[union-attr]  # it is a list
    return subprocess.CompletedProcess(words, process.returncode, "", said)


def session(leader: int) -> list[int]:
    """Return all processes that a launched command consists of."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


RANKS = (0, 2, "all")


@pytest.mark.parametrize(
    ("phase", "rank", "which"),
    checkered(AT, RANKS, FLAVOURS),
)
def test_a_signal_ends_every_rank_soon_and_the_job_can_go_on(
    runner: Runner, phase: str, rank: int | str, which: str, tmp_path: Path
) -> None:
    flavour = FLAVOURS[which]
    name = random.Random(f"{flavour.name} {phase} {rank}").choice(list(SIGNALS))
    if phase == "final pass" and rank == 2:  # which only waits there: another place must do
        at: Fault = {"act": f"{name}-later:0.5", "site": "finish", "rank": rank, "when": "after"}
    else:
        at = {"act": name, "rank": rank, **AT[phase]}
    slow = SLOW[list(AT).index(phase)]
    out = tmp_path / "out.h5"
    completed = ended(launch(flavour, runner.images, "ragged", out, 3, [slow, at]), 60)
    ended_s = time.time()
    assert completed.returncode == 75, explain(completed)
    codes = re.findall(r"rank (\d) ends with (\d+)", completed.stderr)
    assert sorted(codes) == [(str(number), "75") for number in range(3)], explain(completed)
    (line,) = error_lines(completed)
    assert "stopped as asked" in line
    assert "start the same command again to go on" in line
    asked_s = [float(moment) for moment in re.findall(r"asked at ([\d.]+)", completed.stderr)]
    assert ended_s - min(asked_s) < 10, "the end of the processes included, on a busy machine"
    assert not out.exists()
    assert not (tmp_path / "out.h5.lock").exists()
    n_known = n_done(out)  # of 60: of each rank what it had in hand, and maybe the next
    if phase == "final pass":
        assert n_known > 0
    else:
        assert n_known <= (0 if phase == "probe" else 30), f"{n_known} were stored"
    runner.check("ragged", out, runner.run("ragged", out), resumed=n_known > 0)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("phase", AT)
def test_a_job_without_a_launcher_stops_as_asked(
    runner: Runner, phase: str, name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    at: Fault = {"act": name, **AT[phase]}
    if phase == "store":
        at["call"] = 40
    completed = runner.run("stack zstd", out, 1, [at])
    assert completed.returncode == 75, explain(completed)
    assert "stopped as asked" in completed.stderr
    if phase == "store":
        (n_stored,) = re.findall(r"stopped as asked, (\d+) images were stored", completed.stderr)
        assert 20 <= int(n_stored) <= 60
    runner.check("stack zstd", out, runner.run("stack zstd", out), resumed=phase != "probe")


def test_a_second_interrupt_ends_the_job_at_once(runner: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    faults: list[Fault] = [  # in the order in which the last one comes first
        {"act": "nap:30", "site": "finish"},
        {"act": "int", "site": "finish"},
        {"act": "int", "site": "finish"},
    ]
    started_s = time.monotonic()
    completed = runner.run("stack", out, 1, faults)
    assert completed.returncode == -signal.SIGINT, explain(completed)
    assert time.monotonic() - started_s < 25, "it should not have slept to the end"
    runner.check("stack", out, runner.run("stack", out), resumed=True)


EACH_ONCE = (("mpich", "int"), ("openmpi", "term"), ("wheels", "usr1"))


@pytest.mark.parametrize(
    ("which", "name"),
    soon(EACH_ONCE, itertools.product(ALL_FLAVOURS, SIGNALS)),
)
def test_a_signal_to_mpirun_reaches_the_ranks(
    runner: Runner, which: str, name: str, tmp_path: Path
) -> None:
    # What a batch system does. Every rank ends with 75; what mpirun itself then says is not ours:
    # Open MPI's 1 after SIGTERM and SIGINT, MPICH's mostly 75, but not always (0 was seen). What
    # the ranks print last may be lost with it. That the job stopped in good order shows below.
    out = tmp_path / "out.h5"
    process = launch(ALL_FLAVOURS[which], runner.images, "stack", out, 2, SLOW[1:2])
    try:
        end_s = time.monotonic() + 60
        while n_done(out) < 1 and time.monotonic() < end_s and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, SIGNALS[name])
        sent_s = time.monotonic()
    finally:
        completed = ended(process, 20)
    assert time.monotonic() - sent_s < 10
    if which == "openmpi":
        assert completed.returncode == (75 if name == "usr1" else 1), explain(completed)
    assert not out.exists()
    again = ended(launch(ALL_FLAVOURS[which], runner.images, "stack", out, 1, []), 30)
    runner.check("stack", out, again, resumed=True)


@pytest.mark.parametrize(
    ("place", "which", "rank"),
    soon(
        [
            ("while it stores", "mpich", 0), ("before MPI_Comm_dup", "openmpi", 1),
            ("before H5Fopen", "mpich", 1), ("before H5Fclose", "openmpi", 0),
        ],
        itertools.product(STANDS_STILL, ["mpich", "openmpi"], [0, 1]),
    ),
)  # fmt: skip
def test_a_rank_that_gives_no_sign_of_life_ends_the_others(
    runner: Runner, which: str, place: str, rank: int, tmp_path: Path
) -> None:
    flavour, out = ALL_FLAVOURS[which], tmp_path / "out.h5"
    stop: Fault = {"act": "stop", "rank": rank, **STANDS_STILL[place]}
    started_s = time.monotonic()
    process = launch(flavour, runner.images, "stack", out, 3, [stop], "--peer-timeout", "2")
    completed = ended(process, 60)
    assert time.monotonic() - started_s < 40, "its start included, on a busy machine"
    assert "no sign of life of another rank for 2 s (--peer-timeout)" in completed.stderr
    # 75, the signal by which mpirun had to end the rank that stood still, or MPICH's own 1
    assert completed.returncode in (75, 9, 137, 1), explain(completed)
    assert not out.exists()
    end_s = time.monotonic() + 5
    while session(process.pid) and time.monotonic() < end_s:
        time.sleep(0.02)  # Open MPI's mpirun may end just before the rank that it kills
    assert session(process.pid) == []
    assert differences(runner.one_shot("stack"), resumed(runner, out)) == []


def resumed(runner: Runner, out: Path) -> Path:
    completed = runner.run("stack", out)
    assert completed.returncode == 0, explain(completed)
    return out


@pytest.mark.long
def test_a_job_that_is_suspended_as_a_whole_goes_on(
    runner: Runner, flavour: Flavour, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    slow: Fault = {"act": "nap:0.1", "site": "decode", "rank": "all", "call": 0}
    # No less: a busy machine may leave one rank without a core for some seconds.
    process = launch(flavour, runner.images, "stack", out, 2, [slow], "--peer-timeout", "8")
    try:
        while n_done(out) < 1:
            assert process.poll() is None
            time.sleep(0.02)
        everyone = session(process.pid)
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(10)
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
    finally:
        completed = ended(process, 30)
    assert completed.returncode == 0, explain(completed)
    assert differences(runner.one_shot("stack"), out) == []


@pytest.mark.parametrize(("which", "after_s"), checkered(FLAVOURS, [0.01, 0.05, 0.15]))
def test_an_interrupt_of_one_rank_while_mpi_starts_ends_the_job(
    runner: Runner, which: str, after_s: float, tmp_path: Path
) -> None:
    flavour = FLAVOURS[which]
    out = tmp_path / "out.h5"
    fault: Fault = {"act": "int", "rank": 1, "after_s": after_s}
    with launch(flavour, runner.images, "stack", out, 2, [fault]) as process:
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # 1 in 25: mpirun of Open MPI 4.1 waits for a lock in PMIx's pmix_rte_finalize for ever,
            # where a rank ended as it connected. Its ranks have ended; nothing can be done in them.
            assert (flavour.name, session(process.pid)) == ("openmpi", [process.pid])
        finally:
            end_session(process)
    if not out.exists():
        runner.check("stack", out, runner.run("stack", out), resumed=False)


ACTS = ("kill", "kill-all", "term", "int", "usr1", "crash", "stop", "nap:0.5", "")
ANYWHERE = ("probe", "decode", "write", "book", "mark", "sync", "checkpoint", "finish")
ON_ROOT = ("begin", "create", "metadata", "journal", "close", "join", "final", "table", "publish")
KILLED = {-9, 9, 137, 255}
"""How mpirun reports a rank that was killed, or is killed itself."""
EXPECTED = {
    "kill": KILLED, "kill-all": KILLED, "crash": {1}, "nap:0.5": {0}, "": {0},
    "term": {0, 75}, "int": {0, 75}, "usr1": {0, 75},
    "stop": {0, 75, *KILLED},
}  # fmt: skip
"""Act -> what mpirun may exit with. 0: the job was done before it could be asked."""
WHAT = {
    "kill": "a rank is killed", "kill-all": "all processes are killed", "": "none",
    "crash": "an exception in a rank", "nap:0.5": "a rank waits", "stop": "a rank stands still",
}  # fmt: skip
"""Act -> its name in the table; the others are signals."""
UNHANDLED = {-2, -10, -15, 1, 2, 10, 15, 130, 138, 143}
"""Signals that come before Python has started, or after it has ended, end a process."""


@dataclass(frozen=True, slots=True)
class Hunted:
    """A random job with a random fault, and how it ended."""

    what: str
    mpi: str
    problem: str = ""
    """What is wrong with how it ended, if anything is."""


def hunt(dice: random.Random, runners: dict[str, Runner], out: Path) -> Hunted:
    """Run one random job with a random fault, and the same without: does it end, is all there?"""
    runner = runners[dice.choice(list(runners))]
    flavour, images = runner.flavour, runner.images
    layout, n_ranks = dice.choice(list(LAYOUTS)), dice.choice((2, 3, 4, 5))
    act = dice.choice(ACTS)
    rank = dice.randrange(n_ranks)
    site = dice.choice([*ANYWHERE, *ON_ROOT] if rank == 0 else ANYWHERE)
    fault: Fault = {"act": act, "site": site, "rank": rank, "call": dice.randint(1, 6)}
    if act != "stop" and dice.random() < 0.2:  # (nobody watches before MPI has started)
        fault = {"act": act, "rank": rank, "after_s": dice.uniform(0, 0.3)}
    more = ["--batch-bytes", str(dice.choice((1, 100, 5000, 10**6)))]
    more += ["--checkpoint", str(dice.choice((0.0001, 0.05, 30))), "--peer-timeout", "8"]
    faults = [fault] if act else []
    what = WHAT.get(act) or f"signal {act}"
    mpi = "Open MPI" if flavour.name == "openmpi" else "MPICH"
    story = f"{flavour.name}, {layout}, {n_ranks} ranks, {fault}, {' '.join(more)}"
    started_s = time.monotonic()
    process = launch(flavour, images, layout, out, n_ranks, faults, *more)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        end_session(process)
        process.communicate()
        return Hunted(what, mpi, f"{story}: hung")
    seconds, code = time.monotonic() - started_s, process.returncode
    expected = EXPECTED[act] | ({0} if "call" in fault else {0, *UNHANDLED})
    if code not in expected:
        return Hunted(what, mpi, f"{story}: {code} in {seconds:.1f} s\n{said}")
    again = runner.run(layout, out) if not out.exists() else None
    if again is not None and again.returncode:
        return Hunted(what, mpi, f"{story}: {code}; again: {explain(again)}\n--- before\n{said}")
    if differing := differences(runner.one_shot(layout), out):
        return Hunted(what, mpi, f"{story}: {code}, {differing} differ\n{said}")
    return Hunted(what, mpi)


@contextmanager
def hunters(images: Images, folder: Path) -> Iterator[dict[str, Runner]]:
    """A runner for each MPI."""
    with contextlib.ExitStack() as stack:
        runners = {}
        for name, flavour in ALL_FLAVOURS.items():
            (folder / name).mkdir()
            server = stack.enter_context(serving(flavour))
            runners[name] = Runner(server=server, images=images, folder=folder / name)
        yield runners


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_random_job_hangs_or_loses_anything(images: Images, tmp_path: Path) -> None:
    dice = random.Random(11)
    with hunters(images, tmp_path) as runners:
        found = [hunt(dice, runners, tmp_path / f"{number}.h5") for number in range(12)]
    assert not [hunted.problem for hunted in found if hunted.problem]


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_no_job_of_many_hangs_or_loses_anything(images: Images, tmp_path: Path) -> None:
    """`H5INGEST_JOBS` says how many; the table at the end is that of docs/reliability.md."""
    n_jobs = int(os.environ.get("H5INGEST_JOBS", "300"))
    seed = os.environ.get("H5INGEST_SEED", "hang")
    tries: Counter[tuple[str, str]] = Counter()
    bad: Counter[tuple[str, str]] = Counter()
    problems = []
    with hunters(images, tmp_path) as runners:
        for number in range(n_jobs):
            hunted = hunt(random.Random(f"{seed} {number}"), runners, tmp_path / f"{number}.h5")
            tries[hunted.what, hunted.mpi] += 1
            if hunted.problem:
                bad[hunted.what, hunted.mpi] += 1
                problems.append(hunted.problem)
                say(hunted.problem)
            if number % 50 == 49:
                say(f"{number + 1} jobs, {len(problems)} problems")
    say("| fault | MPI | jobs | ended as they should |\n|--|--|--|--|")
    for (what, mpi), n in sorted(tries.items()):
        say(f"| {what} | {mpi} | {n} | {n - bad[what, mpi]} |")
    assert not problems, "\n".join(problems)
