"""The lock beside the output: one job at a time, and no late writer after it has been lost.

A file that root creates exclusively (`flock` may be missing on a cluster's file system) and touches
now and then. A lock whose job is gone is taken over: its process on this host, or, for another
host, its heartbeat. Every rank looks at the lock again before it writes: a job that was cut off
and has been replaced can no longer write into the file (fencing).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from h5ingest.core.errors import OutputError
from h5ingest.core.outfiles import LOCK, check, is_same
from h5ingest.storage.datasets import output_errors

HEARTBEAT_S: Final = 10.0
LONGEST_ENDING: Final = len(".lock.") + 32 + len(".old")
"""Bytes that the longest name beside an output has more than the output's own (`_take_over`)."""
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_BESIDE: Final = re.compile(rf"\.{_TOKEN.pattern}(\.old)?")
_LOOK_EVERY_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.1
_MOST_BYTES: Final = 4096
_EXCLUSIVE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Lock:
    """A lock that this process holds. Root only; not collective."""

    def __init__(self, path: Path, stale_s: float) -> None:
        """Take the lock.

        Args:
            path: the lock file.
            stale_s: seconds without a heartbeat after which a job on another host is gone.

        Raises:
            OutputError: another job has it; says who, where and since when.
        """
        self.path = path
        self.token = os.urandom(16).hex()
        self.notice = ""
        """What was found and taken over, for the user."""
        self._content = json.dumps(
            {
                "token": self.token,
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "pids": _process_numbers(),
                "started": _process_start(os.getpid()),
                "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
                "job": os.environ.get("SLURM_JOB_ID", ""),
            }
        ).encode()
        # Complete from the first moment that it is seen: written beside, then given its name.
        self._beside = path.with_name(f"{path.name}.{self.token}")
        try:
            with output_errors(f"{path}: cannot be created"):
                self._write(self._beside)
            if not self._create(path):
                self.notice = self._take_over(path, stale_s)
                self._tidy(stale_s)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before says more
                self._beside.unlink()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._stop.set()
        self._thread.join()
        self._give_back(self.path)

    def _write(self, path: Path) -> None:
        fd = os.open(path, _EXCLUSIVE, 0o666)
        try:
            os.write(fd, self._content)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _create(self, path: Path) -> bool:
        """Return whether the name was free, and is our lock's now."""
        with output_errors(f"{self.path}: cannot be created"):
            try:
                os.link(self._beside, path)
            except FileExistsError:
                return is_same(self._beside, path)  # NFS lost the answer and asked once more
            except OSError:  # no hard links on this file system
                try:
                    self._write(path)
                except FileExistsError:
                    return False
                except OSError:
                    path.unlink(missing_ok=True)  # half of a lock would be nobody's
                    raise
        return True

    def _take_over(self, path: Path, stale_s: float) -> str:
        """Put our lock in the place of one whose job is gone, and say whose it was.

        Only the process that holds the claim to that very lock may do so: the claim is a lock too,
        named after the token of the one to be replaced, and becomes the new lock by being renamed.
        So the name is never free in between, and no lock but the one that was judged is replaced.
        The claim of a process that died is taken over in the same way.
        """
        holder = _read(path)
        token = _token(holder, path)
        changed = OutputError(f"{self.path}: another job has just taken or released this output")
        if not token:
            raise changed
        age_s = self._age_s(path)
        whose = (
            f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')} "
            f"since {holder.get('since', 'an unknown time')}"
            + (f" (SLURM job {holder['job']})" if holder.get("job") else "")
        )
        if not _is_gone(holder, age_s, stale_s):
            raise OutputError(
                f"{self.path}: this output is being made by {whose}; its last sign of life is "
                f"{age_s:.0f} s old. Wait for it, or end it. (From another host, a job is taken "
                f"for dead after {stale_s:.0f} s: --peer-timeout.)"
            )
        check(path, LOCK)
        claim = self.path.with_name(f"{self.path.name}.{token}.old")
        if not self._create(claim):
            self._take_over(claim, stale_s)
        try:
            if _token(_read(path), path) != token:
                raise changed
            with output_errors(f"{self.path}: cannot be taken over"):
                claim.replace(path)
        finally:
            self._give_back(claim)
        return f"took over from {whose}, which is gone"

    def _give_back(self, path: Path) -> None:
        """Remove a lock or a claim, if it is still ours."""
        with contextlib.suppress(OSError):
            if _read(path).get("token") == self.token:
                path.unlink()

    def _tidy(self, stale_s: float) -> None:
        """Take away what jobs left that were killed while they took the lock."""
        with contextlib.suppress(OSError, OutputError), os.scandir(self.path.parent) as entries:
            for entry in entries:
                path = Path(entry.path)
                if (
                    entry.name.startswith(f"{self.path.name}.")
                    and _BESIDE.fullmatch(entry.name, len(self.path.name))
                    and path != self._beside
                    and _is_gone(_read(path), self._age_s(path), stale_s)
                ):
                    path.unlink(missing_ok=True)

    def _age_s(self, path: Path) -> float:
        """Return the age of the heartbeat by the file system's own clock."""
        with output_errors(f"{self._beside}: cannot be touched"):
            os.utime(self._beside)
            now = self._beside.stat().st_mtime
        try:
            return max(0.0, now - path.lstat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                if _read(self.path).get("token") == self.token:
                    os.utime(self.path, follow_symlinks=False)


class Fence:
    """What every rank asks before it writes: is the lock still our job's? Not collective."""

    def __init__(self, path: Path, token: str) -> None:
        """Watch the lock that root took."""
        self._path = path
        self._token = token
        self._next_s = 0.0

    def check(self, *, now: bool = False) -> None:
        """Look at the lock, if that is a second ago.

        Args:
            now: look at it in any case.

        Raises:
            OutputError: another job has it now, or it is gone.
        """
        if not now and time.monotonic() < self._next_s:
            return
        token = _read(self._path).get("token")
        if token is None:  # a hiccup of the file system
            time.sleep(_LOOK_AGAIN_S)
            token = _read(self._path).get("token")
        if token is None and not os.path.isdir(self._path.parent):
            raise OutputError(
                f"{self._path.parent}: the folder is gone, with what was stored there"
            )
        if token != self._token:
            raise OutputError(
                f"{self._path}: this job has lost the output to another one, and must not write "
                f"any more"
            )
        self._next_s = time.monotonic() + _LOOK_EVERY_S


def _read(path: Path) -> dict[str, Any]:
    """Return what a lock says; nothing if it is none. Never waits, follows no link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            content = json.loads(os.read(fd, _MOST_BYTES)) if regular else None
        finally:
            os.close(fd)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _token(holder: dict[str, Any], path: Path) -> str:
    """Return what tells a lock from every other: its token; of junk, its inode; or nothing."""
    token = holder.get("token")
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return token
    with contextlib.suppress(OSError):
        return f"{path.lstat().st_ino:032x}"
    return ""


def _is_gone(holder: dict[str, Any], age_s: float, stale_s: float) -> bool:
    """Return whether the job that wrote a lock has ended."""
    if holder.get("host") == os.uname().nodename and holder.get("pids") == _process_numbers():
        pid = holder.get("pid")
        return not isinstance(pid, int) or _process_start(pid) != holder.get("started")
    return age_s > stale_s  # what is no lock may be one that is being written: it has time, too


def _process_start(pid: int) -> str:
    """Return when a process of this host started, in clock ticks after boot; empty if it is gone.

    A number of a process comes again, its start does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _process_numbers() -> str:
    """Return what tells apart where numbers of processes are counted: boots, and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
