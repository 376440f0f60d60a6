"""How a process ends: by signals before the job begins or after it is done, and in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.support import (
    FLAVOURS,
    WHEELS,
    Flavour,
    clean_environment,
    end_session,
    error_lines,
    explain,
    make_pixels,
    run,
    write_images,
    write_manifest,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STRIKE = """
import os, signal, sys
import h5ingest.cli.app
from h5ingest.cli import main
from h5ingest.mpi import comm
from h5ingest.mpi.launcher import launcher_rank

number = int(sys.argv.pop(1))

def struck(function):
    def strikes(*arguments):
        os.kill(os.getpid(), number)
        return function(*arguments)
    return strikes

if launcher_rank() is None:
    h5ingest.cli.app.parse = struck(h5ingest.cli.app.parse)
elif launcher_rank() == 1:
    import h5ingest.mpi.mpi4py_comm
    h5ingest.mpi.mpi4py_comm.MpiComm.bcast = struck(h5ingest.mpi.mpi4py_comm.MpiComm.bcast)
main.main()
"""
"""A signal that comes before the options are known."""
STANDS_STILL = """
import os, signal, sys
import h5ingest.mpi.world
from h5ingest.cli import main
from h5ingest.mpi.launcher import launcher_rank

h5ingest.mpi.world._LONGEST_END_S = 1.0
place = sys.argv.pop(1)
if launcher_rank() == 1:
    if place == "end":
        main.run(sys.argv[1:])
    os.kill(os.getpid(), signal.SIGSTOP)
main.main()
"""
"""A rank that others wait for in vain in MPI_Init or MPI_Finalize."""
IS_ASKED_AT_THE_END = """
import os, signal, sys
import h5ingest.mpi.signals, h5ingest.mpi.watchdog, h5ingest.mpi.world
from h5ingest.cli import main
from h5ingest.mpi.launcher import launcher_rank
from h5ingest.mpi.mpi4py_comm import MpiComm

h5ingest.mpi.signals._SOON_S = 0.5
place, folder = sys.argv.pop(1), sys.argv.pop(1)
barrier = MpiComm.final_barrier

def last_barrier(comm):
    os.rename(f"{folder}/{comm.rank}.new", f"{folder}/{comm.rank}.pid")
    if comm.rank == 1 and place == "barrier":
        os.kill(os.getpid(), signal.SIGSTOP)
    barrier(comm)
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)

MpiComm.final_barrier = last_barrier
with open(f"{folder}/{launcher_rank()}.new", "w") as file:
    file.write(str(os.getpid()))
main.main()
"""
"""Rank 0 waits for rank 1, which stands still, with its result in hand."""
CANNOT_SPEAK = """
import os, sys, threading, time
import h5ingest.mpi.mpi4py_comm, h5ingest.mpi.watchdog
from h5ingest.mpi.comm import abort_on_crash
from h5ingest.mpi.world import world

h5ingest.mpi.mpi4py_comm._ABORT_TIMEOUT_S = h5ingest.mpi.watchdog._LAST_WORDS_S = 1.0
comm = world()
if comm.rank == 1:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.dup2(writer, 2)
    if sys.argv[1] == "watchdog":
        comm.watch.start(0.4)
        comm.watch.begin()
        time.sleep(100)
    with abort_on_crash(comm):
        raise ZeroDivisionError
time.sleep(100)
"""
"""A rank whose last words nobody reads: the pipe is full."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    names = write_images(folder / "images", make_pixels(24, (6, 5)))
    return write_manifest(folder / "m.txt", [f"images/{name}" for name in names])


def test_a_signal_before_the_job_begins_ends_it_without_a_traceback(
    manifest: Path, tmp_path: Path
) -> None:
    python = WHEELS.checked().bin / "python"
    for number in SIGNALS:
        completed = run([python, "-c", STRIKE, str(int(number)), manifest, tmp_path / "out.h5"])
        assert completed.returncode == -number, explain(completed)
        assert completed.stdout + completed.stderr == "", explain(completed)
        assert not list(tmp_path.iterdir())


def test_a_signal_to_a_rank_before_the_job_begins_ends_all_without_a_traceback(
    flavour: Flavour, manifest: Path, tmp_path: Path
) -> None:
    completed = flavour.launch(
        2, flavour.bin / "python", "-c", STRIKE, str(int(signal.SIGINT)), manifest,
        tmp_path / "out.h5", timeout_s=30,
    )  # fmt: skip
    assert completed.returncode not in (0, 1), explain(completed)
    assert "Traceback" not in completed.stderr
    assert not error_lines(completed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("n_ranks", [0, 2])
def test_signals_after_the_file_has_its_name_do_not_change_the_exit_code(
    manifest: Path, tmp_path: Path, number: signal.Signals, n_ranks: int
) -> None:
    # From then on without a pause, until the processes have ended: one of them comes at any moment.
    flavour, out = FLAVOURS["mpich"].checked(), tmp_path / "out.h5"
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from h5ingest.cli.main import main\n"
        "open(f'{sys.argv[2]}.{os.getpid()}.pid', 'w').close()\n"
        "main()\n"
    )
    launcher = (*flavour.mpirun, "-n", str(n_ranks)) if n_ranks else ()
    process = subprocess.Popen(
        [*launcher, str(flavour.bin / "python"), program, manifest, out, "-q", "--chunk", "2"],
        env=clean_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 60
        while not out.exists() and time.monotonic() < end_s:
            time.sleep(0.0002)  # the processes need the cores
        pids = [int(path.name.split(".")[-2]) for path in tmp_path.glob("*.pid")]
        assert len(pids) == max(n_ranks, 1)
        while process.poll() is None and time.monotonic() < end_s:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    if is_running(pid):
                        os.kill(pid, number)
    finally:
        end_session(process)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert out.exists()
    assert said == ""


def running_with(argument: Path) -> list[int]:
    """The processes that have been started with it, by whomever."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(argument) in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rank_does_not_wait_for_ever_while_mpi_starts(
    flavour: Flavour, manifest: Path, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    completed = flavour.launch(
        2, flavour.bin / "python", "-c", STANDS_STILL, "start", manifest, tmp_path / "out.h5",
        env={"H5INGEST_START_TIMEOUT": "2"}, timeout_s=40,
    )  # fmt: skip
    assert time.monotonic() - started_s < 30
    assert completed.returncode != 0, explain(completed)
    expected = "no sign of life of another rank for 2 s (H5INGEST_START_TIMEOUT, while MPI starts)"
    assert expected in completed.stderr, explain(completed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["verfy", "m.txt"])
def test_a_rank_does_not_wait_for_ever_while_mpi_ends(
    mpich: Flavour, manifest: Path, tmp_path: Path, verb: str
) -> None:
    # Open MPI's MPI_Finalize lets go of a rank that stands still only on its own terms.
    words = (manifest, tmp_path / "out.h5") if verb == "m.txt" else (verb,)
    started_s = time.monotonic()
    completed = mpich.launch(
        2, mpich.bin / "python", "-c", STANDS_STILL, "end", *words, timeout_s=40
    )
    assert time.monotonic() - started_s < 30
    assert "no sign of life" not in completed.stderr
    if verb == "verfy":
        assert completed.returncode in (2, 9, 137), explain(completed)
    else:
        assert (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("place", ["barrier", "finalize"])
def test_a_rank_that_waits_for_others_at_the_end_can_be_ended(
    mpich: Flavour, manifest: Path, tmp_path: Path, place: str
) -> None:
    process = subprocess.Popen(
        [*mpich.mpirun, "-n", "2", str(mpich.bin / "python"), "-c", IS_ASKED_AT_THE_END, place,
         tmp_path, manifest, tmp_path / "out.h5", "-q"],
        env=clean_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 40
        while not (tmp_path / "0.pid").exists() and time.monotonic() < end_s:
            time.sleep(0.05)
        pid = int((tmp_path / "0.pid").read_text())
        time.sleep(1.0)  # until it waits
        assert is_running(pid)
        os.kill(pid, signal.SIGTERM)
        end_s = time.monotonic() + 10
        while is_running(pid) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert not is_running(pid), "it is deaf"
    finally:
        end_session(process)
        assert process.stderr is not None
        process.stderr.close()
    assert (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("who", ["watchdog", "abort"])
def test_last_words_that_nobody_reads_do_not_keep_a_rank(mpich: Flavour, who: str) -> None:
    started_s = time.monotonic()
    completed = mpich.launch(2, mpich.bin / "python", "-c", CANNOT_SPEAK, who, timeout_s=40)
    assert completed.returncode != 0, explain(completed)
    assert time.monotonic() - started_s < 30


def test_who_waits_for_rank_0_and_its_metadata_does_not_wait_for_ever(
    mpich: Flavour, manifest: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal\n"
        "import h5ingest.inspect.croissant as croissant\n"
        "from h5ingest.cli.main import main\n"
        "croissant.write = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "main()\n"
    )
    out = tmp_path / "out.h5"
    completed = mpich.launch(
        2, mpich.bin / "python", "-c", program, manifest, out, "--peer-timeout", "2",
        "--croissant", tmp_path / "out.json", timeout_s=40,
    )  # fmt: skip
    assert "rank 1: no sign of life of another rank for 2 s" in completed.stderr
    assert out.exists()


def test_a_launcher_that_is_asked_to_end_as_it_begins_leaves_no_rank_behind(
    manifest: Path, tmp_path: Path
) -> None:
    # Debian's mpirun.mpich then goes on without its ranks, which would wait in MPI_Init for ever.
    flavour, out = FLAVOURS["mpich"].checked(), tmp_path / "out.h5"
    command = [*flavour.mpirun, "-n", "2", flavour.bin / "h5ingest", manifest, out, "--overwrite"]
    for n in range(6):
        process = subprocess.Popen(
            list(map(str, command)), env=clean_environment({"H5INGEST_START_TIMEOUT": "2"}),
            start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep((3 + n % 4) / 1000)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=40)
        finally:
            end_session(process)
            left = running_with(manifest)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left


def test_a_time_to_start_that_is_none_is_refused(mpich: Flavour, manifest: Path) -> None:
    completed = mpich.run(
        2, manifest, manifest.with_suffix(".h5"), env={"H5INGEST_START_TIMEOUT": "soon"}
    )
    assert completed.returncode == 6, explain(completed)
    assert error_lines(completed) == [
        "h5ingest: error: H5INGEST_START_TIMEOUT: expected a number of seconds, got 'soon'"
    ]
