"""Signals: the first stops the job where it can be resumed, a second SIGINT ends it at once.

When the job is done, its exit code is final: a signal then only makes the process end soon.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SOON_S: Final = 10.0
"""Seconds that are left after a signal for an end in good order; SLURM's KillWait is 30."""


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


_final: list[int] = []
"""The exit code, once it is final: read when a signal comes."""


def end_soon(code: int) -> None:
    """Let a signal, from now on, end this process with this exit code, `_SOON_S` after it came.

    Not at once: srun --kill-on-bad-exit sends TERM as soon as the first rank has ended, and a rank
    that is gone before MPI is would make mpirun call the job a failure. And a thread does it:
    Python's own handlers wait while the main thread is in MPI. Main thread only.
    """
    first = not _final
    _final[:] = [code]
    if not first:
        return
    came, comes = os.pipe()
    os.set_blocking(comes, False)
    threading.Thread(target=_end_after_signal, args=(came,), daemon=True).start()
    signal.set_wakeup_fd(comes, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _note)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # other threads take them: not MPI's calls


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing: that a signal came has been written to the pipe."""


def _end_after_signal(came: int) -> None:
    os.read(came, 1)
    time.sleep(_SOON_S)
    os._exit(_final[0])


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
