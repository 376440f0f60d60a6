"""What a run tells the user about the machine and file system: before it begins, after an error.

Cheap: a few milliseconds, and no process is started unless the user asks for everything (-v).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from h5ingest.core.options import IngestOptions
from h5ingest.diagnostics.advice import advise, describe_advice
from h5ingest.diagnostics.doctor import describe
from h5ingest.diagnostics.facts import Facts, examine
from h5ingest.diagnostics.libraries import import_here
from h5ingest.mpi.comm import Comm

_MOST_LINES: Final = 2
"""Of advice after an error: more would hide the error."""


def told_before(out: Path, options: IngestOptions, comm: Comm, *, verbose: bool) -> str:
    """Return lines for the user: all facts, or only what can spoil the run. Not collective.

    For rank 0. Empty if there is nothing to say.
    """
    facts = _facts(out, comm, thorough=verbose)
    if facts is None:
        return ""
    facts = replace(facts, peer_timeout_s=options.peer_timeout_s)
    if verbose:
        return describe(facts) + "\n"
    through_mpi_io = (
        comm.size > 1 and options.compression in (None, "none") and options.layout != "tree"
    )
    said = describe_advice(
        one
        for one in advise(facts)
        if one.said == "always" and (through_mpi_io or not one.of_mpi_io)
    )
    return said + "\n" * bool(said)


def after_error(out: Path, comm: Comm) -> list[str]:
    """Return lines on what is known to go wrong here, once it has. Not collective."""
    facts = _facts(out, comm, thorough=False)
    fitting = [one for one in advise(facts) if one.said != "if asked"] if facts else []
    return [f"known here: {one.problem}; {one.remedy}" for one in fitting[:_MOST_LINES]]


def _facts(out: Path, comm: Comm, *, thorough: bool) -> Facts | None:
    """Return all facts; None where there is no such folder: the run itself says so."""
    try:
        libraries = import_here(comm.library, with_codecs=thorough)
        return examine(out, libraries, comm.size, comm.n_hosts, thorough=thorough)
    except OSError:
        return None
