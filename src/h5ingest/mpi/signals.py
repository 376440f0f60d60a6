"""Signals: the first asks the job to stop where it can go on later, a second SIGINT ends it."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def end_at_once() -> None:
    """Let SIGINT end this process like the other signals, without a traceback.

    Until a job has begun there is nothing to save. Nor could Python act on a signal while MPI
    starts; and its KeyboardInterrupt would end in MPI_Finalize, which waits for ranks that wait for
    this one.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it may be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Undo `end_at_once`, for work that cleans up behind itself."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_all() -> None:
    """Let no signal change the exit code any more: what it says has happened."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequested(Exception):
    """Leave the work loop. Never leaves `ingest`."""


class Interrupt:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        """Begin unasked."""
        self.requested = False

    def install(self) -> None:
        """Take over the signals of this process. Main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.requested = True
