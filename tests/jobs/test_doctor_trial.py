"""`mpirun h5ingest doctor OUT`: the trial of two ranks, through the command."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from helpers.hosts import ranks_of
from helpers.support import MPICH_SOON, Flavour, clean_environment, end_session, explain

TRIAL = '''
import sys
from h5ingest.cli import main
from h5ingest.diagnostics import doctor, host_trial
from h5ingest.diagnostics.libraries import Libraries
from h5ingest.mpi.signals import Interrupt

interrupt = Interrupt()

class UntilAsked:
    """Seconds, and when they will be over: as soon as someone has asked to stop."""

    def __radd__(self, now_s):
        return self

    def __gt__(self, now_s):
        return not interrupt.requested

doctor.import_apart = lambda: Libraries()
host_trial.MEASURE_S = UntilAsked()
main.Interrupt = lambda: interrupt
main.main()
'''


@MPICH_SOON
def test_two_ranks_try_the_folder_and_leave_it_as_it_was(flavour: Flavour, tmp_path: Path) -> None:
    shown = flavour.run(3, "doctor", tmp_path / "out.h5")
    assert shown.returncode == 0, explain(shown)
    assert shown.stdout.count("program ") == 1
    assert shown.stdout.count("tried by ") == 1
    assert "fcntl: keeps the other out, flock: keeps the other out" in shown.stdout
    for what in ("64 written by the two; wrong when read: 0, reopened: 0, cache dropped: 0",
                 "O_EXCL: 50 of 50 made by one host alone; links: 50 of 50"):  # fmt: skip
        assert what in shown.stdout, explain(shown)
    assert "one kernel with one cache. Of several hosts this says nothing" in shown.stdout
    assert "PROBLEM" not in shown.stdout
    assert not list(tmp_path.iterdir())


def test_a_trial_that_is_asked_to_stop_leaves_nothing(mpich: Flavour, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*mpich.mpirun, "-n", "2", str(mpich.bin / "python"), "-c", TRIAL, "doctor", str(tmp_path)],
        env=clean_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 40
        while not list(tmp_path.glob(".h5ingest-doctor-*/name")) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert list(tmp_path.glob(".h5ingest-doctor-*/name")), "it has not begun"
        for rank in ranks_of(tmp_path):  # not mpirun: MPICH's, after a signal, may end with 0
            os.kill(rank, signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
    finally:
        end_session(process)
    assert process.returncode == 75, (said, errors)
    assert "tried by" not in said
    assert not list(tmp_path.iterdir())
