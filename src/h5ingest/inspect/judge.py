"""The judge: a process that looks at a file for `verify`, and may die of what it sees.

`judge_process` starts it and says why it is a process; it answers one question (`questions`) after
the other.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn

from h5ingest.core.errors import IngestError, to_plain
from h5ingest.inspect.questions import Questions

_BEAT_S: Final = 0.1
_SLOWEST: Final = 10e6
"""Bytes that any filter decodes in a second of computing."""


def main(pipe: int) -> NoReturn:
    """Answer until the other end of the pipe, given by its descriptor, is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks gets it too, and decides
    _take_the_blame()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _answer_all(Connection(pipe))
    os._exit(0)  # HDF5 may crash if it is to leave in good order


def _answer_all(pipe: Connection[Any, Any]) -> NoReturn:
    """Say that we are there, then answer questions.

    Raises:
        EOFError: nobody asks any more.
        OSError: nor does anybody listen.
    """
    sign = _Sign(pipe)
    questions = Questions(sign)
    pipe.send(("ready", None))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last words of a library help nobody
    while True:
        question, arguments, sign.cpu_s = pipe.recv()
        sign.allow(0)
        try:
            told = "answer", getattr(questions, question)(*arguments)
        except IngestError as error:
            told = "refused", to_plain(error)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception:  # a bug of ours
            told = "failed", traceback.format_exc()
        pipe.send(told)


class _Sign:
    """See `findings.Sign`."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe
        self._next_beat_s = 0.0
        self.cpu_s = 0
        """Seconds of computing that are allowed until the next sign of life."""

    def allow(self, n_bytes: int) -> None:
        """Let SIGXCPU end this process when the time is over."""
        if 0 < n_bytes < _SLOWEST:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + self.cpu_s + n_bytes / _SLOWEST) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))

    def beat(self, n_rows: int = 0, n_bytes: int = 0, n_bad: int = 0) -> None:
        """Say what is done, which no other thread hears."""
        if time.monotonic() >= self._next_beat_s:
            self._pipe.send(("beat", (n_rows, n_bytes, n_bad)))
            self._next_beat_s = time.monotonic() + _BEAT_S
            self.allow(0)


def _take_the_blame() -> None:
    """Let whatever is wrong with memory end this process, and no other one."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, ValueError):
        page = os.sysconf("SC_PAGE_SIZE")
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * page
        most = in_use + os.sysconf("SC_PHYS_PAGES") * page  # no right answer needs more
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
