"""Let many processes take over one stale lock at the same time, in an order that a seed decides.

    launched_locks.py FOLDER SEED GENERATIONS PROCESSES

Each process stops before it changes anything in the folder, and before some of what it reads there,
until it is told to go on: so all orders can occur, also those that are one in millions by
themselves. In every second generation some are killed at such a moment. Those that live to its end
then end without releasing anything: the next generation finds what they left.

Print a line for each generation: how many were killed, how many living ones got the lock, whether
the lock is the winner's, and how many other files are left. Launched by tests; never imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h5ingest.core.errors import OutputError
from h5ingest.storage.lock import Lock

STEP, WON, LOST = b"s", b"w", b"l"
CHANGES = ("os.link", "os.rename", "os.remove")
READS_STOPPED = 0.2
"""How probable it is that a process stops before it reads."""
DEADLY = 0.04
"""How probable it is that a process is killed at a step, where any are."""


@dataclass(slots=True)
class Contender:
    """A process that tries to get the lock."""

    pid: int
    said: int
    """Where it says that it is about to do something, or how it ended."""
    go: int
    """What lets it go on."""
    last: bytes = b""
    """What it said last; nothing once it has been killed."""

    def hear(self) -> None:
        """Wait until it says something."""
        self.last = os.read(self.said, 1)


def take(path: Path, say: int, go: int, draw: random.Random) -> None:
    """Try to take the lock step by step; hold it until the other end is closed."""
    folder = str(path.parent)

    def stop(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith("os."):
            return
        if not str(arguments[0]).startswith(folder):
            return
        if event in CHANGES or draw.random() < READS_STOPPED:
            os.write(say, STEP)
            os.read(go, 1)

    sys.addaudithook(stop)
    try:
        Lock(path, 300.0)
    except OutputError:
        os.write(say, LOST)
    else:
        os.write(say, WON)
    while os.read(go, 1):
        pass
    os._exit(0)


def start(path: Path, others: list[Contender], draw: random.Random) -> Contender:
    """Start a process, and wait for its first step."""
    said, say = os.pipe()
    listen, go = os.pipe()
    own_draw = random.Random(draw.random())
    pid = os.fork()
    if pid == 0:
        for fd in (said, go, *(fd for other in others for fd in (other.said, other.go))):
            os.close(fd)
        take(path, say, listen, own_draw)
    os.close(say)
    os.close(listen)
    contender = Contender(pid, said, go)
    contender.hear()
    return contender


def contest(path: Path, n_processes: int, deadly: float, draw: random.Random) -> str:
    """Let one generation play."""
    all_of_them: list[Contender] = []
    for _ in range(n_processes):
        all_of_them.append(start(path, all_of_them, draw))
    n_killed = 0
    while running := [one for one in all_of_them if one.last == STEP]:
        one = draw.choice(running)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
            if draw.random() < deadly:
                os.kill(one.pid, signal.SIGKILL)
                os.waitpid(one.pid, 0)
                one.last = b""
                n_killed += 1
            else:
                os.write(one.go, b"g")
                one.hear()
            if one.last != STEP:
                break
    n_won = sum(one.last == WON for one in all_of_them)
    holder = 0
    with contextlib.suppress(FileNotFoundError):
        holder = json.loads(path.read_bytes())["pid"]
    is_winners = n_won == 0 or holder in [one.pid for one in all_of_them if one.last == WON]
    n_left = len(list(path.parent.glob(f"{path.name}.*")))
    for one in all_of_them:
        os.close(one.said)
        os.close(one.go)
        if one.last:
            os.waitpid(one.pid, 0)
    return f"{n_killed} {n_won} {is_winners} {n_left}"


def main() -> None:
    path, draw = Path(sys.argv[1]) / "out.h5.lock", random.Random(sys.argv[2])
    for number in range(int(sys.argv[3])):
        print(contest(path, int(sys.argv[4]), DEADLY * (number % 2), draw), flush=True)


if __name__ == "__main__":
    main()
