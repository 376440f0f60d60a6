"""What `h5ingest doctor` prints: all facts for a bug report, known problems, and their remedies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from h5ingest.core.units import size
from h5ingest.diagnostics.advice import advise, describe_advice
from h5ingest.diagnostics.facts import Facts, examine
from h5ingest.diagnostics.libraries import import_apart
from h5ingest.mpi.comm import Comm

_LOCKING: Final = "HDF5_USE_FILE_LOCKING"


def describe(facts: Facts) -> str:
    """Return all facts and advice as text, for a person or for a bug report."""
    libraries, place = facts.libraries, facts.filesystem
    how = "parallel" if libraries.parallel else "serial"
    rows = [
        ("program", facts.program),
        ("ranks", f"{facts.n_ranks} on {facts.n_hosts} host{'s' * (facts.n_hosts > 1)}"),
        ("h5py", libraries.h5py and f"{libraries.h5py}, {how}"),
        ("HDF5", libraries.hdf5),
        ("mpi4py", libraries.mpi4py),
        ("MPI", libraries.mpi),
        *(("MPI library", name) for name in libraries.mpi_files),
        ("decoder", libraries.decoder),
        ("codecs", " ".join(libraries.codecs)),
    ]
    if libraries.tried:
        n_wrong = sum(map(bool, libraries.tried.values()))
        said = f"three images by {len(libraries.tried)} codecs: "
        said += f"{n_wrong} of them wrong" if n_wrong else "every pixel came back"
        rows.append(("round trips", said))
    if place is not None:
        mount = place.mount
        rows.append(("output", place.folder))
        if mount is not None:
            options = ",".join(sorted(mount.options))
            rows.append(("file system", f"{mount.name}, {mount.source} on {mount.point}"))
            rows.append(("mounted", options))
            rows += [("served by", mount.daemon)] * bool(mount.daemon)
        inodes = "no limit" if place.free_inodes is None else f"{place.free_inodes:,}"
        rows.append(("free", f"{size(place.free_bytes)}, inodes: {inodes}"))
        if place.stripes:
            rows.append(("stripes", place.stripes))
    if facts.shared_memory_bytes is not None:
        rows.append(("/dev/shm", size(facts.shared_memory_bytes)))
    rows += {_LOCKING: "not set: HDF5's default", **facts.environment}.items()
    return f"{table(rows)}\n\n{describe_advice(advise(facts)) or 'No known problem.'}"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a line for each name and what it has, the names aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text or 'none'}" for name, text in rows)


def print_facts(out: Path | None, comm: Comm) -> bool:
    """Print all facts and advice; return whether nothing can work here. Not collective.

    Raises:
        OSError: the folder of `out` cannot be examined.
    """
    facts = examine(out, import_apart(), comm.size, comm.n_hosts if comm.size > 1 else 0)
    print(describe(facts), flush=True)
    return any(advice.fatal for advice in advise(facts))
