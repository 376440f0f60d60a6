"""Jobs of two hosts on the file systems of `network_fs.py`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from h5ingest.core.errors import IngestError
from h5ingest.inspect.verify import verify
from h5ingest.mpi.comm import SerialComm
from helpers.faults import FAULTS, LAYOUTS, SMALL, Fault, Images, n_done
from helpers.hosts import Running, launched, ranks_of
from helpers.network_fs import CLIENTS, Network, wait_until
from helpers.support import PROGRAMS, Flavour

TRIED = [layout for layout in LAYOUTS if not layout.endswith("direct")]
SLOW: Fault = {"act": "nap:0.1", "site": "decode", "rank": "all", "call": 0}
CHUNK_BYTES = 8192
"""Of images of any size: so few that a job has many chunks, and rarely whole blocks."""
N_RANKS = 4


def problem(images: Images, layout: str, file: Path) -> str:
    """What is wrong with a finished file, as this process sees it; empty if nothing is."""
    try:
        images.check(layout, file)
        report = verify(file, SerialComm())
    except (AssertionError, OSError, IngestError, KeyError) as error:
        return f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:300]
    # A listing: names that another host has removed may be cached, each by itself.
    beside = {f"{file.name}{end}" for end in (".partial", ".journal", ".lock")}
    if left := beside & set(os.listdir(file.parent)):
        return f"left beside it: {', '.join(left)}"
    return "" if report.ok else str([*report.problems, *report.bad])[:300]


def store_all(
    network: Network, stack: Flavour, jobs: Sequence[Sequence[str | Path]], folder: Path
) -> Iterator[tuple[int, str]]:
    """Run jobs one after the other on 2+2 ranks; yield, as each ends, its exit code and messages.

    One launch does all of them; if it ends too early, another one goes on with the next.
    """
    done = 0
    while done < len(jobs):
        here, first = folder / str(done), done
        here.mkdir()
        (here / "jobs.json").write_text(json.dumps([list(map(str, job)) for job in jobs[done:]]))
        program = [stack.bin / "python", PROGRAMS / "launched_many.py", here / "jobs.json", here]
        command = network.hosts.mpirun(stack.name, N_RANKS, [*program, str(CHUNK_BYTES)])
        with launched(command) as launcher:
            ended = True
            while ended and done < len(jobs):
                said = [here / f"{done - first}.err.{rank}" for rank in range(N_RANKS)]
                codes = [path.with_name(path.name.replace("err", "code")) for path in said]
                ended = _are_there(codes, launcher, timeout_s=90)
                messages = "".join(path.read_text() for path in said if path.exists())
                done += 1
                if ended:
                    yield max(int(code.read_text()) for code in codes), messages
                else:
                    yield launcher.process.poll() or -1, f"did not end: {messages}"


def _are_there(files: Sequence[Path], launcher: Running, timeout_s: float) -> bool:
    """Wait until all are there and written; False if the launcher ends before."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        ended = launcher.process.poll() is not None
        if all(file.exists() and file.stat().st_size for file in files):
            return True
        if ended:
            return False
        time.sleep(0.01)
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, in batches of an image each with a checkpoint after it; any host can start it."""

    network: Network
    stack: Flavour
    images: Images
    layout: str
    out: Path
    more: tuple[str | Path, ...] = ()

    @classmethod
    def new(
        cls, network: Network, stack: Flavour, images: Images, layout: str, volume: str,
        *more: str | Path, cached: bool = False,
    ) -> Job:  # fmt: skip
        """A job whose output lies in a folder of its own on a volume."""
        folder = network.mounted(volume, cached=cached)
        seen = network.hosts.seen_from("h1", folder)
        own = folder / f"job {sum(1 for _ in seen.iterdir())}"
        network.hosts.seen_from("h1", own).mkdir()
        return cls(network=network, stack=stack, images=images, layout=layout,
                   out=own / "out.h5", more=more)  # fmt: skip

    def command(
        self, first: str, faults: Sequence[Fault] = (), n_ranks: int = N_RANKS,
        more: Sequence[str | Path] = (),
    ) -> list[str]:  # fmt: skip
        """The command that starts it from a host; one rank is on that host alone."""
        words = [
            self.stack.bin / "python", FAULTS, "run", json.dumps(list(faults)),
            self.images.manifest(self.layout), self.out, *SMALL, *LAYOUTS[self.layout],
            "--cache-bytes", "0", *self.more, *more,
        ]  # fmt: skip
        if n_ranks == 1:
            return self.network.hosts.command(first, words)
        return self.network.hosts.mpirun(self.stack.name, n_ranks, words, first=first)

    def seen_from(self, host: str, end: str = "") -> Path:
        """The output, or what lies beside it under a name with that end, as a host sees it."""
        return self.network.hosts.seen_from(host, self.out.with_name(self.out.name + end))

    @contextlib.contextmanager
    def under_way(
        self, first: str = "h1", faults: Sequence[Fault] = (SLOW,), n_ranks: int = N_RANKS,
        more: Sequence[str | Path] = (),
    ) -> Iterator[Running]:  # fmt: skip
        """Start it; it takes seconds, and has stored something."""
        with launched(self.command(first, faults, n_ranks, more)) as job:
            end_s = time.monotonic() + 60
            while n_done(self.seen_from(first)) < 2:
                if job.process.poll() is not None or time.monotonic() > end_s:
                    pytest.fail(f"it does not get on: {job.end(timeout_s=1)}")
                time.sleep(0.02)
            yield job

    def go_on(self, first: str) -> dict[str, Any]:
        """Start it again from a host, let it end well, and return its report."""
        report = self.network.hosts.work / "report.json"
        with launched(self.command(first, more=["--report", report])) as job:
            code, printed = job.end(timeout_s=120)
        assert code == 0, printed
        told: dict[str, Any] = json.loads(report.read_text())
        return told

    def let_time_pass(self, host: str) -> None:
        """Make the lock, if there is one, look as if its job had given no sign of life for long."""
        if any(self.seen_from(one, ".lock").exists() for one in CLIENTS):
            lock = self.seen_from(host, ".lock")
            wait_until(lock.exists, f"{lock}: the other host has it")

            def is_old() -> bool:
                try:
                    os.utime(lock, (time.time() - 9999,) * 2)
                    time.sleep(2)  # MooseFS dates what is still on its way when it arrives
                    return lock.stat().st_mtime < time.time() - 9000
                except FileNotFoundError:
                    return True  # it was gone: this host had not noticed

            wait_until(is_old, f"{lock}: old date")

    def check(self, host: str) -> None:
        """Assert that a host sees the finished file, and all of it right."""
        found = problem(self.images, self.layout, self.seen_from(host))
        assert not found, f"as {host} sees {self.out}: {found}"

    def ranks(self) -> list[int]:
        """The processes of its ranks on both hosts."""
        return ranks_of(self.out)
