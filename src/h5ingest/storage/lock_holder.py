"""What a lock says of the job that wrote it, and whether that job is gone.

May not: change anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

HEARTBEAT_S: Final = 10.0
"""Seconds between two heartbeats, at most: there are three within --peer-timeout."""
TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES: Final = 4096


def read(path: Path) -> dict[str, Any]:
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


def token_of(holder: dict[str, Any], path: Path) -> str:
    """Return what tells a lock from every other: its token; of junk, its inode; or nothing."""
    token = holder.get("token")
    if isinstance(token, str) and TOKEN.fullmatch(token):
        return token
    with contextlib.suppress(OSError):
        return f"{path.lstat().st_ino:032x}"
    return ""


def token_now(path: Path, claim: Path) -> str:
    """Return the token of the lock that has a name now; nothing if this host remembers another.

    GlusterFS and MooseFS serve a lock that was replaced for as long as the client remembers its
    name: a second, or what a mount option says. A listing of the folder is new. Its inode numbers
    count if they are those of `claim`, which we have just made there: sshfs lists none.

    Raises:
        OSError: the system does not say.
    """
    with os.scandir(path.parent) as entries:
        listed = {e.name: e.inode() for e in entries if e.name in (path.name, claim.name)}
    counts = listed.get(claim.name) == claim.lstat().st_ino
    if counts and os.path.lexists(path) and listed.get(path.name) != path.lstat().st_ino:
        return ""
    return token_of(read(path), path)


def is_gone(holder: dict[str, Any], age_s: float, stale_s: float) -> bool:
    """Return whether the job that wrote a lock has ended."""
    if is_ours(holder):
        pid = holder.get("pid")
        return not isinstance(pid, int) or process_start(pid) != holder.get("started")
    # What is no lock may be one that is being written: it has time, too.
    return abs(age_s) > max(stale_s, 3 * heartbeat_s(holder))


def is_ours(holder: dict[str, Any]) -> bool:
    """Return whether the process that wrote a lock is, or was, one of those that we can see."""
    return holder.get("host") == os.uname().nodename and holder.get("pids") == process_numbers()


def is_of_this_boot(holder: dict[str, Any]) -> bool:
    """Return whether a lock was written since this machine started."""
    return str(holder.get("pids")).split()[:1] == process_numbers().split()[:1]


def heartbeat_s(holder: dict[str, Any]) -> float:
    """Return the seconds between two heartbeats of the job that wrote a lock."""
    told = holder.get("heartbeat_s")
    return told if isinstance(told, float) and 0 < told < HEARTBEAT_S else HEARTBEAT_S


def process_start(pid: int) -> str:
    """Return when a process of this host started, in clock ticks after boot; empty if it is gone.

    A number of a process comes again, its start does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def process_numbers() -> str:
    """Return what tells apart where numbers of processes are counted: boots, and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
