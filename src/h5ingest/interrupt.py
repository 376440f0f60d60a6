"""Signals: the first asks the job to stop where it can go on later, a second SIGINT ends it."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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
