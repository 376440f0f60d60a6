"""`Watchdog`: ends a rank that waits for others in vain.

May not: know MPI.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Final, NoReturn

from h5ingest.core.errors import EXIT_STOPPED

_LAST_WORDS_S: Final = 10.0
"""Seconds that a last message may take: whoever should read it may stand still."""


class Watchdog:
    """Ends this process if it waits for other ranks for too long.

    MPI itself does not: after a network failure MPICH, and by default Open MPI, wait for ever.
    """

    def __init__(self, rank: int) -> None:
        """Start inactive; `rank` is that of this process, for the message."""
        self._rank = rank
        self._wait: object | None = None
        """A token of the wait under way; None while this rank does not wait."""
        self._timeout_s = 0.0
        self._option = ""

    def begin(self) -> None:
        """Note that a wait for other ranks begins. Not collective."""
        self._wait = object()

    def end(self) -> None:
        """Note that the wait is over. Not collective."""
        self._wait = None

    def start(self, timeout_s: float, option: str = "--peer-timeout") -> None:
        """Watch from now on: a wait of more than `timeout_s` ends the process with exit code 75.

        Seconds are counted, not read from a clock, so that a suspended job does not time out.
        Called again, it changes the limit.

        Args:
            timeout_s: seconds.
            option: the option or variable that sets them, for the message.
        """
        started, self._timeout_s, self._option = self._timeout_s > 0, timeout_s, option
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
                exit_within(_LAST_WORDS_S, EXIT_STOPPED)
                try:
                    print(
                        f"h5ingest: error: rank {self._rank}: no sign of life of another rank for "
                        f"{timeout_s:.0f} s ({self._option}): a host, its network or the launcher "
                        f"is gone. Start the same command again to go on.",
                        file=sys.__stderr__,
                        flush=True,
                    )
                finally:
                    exit_now(EXIT_STOPPED)


def exit_within(timeout_s: float, code: int) -> None:
    """End this process with an exit code after `timeout_s`, if it has not ended by then.

    For calls that wait for other ranks and may never return; they must release the GIL.
    """
    timer = threading.Timer(timeout_s, os._exit, [code])  # not `exit_now`: nothing here may block
    timer.daemon = True
    timer.start()


def exit_now(code: int) -> NoReturn:
    """End this process without closing parallel files, which is collective (`sys.exit` would).

    What has been printed may block: `exit_within` comes first where that must not be waited for.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
