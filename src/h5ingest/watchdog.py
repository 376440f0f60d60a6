"""`Watchdog`: what ends a rank that waits for others in vain.

May not: know MPI.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from h5ingest.errors import EXIT_STOPPED


class Watchdog:
    """Ends this process if it waits for other ranks in vain: nothing else ends it everywhere.

    A cut network link leaves MPICH, and by default Open MPI, waiting for ever.
    """

    def __init__(self, rank: int) -> None:
        """Begin asleep.

        Args:
            rank: of this process, for the message.
        """
        self._rank = rank
        self._wait: object | None = None
        """Stands for the wait under way; None while nothing is waited for."""
        self._timeout_s = 0.0

    def begin(self) -> None:
        """A wait for other ranks begins. Not collective."""
        self._wait = object()

    def end(self) -> None:
        """It is over. Not collective."""
        self._wait = None

    def start(self, timeout_s: float) -> None:
        """Watch from now on: a wait of more than `timeout_s` ends the process with exit code 75.

        Seconds are counted, not read from a clock: a job that is suspended stands still. Called
        again, it changes the time.
        """
        started, self._timeout_s = self._timeout_s > 0, timeout_s
        if not started:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        seen, waited_s = None, 0.0
        while True:
            timeout_s = self._timeout_s
            step_s = min(1.0, timeout_s / 4)
            time.sleep(step_s)
            wait = self._wait
            waited_s = waited_s + step_s if wait is not None and wait is seen else 0.0
            seen = wait
            if waited_s > timeout_s:
                print(
                    f"h5ingest: error: rank {self._rank}: no sign of life of another rank for "
                    f"{timeout_s:.0f} s (--peer-timeout): a host or its network is gone. Start the "
                    f"same command again to go on.",
                    file=sys.__stderr__,
                    flush=True,
                )
                exit_now(EXIT_STOPPED)


def exit_now(code: int) -> None:
    """End this process. Unlike `sys.exit`: it closes no parallel file, which is collective."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
