"""Rank and size as mpirun or srun put them into the environment, known before and without MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_RANK_VARIABLES: Final = (
    "OMPI_COMM_WORLD_RANK",  # Open MPI's mpirun
    "PMI_RANK",  # MPICH, Intel MPI, MVAPICH; srun --mpi=pmi2
    "PMIX_RANK",  # srun --mpi=pmix, PRRTE
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",  # Cray
    "ALPS_APP_PE",
    "FLUX_TASK_RANK",
    "JSM_NAMESPACE_RANK",
)
_SIZE_VARIABLES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_PREFIXES: Final = (
    "ALPS_", "FLUX_TASK", "HYDI_", "HYDRA_", "JSM_", "MPI_", "MV2_", "OMPI_", "PALS_", "PMI",
    "PRTE_",
)  # fmt: skip
"""What the variables of launchers begin with."""


def launcher_rank() -> int | None:
    """Return this process's rank as the launcher's environment says it; None without a launcher.

    Known before MPI_Init, and even where MPI does not work: it decides which process prints.
    """
    for name in _RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    # A SLURM batch script also has SLURM_PROCID; only srun's tasks have a step with a task count.
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return None


def launcher_size() -> int | None:
    """Return how many processes the launcher says it started; None if it does not say.

    mpirun inside a SLURM job starts its helpers with srun, one a node: so SLURM's count is asked
    last.
    """
    for name in _SIZE_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "0")) or None


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that this one starts, and that is no rank.

    >>> without_launcher({"PMI_RANK": "1", "HOME": "/"})
    {'HOME': '/'}
    """
    return {k: v for k, v in environment.items() if not k.startswith(_PREFIXES)}
