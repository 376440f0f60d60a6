"""A process that forks for each job: whatever is imported is imported once.

A job then takes milliseconds, and is a process of its own all the same, with an exit code, standard
streams, a folder and an environment. What a program does when it starts is not seen: its imports,
and variables that these read. What one job had to import of other libraries the next one finds
there. (Not of h5ingest: whoever arranges faults there does so before it is imported.)

Both sides are here: the server asks nothing of the tests' other helpers.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_EACH_ANEW = {"h5ingest", "mpi4py", "programs", "torch"}
"""Packages that no job finds imported because an earlier one has."""

Job = dict[str, Any]
"""What is asked for: `cwd`, `env` (added), `out` and `err` (files; may be one), `timeout_s`; and
whatever the work needs to know."""


class Forker:
    """The process, as the tests see it."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command], env=dict(env), start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        if self._read() != "ready\n":
            self.end()
            raise AssertionError(f"{command} did not start")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run(self, job: Job) -> int | None:
        """Run a job; its exit code, minus a signal's number, or None: it hung and was killed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            code: int | None = json.loads(self._read())["code"]
        except BaseException:  # else its answer would be taken for that to the next job
            self._process.kill()
            self.end()
            raise
        return code

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Let it end, or end it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve(work: Callable[[Job], int]) -> None:
    """Do what is asked for, one job after the other, each in a process of its own."""
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _tell_imports(tell)
            _do(work, job)
        os.close(tell)
        print(json.dumps({"code": _wait(child, job["timeout_s"])}), flush=True)
        _import(told)


def _do(work: Callable[[Job], int], job: Job) -> None:
    code: object = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _redirect(0, os.devnull, os.O_RDONLY)
        for fd, name in ((1, "out"), (2, "err")):
            _redirect(fd, job[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.environ.update(job.get("env") or {})
        if job.get("cwd"):
            os.chdir(job["cwd"])
        code = work(job)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _tell_imports(pipe: int) -> None:
    """Let this process say at its end, however it ends by itself, what it has imported."""
    os.set_blocking(pipe, False)
    before, end = {*sys.modules}, os._exit

    def telling(code: int) -> None:
        new = [name for name in [*sys.modules] if name not in before]
        with contextlib.suppress(OSError):
            os.write(pipe, json.dumps(new).encode())
        end(code)

    vars(os)["_exit"] = telling


def _import(pipe: int) -> None:
    """Import what a process has told; nothing if it was killed, or told too much for a pipe."""
    os.set_blocking(pipe, False)  # what it has started may have the pipe still
    with open(pipe, "rb") as file:
        said = file.read(2**16) or b""
    with contextlib.suppress(json.JSONDecodeError):
        for name in json.loads(said):
            if name.partition(".")[0] not in _EACH_ANEW:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


def _redirect(fd: int, path: str, flags: int) -> None:
    file = os.open(path, flags, 0o666)
    os.dup2(file, fd)
    os.close(file)


def _wait(child: int, timeout_s: float) -> int | None:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
