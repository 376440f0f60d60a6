"""Fixtures of all test modules: the corpora of real images, and the MPIs to launch."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import drawn
from helpers.groups import group_lines
from helpers.support import FLAVOURS, PROGRAMS, REAL, SHARED, Flavour, end_forkers, explain, run
from hypothesis import HealthCheck, settings

from h5ingest.inspect.judge_process import keeping_judges

# How long an example takes is no property of the code: other work may have the cores.
settings.register_profile("h5ingest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("h5ingest")

# A shell ignores SIGINT in what it starts in the background, and all that tests start would too.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def judges() -> Iterator[None]:
    """`verify` starts a process for each file otherwise."""
    with keeping_judges():
        yield


def cache_folder() -> Path:
    """The folder that all clones share; the same rule as in scripts/venv.sh."""
    if named := os.environ.get("H5INGEST_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h5ingest"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with all corpora: those of ../shared, or else drawn ones; only to be read.

    Made once for all clones, outside of them: 76,000 small files, or 3,500.
    """
    data = SHARED / "data"
    sources = [*sorted(data.glob("*.tar*")), data / "unpack.sh"] if REAL else [Path(drawn.__file__)]
    key = hashlib.sha256()
    for file in sources:
        with file.open("rb") as stream:
            key.update(
                f"{file.name}\t{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    folder = cache_folder() / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / key.hexdigest()[:16]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers of pytest-xdist, and other clones
        if not made.is_dir():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as beside:
                target = Path(beside) / "all"
                if REAL:
                    subprocess.run(
                        ["sh", data / "unpack.sh", target],
                        check=True, timeout=280, stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )  # fmt: skip
                else:
                    target.mkdir()
                    drawn.draw(target)
                target.rename(made)  # only complete: nobody ever sees a half
    return made


@pytest.fixture(scope="session", autouse=True)
def _forkers() -> Iterator[None]:
    yield
    end_forkers()


@pytest.fixture(scope="session", params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each MPI in turn."""
    return FLAVOURS[request.param].checked()


@pytest.fixture(scope="session")
def mpich() -> Flavour:
    """One MPI, where a second one would tell nothing new."""
    return FLAVOURS["mpich"].checked()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With `--durations`, as in CI: how long each group of tests took, too."""
    if terminalreporter.config.getoption("durations"):
        terminalreporter.section("groups of tests: the seconds of all workers")
        for line in group_lines(terminalreporter.stats):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to be loaded before others: see `io_faults.c`, and `faulty`."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is absent")
    library = tmp_path_factory.mktemp("preload") / "io_faults.so"
    source = PROGRAMS / "io_faults.c"
    completed = run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"])
    assert completed.returncode == 0, explain(completed)
    return library
