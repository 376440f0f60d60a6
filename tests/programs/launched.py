"""Run h5ingest as its command does, after something has been arranged on this rank.

    launched.py crash RANK CALLS ARGUMENTS...  that rank raises ZeroDivisionError in its n-th decode
    launched.py kill RANK CALLS ARGUMENTS...   that rank kills itself there
    launched.py stall RANK CALLS FILE ARGUMENTS...   that rank makes FILE there and goes no further
    launched.py slow SECONDS ARGUMENTS...            every rank sleeps so long in each decode
    launched.py full RANK CALLS ARGUMENTS...   nothing more can be written there, as on a full disk
    launched.py peak ARGUMENTS...              print the peak memory of each rank at the end
    launched.py modules FOLDER ARGUMENTS...    each rank lists what it has imported in FOLDER/RANK

Launched by tests; never imported.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from h5ingest.cli.main import run
from h5ingest.mpi.launcher import launcher_rank
from h5ingest.mpi.world import leave
from h5ingest.pipeline import load_batch


def on_decode(act: Callable[[], object], rank: int, n_calls: int) -> None:
    """Call `act` on one rank when it decodes its n-th image for storing."""
    calls = 0

    def acting() -> None:
        nonlocal calls
        calls += 1
        if calls == n_calls and (launcher_rank() or 0) == rank:
            act()

    on_each_decode(acting)


def on_each_decode(act: Callable[[], object]) -> None:
    """Call `act` whenever this rank decodes an image for storing."""

    def acting(image: Any) -> int:
        act()
        return xxh3_64_intdigest(image)

    # Whichever way an image is decoded, its checksum is taken next.
    assert vars(load_batch)["xxh3_64_intdigest"] is xxh3_64_intdigest
    vars(load_batch)["xxh3_64_intdigest"] = acting


def crash() -> None:
    raise ZeroDivisionError("arranged by a test")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stall(file: str) -> None:
    Path(file).touch()
    time.sleep(3600)


def full() -> None:
    # Python ignores SIGXFSZ, so that a write fails with EFBIG. Pipes are not limited.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))


def main() -> None:
    verb, *arguments = sys.argv[1:]
    acts = {"crash": crash, "kill": kill, "full": full}
    if verb == "stall":
        rank, n_calls, file, *arguments = arguments
        on_decode(lambda: stall(file), int(rank), int(n_calls))
    elif verb == "slow":
        seconds, *arguments = arguments
        vars(load_batch)["_MOST_IMAGES"] = 1  # what is slow is not decoded many at a time
        on_each_decode(lambda: time.sleep(float(seconds)))
    elif verb in acts:
        rank, n_calls, *arguments = arguments
        on_decode(acts[verb], int(rank), int(n_calls))
    elif verb == "modules":
        listed, *arguments = arguments
    sys.argv[1:] = arguments
    code = run(arguments)
    if verb == "peak":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script
        from helpers.peak import peak_bytes

        peak_kib = peak_bytes() // 1024
        print(f"peak of rank {launcher_rank()}: {peak_kib} KiB", file=sys.stderr, flush=True)
    if verb == "modules":
        Path(listed, str(launcher_rank())).write_text("\n".join(sys.modules))
    leave(code)


if __name__ == "__main__":
    main()
