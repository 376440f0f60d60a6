"""Starting h5ingest on a number of ranks by a launcher, as a user does, and timing it.

May not: know what is measured.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from h5ingest.core.errors import IngestError, SetupError, UsageError
from h5ingest.diagnostics.libraries import import_apart

_LAST_WORDS: Final = 2000
"""Characters of what a failed run said that are shown."""
_ERRORS: Final = {cls.exit_code: cls for cls in IngestError.__subclasses__()}
"""Exit code of h5ingest -> class of the error."""


def check_launcher(template: str, ranks: Sequence[int]) -> None:
    """Raise `UsageError` if the template cannot start so many ranks."""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UsageError(f"--launcher: {error}: {template!r}") from None
    if not any("{n}" in word for word in words) and list(ranks) != [1]:
        raise UsageError(
            f"--launcher: expected a command with {{n}} in the place of the number of ranks, such "
            f"as 'mpirun -n {{n}}', got {template!r}"
        )


def default_launcher(ranks: Sequence[int]) -> str:
    """Return the launcher that fits here: srun in a SLURM job, else that of mpi4py's MPI library.

    Raises:
        SetupError: none is found.
    """
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return "srun --kill-on-bad-exit=1 -n {n}"
    family = import_apart().mpi_family
    in_venv = Path(sys.executable).with_name("mpiexec")  # of PyPI's mpich, in a virtual environment
    if family == "open mpi":
        names = ["mpirun.openmpi", "mpirun", "mpiexec"]
    else:
        names = [str(in_venv), "mpiexec.hydra", "mpirun.mpich", "mpirun", "mpiexec"]
    found = next(filter(None, map(shutil.which, names)), None)
    if family and found:
        crowded = max(ranks) > len(os.sched_getaffinity(0))
        # Open MPI refuses more ranks than cores otherwise.
        options = " --oversubscribe" if family == "open mpi" and crowded else ""
        return f"{shlex.quote(found)}{options} -n {{n}}"
    if list(ranks) == [1]:
        return ""
    raise SetupError(
        "no launcher for MPI ranks is found: name one, for example --launcher 'mpirun -n {n}' "
        "(h5ingest doctor says which MPI library is in use)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One ingest."""

    wall_s: float
    """Seconds from outside, launcher and start-up included."""
    report: dict[str, Any]
    """The JSON report."""


class Launcher:
    """Starts h5ingest, with this Python, by a template of a command."""

    def __init__(self, template: str) -> None:
        """Take a command with `{n}` for the number of ranks; empty: one rank, no launcher."""
        self.template = template

    def command(self, n_ranks: int, arguments: Sequence[str | Path]) -> list[str]:
        """Return the command that runs h5ingest on so many ranks.

        >>> Launcher("mpirun -n {n}").command(3, ["m.txt", "o.h5"])[:3]
        ['mpirun', '-n', '3']
        """
        words = [word.replace("{n}", str(n_ranks)) for word in shlex.split(self.template)]
        return [*words, sys.executable, "-m", "h5ingest", *map(str, arguments)]

    def ingest(self, n_ranks: int, arguments: Sequence[str | Path], report: Path) -> Run:
        """Run the main job, quietly, and return its report.

        Raises:
            IngestError: it failed, and with what words.
        """
        words = ["ingest", *arguments, "--quiet", "--report", report]
        wall_s = self._run(self.command(n_ranks, words))
        return Run(wall_s=wall_s, report=json.loads(report.read_text()))

    def verify(self, n_ranks: int, arguments: Sequence[str | Path]) -> None:
        """Run `verify`.

        Raises:
            IngestError: it failed, or found differences.
        """
        self._run(self.command(n_ranks, ["verify", *arguments, "--quiet"]))

    def _run(self, command: list[str]) -> float:
        started_s = time.perf_counter()
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", check=False,
            )  # fmt: skip
        except OSError as error:
            raise SetupError(f"--launcher: {command[0]}: {error.strerror}") from None
        wall_s = time.perf_counter() - started_s
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip())[-_LAST_WORDS:]
            raise _ERRORS.get(done.returncode, SetupError)(
                f"exit code {done.returncode} of {shlex.join(command)}:\n{words}"
            )
        return wall_s
