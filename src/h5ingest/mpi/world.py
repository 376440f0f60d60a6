"""The communicator of all processes of this job: by MPI where a launcher started them.

mpi4py is imported only here. On a laptop, one process needs no MPI library at all.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final, NoReturn

from h5ingest.core.errors import SetupError
from h5ingest.mpi.comm import Comm, SerialComm, first_line
from h5ingest.mpi.launcher import launcher_rank, launcher_size
from h5ingest.mpi.signals import end_soon
from h5ingest.mpi.watchdog import exit_now, exit_within

_LONGEST_END_S: Final = 30.0
"""Seconds that MPI_Finalize may take: no rank has work left then."""


def world() -> Comm:
    """Return the communicator of all processes of this job. Collective.

    Raises:
        SetupError: the launcher started several processes and MPI does not see them as one world,
            each of which would write the same file; or MPI cannot be loaded or started.
    """
    if launcher_rank() is None:
        return SerialComm()
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # MpiComm starts it, `leave` ends it
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise SetupError(
            f"a launcher started this process, but MPI cannot be loaded: {error}\n"
            f"Install an MPI library that mpi4py finds (for example: pip install mpich), "
            f"or run without mpirun or srun."
        ) from None
    from h5ingest.mpi.mpi4py_comm import MpiComm

    comm = MpiComm(MPI)
    started = launcher_size()
    if started is not None and started != comm.size:
        raise SetupError(
            f"the launcher started {started} processes, but MPI sees a world of {comm.size}: "
            f"each of them would write the same file. The launcher and the MPI library of mpi4py "
            f"({comm.library}) do not belong together. Use the mpirun of that library; "
            f"under SLURM try srun --mpi=pmi2 for MPICH and srun --mpi=pmix for Open MPI "
            f"(srun --mpi=list shows what there is)."
        )
    return comm


def leave(code: int) -> NoReturn:
    """Finalize MPI, if it was started (collective then), and end this process with an exit code.

    Even if other ranks never finalize: MPI_Finalize has been seen to wait for them for ever.
    """
    end_soon(code)
    sys.stdout.flush()  # may block as long as the reader of the pipe does, or until a signal
    sys.stderr.flush()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        from h5ingest.mpi.mpi4py_comm import c_library

        exit_within(_LONGEST_END_S, code)
        c_library(mpi).MPI_Finalize()
        if _ends_at_exit(mpi):
            ctypes.CDLL(None).exit(code)
    exit_now(code)


def _ends_at_exit(mpi: Any) -> bool:
    """Return whether MPI takes leave of its launcher in an exit handler of C, not in MPI_Finalize.

    MPICH does so since it has sessions (4.1). Its mpiexec, if a process ends without that, kills
    the others, and may exit with 9 after a job that went well (seen with PyPI's 5.0.2: 7 of 16).
    """
    name, version = mpi.get_vendor()
    return bool(name == "MPICH" and version >= (4, 1))


def library_unstarted() -> str:
    """Return name and version of the MPI library that mpi4py finds, without starting MPI.

    Not collective; for a process that will not use MPI.

    Raises:
        ImportError, RuntimeError: MPI cannot be loaded.
    """
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return first_line(MPI.Get_library_version())
