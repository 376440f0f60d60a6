"""The judge's process, as `verify` sees it: it is asked, answers, and may die of a question.

Damaged bytes have made HDF5 and its filters read beyond their memory, abort, and compute for ever.
None of that can be caught in the process that it happens in. So all that touches the file happens
in a child of this process, started by exec (nothing of MPI is in it), and its death is an answer:
`Died`. A judge that dies is replaced, and asked once more if it had been asked anything before:
what killed it may be what an earlier question had done to its memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pickle import UnpicklingError
from typing import Any, Final, NoReturn

from h5ingest.core.errors import SetupError, from_plain
from h5ingest.inspect.findings import Unread
from h5ingest.mpi.launcher import without_launcher

CPU_S = 10
"""Seconds of computing without a sign of life, beyond those that large images take to be decoded,
after which a judge does not come to an end."""
WAIT_S: Final = 900.0
"""Seconds without a sign of life after which it is taken for stuck: a disk may be slow."""
MOST_DEATHS: Final = 100
"""Judges that a verification may cost; one that did not come to an end counts as several."""
_PRICE_OF_A_HANG: Final = 10
_BEAT_S: Final = 0.25
_LAST_WORDS_S: Final = 5.0
_GARBAGE: Final = (EOFError, OSError, UnpicklingError, MemoryError, ValueError)
"""What comes of reading what a dying process has written."""
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from h5ingest.inspect.judge import main; main({pipe})"
)
_IDLE: list[_Process] | None = None
"""Judges without a file, for the next verification; None: none is kept."""


class Died(Exception):
    """The judge did not survive a question."""

    _state = "cannot be read"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """One line."""

    @property
    def what(self) -> str:
        """See `Gap.what`."""
        return f"{self._state}: {self.reason}"


class NotAsked(Died):
    """So many judges have died that no other is started."""

    _state = "not looked at"


@contextlib.contextmanager
def keeping_judges() -> Iterator[None]:
    """Let the verifications of the block share judges: for who verifies many small files."""
    global _IDLE
    before, _IDLE = _IDLE, (idle := list[_Process]())
    try:
        yield
    finally:
        _IDLE = before
        for process in idle:
            process.end()


class Judge:
    """Answers questions about one file. To be used in a `with` block.

    Raises:
        SetupError: a process cannot be started here.
    """

    def __init__(self, *about: Any) -> None:
        """Take the arguments of the question `open`, which each judge is asked first."""
        self._about = about
        self._process: _Process | None = None
        self._opened: Any = None
        self._n_deaths = 0
        self.on_beat: Callable[[tuple[int, int, int]], None] = lambda counts: None
        """Called several times a second while a question is open, with the rows, bytes and bad
        rows that are done of it."""

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._process is None:
            return
        if error is None and _IDLE is not None:
            with contextlib.suppress(Died):
                self._process.answer("close", (), self.on_beat)
                _IDLE.append(self._process)
        else:
            self._process.end(at_once=error is not None)

    def open(self) -> Any:
        """Return the answer to `open`.

        Raises:
            IngestError: what `open` of the judge raises.
            Died: it does not survive.
        """
        while self._process is None:
            self._process = process = _take()
            try:
                self._opened = self._answer("open", *self._about)
            except Died:
                if not process.used:
                    raise
        return self._opened

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return the answer to a question: a method of `questions.Questions`.

        Raises:
            Died: a judge that was asked nothing else before does not survive it.
            NotAsked: too many have died.
        """
        while True:
            if self._n_deaths >= MOST_DEATHS:
                raise NotAsked(f"the library that reads it had ended {MOST_DEATHS} times before")
            self.open()
            process = self._process
            assert process is not None, "it is open"
            used, process.used = process.used, True
            try:
                return self._answer(question, *arguments)
            except Died:
                if not used:
                    raise

    def try_ask(self, question: str, *arguments: Any) -> Any:
        """Return the answer to a question, or `Unread` if no judge survives it."""
        try:
            return self.ask(question, *arguments)
        except Died as died:
            return Unread(died.reason)

    def _answer(self, question: str, *arguments: Any) -> Any:
        process = self._process
        assert process is not None
        try:
            kind, value = process.answer(question, arguments, self.on_beat)
        except Died as died:
            self._process = None
            self._n_deaths += _PRICE_OF_A_HANG if isinstance(died, _Hung) else 1
            raise
        if kind == "refused":
            error = from_plain(value)
            error.agreed = False  # other ranks have judges of their own
            raise error
        if kind == "failed":
            raise AssertionError(f"the judge failed over {question}{arguments}:\n{value}")
        return value


class _Hung(Died):
    pass


class _Process:
    """A judge that has been started, and our end of the pipe to it."""

    used = False
    """Whether it has been asked anything but to open a file: what it dies of may be older."""

    def __init__(self) -> None:
        ours, its = Pipe()
        program = _PROGRAM.format(path=sys.path, pipe=its.fileno())
        environment = {
            **without_launcher(os.environ),
            "MPI4PY_RC_INITIALIZE": "0",  # an h5py with MPI imports mpi4py, which would start it
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            with its:
                self._child = subprocess.Popen(
                    [sys.executable, "-c", program], env=environment, pass_fds=(its.fileno(),),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                )  # fmt: skip
        except (OSError, ValueError) as error:
            ours.close()
            raise SetupError(
                f"verify reads in a process of its own, which cannot be started: {error}"
            ) from None
        self._pipe: Connection[Any, Any] = ours
        try:
            self._pipe.recv()
        except _GARBAGE:  # what it said is on standard error
            code = self.end()
            raise SetupError(
                f"verify reads in a process of its own, which ended while it started "
                f"({_how(code)}): {sys.executable} -c {program!r}"
            ) from None

    def answer(
        self, question: str, arguments: Any, on_beat: Callable[[tuple[int, int, int]], None]
    ) -> tuple[str, Any]:
        """Return what kind of answer it gives, and the answer.

        Raises:
            Died: none; the process has ended.
        """
        waited_s, counts = 0.0, (0, 0, 0)
        try:
            self._pipe.send((question, arguments, CPU_S))
        except OSError:
            self._bury()
        while True:
            told = self._heard()
            if told is None:  # seconds are counted, not read from a clock: we may be suspended
                waited_s += _BEAT_S
                if waited_s > WAIT_S:
                    self.end(at_once=True)
                    raise _Hung(
                        f"the library that reads it gave no sign of life for {WAIT_S:.0f} s"
                    )
            elif told[0] != "beat":
                return told
            else:
                waited_s, counts = 0.0, told[1]
            on_beat(counts)

    def _heard(self) -> tuple[str, Any] | None:
        """Return what it has said; None if it says nothing for a moment."""
        try:
            if not self._pipe.poll(_BEAT_S):
                return None
            kind, value = self._pipe.recv()
        except _GARBAGE:
            self._bury()
        return kind, value

    def _bury(self) -> NoReturn:
        code = self.end()
        if -code == signal.SIGXCPU:
            raise _Hung("the library that reads it did not come to an end")
        raise Died(f"the library that reads it ended with {_how(code)}")

    def end(self, *, at_once: bool = False) -> int:
        """End it and return its exit code; minus the number of the signal that ended it.

        `at_once`: it may be in the midst of something.
        """
        self._pipe.close()
        if at_once:
            self._child.kill()
        try:
            return self._child.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a dead file system may hold it
            self._child.wait(_LAST_WORDS_S)
        return -signal.SIGKILL


def _take() -> _Process:
    """Return a judge that is there, or else a new one."""
    if _IDLE:
        with contextlib.suppress(IndexError):  # another thread may have taken it
            return _IDLE.pop()
    return _Process()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name} (was memory short?)" if -code == signal.SIGKILL else name
