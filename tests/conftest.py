"""Fixtures of all test modules: the corpora of real images, and the MPIs to launch."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from support import FLAVOURS, Flavour

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def cache_folder() -> Path:
    """The folder that all clones share; the same rule as in scripts/venv.sh."""
    if named := os.environ.get("H5INGEST_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h5ingest"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with all corpora unpacked; only to be read.

    Unpacked once for all clones, outside of them: 76,000 small files.
    """
    if not SHARED.exists():
        pytest.skip("../shared with the corpora is absent")
    data = SHARED / "data"
    key = hashlib.sha256()
    for file in [*sorted(data.glob("*.tar*")), data / "unpack.sh"]:
        with file.open("rb") as stream:
            key.update(
                f"{file.name}\t{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    folder = cache_folder() / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / key.hexdigest()[:16]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers of pytest-xdist, and other clones
        if not unpacked.is_dir():
            with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as beside:
                target = Path(beside) / "all"
                subprocess.run(
                    ["sh", data / "unpack.sh", target],
                    check=True, timeout=280, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                target.rename(unpacked)  # only complete: nobody ever sees a half
    return unpacked


@pytest.fixture(scope="session", params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each MPI in turn."""
    return FLAVOURS[request.param].checked()


@pytest.fixture(scope="session")
def mpich() -> Flavour:
    """One MPI, where a second one would tell nothing new."""
    return FLAVOURS["mpich"].checked()
