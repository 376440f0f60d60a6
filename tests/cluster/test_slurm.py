"""The job scripts as users submit them, and h5ingest under srun, on a real SLURM of two nodes.

`make cluster-test` runs this; it needs root and Debian's slurmctld, slurmd, slurm-client, munge.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import pytest
from helpers import slurm
from helpers.cluster_jobs import Images, leftovers, make_images
from helpers.slurm import Slurm
from helpers.support import (
    FLAVOURS,
    LAUNCHED,
    ROOT,
    Flavour,
    error_lines,
    explain,
    write_manifest,
)

from h5ingest.core.errors import IngestError

pytestmark = pytest.mark.cluster

TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2", "--mem-per-cpu=300M")
# Two nodes on one host: Open MPI's ranks of both would take the same names in one /dev/shm.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_oob_tcp_if_include": "lo",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := slurm.missing():
        pytest.fail(f"no SLURM to test on: {reason}", pytrace=False)
    with slurm.start(tmp_path_factory.mktemp("slurm"), n_nodes=2) as started:
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A few hundred images, to be read only."""
    return make_images(tmp_path_factory.mktemp("images"), 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An MPI, and how its ranks are started at this site."""

    flavour: Flavour
    mpi: str
    """What the job scripts' env.sh takes as H5INGEST_MPI."""

    venv: Path | None = None
    """Another folder with a bin/h5ingest."""

    @property
    def env(self) -> dict[str, str]:
        venv = self.venv or self.flavour.bin.parent
        return {"H5INGEST_VENV": str(venv), "H5INGEST_MPI": self.mpi, **OPEN_MPI}


SITES = {
    "mpich-srun": ("mpich", "pmi2"),
    "mpich-mpirun": ("mpich", "mpirun.mpich"),
    "openmpi-srun": ("openmpi", "pmix"),
    "openmpi-mpirun": ("openmpi", "mpirun.openmpi"),
}


@pytest.fixture(params=list(SITES))
def site(request: pytest.FixtureRequest) -> Site:
    name, mpi = SITES[request.param]
    return Site(flavour=FLAVOURS[name].checked(), mpi=mpi)


@pytest.fixture
def srun_site() -> Site:
    """One of them, where the others would tell nothing new."""
    return Site(flavour=FLAVOURS["mpich"].checked(), mpi="pmi2")


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A copy of the job scripts, as users make one; jobs are submitted from there."""
    return Path(shutil.copytree(ROOT / "jobs", tmp_path / "jobs"))


def log_of(job: dict[str, str]) -> str:
    return Path(job["StdOut"]).read_text()


def test_an_ingest_job_makes_the_file(
    cluster: Slurm, site: Site, images: Images, jobs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    job = cluster.submit(
        *TWO_BY_TWO, "ingest.sbatch", images.manifest, out, "--progress", "line",
        cwd=jobs, env=site.env,
    )  # fmt: skip
    (ended,) = cluster.wait(job)
    log = log_of(ended)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert ended["NodeList"] == "n[1-2]"
    attrs = images.check(out)
    assert json.loads(attrs["job"]) == {
        "ranks": 4, "hosts": 1, "slurm_job": str(job), "slurm_nodes": "n[1-2]"
    }  # fmt: skip
    assert json.loads(out.with_name("out.h5.report.json").read_text())["n_ranks"] == 4
    assert "storing: 300 of 300 images (100%)" in log
    assert "on 4 ranks" in log


def test_a_job_that_fails_says_why_and_has_the_exit_code_of_h5ingest(
    cluster: Slurm, site: Site, images: Images, jobs: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "bad.txt", ["nowhere.png"] * 9)
    job = cluster.submit(
        *TWO_BY_TWO, "ingest.sbatch", manifest, tmp_path / "out.h5", cwd=jobs, env=site.env
    )
    (ended,) = cluster.wait(job)
    log = log_of(ended)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "3:0"), log
    assert log.count("h5ingest: error:") == 1, log
    assert not (tmp_path / "out.h5").exists()


def test_an_array_makes_a_file_of_each_manifest(
    cluster: Slurm, srun_site: Site, jobs: Path, tmp_path: Path
) -> None:
    parts = [make_images(tmp_path / f"part{part}", 40, first=part) for part in range(4)]
    names = [tmp_path / f"part{part}" / f"part {part}.csv" for part in range(4)]
    for part, name in zip(parts, names, strict=True):
        part.manifest.rename(name)
    listed = write_manifest(tmp_path / "list.txt", names)
    (tmp_path / "out").mkdir()
    job = cluster.submit(
        "--array=1-4%2", "--nodes=1", "--ntasks-per-node=2", "--mem-per-cpu=300M",
        "ingest-array.sbatch", listed, tmp_path / "out",
        cwd=jobs, env=srun_site.env,
    )  # fmt: skip
    ended = cluster.wait(job, timeout_s=90)
    assert [task["JobState"] for task in ended] == ["COMPLETED"] * 4, list(map(log_of, ended))
    assert sorted(task["ArrayTaskId"] for task in ended) == ["1", "2", "3", "4"]
    for number, part in enumerate(parts):
        part.check(tmp_path / "out" / f"part {number}.h5")


def test_a_line_that_an_array_lacks_is_refused(
    cluster: Slurm, srun_site: Site, jobs: Path, tmp_path: Path
) -> None:
    listed = write_manifest(tmp_path / "list.txt", ["one.csv"])
    job = cluster.submit(
        "--array=2", *TWO_BY_TWO, "ingest-array.sbatch", listed, tmp_path,
        cwd=jobs, env=srun_site.env,
    )  # fmt: skip
    (ended,) = cluster.wait(job)
    assert ended["ExitCode"] == "2:0"
    assert "has no line 2" in log_of(ended)


@pytest.mark.parametrize(
    ("name", "mpi"),
    [("mpich", "none"), ("mpich", "pmix"), ("openmpi", "none"), ("openmpi", "pmi2")],
)
def test_srun_with_an_mpi_that_does_not_fit_makes_nothing(
    cluster: Slurm, images: Images, name: str, mpi: str, tmp_path: Path
) -> None:
    # MPICH would see four worlds of one rank, each of them writing the file. Open MPI aborts.
    out = tmp_path / "out.h5"
    flavour = FLAVOURS[name].checked()
    completed = cluster.step(
        flavour.bin / "h5ingest", images.manifest, out, n_ranks=4, mpi=mpi, env=OPEN_MPI
    )
    assert completed.returncode not in (0, 75), explain(completed)
    assert not out.exists()
    assert not leftovers(out)
    if name == "mpich":
        # The first of the four that ends has srun end those that are still starting: 143.
        assert completed.returncode in (6, 143), explain(completed)
        (line,) = error_lines(completed)
        assert "started 4 processes, but MPI sees a world of 1" in line
        assert "srun --mpi=pmi2" in completed.stderr


@pytest.mark.parametrize(("name", "mpi"), [("mpich", "pmi2"), ("openmpi", "pmix")])
def test_every_error_has_its_exit_code_under_srun(
    cluster: Slurm, images: Images, name: str, mpi: str, tmp_path: Path
) -> None:
    # kill-on-bad-exit ends the other ranks of the first that has one: it must not change the code.
    flavour = FLAVOURS[name].checked()
    (tmp_path / "out.h5").touch()
    for code, arguments in {
        2: ("a.txt", "b.h5", "--nonsense"),
        4: (tmp_path / "absent.txt", tmp_path / "other.h5"),
        5: (images.manifest, tmp_path / "out.h5"),
    }.items():
        completed = cluster.step(
            flavour.bin / "h5ingest", *arguments, n_ranks=4, mpi=mpi, env=OPEN_MPI
        )
        assert completed.returncode == code, explain(completed)


@pytest.mark.parametrize(("name", "mpi"), [("mpich", "pmi2"), ("openmpi", "pmix")])
def test_a_rank_that_is_killed_ends_the_step(
    cluster: Slurm, images: Images, name: str, mpi: str, tmp_path: Path
) -> None:
    flavour = FLAVOURS[name].checked()
    completed = cluster.step(
        flavour.bin / "python", LAUNCHED, "kill", "2", "20", images.manifest, tmp_path / "out.h5",
        "--chunk", "4", "--batch-bytes", "64", n_ranks=4, mpi=mpi, env=OPEN_MPI,
    )  # fmt: skip
    # 128 + KILL, or 128 + TERM, with which srun then ends the others
    assert completed.returncode in (137, 143), explain(completed)
    assert not (tmp_path / "out.h5").exists()


# --- saved and requeued ------------------------------------------------------------------------

RESUMES = 75 in {kind.exit_code for kind in IngestError.__subclasses__()}
needs_resume = pytest.mark.skipif(not RESUMES, reason="this h5ingest cannot resume yet")


def slowed(site: Site, seconds: float, folder: Path) -> Site:
    """The same site with an h5ingest that takes so long for each image."""
    program = folder / "slow" / "bin" / "h5ingest"
    program.parent.mkdir(parents=True)
    python, sleeping = site.flavour.bin / "python", LAUNCHED
    program.write_text(f'#!/bin/sh\nexec "{python}" "{sleeping}" slow {seconds} "$@"\n')
    program.chmod(0o755)
    return replace(site, venv=program.parents[1])


def submit_slow(
    cluster: Slurm, site: Site, images: Images, jobs: Path, *more: str, seconds: float = 0.08
) -> tuple[int, Path]:
    """Submit ingest-requeue.sbatch; return the job and its output, once it is storing images."""
    out = jobs.parent / "out.h5"
    job = cluster.submit(
        *TWO_BY_TWO, *more, "ingest-requeue.sbatch", images.manifest, out,
        "--chunk", "4", "--batch-bytes", "420",
        cwd=jobs, env=slowed(site, seconds, jobs.parent).env,
    )  # fmt: skip
    end_s = time.monotonic() + 60
    while not out.with_name("out.h5.partial").exists():
        assert time.monotonic() < end_s, cluster.jobs(job)
        time.sleep(0.1)
    time.sleep(1.5)  # a few batches
    return job, out


@needs_resume
def test_a_job_that_is_told_to_stop_is_requeued_and_finishes(
    cluster: Slurm, site: Site, images: Images, jobs: Path
) -> None:
    job, out = submit_slow(cluster, site, images, jobs)
    cluster.call("scancel", "--batch", "--signal=USR1", str(job))
    cluster.wait_until(job, lambda found: found["Restarts"] == "1", timeout_s=30)
    assert not out.exists()
    (ended,) = cluster.wait(job)
    log = log_of(ended)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log
    assert "restarts: 0 of at most 20" in log
    assert "asking the ranks to save and stop (time limit)" in log
    assert "restarts: 1 of at most 20" in log
    made_by = json.loads(images.check(out)["job"])
    assert (made_by["slurm_job"], made_by["slurm_restarts"]) == (str(job), "1")


@needs_resume
def test_a_job_that_meets_its_time_limit_again_and_again_finishes(
    cluster: Slurm, srun_site: Site, images: Images, jobs: Path
) -> None:
    # 37 s of work, in jobs of 60 s that SLURM tells to stop somewhere between 10 and 40 s.
    job, out = submit_slow(
        cluster, srun_site, images, jobs, "--time=1", "--signal=B:USR1@20", seconds=0.5
    )
    (ended,) = cluster.wait(job, timeout_s=240)
    assert ended["JobState"] == "COMPLETED", log_of(ended)
    assert int(ended["Restarts"]) >= 1
    images.check(out)


@needs_resume
def test_a_job_is_not_requeued_for_ever(
    cluster: Slurm, srun_site: Site, images: Images, jobs: Path
) -> None:
    job, out = submit_slow(cluster, srun_site, images, jobs, "--export=ALL,H5INGEST_MAX_RESTARTS=0")
    cluster.call("scancel", "--batch", "--signal=USR1", str(job))
    (ended,) = cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0"), log_of(ended)
    assert "submit it again" in log_of(ended)
    assert out.with_name("out.h5.partial").exists()


@needs_resume
def test_a_cancelled_job_leaves_what_it_has_and_another_goes_on_from_there(
    cluster: Slurm, srun_site: Site, images: Images, jobs: Path
) -> None:
    job, out = submit_slow(cluster, srun_site, images, jobs)
    cluster.call("scancel", str(job))
    (ended,) = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), log_of(ended)
    assert out.with_name("out.h5.partial").exists()
    assert not out.exists()
    other = srun_site.flavour.run(
        3, images.manifest, out, "--chunk", "4", "--batch-bytes", "420", timeout_s=60
    )
    assert other.returncode == 0, explain(other)
    images.check(out)


def test_a_verify_job_runs_after_its_ingest_job(
    cluster: Slurm, site: Site, images: Images, jobs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    first = cluster.submit(
        *TWO_BY_TWO, "ingest.sbatch", images.manifest, out, cwd=jobs, env=site.env
    )
    second = cluster.submit(
        f"--dependency=afterok:{first}", *TWO_BY_TWO, "verify.sbatch", out, cwd=jobs, env=site.env
    )
    (ended,) = cluster.wait(second)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log_of(ended)
    with h5py.File(out, "r+") as file:
        file["images"][7, 0, 0] ^= 1
    third = cluster.submit(*TWO_BY_TWO, "verify.sbatch", out, cwd=jobs, env=site.env)
    (ended,) = cluster.wait(third)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "3:0"), log_of(ended)


def test_a_scaling_job_measures_each_number_of_ranks_and_draws_it(
    cluster: Slurm, site: Site, images: Images, jobs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scaling"
    job = cluster.submit(
        *TWO_BY_TWO, "scaling.sbatch", images.manifest, out, "--runs", "1", "--scaling", "strong",
        cwd=jobs, env=site.env,
    )  # fmt: skip
    (ended,) = cluster.wait(job, timeout_s=180)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log_of(ended)
    results = json.loads((out / "results.json").read_text())["results"]
    assert sorted({result["ranks"] for result in results}) == [1, 2, 4]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("h5ingest-bench-*"))
