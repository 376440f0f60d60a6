"""`h5ingest doctor`: facts of this machine, recorded ones of others, and the advice on them."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import hdf5plugin
import imagecodecs
import numpy as np
import pytest
from helpers.support import (
    FLAVOURS,
    MPICH_SOON,
    WHEELS,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    run,
    write_images,
    write_manifest,
)
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, StorageError
from h5ingest.core.options import IngestOptions
from h5ingest.diagnostics import libraries, preflight
from h5ingest.diagnostics.advice import advise, describe_advice
from h5ingest.diagnostics.codec_trial import wrong_codecs
from h5ingest.diagnostics.doctor import describe
from h5ingest.diagnostics.facts import Facts, examine
from h5ingest.diagnostics.libraries import Libraries, import_apart, mpi_files
from h5ingest.diagnostics.preflight import told_before
from h5ingest.images import htj2k
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.output_checks import advising
from h5ingest.storage import file_systems
from h5ingest.storage.auto_codec import CANDIDATES
from h5ingest.storage.file_systems import FileSystem, Mount, find, look
from h5ingest.storage.filters import available

# As /proc/self/mountinfo has them on clusters, with made-up names.
MOUNTINFO = r"""
22 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/rhel-root rw,seclabel,attr2,inode64,noquota
30 22 0:26 / /tmp rw,nosuid,nodev shared:2 - tmpfs tmpfs rw,seclabel,size=65536000k
41 22 0:40 / /scratch rw,relatime shared:15 - lustre 10.1.0.1@o2ib:10.1.0.2@o2ib:/scratch rw,flock,lazystatfs
42 22 0:41 / /projects rw,relatime shared:16 - lustre 10.1.0.5@o2ib:/projects rw,lazystatfs
43 22 0:42 / /gpfs/projects rw,relatime shared:17 - gpfs projects rw
44 22 0:43 /export/home /home rw,nosuid,relatime shared:18 - nfs4 filer:/export/home rw,vers=4.2,hard,proto=tcp
45 22 0:44 / /mnt/beegfs rw,relatime shared:19 - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/client.conf
46 22 0:45 / /ceph rw,relatime shared:20 - ceph 10.0.0.1:6789:/ rw,name=user,acl
47 44 0:46 / /home/my\040data rw,relatime shared:21 - fuse.sshfs me@elsewhere:/data rw,user_id=1000
48 22 0:47 / /images rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
49 43 0:48 / /gpfs/projects ro,relatime shared:22 - gpfs projects2 ro
50 22 0:49 / /gluster rw,relatime shared:23 - fuse.glusterfs srv:/rep rw,user_id=0,group_id=0,allow_other
51 22 0:50 / /moose rw,relatime shared:24 - fuse mfs#10.0.0.3:9421 rw,user_id=0,group_id=0,allow_other
52 22 0:51 / /moose3 rw,relatime shared:25 - fuse.mfs mfsmaster:9421 rw,user_id=0,group_id=0,allow_other
53 22 0:52 / /cephfuse rw,relatime shared:26 - fuse.ceph-fuse ceph-fuse rw,user_id=0,group_id=0,allow_other
54 22 0:53 / /nolock rw,relatime shared:27 - nfs filer:/x rw,vers=3,nolock,acregmin=60,acregmax=600,local_lock=all
55 22 0:54 / /noac rw,relatime shared:28 - nfs4 filer:/y rw,vers=4.1,noac,local_lock=none
56 22 0:55 / /locallock rw,relatime shared:29 - lustre 10.0.0.9@tcp:/w rw,localflock,lazystatfs
57 22 0:56 / /unknown rw,relatime shared:30 - fuse.newfs newfs rw,user_id=0
"""  # noqa: E501 - the kernel's lines are as long


@pytest.mark.parametrize(
    ("folder", "type_", "kind", "name"),
    [
        ("/scratch/me/run", "lustre", "shared", "Lustre"),
        ("/scratchy", "xfs", "local", "xfs"),
        ("/tmp", "tmpfs", "memory", "tmpfs"),
        ("/home/me", "nfs4", "nfs", "NFS 4"),
        ("/home/my data/x", "fuse.sshfs", "other", "fuse.sshfs"),
        ("/mnt/beegfs", "beegfs", "shared", "BeeGFS"),
        ("/ceph/a/b/c", "ceph", "shared", "CephFS"),
        ("/images", "overlay", "overlay", "overlay"),
        ("/gluster/a", "fuse.glusterfs", "shared", "GlusterFS"),
        ("/moose/a", "fuse", "shared", "MooseFS"),
        ("/moose3/a", "fuse.mfs", "shared", "MooseFS"),
        ("/cephfuse/a", "fuse.ceph-fuse", "shared", "CephFS"),
        ("/unknown", "fuse.newfs", "other", "fuse.newfs"),
    ],
)
def test_the_mount_of_a_folder_is_found(folder: str, type_: str, kind: str, name: str) -> None:
    mount = find(MOUNTINFO, Path(folder))
    assert mount is not None
    assert (mount.type, mount.kind, mount.name) == (type_, kind, name)


def test_what_a_host_caches_is_known_by_the_mount_and_its_daemon() -> None:
    def seconds(folder: str, daemon: str = "") -> float:
        mount = find(MOUNTINFO, Path(folder))
        assert mount is not None
        return replace(mount, daemon=daemon).attribute_cache_s

    assert seconds("/home") == 60
    assert seconds("/nolock") == 600
    assert seconds("/noac") == 0
    assert seconds("/scratch") == seconds("/ceph") == seconds("/") == 0
    assert seconds("/gluster") == seconds("/moose") == 1
    gluster = "/usr/sbin/glusterfs --attribute-timeout=60 --entry-timeout=30 --process-name fuse"
    assert seconds("/gluster", gluster) == 60
    mount = find(MOUNTINFO, Path("/gluster"))
    assert mount is not None
    found = replace(mount, daemon=gluster).cache_options
    assert found == {"attribute-timeout": "60", "entry-timeout": "30"}


def test_the_daemon_of_a_mount_is_found_among_the_processes(tmp_path: Path) -> None:
    script = "import time; print('up', flush=True); time.sleep(60)"
    words = ["/usr/sbin/glusterfs", "-c", script, "--attribute-timeout=45", str(tmp_path)]
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert "glusterfs" in file_systems._daemon(str(tmp_path))
            assert "--attribute-timeout=45" in file_systems._daemon(str(tmp_path))
            assert file_systems._daemon(str(tmp_path / "other")) == ""
        finally:
            process.kill()


def test_a_date_is_asked_of_the_file_system(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for seconds in (0.0, 1.5, 1.7e9, 2**33 + 0.25):
        file.touch()
        os.utime(file, (0, seconds))
        assert file_systems.fresh_mtime_s(file) == file.lstat().st_mtime == seconds
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    own = (tmp_path / "link").lstat().st_mtime
    assert file_systems.fresh_mtime_s(tmp_path / "link") == pytest.approx(own, abs=1e-5)
    with pytest.raises(FileNotFoundError):
        file_systems.fresh_mtime_s(tmp_path / "absent")


def test_a_later_mount_hides_an_earlier_one() -> None:
    mount = find(MOUNTINFO, Path("/gpfs/projects/a"))
    assert mount is not None
    assert (mount.source, "ro" in mount.options) == ("projects2", True)


def test_a_mountinfo_that_says_nothing_is_no_error() -> None:
    assert find("", Path("/tmp")) is None
    assert find("nonsense\n1 2 - \n", Path("/tmp")) is None


def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/shm")
    place = look(tmp_path / "link" / "out.h5")
    assert place.folder == "/dev/shm"
    assert place.mount is not None
    assert place.mount.kind == "memory"
    told = os.statvfs("/dev/shm")
    assert 0 < place.free_bytes <= told.f_blocks * told.f_frsize
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "absent" / "out.h5")


def test_lustre_is_asked_for_its_stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lfs = tmp_path / "lfs"
    lfs.write_text('#!/bin/sh\necho "stripe_count:  1 stripe_size:   1048576 $1 $2 $3"\n')
    lfs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stripes = file_systems._stripes(Path("/scratch"))
    assert stripes == "stripe_count: 1 stripe_size: 1048576 getstripe -d /scratch"
    lfs.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    assert file_systems._stripes(Path("/scratch")) == "no"
    lfs.unlink()
    assert "no lfs command" in file_systems._stripes(Path("/scratch"))


OPEN_MPI_4 = Libraries(
    h5py="3.16.0", hdf5="1.14.5", parallel=True, mpi4py="4.1.2",
    mpi="Open MPI v4.1.4, package: Open MPI", mpi_files=("/opt/libmpi.so.40.30.4",),
)  # fmt: skip
MPICH = replace(OPEN_MPI_4, mpi="MPICH Version: 4.2.1", mpi_files=("/opt/libmpi.so.12.3.4",))


def at(folder: str, known: Libraries, environment: dict[str, str] | None = None) -> str:
    """The advice for an output in a folder of the cluster above, as text."""
    place = FileSystem(
        folder=folder, mount=find(MOUNTINFO, Path(folder)), free_bytes=10**12, free_inodes=10**6
    )
    facts = Facts(
        libraries=known, filesystem=place, environment=environment or {},
        shared_memory_bytes=2**34,
    )  # fmt: skip
    assert "remedy" in describe(facts) or not advise(facts)
    return describe_advice(advise(facts))


def test_a_good_place_gives_no_advice() -> None:
    assert at("/scratch", MPICH) == ""
    assert at("/gpfs/projects", OPEN_MPI_4) == ""
    assert at("/home", replace(MPICH, hdf5="1.10.8")).count("remedy") == 1


def test_open_mpi_4_on_lustre_is_told_to_use_romio() -> None:
    assert "OMPI_MCA_io=romio321" in at("/scratch", OPEN_MPI_4)
    assert at("/scratch", OPEN_MPI_4, {"OMPI_MCA_io": "romio321"}) == ""
    assert at("/scratch", replace(OPEN_MPI_4, mpi="Open MPI v5.0.7")) == ""


def test_romio_on_nfs_with_a_new_hdf5_is_told_of_the_switch() -> None:
    assert "HDF5_DO_MPI_FILE_SYNC=0" in at("/home", MPICH)
    assert "HDF5_DO_MPI_FILE_SYNC" not in at("/home", MPICH, {"HDF5_DO_MPI_FILE_SYNC": "FALSE"})
    assert "HDF5_DO_MPI_FILE_SYNC" not in at("/home", replace(MPICH, hdf5="1.13.1"))
    assert "HDF5_DO_MPI_FILE_SYNC" not in at("/home", OPEN_MPI_4)
    assert "HDF5_DO_MPI_FILE_SYNC" in at("/home", OPEN_MPI_4, {"OMPI_MCA_io": "romio321"})
    assert "NFS" in at("/home", OPEN_MPI_4)


def test_lustre_without_locks_or_with_one_stripe_is_named() -> None:
    assert "HDF5_USE_FILE_LOCKING=FALSE" in at("/projects", MPICH)
    mount = find(MOUNTINFO, Path("/scratch"))
    place = FileSystem(
        folder="/scratch", mount=mount, free_bytes=1, free_inodes=None, stripes="stripe_count: 1"
    )
    assert "lfs setstripe" in advise(Facts(libraries=MPICH, filesystem=place))[0].remedy
    assert not advise(Facts(libraries=MPICH, filesystem=replace(place, stripes="stripe_count: 16")))


def test_what_hosts_keep_to_themselves_is_named() -> None:
    assert "on GlusterFS each host has a cache of its own" in at("/gluster", MPICH)
    for folder in ("/moose", "/ceph", "/cephfuse", "/mnt/beegfs", "/noac"):
        assert "cache" not in at(folder, MPICH)
    for folder, name in (("/nolock", "NFS"), ("/locallock", "Lustre")):
        assert f"on this {name} locks of files hold on one host only" in at(folder, MPICH)
    assert "--peer-timeout 660 or more, or mount it with a shorter actimeo" in at("/nolock", MPICH)
    assert "fuse.newfs is not known to keep" in at("/unknown", MPICH)


def test_a_cache_that_is_older_than_the_lock_may_be_is_told_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serial = replace(MPICH, parallel=False)
    mount = find(MOUNTINFO, Path("/gluster"))
    assert mount is not None
    monkeypatch.setitem(globals(), "find", lambda *_: replace(mount, daemon="attribute-timeout=60"))
    assert told("/gluster", serial, monkeypatch, hosts=2) == ""  # 300 s are enough
    said = told("/gluster", serial, monkeypatch, hosts=2, peer_timeout_s=80.0)
    assert "what was 60 s ago (cached attributes), and --peer-timeout is 80 s" in said
    assert "--peer-timeout 120 or more, or mount it with a shorter attribute-timeout" in said
    assert told("/gluster", serial, monkeypatch, hosts=1, peer_timeout_s=80.0) == ""


def test_a_place_that_other_hosts_do_not_see_is_a_problem_for_a_job_of_several() -> None:
    assert "PROBLEM" in at("/tmp", MPICH, {"SLURM_JOB_NUM_NODES": "2"})
    assert "PROBLEM" not in at("/tmp", MPICH, {"SLURM_JOB_NUM_NODES": "1"})
    assert "in memory" in at("/tmp", MPICH)
    assert "inside the container" in at("/images", MPICH)
    assert "fuse.sshfs" in at("/home/my data", MPICH)


def test_hosts_are_counted_by_the_ranks_or_else_by_slurm() -> None:
    facts = Facts(libraries=MPICH, environment={"SLURM_JOB_NUM_NODES": "8"})
    assert facts.n_hosts == 8
    assert replace(facts, n_hosts_seen=1).n_hosts == 1
    assert replace(facts, environment={}).n_hosts == 1
    assert "64 on 2 hosts" in describe(replace(facts, n_ranks=64, n_hosts_seen=2))


def told(
    folder: str,
    known: Libraries,
    monkeypatch: pytest.MonkeyPatch,
    *,
    hosts: int = 1,
    **options: object,
) -> str:
    """What a run on four ranks is told before it begins on the cluster above."""
    place_here(folder, known, monkeypatch, hosts)
    comm = SerialComm()
    comm.size = 4
    return told_before(Path("out.h5"), IngestOptions(**options), comm, verbose=False)  # type: ignore[arg-type]


def place_here(
    folder: str, known: Libraries, monkeypatch: pytest.MonkeyPatch, hosts: int = 1
) -> None:
    """Let this be a folder of the cluster above."""
    mount = find(MOUNTINFO, Path(folder))
    stripes = "stripe_count: 1" if "lustre" in str(mount) else ""
    place = FileSystem(folder=folder, mount=mount, free_bytes=1, free_inodes=None, stripes=stripes)
    facts = Facts(libraries=known, filesystem=place, n_hosts_seen=hosts, shared_memory_bytes=1)
    monkeypatch.setattr(preflight, "examine", lambda *_, **__: facts)


def test_a_run_is_told_unasked_only_what_can_spoil_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advise(Facts(libraries=MPICH, shared_memory_bytes=1))  # said by doctor and with -v
    for folder in ("/scratch", "/projects", "/gpfs/projects", "/tmp", "/images"):
        assert told(folder, MPICH, monkeypatch) == ""
    assert told("/home", replace(MPICH, hdf5="1.10.8"), monkeypatch) == ""
    on_nfs = told("/home", replace(MPICH, hdf5="1.10.8"), monkeypatch, hosts=2)
    assert on_nfs.startswith("warning: NFS mixes up")
    assert on_nfs.endswith("(--nodes=1)\n")
    assert told("/tmp", MPICH, monkeypatch, hosts=2).startswith("PROBLEM: /tmp (tmpfs) is on one")


def test_a_known_bad_combination_is_told_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told("/scratch", OPEN_MPI_4, monkeypatch)
    assert said.count("\n") == 2
    assert "OMPI_MCA_io=romio321" in said
    assert told("/scratch", OPEN_MPI_4, monkeypatch, layout="ragged") == said
    assert told("/scratch", OPEN_MPI_4, monkeypatch, compression="none") == said
    # None of these goes through MPI-IO.
    assert told("/scratch", OPEN_MPI_4, monkeypatch, compression="zstd") == ""
    assert told("/scratch", OPEN_MPI_4, monkeypatch, layout="tree") == ""
    assert told("/scratch", replace(OPEN_MPI_4, parallel=False), monkeypatch) == ""
    assert "HDF5_DO_MPI_FILE_SYNC=0" in told("/home", MPICH, monkeypatch)


def test_an_error_of_the_file_system_comes_with_the_advice_that_fits_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder, known, n_lines in (
        ("/scratch", MPICH, 0),  # of one stripe and a small /dev/shm: neither gives such an error
        ("/projects", MPICH, 1),
        ("/projects", OPEN_MPI_4, 2),
        ("/home", MPICH, 2),
        ("/tmp", MPICH, 1),
    ):
        place_here(folder, known, monkeypatch)
        refused = StorageError("out.h5.partial: writing rows: Input/output error")
        refused.agreed = True
        with pytest.raises(StorageError) as caught, advising(Path("out.h5"), SerialComm()):
            raise refused
        assert caught.value.agreed
        first, *more = str(caught.value).splitlines()
        assert first == str(refused)
        assert len(more) == n_lines, more
        assert all(line.startswith("known here: ") for line in more)
    with pytest.raises(OutputError) as other, advising(Path("out.h5"), SerialComm()):
        raise OutputError("out.h5: exists already")
    assert str(other.value) == "out.h5: exists already"


def test_two_mpi_libraries_in_one_process_are_a_problem() -> None:
    both = replace(MPICH, mpi_files=("/a/libmpi.so.40", "/b/libmpich.so.12"))
    (advice,) = advise(Facts(libraries=both))
    assert advice.fatal
    assert "/a/libmpi.so.40 and /b/libmpich.so.12" in advice.problem


def test_what_cannot_be_imported_is_a_problem_if_nothing_works_without_it() -> None:
    broken = Libraries(errors=("hdf5plugin: not installed", "h5py: libhdf5.so.310: no such file"))
    first, second = advise(Facts(libraries=broken))
    assert (first.fatal, second.fatal) == (True, False)
    assert "libhdf5.so.310" in first.problem


def test_little_shared_memory_and_no_inodes_are_named() -> None:
    facts = Facts(libraries=MPICH, shared_memory_bytes=64 * 1024**2)
    assert "64.0 MiB" in advise(facts)[0].problem
    full = FileSystem(folder="/", mount=None, free_bytes=1, free_inodes=0)
    assert not advise(Facts(libraries=MPICH, filesystem=full))  # nothing is known of its kind
    full = replace(full, mount=find(MOUNTINFO, Path("/")))
    assert advise(Facts(libraries=MPICH, filesystem=full))[0].fatal


@pytest.mark.parametrize(
    ("mpi", "family", "version"),
    [
        ("MPICH Version: 4.0.2", "mpich", (4, 0, 2)),
        ("Open MPI v4.1.4, package: Debian OpenMPI", "open mpi", (4, 1, 4)),
        ("Intel(R) MPI Library 2021.11 for Linux* OS", "mpich", (2021, 11)),
        ("MVAPICH2 Version : 2.3.7", "mpich", (2, 3, 7)),
        ("MPI VERSION : CRAY MPICH version 8.1.28.15 (ANL base 3.4a2)", "mpich", (8, 1, 28, 15)),
        ("", "", ()),
    ],
)
def test_the_family_of_an_mpi_is_known(mpi: str, family: str, version: tuple[int, ...]) -> None:
    known = Libraries(mpi=mpi)
    assert (known.mpi_family, known.mpi_version) == (family, version)


def test_the_helpers_of_an_mpi_library_do_not_count() -> None:
    lines = [
        f"7f00-7f01 r-xp 00000000 08:01 42                    /opt/lib/{name}"
        for name in ("libmpi.so.40.30.4", "libmpi_mpifh.so.40", "libmpi_cxx.so.40", "libmpifort.so")
    ]
    assert mpi_files("\n".join(lines)) == ("/opt/lib/libmpi.so.40.30.4",)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    monkeypatch.setenv("SLURM_JOB_TOKEN", "hush")
    monkeypatch.setenv("EDITOR", "ed")
    shown = examine(Path("/tmp/out.h5"), Libraries()).environment
    assert shown["HDF5_USE_FILE_LOCKING"] == "FALSE"
    assert not shown.keys() & {"SLURM_JOB_TOKEN", "EDITOR"}


def test_the_facts_of_this_machine(flavour: Flavour, tmp_path: Path) -> None:
    shown = flavour.forked("doctor", tmp_path / "out.h5")
    assert shown.returncode == 0, explain(shown)
    rows = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if line[:1].islower())
    assert {"mpich": "MPICH", "openmpi": "Open MPI"}[flavour.name] in shown.stdout
    assert shown.stdout.count("MPI library") == 1
    assert rows["h5py"].endswith(", parallel")
    assert {"gzip", "zstd", "blosc2"} <= set(rows["codecs"].split())
    assert re.fullmatch(r"trips +three images by 13 codecs: every pixel came back", rows["round"])
    assert rows["output"] == str(tmp_path)
    assert "PROBLEM" not in shown.stdout  # (pytest's folder may well be in memory: a warning)


def test_under_mpirun_it_is_said_once(flavour: Flavour) -> None:
    shown = flavour.run(2, "doctor")
    assert shown.returncode == 0, explain(shown)
    assert shown.stdout.count("program ") == 1
    assert "ranks" in shown.stdout
    assert "orte" not in shown.stdout


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A manifest of nine images."""
    return write_manifest(tmp_path / "few.txt", write_images(tmp_path, make_pixels(9, (4, 4))))


@MPICH_SOON
def test_a_verbose_run_begins_with_the_facts_once(flavour: Flavour, few: Path) -> None:
    options: list[tuple[str, ...]] = [(), ("-v",), ("-v", "-q"), ("-v", "--progress", "line")]
    command: list[str | Path] = [few, few.with_name("out.h5"), "--overwrite"]
    jobs = [[*command, *more] for more in options]
    *each, done = flavour.run_many(2, jobs, few.with_name("told"))
    for more, one in zip(options, each, strict=False):
        assert one.returncode == 0, explain(one)
        rows = [line.split()[0] for line in one.stderr.splitlines() if line]
        for name in ("program", "ranks", "h5py", "HDF5", "mpi4py", "output", "free"):
            assert rows.count(name) == (more == ("-v",)), explain(one)
    assert done.stderr.index("program ") < done.stderr.index("reading headers: 9 of 9")
    assert "2 on 1 host\n" in done.stderr
    assert "HDF5_USE_FILE_LOCKING" in done.stderr


def test_a_verbose_run_into_no_folder_is_refused_as_ever(mpich: Flavour, few: Path) -> None:
    refused = mpich.forked(few, few.with_name("absent") / "out.h5", "-v")
    assert refused.returncode == 5, explain(refused)
    (line,) = error_lines(refused)
    assert "expected an existing folder" in line


@pytest.mark.parametrize(("n_ranks", "failing"), [(1, 0), (3, 1)])
def test_a_full_memory_disk_is_told_with_what_it_is(
    mpich: Flavour, few: Path, n_ranks: int, failing: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        refused = mpich.run_launched(
            n_ranks, "full", str(failing), "2", few, f"{folder}/out.h5",
            "--chunk", "1", "--batch-bytes", "16",
        )  # fmt: skip
        assert refused.returncode == 5, explain(refused)
        (line,) = error_lines(refused)
        assert "out.h5.partial: writing rows" in line
        assert refused.stderr.count(f"known here: {folder} is in memory") == 1, explain(refused)


def test_the_wheels_have_a_serial_h5py() -> None:
    shown = WHEELS.checked().alone("doctor")
    assert shown.returncode == 0, explain(shown)
    assert ", serial" in shown.stdout
    assert "several ranks work all the same" in shown.stdout


def test_an_h5py_and_an_mpi4py_of_different_mpis_are_found(mpich: Flavour, tmp_path: Path) -> None:
    other = FLAVOURS["openmpi"].checked()
    where = run([other.bin / "python", "-c", "import mpi4py; print(mpi4py.__path__[0])"]).stdout
    shutil.copytree(where.strip(), tmp_path / "mpi4py")
    shown = mpich.alone("doctor", env={"PYTHONPATH": str(tmp_path)})
    assert shown.returncode == 6, explain(shown)
    assert "linked to different MPI libraries" in shown.stdout


def test_a_library_that_crashes_the_process_is_reported(
    mpich: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h5py.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (error,) = import_apart().errors
    assert "signal SIGSEGV" in error
    shown = mpich.alone("doctor", env={"PYTHONPATH": str(tmp_path)})
    assert (shown.returncode, "SIGSEGV" in shown.stdout) == (6, True), explain(shown)


def test_every_codec_is_tried_and_gives_three_images_back() -> None:
    tried = wrong_codecs()
    assert {name.partition(":")[0] for name in tried} == set(available())
    assert {*CANDIDATES} - {*tried} == {"none"}
    assert not any(tried.values())


def test_a_codec_that_returns_other_pixels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(image: NDArray[Any]) -> bytes:
        return bytes(imagecodecs.htj2k_encode(image, reversible=False))

    monkeypatch.setattr(htj2k, "encode", lossy)
    problems = wrong_codecs()["htj2k"]
    assert "RGB of 8 bits: HDF5's filter returns other pixels" in problems
    assert "RGB of 8 bits: h5ingest's decoder returns other pixels" in problems
    known = replace(MPICH, tried={"zstd:3": [], "htj2k": problems})
    (advice,) = advise(Facts(libraries=known))
    assert advice.problem.startswith("the codec htj2k does not give images back: gray of 8 bits")
    assert not advice.fatal
    assert "three images by 2 codecs: 1 of them wrong" in describe(Facts(libraries=known))


def test_a_codec_that_cannot_decode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htj2k, "encode", lambda _: b"no codestream")
    (*_, problem) = wrong_codecs()["htj2k"]
    assert problem.startswith("gray of 16 bits: ")


def test_plugins_that_hdf5_finds_by_itself_do_no_harm(mpich: Flavour, tmp_path: Path) -> None:
    """As one has it who reads the files by h5dump."""
    env = {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    shown = mpich.alone("doctor", env=env)
    assert "by 13 codecs: every pixel came back" in shown.stdout, explain(shown)
    images = write_images(tmp_path, make_pixels(3, (40, 40)))
    out = tmp_path / "out.h5"
    for codec in ("blosc2:zstd:5:bytedelta", "htj2k"):
        command = write_manifest(tmp_path / "m.txt", images), out, "--compression", codec
        done = mpich.alone(*command, "--overwrite", env=env)
        assert done.returncode == 0, explain(done)
        np.testing.assert_array_equal(ImageStore(out)[:][0], make_pixels(3, (40, 40)))


def test_codecs_that_end_the_process_are_told_with_all_else(mpich: Flavour, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Ends:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'h5ingest.diagnostics.codec_trial':\n"
        "            os.kill(os.getpid(), 11)\n"
        "sys.meta_path.insert(0, Ends())\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    shown = mpich.alone("doctor", env={"PYTHONPATH": path})
    assert shown.returncode == 0, explain(shown)
    assert "warning: trying the codecs ended the process: signal SIGSEGV" in shown.stdout
    assert re.search(r"^codecs +gzip .*zstd", shown.stdout, re.MULTILINE)


def test_a_place_that_is_not_there_is_refused(mpich: Flavour, tmp_path: Path) -> None:
    refused = mpich.forked("doctor", tmp_path / "absent" / "out.h5")
    assert refused.returncode == 5, explain(refused)
    assert "expected an existing folder" in refused.stderr


def test_the_examples_are_true() -> None:
    for module in (file_systems, libraries):
        assert doctest.testmod(module).failed == 0


def test_a_mount_is_made_of_its_parts() -> None:
    mount = Mount(point="/", type="fuse.ceph", source="x", options=frozenset())
    assert (mount.kind, mount.name) == ("shared", "CephFS")
    assert examine(None, Libraries()).filesystem is None
