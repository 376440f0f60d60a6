"""Let many processes take over one stale lock at the same moment, again and again.

    launched_locks.py FOLDER ROUNDS PROCESSES

Print a line for each round: how many of them got it, and whether the lock is the winner's. Launched
by tests; never imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from h5ingest.core.errors import OutputError
from h5ingest.storage.lock import Lock


def take(path: Path, start_s: float, told: int, go: int) -> None:
    """Try to take the lock at the given moment; hold it until everyone has tried."""
    while time.monotonic() < start_s:
        pass
    try:
        token = Lock(path, 300.0).token
    except OutputError:
        token = ""
    os.write(told, f"{token:32}".encode())
    os.read(go, 1)  # until the other end is closed
    os._exit(0)


def main() -> None:
    folder, n_rounds, n_processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for number in range(n_rounds):
        path = folder / f"{number}.lock"
        stale = os.fork()
        if stale == 0:
            Lock(path, 300.0)
            os._exit(0)  # as if killed: the lock stays
        os.waitpid(stale, 0)
        told, tell = os.pipe()
        go, let_go = os.pipe()
        start_s = time.monotonic() + 0.02
        children = []
        for _ in range(n_processes):
            child = os.fork()
            if child == 0:
                os.close(let_go)
                take(path, start_s, tell, go)
            children.append(child)
        tokens = [os.read(told, 32).decode().strip() for _ in children]
        holder = json.loads(path.read_bytes())["token"] if path.exists() else "nobody"
        winners = [token for token in tokens if token]
        for fd in (told, tell, go, let_go):
            os.close(fd)
        for child in children:
            os.waitpid(child, 0)
        print(len(winners), holder in winners, len(list(folder.glob(f"{path.name}.*"))))


if __name__ == "__main__":
    main()
