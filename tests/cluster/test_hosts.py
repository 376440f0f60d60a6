"""Jobs over several hosts that share only a file system: right, and ended if a host is lost.

`make cluster-test` runs this; it needs root.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import hosts
from helpers.cluster_jobs import Images, make_images
from helpers.faults import FAULTS, Fault
from helpers.hosts import Hosts, launched, ranks_of
from helpers.support import LAUNCHED, Flavour, explain, run

pytestmark = pytest.mark.cluster
COMES_LATE = """
import time
from h5ingest.cli import main
from h5ingest.mpi import world
from h5ingest.mpi.launcher import launcher_rank

leave = world.leave
world.leave = lambda code: (time.sleep(0.5 * launcher_rank()), leave(code))
main.main()
"""
"""Each rank comes to MPI_Finalize when those before it are through, if they can be."""


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if reason := hosts.missing():
        pytest.fail(f"no hosts to test on: {reason}", pytrace=False)
    with hosts.start(tmp_path_factory.mktemp("hosts"), 2) as started:
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A few hundred images, to be read only."""
    return make_images(tmp_path_factory.mktemp("images"), 300)


@pytest.mark.parametrize("compression", ["none", "gzip:1"])
def test_ranks_on_two_hosts_make_the_file(
    two: Hosts, flavour: Flavour, images: Images, compression: str, tmp_path: Path
) -> None:
    before = {host: two.received_bytes(host) for host in ("h1", "h2")}
    command: list[str | Path]
    command = [flavour.bin / "h5ingest", images.manifest, tmp_path / "out.h5", "--chunk", "8"]
    completed = run(two.mpirun(flavour.name, 4, [*command, "--compression", compression]))
    assert completed.returncode == 0, explain(completed)
    assert "on 4 ranks" in completed.stdout
    images.check(tmp_path / "out.h5")
    for host, n_bytes in before.items():
        assert two.received_bytes(host) > n_bytes + 1000


def test_ranks_that_come_late_to_the_end_of_mpi_are_not_kept_there(
    two: Hosts, flavour: Flavour, images: Images, tmp_path: Path
) -> None:
    # The shorter the job, the fewer messages between ranks: most are sent in one direction only.
    words: list[str | Path]
    words = [flavour.bin / "python", "-c", COMES_LATE, images.manifest, tmp_path / "out.h5"]
    completed = run(two.mpirun(flavour.name, 4, [*words, "-q", "--dry-run"]))
    assert completed.returncode == 0, explain(completed)
    assert not completed.stderr, explain(completed)


def test_a_host_that_is_lost_ends_the_job(
    two: Hosts, flavour: Flavour, images: Images, tmp_path: Path
) -> None:
    out, stalled = tmp_path / "out.h5", tmp_path / "stalled"
    command = two.mpirun(
        flavour.name, 4,
        [flavour.bin / "python", LAUNCHED, "stall", "3", "20", stalled, images.manifest, out,
         "--chunk", "4", "--batch-bytes", "64"],
    )  # fmt: skip
    with launched(command) as job:
        job.wait_for(stalled)
        two.kill("h2")
        started_s = time.monotonic()
        code, printed = job.end(timeout_s=30)
    assert code not in (0, 75), printed
    assert time.monotonic() - started_s < 15
    assert not out.exists()


@pytest.mark.parametrize(
    "at", [{"site": "share"}, {"site": "open"}, {"site": "decode", "call": 30}, {"site": "finish"}],
    ids=["before MPI_Comm_dup", "before H5Fopen", "while it stores", "before H5Fclose"],
)  # fmt: skip
def test_the_ranks_of_a_job_whose_link_is_cut_end(
    two: Hosts, flavour: Flavour, images: Images, at: Fault, tmp_path: Path
) -> None:
    # Neither MPICH nor Open MPI notices by itself, and their mpirun goes on waiting for the host
    # that it cannot reach even when its own ranks have ended: the batch system has to end that.
    out, there = tmp_path / "out.h5", tmp_path / "there"
    faults = [{"act": f"sh:touch {there}; sleep 2", "rank": 3, **at}]
    command = two.mpirun(
        flavour.name, 4,
        [flavour.bin / "python", FAULTS, "run", json.dumps(faults), images.manifest,
         out, "--chunk", "4", "--batch-bytes", "64", "--peer-timeout", "5"],
    )  # fmt: skip
    with launched(command) as job:
        job.wait_for(there)
        two.cut("h2")
        deadline_s = time.monotonic() + 40
        while ranks_of(out) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        left = ranks_of(out)
        two.kill("h1")
        two.kill("h2")
        code, printed = job.end(timeout_s=20)
    assert not left, printed
    assert code != 0, printed
    assert printed.count("no sign of life of another rank for 5 s") >= 1, printed
    assert not out.exists()
    # What is left of it, one host finishes.
    again = run(two.command("h1", [flavour.bin / "h5ingest", images.manifest, out, "--chunk", "4"]))
    assert again.returncode == 0, explain(again)
    images.check(out)
