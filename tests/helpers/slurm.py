"""A private SLURM on this machine: munge, the controller, and nodes that are all this one host.

Nothing of it is seen by, or sees, an installed SLURM. All processes are children of the test, and
end with it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.support import (
    ADMIN_PATH,
    Completed,
    clean_environment,
    end_with_parent,
    lacking,
    run,
)

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
ENDED = (
    "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"
)  # fmt: skip

# proctrack/linuxproc and task/none: no cgroups, no systemd. KillWait: seconds from TERM to KILL.
# cred_expire: a requeued job waits as long until it starts again; if it is made to start sooner, it
# may meet what is left of itself, and fail. TmpFS: Open MPI's sessions
# of two nodes must not share a folder. Memory is not enforced: the tests are about other things.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={work}/munge.socket,cred_expire=5
SlurmctldPort={port}
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/slurmd.%n.pid
StateSaveLocation={work}/state
SlurmdSpoolDir={work}/spool.%n
SlurmctldLogFile={work}/slurmctld.log
SlurmdLogFile={work}/slurmd.%n.log
TmpFS={work}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
SlurmdParameters=config_overrides
SlurmdTimeout=10
{nodes}
PartitionName=main Nodes=n[1-{n_nodes}] Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(slots=True)
class Slurm:
    """A running SLURM; `start` makes one."""

    work: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """What makes SLURM's commands talk to this one."""
        return {"SLURM_CONF": str(self.work / "slurm.conf")}

    def call(self, *command: str | Path) -> str:
        """Run one of SLURM's commands and return what it printed."""
        completed = run(command, env=self.env, timeout_s=30)
        assert completed.returncode == 0, f"{completed.args}: {completed.stderr}"
        return completed.stdout

    def submit(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str]) -> int:
        """Submit a job with sbatch and return its number."""
        completed = run(
            ["sbatch", "--parsable", *arguments],
            env={**self.env, **env}, cwd=cwd, timeout_s=30,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stderr
        return int(completed.stdout)

    def jobs(self, job: int) -> list[dict[str, str]]:
        """All that SLURM knows of a job; of an array, of each of its tasks."""
        lines = self.call("scontrol", "show", "job", "-o", str(job)).splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line]

    def wait(self, job: int, *, timeout_s: float = 60) -> list[dict[str, str]]:
        """Wait until a job, or all tasks of an array, have ended."""
        return self.wait_until(job, lambda found: found["JobState"] in ENDED, timeout_s=timeout_s)

    def wait_until(
        self, job: int, holds: Callable[[dict[str, str]], bool], *, timeout_s: float = 60
    ) -> list[dict[str, str]]:
        """Wait until something holds for a job, or for all tasks of an array."""
        end_s = time.monotonic() + timeout_s
        while True:
            found = self.jobs(job)
            if all(holds(task) for task in found):
                return found
            if time.monotonic() > end_s:
                self.call("scancel", str(job))
                pytest.fail(f"after {timeout_s} s: {found}\n{self.logs()}")
            time.sleep(0.2)

    def step(
        self, *command: str | Path, n_ranks: int, mpi: str, env: Mapping[str, str]
    ) -> Completed:
        """Run a command on so many ranks of both nodes with srun, as a job of its own."""
        srun = ["srun", f"--mpi={mpi}", "-N2", "-n", str(n_ranks), "--kill-on-bad-exit=1"]
        return run([*srun, *command], env={**self.env, **env}, timeout_s=60)

    def logs(self) -> str:
        """The ends of the daemons' logs, for a test that failed."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(self.work.glob("*.log"))
        )

    def stop(self) -> None:
        """Cancel all jobs, then end the daemons, last started first."""
        with contextlib.suppress(Exception):
            self.call("scancel", "--user=root")
            time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def missing() -> str:
    """Why no SLURM can be started here; empty if one can."""
    purpose = "a private SLURM with several nodes on one host"
    return lacking(purpose, PROGRAMS, "slurmctld slurmd slurm-client munge")


@contextlib.contextmanager
def start(work: Path, *, n_nodes: int) -> Iterator[Slurm]:
    """Start a SLURM with nodes n1, n2, ... of 4 CPUs each; end it with the block."""
    slurm = Slurm(work=work)
    try:
        _start(slurm, n_nodes)
        yield slurm
    finally:
        slurm.stop()


def _start(slurm: Slurm, n_nodes: int) -> None:
    work = slurm.work
    work.chmod(0o711)  # munge wants to be sure that nobody can replace its socket
    key = work / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    _daemon(
        slurm, "munged", "--foreground", "--force", f"--key-file={key}",
        f"--socket={work}/munge.socket", f"--pid-file={work}/munge.pid",
        f"--seed-file={work}/munge.seed", f"--log-file={work}/munged.log", "--num-threads=2",
    )  # fmt: skip
    _until(lambda: (work / "munge.socket").exists(), "munged", slurm)
    host = socket.gethostname().partition(".")[0]
    port, *ports = _free_ports(n_nodes + 1)
    nodes = [
        f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} "
        f"CPUs=4 RealMemory=4000 State=UNKNOWN"
        for node, node_port in enumerate(ports, start=1)
    ]
    (work / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=host, work=work, port=port, nodes="\n".join(nodes), n_nodes=n_nodes
        )
    )
    (work / "state").mkdir()
    _daemon(slurm, "slurmctld", "-D", "-c")
    for node in range(1, n_nodes + 1):
        (work / f"spool.n{node}").mkdir()
        (work / f"tmp.n{node}").mkdir()
        _daemon(slurm, "slurmd", "-D", "-N", f"n{node}")

    def idle() -> bool:
        told = run(["sinfo", "-h", "-t", "idle", "-o", "%D"], env=slurm.env, timeout_s=30)
        return told.stdout.strip() == str(n_nodes)

    _until(idle, "slurmctld and slurmd", slurm)


def _daemon(slurm: Slurm, name: str, *arguments: str) -> None:
    program = shutil.which(name, path=ADMIN_PATH)
    assert program is not None
    with (slurm.work / f"{name}.out.log").open("ab") as out:
        slurm.daemons.append(
            subprocess.Popen(
                [program, *arguments], env={**clean_environment(slurm.env), "PATH": ADMIN_PATH},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=end_with_parent,
            )
        )  # fmt: skip


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _until(holds: Callable[[], bool], what: str, slurm: Slurm, timeout_s: float = 60) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            pytest.fail(f"{what} did not start within {timeout_s} s\n{slurm.logs()}")
        time.sleep(0.1)
