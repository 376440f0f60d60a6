"""Run h5ingest as its command does, after something has been arranged on this rank.

    launched.py crash RANK CALLS ARGUMENTS...  that rank raises ZeroDivisionError in its n-th decode
    launched.py kill RANK CALLS ARGUMENTS...   that rank kills itself there
    launched.py full RANK CALLS ARGUMENTS...   nothing more can be written there, as on a full disk
    launched.py peak ARGUMENTS...              print the peak memory of each rank at the end

Launched by tests; never imported.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from h5ingest import pipeline
from h5ingest.cli import run
from h5ingest.comm import launcher_rank
from h5ingest.decode import decode_into


def on_decode(act: Callable[[], object], rank: int, n_calls: int) -> None:
    """Call `act` on one rank when it decodes its n-th image for storing."""
    calls = 0

    def acting(data: bytes, out: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == n_calls and (launcher_rank() or 0) == rank:
            act()
        decode_into(data, out)

    assert vars(pipeline)["decode_into"] is decode_into
    vars(pipeline)["decode_into"] = acting


def crash() -> None:
    raise ZeroDivisionError("arranged by a test")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    # Python ignores SIGXFSZ, so that a write fails with EFBIG. Pipes are not limited.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))


def main() -> None:
    verb, *arguments = sys.argv[1:]
    acts = {"crash": crash, "kill": kill, "full": full}
    if verb in acts:
        rank, n_calls, *arguments = arguments
        on_decode(acts[verb], int(rank), int(n_calls))
    sys.argv[1:] = arguments
    code = run(arguments)
    if verb == "peak":
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak of rank {launcher_rank()}: {peak_kib} KiB", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
