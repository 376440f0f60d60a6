"""One run of a scenario: in a process that may be killed, or on the ranks of a launch."""

from __future__ import annotations

import faulthandler
import json
import os
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from programs.launched_faults import Fault, make_small

from h5ingest.core.errors import IngestError, SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi import async_sum
from h5ingest.mpi.comm import Comm, SerialComm
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline import heartbeat
from h5ingest.pipeline.run import ingest
from helpers.threads import on_ranks

HUNG_S = 120
KILLED = -9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all ranks need to know of a run."""

    manifest: Path
    out: Path
    options: IngestOptions
    ranks: int
    n_hosts: int
    """That the ranks take themselves to run on."""
    end: str
    chunk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    code: int
    """Exit code, or minus the number of a signal."""
    message: str = ""
    failed: tuple[int, ...] | None = None
    """Lines of images that failed, if the run says so."""


class Impatient(Interrupt):
    """Is asked to stop once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def requested(self) -> bool:  # type: ignore[override]  # there it is an attribute
        self._looks -= 1
        return self._looks < 0


def go(run: Run, comm: Comm) -> Outcome:
    """Take part in a run. Collective."""
    make_small(run.chunk_bytes)
    if comm.size > 1:
        comm.n_hosts = run.n_hosts
    for module, name in ((heartbeat, "_BEAT_S"), (async_sum, "_INTERVAL_S")):
        assert name in vars(module)
        vars(module)[name] = 0.0
    kind, *words = run.end.split(":")
    interrupt = Interrupt()
    if kind == "stop" and int(words[0]) % comm.size == comm.rank:
        interrupt = Impatient(int(words[1]))
    try:
        report = ingest(run.manifest, run.out, run.options, comm, interrupt=interrupt)
    except IngestError as error:
        failed = None
        if isinstance(error, SamplesFailedError):
            failed = tuple(sorted(failure.index for failure in error.failures))
        return Outcome(code=error.exit_code, message=str(error), failed=failed)
    failed = tuple(sorted(failure.index for failure in report.failures))
    return Outcome(code=0, failed=failed)


class Launch(Protocol):
    """Runs what is asked for, on rank 0."""

    def __call__(self, run: Run) -> Outcome: ...


def in_a_process(run: Run) -> Outcome:
    """Run in a process of its own, on threads, and wait for its end."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        try:
            outcome = _on_threads(run)
        except BaseException:
            outcome = Outcome(code=1, message=traceback.format_exc())
        answer = [outcome.code, outcome.message, outcome.failed]
        os.write(tell, json.dumps(answer).encode("utf-8", "surrogateescape")[:60_000])
        os._exit(0)
    os.close(tell)
    with open(told, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        return Outcome(code=code, message=f"ended by itself with {code}")
    code, message, failed = json.loads(said)
    return Outcome(code=code, message=message, failed=None if failed is None else tuple(failed))


def _on_threads(run: Run) -> Outcome:
    kind, *words = run.end.split(":")
    if kind == "kill":
        Fault(act="kill", site=words[0], call=int(words[1]), when=words[2]).arrange()
    if run.ranks == 1:
        return go(run, SerialComm())
    outcomes = on_ranks(run.ranks, lambda comm: go(run, comm))
    assert len({outcome.code for outcome in outcomes}) == 1, outcomes
    return outcomes[0]


@dataclass(frozen=True, slots=True)
class Launched:
    """Runs on all ranks of a launch."""

    comm: Comm

    def __call__(self, run: Run) -> Outcome:
        """Run where root asks. Root only; the others `serve`."""
        if run.end.startswith("kill"):
            run = replace(run, end=f"stop:0:{run.end.split(':')[2]}")
        if run.ranks == 1:
            return go(run, SerialComm())
        outcomes = self.comm.gather(go(self.comm.bcast(run), self.comm))
        assert outcomes is not None
        assert len({outcome.code for outcome in outcomes}) == 1, outcomes
        return outcomes[0]

    def serve(self) -> None:
        """Take part in what root asks for."""
        asked: Run | None = None
        while isinstance(run := self.comm.bcast(asked), Run):
            self.comm.gather(go(run, self.comm))
