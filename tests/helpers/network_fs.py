"""Network file systems for the hosts of `hosts.py`: real servers, and a client of its own on each.

All servers run on the host "server" and keep their data in its memory; each host mounts a volume by
a FUSE process of its own, so it has caches of its own, as nodes of a cluster have. Everything lives
in the hosts' namespaces and ends with them: nothing of it is seen by, or left on, this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from helpers import hosts
from helpers.hosts import Hosts
from helpers.support import ADMIN_PATH, run

SERVER: Final = "server"
CLIENTS: Final = ("h1", "h2")
BRICKS_BYTES: Final = 2**31
"""What all bricks of GlusterFS have together."""
_START_S = 60
"""In which a server that was started has to answer."""


@dataclass(slots=True, kw_only=True)
class Network:
    """Two hosts and a server; volumes are made, and mounted on both hosts, when first asked for."""

    hosts: Hosts
    _there: set[str] = field(default_factory=set)
    """Servers that run, volumes, mounts."""

    @property
    def data(self) -> Path:
        """The server's memory; no other host sees it."""
        return self.hosts.work / "data"

    def on(self, host: str, *words: str | Path, timeout_s: float = _START_S) -> str:
        """Run a command on a host to its good end; return what it printed."""
        command = self.hosts.command(host, words)
        completed = run(command, env={"PATH": ADMIN_PATH}, timeout_s=timeout_s)
        if completed.returncode:
            pytest.fail(f"{completed.args}: {completed.stdout}{completed.stderr}", pytrace=False)
        return completed.stdout

    def write(self, files: dict[Path, str]) -> None:
        """Write files on the server."""
        for path, content in files.items():
            file = self.hosts.seen_from(SERVER, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    @contextlib.contextmanager
    def once(self, what: str) -> Iterator[bool]:
        """Say whether this is still to be done; it is done when the block has ended well."""
        yield what not in self._there
        self._there.add(what)

    def mounted(self, volume: str, *, cached: bool = False) -> Path:
        """Return the folder, the same on both hosts, where a volume is.

        Args:
            volume: one of `VOLUMES`.
            cached: whether the clients keep names and attributes for a minute, not a second.
        """
        if reason := missing(volume):
            pytest.skip(reason)
        kind = VOLUMES[volume]
        folder = self.hosts.work / f"{volume}{'-cached' * cached}"
        with self.once(volume) as new:
            if new:
                kind.make(self, volume)
        with self.once(f"mount {folder.name}") as new:
            if new:
                folder.mkdir(exist_ok=True)
                options = kind.cached if cached else ()
                for host in CLIENTS:
                    self.on(host, *kind.client(self, volume), *options, folder)
                # Servers need some seconds until they know each other, and what they have.
                seen = [self.hosts.seen_from(host, folder) for host in CLIENTS]
                wait_until(lambda: all(os.statvfs(one).f_bavail for one in seen), "space")
        return folder

    def kill_a_server(self, volume: str, number: int = 1) -> None:
        """Kill one of the three processes that keep a volume's data, as if its power failed."""
        wanted = os.fsencode(VOLUMES[volume].place(self, volume, number))
        (pid,) = (
            pid for pid in self.hosts.pids(SERVER)
            if wanted in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        )  # fmt: skip
        os.kill(pid, signal.SIGKILL)

    def start_it_again(self, volume: str, number: int = 1) -> None:
        """Bring back what `kill_a_server` took."""
        VOLUMES[volume].start_again(self, volume, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(ABC):
    """One kind of file system, and how a volume of it is made."""

    programs: tuple[str, ...]
    packages: str
    """Debian's, that bring the programs."""
    cached: tuple[str, ...] = ()
    """What makes a mount keep names and attributes for a minute."""
    wanted: tuple[str, ...] = ()
    """What sort of volume."""

    @abstractmethod
    def make(self, network: Network, volume: str) -> None:
        """Start the servers if they do not run; make the volume."""

    @abstractmethod
    def client(self, network: Network, volume: str) -> list[str | Path]:
        """Return what mounts a volume, but for options and the folder."""

    def place(self, network: Network, volume: str, number: int) -> Path:
        """Return where one server has its data or settings: its command line tells that."""
        raise NotImplementedError

    def start_again(self, network: Network, volume: str, number: int) -> None:
        """Start a server again that was killed."""
        raise NotImplementedError


class Gluster(Kind):
    """GlusterFS with three bricks."""

    def make(self, network: Network, volume: str) -> None:
        bricks = network.data / "bricks"
        with network.once("glusterd") as new:
            if new:
                self._start(network, bricks)
        folders = [f"{SERVER}:{self.place(network, volume, number)}" for number in (1, 2, 3)]
        self._tell(network, "create", volume, *self.wanted, "transport", "tcp", *folders, "force")
        # When a client gives up a server, and a server a client; GlusterFS has 42 s, tests no time.
        for patience in ("network.ping-timeout", "server.tcp-user-timeout"):
            self._tell(network, "set", volume, patience, "10")
        self._tell(network, "start", volume)

    def client(self, network: Network, volume: str) -> list[str | Path]:
        log = network.hosts.work / "glusterfs.log"
        return ["glusterfs", f"--volfile-server={SERVER}", f"--volfile-id={volume}", "-l", log]

    def place(self, network: Network, volume: str, number: int) -> Path:
        return network.data / "bricks" / f"{volume}.{number}"

    def start_again(self, network: Network, volume: str, number: int) -> None:
        # It may take a while until glusterd knows that one is gone, and clients that it is back.
        files = network.mounted(volume) / "again"  # so many that each brick has some of them
        use = ["sh", "-c", f"for n in $(seq 20); do touch {files}.$n || exit 1; done"]

        def is_back() -> bool:
            self._tell(network, "start", volume, "force")
            commands = [network.hosts.command(host, use) for host in CLIENTS]
            return not any(run(command).returncode for command in commands)

        wait_until(is_back, "the brick")

    def _start(self, network: Network, bricks: Path) -> None:
        # What GlusterFS keeps in fixed places is the server's own.
        fixed = [Path("/var/lib/glusterd"), Path("/run"), Path("/var/log/glusterfs")]
        for place in (bricks, *fixed):
            network.on(SERVER, "mkdir", "-p", place)
            network.on(SERVER, "mount", "-t", "tmpfs", "gluster", place)
        self.resize(network, BRICKS_BYTES)
        network.on(SERVER, "glusterd", "--pid-file", network.data / "glusterd.pid")

    @staticmethod
    def resize(network: Network, n_bytes: int) -> None:
        """Set what all bricks have together."""
        mount = ("mount", "-o", f"remount,size={n_bytes}", network.data / "bricks")
        network.on(SERVER, *mount)

    @staticmethod
    def _tell(network: Network, *words: str) -> str:
        return network.on(SERVER, "gluster", "--mode=script", "volume", *words)


class Moose(Kind):
    """MooseFS with one master and three chunk servers; each file is on two of them."""

    def make(self, network: Network, volume: str) -> None:
        folder = network.data / "mfs"
        own = "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {}\n"
        files = {
            folder / "master" / "metadata.mfs": "MFSM NEW",
            folder / "exports": "* / rw,alldirs,admin,maproot=0:0\n",
            folder / "topology": "",
            folder / "master.cfg": own.format(folder / "master")
            + f"EXPORTS_FILENAME = {folder}/exports\nTOPOLOGY_FILENAME = {folder}/topology\n",
        }
        for number in (1, 2, 3):
            place = folder / f"chunks{number}"
            files[place / "disks"] = f"{place}\n"
            files[self.place(network, volume, number)] = own.format(place) + (
                f"HDD_CONF_FILENAME = {place}/disks\nHDD_LEAVE_SPACE_DEFAULT = 64MiB\n"
                f"MASTER_HOST = {SERVER}\nCSSERV_LISTEN_PORT = {9422 + 10 * number}\n"
            )
        network.write(files)
        network.on(SERVER, "mfsmaster", "-c", folder / "master.cfg", "start")
        for number in (1, 2, 3):
            self.start_again(network, volume, number)

    def client(self, network: Network, volume: str) -> list[str | Path]:
        return ["mfsmount", "-H", SERVER]

    def place(self, network: Network, volume: str, number: int) -> Path:
        return network.data / "mfs" / f"chunks{number}.cfg"

    def start_again(self, network: Network, volume: str, number: int) -> None:
        settings = self.place(network, volume, number)
        network.on(SERVER, "mfschunkserver", "-c", settings, "start")


class Ceph(Kind):
    """CephFS with one server of each sort; what it stores is in the memory of its processes."""

    def make(self, network: Network, volume: str) -> None:
        folder, address = network.data / "ceph", network.hosts.address(SERVER)
        fsid, store = str(uuid.uuid4()), str(uuid.uuid4())
        keys = {
            "fsid": fsid,
            "mon host": address,
            **{f"auth {side} required": "none" for side in ("cluster", "service", "client")},
            **{f"{sort} data": folder / sort for sort in ("mon", "mgr", "osd", "mds")},
            "run dir": folder,
            "admin socket": "",
            "osd objectstore": "memstore",
            "memstore device bytes": 2**30,
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": "true",
        }
        settings = "\n".join(f"{key} = {value}" for key, value in keys.items())
        self._settings(network).write_text(f"[global]\n{settings}\nlog file = {folder}/$name.log\n")
        for sort in ("mon", "mgr", "osd", "mds"):
            network.on(SERVER, "mkdir", "-p", folder / sort)
        addresses = f"[v2:{address}:3300,v1:{address}:6789]"
        monitors = folder / "monitors"
        network.on(
            SERVER, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monitors
        )

        def tell(program: str, *words: str | Path) -> str:
            return network.on(SERVER, program, "-c", self._settings(network), *words)

        tell("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)
        tell("ceph-mon", "-i", "a")
        tell("ceph-mgr", "-i", "a")
        tell("ceph", "osd", "new", store)
        tell("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        tell("ceph-osd", "-i", "0")
        tell("ceph-mds", "-i", "a")
        for pool in ("names", "data"):
            tell("ceph", "osd", "pool", "create", pool, "8")
        tell("ceph", "fs", "new", volume, "names", "data")
        wait_until(lambda: "up:active" in tell("ceph", "mds", "stat"), "a server of names")

    def client(self, network: Network, volume: str) -> list[str | Path]:
        return ["ceph-fuse", "-c", self._settings(network), "--log-file", "/dev/null"]

    @staticmethod
    def _settings(network: Network) -> Path:
        return network.hosts.work / "ceph.conf"


def _gluster(*wanted: str) -> Gluster:
    return Gluster(
        programs=("glusterd", "gluster", "glusterfs"), packages="glusterfs-server glusterfs-client",
        cached=("--attribute-timeout=60", "--entry-timeout=60"), wanted=wanted,
    )  # fmt: skip


VOLUMES: Final[dict[str, Kind]] = {
    "replicated": _gluster("replica", "3"),
    "dispersed": _gluster("disperse", "3", "redundancy", "1"),
    "distributed": _gluster(),
    "moose": Moose(
        programs=("mfsmaster", "mfschunkserver", "mfsmount"),
        packages="moosefs-master moosefs-chunkserver moosefs-client",
        cached=("-o", "mfsattrcacheto=60,mfsentrycacheto=60,mfsdirentrycacheto=60"),
    ),
    "ceph": Ceph(
        programs=("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds", "ceph-fuse"),
        packages="ceph-common ceph-mon ceph-mgr ceph-osd ceph-mds ceph-fuse",
    ),
}


def missing(volume: str) -> str:
    """Why there can be no such volume here; empty if there can."""
    if reason := hosts.missing():
        return reason
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse: the kernel has no FUSE, or this container may not use it"
    kind = VOLUMES[volume]
    absent = [name for name in kind.programs if shutil.which(name, path=ADMIN_PATH) is None]
    return f"not installed: {' '.join(absent)} (Debian: {kind.packages})" if absent else ""


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that servers need."""
    end_s = time.monotonic() + _START_S
    while not holds():
        if time.monotonic() > end_s:
            pytest.fail(f"after {_START_S} s there is no {what}", pytrace=False)
        time.sleep(0.2)


@contextlib.contextmanager
def start(work: Path) -> Iterator[Network]:
    """Make two hosts and a server; end all that runs on them with the block."""
    with hosts.start(work, len(CLIENTS), (SERVER,)) as made:
        network = Network(hosts=made)
        network.data.mkdir()
        network.on(SERVER, "mount", "-t", "tmpfs", "data", network.data)
        yield network
