"""Preflight: what this program stands on here, what of it is known to go wrong, and the remedy.

`h5ingest doctor` prints all of it for a bug report. It imports the libraries in a process of their
own, because two MPI libraries in one process may end it without a word.

May not: change anything; know images.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from h5ingest import __version__
from h5ingest.diagnostics.libraries import Libraries, import_apart, import_here
from h5ingest.images import libpng
from h5ingest.storage.file_systems import FileSystem, look

_PREFIXES: Final = (
    "FI_", "H5INGEST_", "HDF5_", "I_MPI_", "MPI4PY_", "MPICH_", "MPIR_CVAR_", "MV2_", "OMPI_MCA_",
    "PMIX_MCA_", "PRTE_MCA_", "ROMIO_", "SLURM_JOB_", "SLURM_MPI", "SLURM_NTASKS", "SLURM_STEP_NUM",
    "UCX_",
)  # fmt: skip
_NAMES: Final = ("LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_NUM_THREADS", "TMPDIR")
_NOT_SHOWN: Final = re.compile(r"OMPI_MCA_(ess|orte)|KEY|SECRET|TOKEN|PASS|CRED", re.IGNORECASE)
"""What mpirun sets for itself, and whatever may be nobody's business."""
_LOCKING: Final = "HDF5_USE_FILE_LOCKING"
_LITTLE_SHARED_MEMORY: Final = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of this place before anything is written."""

    libraries: Libraries
    filesystem: FileSystem | None = None
    """Of the output; None if no output was named."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that decide what MPI and HDF5 do."""
    shared_memory_bytes: int | None = None
    """Size of /dev/shm, through which MPI's ranks on one host talk."""
    machine: str = libpng.MACHINE
    """Kind of processor."""
    program: str = ""
    """Version of h5ingest, of Python and of the system."""
    n_ranks: int = 1
    n_hosts_seen: int = 0
    """Hosts of the ranks; 0 if they were not asked."""

    @property
    def n_hosts(self) -> int:
        """Hosts of the ranks or, unasked, of this SLURM job; 1 outside of one."""
        if self.n_hosts_seen:
            return self.n_hosts_seen
        told = self.environment.get("SLURM_JOB_NUM_NODES", "")
        return int(told) if told.isdigit() else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something that is known to go wrong here."""

    problem: str
    remedy: str
    fatal: bool = False
    """Whether nothing can work until it is mended."""
    said: Literal["if asked", "after an error", "always"] = "if asked"
    """When a run says it: with -v; also if the file system gave an error; or in any case."""
    of_mpi_io: bool = False
    """Whether it matters only to what is written through MPI-IO."""


def examine(out: Path | None, n_ranks: int = 1) -> Facts:
    """Look at everything, the libraries in a process of their own. Not collective.

    Args:
        out: the output, if there is to be one.
        n_ranks: of this job.

    Raises:
        OSError: the folder of `out` cannot be looked at.
    """
    return _facts(out, import_apart(), n_ranks, 0, thorough=True)


def examine_here(
    out: Path, mpi: str, n_ranks: int, n_hosts: int = 0, *, thorough: bool = True
) -> Facts:
    """Look at everything from within a run that has its libraries imported. Not collective.

    Args:
        out: the output.
        mpi: `comm.library`.
        n_ranks: of this job.
        n_hosts: of this job; 0 if that is not known.
        thorough: try all codecs, and start `lfs` on Lustre, too.

    Raises:
        OSError: the folder of `out` cannot be looked at.
    """
    libraries = import_here(mpi, with_codecs=thorough)
    return _facts(out, libraries, n_ranks, n_hosts, thorough=thorough)


def _facts(
    out: Path | None, libraries: Libraries, n_ranks: int, n_hosts: int, *, thorough: bool
) -> Facts:
    return Facts(
        libraries=libraries,
        filesystem=look(out, with_stripes=thorough) if out is not None else None,
        environment={name: os.environ[name] for name in sorted(os.environ) if _is_shown(name)},
        shared_memory_bytes=_size("/dev/shm"),
        program=f"h5ingest {__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}, host {socket.gethostname()}",
        n_ranks=n_ranks,
        n_hosts_seen=n_hosts,
    )


def _is_shown(name: str) -> bool:
    return (name in _NAMES or name.startswith(_PREFIXES)) and not _NOT_SHOWN.search(name)


def _size(folder: str) -> int | None:
    try:
        told = os.statvfs(folder)
    except OSError:
        return None
    return told.f_blocks * told.f_frsize


def advise(facts: Facts) -> list[Advice]:
    """Return all that is known to go wrong with these facts, the worst first."""
    found = [*_of_libraries(facts), *_of_filesystem(facts), *_of_combinations(facts)]
    return sorted(found, key=lambda advice: not advice.fatal)


def _of_libraries(facts: Facts) -> Iterable[Advice]:
    libraries = facts.libraries
    for error in libraries.errors:
        needed = not error.startswith(("mpi4py", "hdf5plugin"))
        yield Advice(
            problem=error,
            remedy="install it again (docs/install.md)" if needed
            else "needed for several ranks (mpi4py) or for most codecs (hdf5plugin) only",
            fatal=needed,
        )  # fmt: skip
    if len(libraries.mpi_files) > 1:
        yield Advice(
            problem="h5py and mpi4py are linked to different MPI libraries: "
            + " and ".join(libraries.mpi_files),
            remedy="build both again with one MPI, with pip's --no-cache-dir (docs/install.md)",
            fatal=True,
            said="always",
        )
    if libraries.libpng and (unsafe := libpng.problem(facts.machine, libraries.libpng)):
        yield Advice(problem=f"{unsafe}: a run refuses palette images", remedy=libpng.REMEDY)
    if libraries.mpi and libraries.h5py and not libraries.parallel:
        yield Advice(
            problem="this h5py is not parallel (PyPI's never is)",
            remedy="several ranks work all the same, through h5ingest's own writer; with a "
            "parallel h5py uncompressed files are written through HDF5 (docs/install.md)",
        )
    size = facts.shared_memory_bytes
    if size is not None and size < _LITTLE_SHARED_MEMORY:
        yield Advice(
            problem=f"/dev/shm has only {size >> 20} MiB: many ranks on one host end with SIGBUS",
            remedy="docker run --shm-size=1g",
        )


def _of_filesystem(facts: Facts) -> Iterable[Advice]:
    place = facts.filesystem
    if place is None or place.mount is None:
        return
    mount = place.mount
    if mount.kind == "nfs":
        yield Advice(
            problem="NFS does not keep what several hosts write to one file at a time apart",
            remedy="write to the cluster's parallel file system and copy the file, or keep to one "
            "node (--nodes=1)",
            said="always" if facts.n_hosts > 1 else "after an error",
        )
    if mount.kind == "overlay":
        yield Advice(
            problem=f"{place.folder} is inside the container and is lost with it",
            remedy="bind a folder of the host, and write there (docker/README.md)",
        )
    if mount.kind in ("memory", "local") and facts.n_hosts > 1:
        yield Advice(
            problem=f"{place.folder} ({mount.name}) is on one host, but this job has "
            f"{facts.n_hosts}: the others cannot see it",
            remedy="write to a shared file system, or use one node (--nodes=1)",
            fatal=True,
            said="always",
        )
    if mount.kind == "memory":
        yield Advice(
            problem=f"{place.folder} is in memory: the file takes the job's memory, and is lost",
            remedy="write to a disk",
            said="after an error",
        )
    if mount.kind == "other" and (mount.type.startswith("fuse.") or mount.type in ("9p", "cifs")):
        yield Advice(
            problem=f"{mount.type} is not known to keep what several processes write to one file",
            remedy="try with one rank, or write elsewhere; `h5ingest verify` checks the file",
            said="after an error",
        )
    if place.free_inodes == 0:
        yield Advice(
            problem="no inode is free: not even one file can be made",
            remedy="remove files, or ask for a larger quota",
            fatal=True,
            said="always",
        )
    if mount.type == "lustre" and re.search(r"stripe_count: *1\b", place.stripes):
        yield Advice(
            problem="one Lustre stripe: the whole file is on one storage target, at its speed",
            remedy=f"before the run: lfs setstripe -c 8 -S 4M {place.folder}",
        )
    if mount.type == "lustre" and not mount.options & {"flock", "localflock"}:
        yield Advice(
            problem="this Lustre is mounted without flock: HDF5 cannot lock files there",
            remedy="export HDF5_USE_FILE_LOCKING=FALSE (readers need it too)",
            said="after an error",
        )


def _of_combinations(facts: Facts) -> Iterable[Advice]:
    libraries, place = facts.libraries, facts.filesystem
    type_ = place.mount.type if place and place.mount else ""
    kind = place.mount.kind if place and place.mount else ""
    io = facts.environment.get("OMPI_MCA_io", "")
    is_open_mpi = libraries.mpi_family == "open mpi"
    if not libraries.parallel:
        return  # nothing is written through MPI-IO
    if is_open_mpi and libraries.mpi_version < (5,) and type_ == "lustre" and "romio" not in io:
        yield Advice(
            problem="Open MPI 4 writes through OMPIO, which was seen to hang on Lustre "
            "(open-mpi/ompi issues 9479, 11182)",
            remedy="export OMPI_MCA_io=romio321 (`ompi_info | grep 'MCA io'` has the name)",
            said="always",
            of_mpi_io=True,
        )
    sync = facts.environment.get("HDF5_DO_MPI_FILE_SYNC", "").upper()
    if (
        kind == "nfs"
        and libraries.hdf5_version >= (1, 13, 2)
        and (libraries.mpi_family == "mpich" or "romio" in io)
        and sync not in ("0", "FALSE")
    ):
        yield Advice(
            problem=f"HDF5 {libraries.hdf5} refuses to write through ROMIO to NFS: 'MPI_File_sync "
            "is required by ROMIO driver' (h5py/h5py issue 2330)",
            remedy="export HDF5_DO_MPI_FILE_SYNC=0, and keep to one node",
            said="always",
            of_mpi_io=True,
        )


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
    if place is not None:
        mount = place.mount
        rows.append(("output", place.folder))
        if mount is not None:
            options = ",".join(sorted(mount.options))
            rows.append(("file system", f"{mount.name}, {mount.source} on {mount.point}"))
            rows.append(("mounted", options))
        inodes = "no limit" if place.free_inodes is None else f"{place.free_inodes:,}"
        rows.append(("free", f"{place.free_bytes / 1024**3:,.1f} GiB, inodes: {inodes}"))
        if place.stripes:
            rows.append(("stripes", place.stripes))
    if facts.shared_memory_bytes is not None:
        rows.append(("/dev/shm", f"{facts.shared_memory_bytes / 1024**3:,.2f} GiB"))
    rows += {_LOCKING: "not set: HDF5's default", **facts.environment}.items()
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value or 'none'}" for name, value in rows]
    return "\n".join([*lines, "", describe_advice(advise(facts)) or "No known problem."])


def describe_advice(advice: Iterable[Advice]) -> str:
    """Return one paragraph for each; empty if there is none."""
    return "\n".join(
        f"{'PROBLEM' if one.fatal else 'warning'}: {one.problem}\n  remedy: {one.remedy}"
        for one in advice
    )
