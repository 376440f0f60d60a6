"""`Facts`: the machine, libraries, file system and environment that this program runs with.

May not: change anything; know images.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from h5ingest import __version__
from h5ingest.core.options import IngestOptions
from h5ingest.diagnostics.libraries import Libraries
from h5ingest.images import libpng
from h5ingest.storage.file_systems import FileSystem, look

_PREFIXES: Final = (
    "FI_", "H5INGEST_", "HDF5_", "I_MPI_", "MPI4PY_", "MPICH_", "MPIR_CVAR_", "MV2_", "OMPI_MCA_",
    "PMIX_MCA_", "PRTE_MCA_", "ROMIO_", "SLURM_JOB_", "SLURM_MPI", "SLURM_NTASKS", "SLURM_STEP_NUM",
    "UCX_",
)  # fmt: skip
_NAMES: Final = ("LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_NUM_THREADS", "TMPDIR")
_NOT_SHOWN: Final = re.compile(r"OMPI_MCA_(ess|orte)|KEY|SECRET|TOKEN|PASS|CRED", re.IGNORECASE)
"""Variables that mpirun sets for its own use, and any that may hold a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything known about this machine, job and output before anything is written."""

    libraries: Libraries
    filesystem: FileSystem | None = None
    """That of the output; None if no output was named."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that affect MPI and HDF5."""
    shared_memory_bytes: int | None = None
    """Size of /dev/shm, through which MPI's ranks on one host talk."""
    machine: str = libpng.MACHINE
    """Processor architecture, as `platform.machine` names it."""
    program: str = ""
    """Versions of h5ingest, Python and the system, and the host's name."""
    n_ranks: int = 1
    peer_timeout_s: float = IngestOptions().peer_timeout_s
    """Seconds without a heartbeat after which the lock of a job on another host is taken over."""
    n_hosts_seen: int = 0
    """Hosts that the ranks are on; 0 if unknown."""

    @property
    def n_hosts(self) -> int:
        """Hosts that the ranks are on or, if unknown, of this SLURM job; 1 outside of one."""
        if self.n_hosts_seen:
            return self.n_hosts_seen
        told = self.environment.get("SLURM_JOB_NUM_NODES", "")
        return int(told) if told.isdigit() else 1


def examine(
    out: Path | None,
    libraries: Libraries,
    n_ranks: int = 1,
    n_hosts: int = 0,
    *,
    thorough: bool = True,
) -> Facts:
    """Collect all facts. Not collective.

    Args:
        out: the output, if there is to be one.
        libraries: in use.
        n_ranks: of this job.
        n_hosts: of this job; 0 if unknown.
        thorough: also run `lfs` on Lustre.

    Raises:
        OSError: the folder of `out` cannot be examined.
    """
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
