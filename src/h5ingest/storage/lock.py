"""The lock beside the output: one job at a time, and no late writer after it has been lost.

A file that rank 0 creates exclusively (a cluster's file system may lack `flock`) and touches now
and then. A lock whose job is gone is taken over: its process on this host, or, for another host,
its heartbeat. Every rank looks at the lock again before it writes: a job that was replaced can no
longer write into the file (fencing).

Whose clock dates a heartbeat depends on the file system: the server's on NFS, on most others that
of the host that touches the file. So where several hosts have clocks of their own, an old date only
raises the suspicion that a job is gone: its lock is then watched for as long as three heartbeats
take, by this host's own clock, and a job that shows a sign of life keeps it. So does a date as far
in the future: a fast clock must not keep a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from h5ingest.core.errors import OutputError
from h5ingest.core.outfiles import LOCK, check, is_same
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.lock_holder import (
    HEARTBEAT_S,
    TOKEN,
    heartbeat_s,
    is_gone,
    is_of_this_boot,
    is_ours,
    process_numbers,
    process_start,
    read,
    token_now,
    token_of,
)

LONGEST_ENDING: Final = len(".lock.") + 32 + len(".old")
"""Bytes that the longest name beside an output has more than the output's own (`_take_over`)."""
_BESIDE: Final = re.compile(rf"\.{TOKEN.pattern}(\.old)?")
_LOOK_EVERY_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.1
_WATCH_EVERY_S: Final = 0.25
_SERVED_LATE_S: Final = 2.0
"""Age of what the process behind a FUSE mount may tell; the kernel's caches are gone around."""
_EXCLUSIVE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Lock:
    """A lock that this process holds. Root only; not collective."""

    def __init__(
        self,
        path: Path,
        stale_s: float,
        *,
        beat: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda _: None,
        set_aside: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the lock.

        Args:
            path: the lock file.
            stale_s: seconds without a heartbeat after which a job on another host is gone.
            beat: called now and then while a lock is watched.
            tell: is told what was found and taken over, for the user.
            set_aside: called before a lock is taken over whose job may write once more.

        Raises:
            OutputError: another job has it; says who, where and since when.
            Exception: whatever `beat` raises.
        """
        self.path = path
        self.token = os.urandom(16).hex()
        self._stale_s = stale_s
        self._while_watching = beat
        self._tell = tell
        self._set_aside = set_aside
        self._heartbeat_s = min(HEARTBEAT_S, stale_s / 3)
        self._content = json.dumps(
            {
                "token": self.token,
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "pids": process_numbers(),
                "started": process_start(os.getpid()),
                "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
                "job": os.environ.get("SLURM_JOB_ID", ""),
                "heartbeat_s": self._heartbeat_s,
            }
        ).encode()
        # Complete from the first moment that it is seen: written beside, then given its name.
        self._beside = path.with_name(f"{path.name}.{self.token}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        try:
            with output_errors(f"{path}: cannot be created"):
                self._write(self._beside)
            is_free = self._create(path)
            if not is_free:
                self._take_over(path)
            self._thread.start()  # before anything else, which may be slow on a busy file system
            if not is_free:
                self._tidy()
        finally:
            with contextlib.suppress(OSError):  # what went wrong before says more
                self._beside.unlink()

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

    def _take_over(self, path: Path) -> None:
        """Put our lock in the place of one whose job is gone, and tell whose it was.

        Only the process that holds the claim to that very lock may do so: the claim is a lock too,
        named after the token of the one to be replaced, and becomes the new lock by being renamed.
        So the name is never free in between, and no lock but the one that was judged is replaced.
        The claim of a process that died is taken over in the same way.
        """
        holder = read(path)
        token = token_of(holder, path)
        changed = OutputError(f"{self.path}: another job has just taken or released this output")
        if not token:
            raise changed
        age_s = self._age_s(path)
        whose = (
            f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')} "
            f"since {holder.get('since', 'an unknown time')}"
            + (f" (SLURM job {holder['job']})" if holder.get("job") else "")
        )
        gone = is_gone(holder, age_s, self._stale_s)
        if gone and not is_ours(holder):
            gone = not self._shows_life(path, holder, age_s, whose)
        if not gone:
            raise OutputError(
                f"{self.path}: this output is being made by {whose}; its last sign of life is "
                f"{max(0.0, self._age_s(path)):.0f} s old. Wait for it, or end it. (From another "
                f"host, a job is taken for dead after {self._stale_s:.0f} s: --peer-timeout.)"
            )
        check(path, LOCK)
        claim = self.path.with_name(f"{self.path.name}.{token}.old")
        if not self._create(claim):
            self._take_over(claim)
        try:
            with output_errors(f"{path}: cannot be looked at"):
                if token_now(path, claim) != token:
                    raise changed
            rebooted = self._is_of_one_kernel(path) and not is_of_this_boot(holder)
            if path == self.path and not is_ours(holder) and not rebooted:
                self._set_aside()
            with output_errors(f"{self.path}: cannot be taken over"):
                claim.replace(path)
        finally:
            self._give_back(claim)
        if path == self.path:
            self._tell(f"took over from {whose}, which is gone")

    def _shows_life(self, path: Path, holder: dict[str, Any], age_s: float, whose: str) -> bool:
        """Return whether a heartbeat comes while we watch a lock that seems to be left.

        An old one is not watched where this kernel alone writes: its dates have no other clock.
        """
        from h5ingest.storage.file_systems import fresh_mtime_s

        if age_s > 0 and self._is_of_one_kernel(path):
            return False
        watch_s = 3 * heartbeat_s(holder) + _SERVED_LATE_S
        self._tell(f"watching for {watch_s:.0f} s whether {whose} is gone, as it seems to be")
        with contextlib.suppress(OSError):  # it is released: whoever claims it looks again
            seen_s, end_s = fresh_mtime_s(path), time.monotonic() + watch_s
            while time.monotonic() < end_s:
                time.sleep(_WATCH_EVERY_S)
                self._while_watching()
                if fresh_mtime_s(path) != seen_s:
                    return True
        return False

    def _is_of_one_kernel(self, path: Path) -> bool:
        """Return whether nobody but this kernel writes where the lock is."""
        from h5ingest.storage.file_systems import look

        with output_errors(f"{path}: cannot be looked at"):
            mount = look(path, with_stripes=False).mount
        return mount is not None and mount.of_one_kernel

    def _give_back(self, path: Path) -> None:
        """Remove a lock or a claim, if it is still ours."""
        with contextlib.suppress(OSError):
            if read(path).get("token") == self.token:
                path.unlink()

    def _tidy(self) -> None:
        """Take away what jobs left that were killed while they took the lock."""
        with contextlib.suppress(OSError, OutputError), os.scandir(self.path.parent) as entries:
            for entry in entries:
                path = Path(entry.path)
                if (
                    entry.name.startswith(f"{self.path.name}.")
                    and _BESIDE.fullmatch(entry.name, len(self.path.name))
                    and path != self._beside
                    and is_gone(read(path), self._age_s(path), self._stale_s)
                ):
                    path.unlink(missing_ok=True)

    def _age_s(self, path: Path) -> float:
        """Return the seconds between its last heartbeat and one of ours, as they are dated."""
        from h5ingest.storage.file_systems import fresh_mtime_s

        with output_errors(f"{self._beside}: cannot be touched"):
            os.utime(self._beside)
            now_s = fresh_mtime_s(self._beside)
            try:
                return now_s - fresh_mtime_s(path)
            except FileNotFoundError:
                return 0.0

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            with contextlib.suppress(OSError):
                if read(self.path).get("token") == self.token:
                    os.utime(self.path, follow_symlinks=False)


class Fence:
    """What every rank asks before it writes: is the lock still our job's? Not collective."""

    def __init__(self, path: Path, token: str, patience_s: float = 0.0) -> None:
        """Watch the lock that rank 0 took.

        Args:
            path: the lock file.
            token: of the lock.
            patience_s: seconds in which this host must come to see it: it may remember an earlier
                lock of this name. Once it has seen this one, any other is a later one.
        """
        self._path = path
        self._token = token
        self._next_s = 0.0
        self._patience_s = max(patience_s, _LOOK_AGAIN_S)

    def check(self, *, now: bool = False) -> None:
        """Look at the lock if that is a second ago, or in any case `now`.

        Raises:
            OutputError: another job has it now, or it is gone.
        """
        if not now and time.monotonic() < self._next_s:
            return
        token = read(self._path).get("token")
        end_s = time.monotonic() + self._patience_s
        while token != self._token and time.monotonic() < end_s:
            time.sleep(_LOOK_AGAIN_S)
            token = read(self._path).get("token")
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
        self._patience_s = _LOOK_AGAIN_S  # a hiccup of the file system
