"""Several hosts on this machine: namespaces with addresses, names and /dev/shm of their own.

They are joined by a switch in a namespace of its own; the machine's own network is not touched.
`agent` takes the place of ssh: launchers call it as `agent HOST COMMAND...`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.support import ADMIN_PATH, WHEELS, clean_environment, end_session, lacking, run

PROGRAMS = ("ip", "nsenter", "unshare")
HYDRA = {"mpich": "mpiexec.mpich", "wheels": WHEELS.mpirun[0]}

AGENT = """\
#!/bin/sh
# In place of ssh: agent [OPTIONS] HOST COMMAND...
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
read -r pid <"{work}/$host.pid"
exec nsenter -t "$pid" -n -u -m -i -- sh -c "cd '$PWD' && $*"
"""

HOLD = """\
read -r _
for process in /proc/[0-9]*; do
  if [ "$(readlink "$process/ns/net")" = "$(readlink /proc/$$/ns/net)" ]; then
    [ "$process" = "/proc/$$" ] || kill -9 "${process#/proc/}"
  fi
done
"""
"""Keep a host until the test process ends, however it does: then end what still runs on it."""


@dataclass(slots=True)
class Hosts:
    """Running hosts h1, h2, ..., and maybe servers; `start` makes them."""

    work: Path
    n: int
    servers: tuple[str, ...] = ()
    """Names of further hosts, on which no ranks run."""
    holders: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Name of each host, and of the switch -> the process that keeps its namespaces."""

    @property
    def names(self) -> list[str]:
        """All hosts, without the switch."""
        return [*(f"h{number}" for number in range(1, self.n + 1)), *self.servers]

    @property
    def agent(self) -> Path:
        return self.work / "agent"

    def command(self, host: str, words: Sequence[str | Path]) -> list[str]:
        """The command that runs `words` on a host."""
        return [*self._enter(host), "--", *map(str, words)]

    def mpirun(
        self, flavour: str, n_ranks: int, words: Sequence[str | Path], *, first: str = "h1",
        n_hosts: int | None = None,
    ) -> list[str]:  # fmt: skip
        """The command that starts so many ranks over TCP, the same number on each host.

        Rank 0 and the launcher are on the host `first`.
        """
        names = sorted(self.names[: self.n], key=lambda name: name != first)[:n_hosts]
        each = n_ranks // len(names)
        if flavour in HYDRA:
            launcher = [
                HYDRA[flavour], "-iface", "eth0", "-launcher", "ssh", "-launcher-exec",
                str(self.agent), "-hosts", ",".join(names), "-ppn", str(each), "-n", str(n_ranks),
            ]  # fmt: skip
            return self.command(first, [*launcher, *words])
        mca = {
            "plm_rsh_agent": str(self.agent), "pml": "ob1", "btl": "tcp,self",
            "btl_tcp_if_include": "eth0", "oob_tcp_if_include": "eth0",
        }  # fmt: skip
        launcher = ["mpirun.openmpi", "--allow-run-as-root", "--bind-to", "none"]
        launcher += [word for name, value in mca.items() for word in ("--mca", name, value)]
        launcher += ["-H", ",".join(f"{name}:{each}" for name in names), "-n", str(n_ranks)]
        return self.command(first, [*launcher, *words])

    def kill(self, host: str) -> None:
        """End all that runs on a host at once, as if its power failed."""
        for pid in self.pids(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self, host: str) -> None:
        """Cut the link between a host and the switch."""
        self._ip("switch", "link", "set", host, "down")

    def join(self, host: str) -> None:
        """Mend that link."""
        self._ip("switch", "link", "set", host, "up")
        time.sleep(1)  # until it carries
        for name in self.names:
            self._ip(name, "neigh", "flush", "all")  # who was not found meanwhile

    def received_bytes(self, host: str) -> int:
        """Bytes that have come to a host from the others."""
        table = run(self.command(host, ["cat", "/proc/net/dev"])).stdout
        (line,) = (line for line in table.splitlines() if line.strip().startswith("eth0:"))
        return int(line.partition(":")[2].split()[0])

    def stop(self) -> None:
        """End everything that runs on any host, and with it the hosts."""
        for name, holder in self.holders.items():
            self.kill(name)
            holder.kill()
            holder.wait()
            assert holder.stdin is not None
            holder.stdin.close()

    def _enter(self, host: str) -> list[str]:
        return ["nsenter", "-t", str(self.holders[host].pid), "-n", "-u", "-m", "-i"]

    def pids(self, host: str) -> list[int]:
        """All processes of a host, without the one that keeps it."""
        namespace = os.readlink(f"/proc/{self.holders[host].pid}/ns/net")
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/net") == namespace:
                    pids.append(int(process.name))
        return [pid for pid in pids if pid != self.holders[host].pid]

    def address(self, host: str) -> str:
        """The address of a host."""
        return f"10.77.0.{self.names.index(host) + 1}"

    def seen_from(self, host: str, path: Path) -> Path:
        """A name of a file for this process, through that host's mounts."""
        return Path(f"/proc/{self.holders[host].pid}/root{path}")

    def _ip(self, host: str, *words: str) -> None:
        completed = run(self.command(host, ["ip", *words]), env={"PATH": ADMIN_PATH})
        assert completed.returncode == 0, completed.stderr


def missing() -> str:
    """Why no hosts can be made here; empty if they can."""
    return lacking("a network namespace", PROGRAMS, "iproute2 util-linux")


@contextlib.contextmanager
def start(work: Path, n: int, servers: tuple[str, ...] = ()) -> Iterator[Hosts]:
    """Make so many hosts; end them and all that runs on them with the block."""
    hosts = Hosts(work=work, n=n, servers=servers)
    try:
        _start(hosts)
        yield hosts
    finally:
        hosts.stop()


def _start(hosts: Hosts) -> None:
    lines = ["127.0.0.1 localhost", *(f"{hosts.address(name)} {name}" for name in hosts.names)]
    table = hosts.work / "hosts"
    table.write_text("\n".join(lines) + "\n")
    hosts.agent.write_text(AGENT.replace("{work}", str(hosts.work)))
    hosts.agent.chmod(0o755)
    for name in ["switch", *hosts.names]:
        _hold(hosts, name, table)
    hosts._ip("switch", "link", "add", "bridge", "type", "bridge")
    hosts._ip("switch", "link", "set", "bridge", "up")
    for name in hosts.names:
        pid = str(hosts.holders[name].pid)
        hosts._ip(
            "switch", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid
        )
        hosts._ip("switch", "link", "set", name, "master", "bridge", "up")
        hosts._ip(name, "addr", "add", f"{hosts.address(name)}/24", "dev", "eth0")
        hosts._ip(name, "link", "set", "eth0", "up")
        hosts._ip(name, "link", "set", "lo", "up")


def _hold(hosts: Hosts, name: str, table: Path) -> None:
    setup = (
        f"hostname {name} && mount -t tmpfs shm /dev/shm && "
        f"mount --bind {shlex.quote(str(table))} /etc/hosts && echo ready"
    )
    holder = subprocess.Popen(
        ["unshare", "--net", "--uts", "--mount", "--ipc", "sh", "-c", f"{setup}\n{HOLD}"],
        env=clean_environment({"PATH": ADMIN_PATH}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    hosts.holders[name] = holder
    assert holder.stdout is not None
    with holder.stdout:
        if holder.stdout.readline() != b"ready\n":
            pytest.fail(f"host {name} did not start")
    (hosts.work / f"{name}.pid").write_text(f"{holder.pid}\n")


@dataclass(slots=True, kw_only=True)
class Running:
    """A command that runs while the test does something to it."""

    process: subprocess.Popen[str]

    def wait_for(self, file: Path, timeout_s: float = 60) -> None:
        """Wait until the command has made a file."""
        end_s = time.monotonic() + timeout_s
        while not file.exists():
            if self.process.poll() is not None or time.monotonic() > end_s:
                end_session(self.process)
                pytest.fail(f"no {file.name} within {timeout_s} s\n{self.process.communicate()}")
            time.sleep(0.05)

    def end(self, timeout_s: float) -> tuple[int, str]:
        """Wait for the end, at most so long; return the exit code and what was printed."""
        try:
            printed, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_session(self.process)
            printed, _ = self.process.communicate()
            pytest.fail(f"did not end within {timeout_s} s\n{printed}")
        return self.process.returncode, printed


@contextlib.contextmanager
def launched(command: Sequence[str]) -> Iterator[Running]:
    """Start a command; whatever is left of it at the end of the block is ended."""
    process = subprocess.Popen(
        command, env=clean_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    try:
        yield Running(process=process)
    finally:
        end_session(process)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ranks_of(out: Path) -> list[int]:
    """The processes that work on an output, on whichever host; launchers do not count."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (
                (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            )
            if words and b"python" in words[0] and os.fsencode(out) in words:
                found.append(int(process.name))
    return found
