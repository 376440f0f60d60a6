"""Signals: the first stops the job where it can be resumed, a second SIGINT ends it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def end_at_once() -> None:
    """Let SIGINT end this process like the other signals, without a traceback.

    Before a job has begun there is nothing to save. Python cannot act on a signal while MPI starts,
    and its KeyboardInterrupt would lead to MPI_Finalize, which deadlocks with the other ranks.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it may be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Undo `end_at_once`, for work that has to clean up when interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_all() -> None:
    """Ignore signals from now on: the result, and so the exit code, is final."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequested(Exception):
    """Raised to leave the write loop; never leaves `ingest`."""


class Interrupt:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self.requested = False

    def install(self) -> None:
        """Install the signal handlers of this process. Main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.requested = True
