"""Take locks on a file system that several hosts share, each host in a process of its own.

    launched_turns.py turns LOCK INSIDE N   take the lock N times, and release it or leave it as a
                                            job that died; INSIDE, on a disk without caches, exists
                                            while the lock is held: that it does already is an error
    launched_turns.py hold SECONDS LOCK...  take all these locks and keep them alive so long
    launched_turns.py try SECONDS LOCK...   after so many seconds try to take them, three times;
                                            print which were got
    launched_turns.py late LOCK GO          take over a lock that was left, and pause in the midst
                                            of it: GO.waits appears, and it goes on when GO does
    launched_turns.py leave LOCK            take the lock, and leave it as a job that died

Launched by tests; never imported.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from h5ingest.core.errors import OutputError
from h5ingest.storage import lock as lock_module
from h5ingest.storage.lock import Lock

STALE_S = 15.0
"""More than the heartbeat of a lock, less than an attribute may be cached."""
SOON_STALE_S = 2.0
"""A lock that seems to be left is watched for three heartbeats, thirds of this, and 2 s more."""


def turns(path: Path, inside: Path, n: int) -> None:
    """Let every lock look like one of another host, as if each turn were a job on a new one."""
    dice, taken, host = random.Random(os.getpid()), 0, os.uname().nodename
    end_s = time.monotonic() + 120
    while taken < n and time.monotonic() < end_s:
        time.sleep(dice.random() * 0.01)
        name = f"{host}-{taken}"
        vars(lock_module)["os"] = SimpleNamespace(
            **{**vars(os), "uname": lambda name=name: SimpleNamespace(nodename=name)}
        )
        try:
            lock = Lock(path, SOON_STALE_S)
        except OutputError:
            continue
        begin_s = time.monotonic()
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.003)
            inside.unlink()
            taken += 1
            if dice.random() < 0.5:
                lock.release()
            else:
                lock._stop.set()
                os.utime(path, (time.time() - 999,) * 2)
        except OSError as error:
            seconds = time.monotonic() - begin_s
            raise SystemExit(f"another has it too, {seconds:.1f} s after it was taken") from error
    print(taken)


def late(path: Path, go: Path) -> None:
    """Take over a lock, and wait before the claim to it is made."""
    create = Lock._create

    def waiting(self: Lock, name: Path) -> bool:
        if name.name.endswith(".old"):
            go.with_name(f"{go.name}.waits").touch()
            while not go.exists():
                time.sleep(0.005)
        return create(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lock, "_create", waiting)
        Lock(path, SOON_STALE_S)
    print("taken")


def leave(path: Path) -> None:
    """Leave a lock that nobody keeps alive."""
    lock = Lock(path, SOON_STALE_S)
    lock._stop.set()
    os.utime(path, (time.time() - 999,) * 2)


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "leave":
        leave(Path(words[0]))
        return
    if verb == "late":
        late(Path(words[0]), Path(words[1]))
        return
    if verb == "turns":
        turns(Path(words[0]), Path(words[1]), int(words[2]))
        return
    seconds, paths = float(words[0]), [Path(word) for word in words[1:]]
    if verb == "hold":
        held = [Lock(path, STALE_S) for path in paths]
        print("held", flush=True)
        time.sleep(seconds)
        for lock in held:
            lock.release()
        return
    for _ in range(3):
        time.sleep(seconds)
        for path in paths:
            try:
                Lock(path, STALE_S)
                print(path, "taken", flush=True)
            except OutputError as error:
                print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
