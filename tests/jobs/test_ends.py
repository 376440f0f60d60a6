"""How a process ends: by signals before the job begins or after it is done, and in any case."""

from __future__ import annotations

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
            pass
        pids = [int(path.name.split(".")[-2]) for path in tmp_path.glob("*.pid")]
        assert len(pids) == max(n_ranks, 1)
        while process.poll() is None and time.monotonic() < end_s:
            for pid in pids:
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
