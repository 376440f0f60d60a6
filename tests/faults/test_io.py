"""Full, failing, slow and read-only file systems: a clear end, and no row is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.faults import (
    ALL_FLAVOURS,
    FAULTS,
    LAYOUTS,
    SMALL,
    Fault,
    Images,
    Runner,
    differences,
    faulty,
    n_done,
    serving,
)
from helpers.support import (
    Completed,
    Flavour,
    checkered,
    error_lines,
    explain,
    make_pixels,
    need_direct_io,
    need_space_to_be_taken,
    run,
    soon,
    write_images,
)

from h5ingest.cli.option_values import parse_size

JOBS = [
    ("mpich", "stack", 1), ("mpich", "stack", 3), ("mpich", "stack zstd", 1),
    ("mpich", "stack zstd", 3), ("mpich", "tree", 2), ("openmpi", "stack", 3),
    ("openmpi", "stack zstd", 3), ("wheels", "stack", 1), ("wheels", "stack", 3),
    ("mpich", "stack direct", 1), ("openmpi", "ragged direct", 3),
]  # fmt: skip
"""Every writer, alone and on several ranks."""
JOB = ("which", "layout", "n_ranks")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Runner]]:
    """One for each version of HDF5: only the same one can go on with a job."""
    images = Images.write(tmp_path_factory.mktemp("sources"))
    with serving(ALL_FLAVOURS["mpich"]) as old, serving(ALL_FLAVOURS["wheels"]) as new:
        made = {
            server.flavour.name: Runner(
                server=server, images=images, folder=tmp_path_factory.mktemp("made")
            )
            for server in (old, new)
        }
        yield {**made, "openmpi": made["mpich"]}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output on an ordinary disk, with nothing else in its folder."""
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "out.h5"


@dataclass(frozen=True, slots=True)
class Disk:
    """A small file system."""

    folder: Path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True, timeout=30)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "h5ingest-test", folder],
        capture_output=True, timeout=30, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=30)


def start(
    runners: dict[str, Runner], which: str, layout: str, n_ranks: int, out: Path,
    faults: Sequence[Fault] = (), *more: str, env: dict[str, str] | None = None,
) -> Completed:  # fmt: skip
    """Start a job, by mpirun if it has several ranks."""
    if layout.endswith("direct"):
        need_direct_io(out.parent)
    flavour, images = ALL_FLAVOURS[which].checked(), runners[which].images
    job: list[str | Path] = [images.manifest(layout), out, *SMALL, *LAYOUTS[layout], *more]
    if n_ranks == 1 and env is None:
        return runners[which].server.run(job, faults, out.parent.with_name("log"), 60)
    launcher = [*flavour.mpirun, "-n", str(n_ranks)] if n_ranks > 1 else []
    return run(
        [*launcher, flavour.bin / "python", FAULTS, "run", json.dumps(faults), *job], env=env
    )


def assert_ended_well(completed: Completed, out: Path, *said: str) -> None:
    """The job has ended by itself, has said why, and has left what it had."""
    assert completed.returncode == 5, explain(completed)
    assert error_lines(completed), explain(completed)
    for text in said:
        assert text in completed.stderr, explain(completed)
    for crash in ("Traceback", "Segmentation", "signal 11", "Exception ignored"):
        assert crash not in completed.stderr, explain(completed)
    assert not out.exists()
    assert out.with_name(out.name + ".partial").exists()
    assert out.with_name(out.name + ".journal").exists()


def assert_goes_on(runner: Runner, layout: str, out: Path) -> None:
    """The next run, on one rank, uses what there is, and makes what one run makes."""
    n_known = n_done(out)
    completed = runner.run(layout, out)
    runner.check(layout, out, completed, resumed=n_known > 0)


@pytest.mark.parametrize(JOB, soon(JOBS[1::2], JOBS))
def test_a_disk_that_gets_full_ends_the_job_and_with_space_it_goes_on(
    runners: dict[str, Runner], disk: Disk, which: str, layout: str, n_ranks: int
) -> None:
    out, filler = disk.folder / "out.h5", disk.folder / "filler"
    # Again and again: what somebody frees in between would make room.
    faults: list[Fault] = [
        {"act": f"fill:{filler}", "site": "decode", "rank": n_ranks - 1, "call": call}
        for call in range(9, 60)
    ]
    completed = start(runners, which, layout, n_ranks, out, faults)
    assert_ended_well(completed, out, "are free in", "What is stored is kept", str(disk.folder))
    filler.unlink()
    assert_goes_on(runners[which], layout, out)


@pytest.mark.parametrize(
    (*JOB, "site"), checkered([JOBS[1], JOBS[3]], ["create", "finish", "table"])
)
def test_a_disk_that_gets_full_at_the_beginning_or_the_end(
    runners: dict[str, Runner], disk: Disk, which: str, layout: str, n_ranks: int, site: str
) -> None:
    out, filler = disk.folder / "out.h5", disk.folder / "filler"
    fault: Fault = {"act": f"fill:{filler}", "site": site, "call": 0}
    completed = start(runners, which, layout, n_ranks, out, [fault])
    assert_ended_well(completed, out, "are free in", str(disk.folder))
    filler.unlink()
    assert_goes_on(runners[which], layout, out)


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_a_disk_that_gets_full_while_images_are_recoded(
    runners: dict[str, Runner], disk: Disk, n_ranks: int
) -> None:
    out, filler = disk.folder / "out.h5", disk.folder / "filler"
    first = 5 if n_ranks == 1 else 1  # little is written on each of several ranks
    faults: list[Fault] = [
        {"act": f"fill:{filler}", "site": "spool", "rank": n_ranks - 1, "call": call}
        for call in range(first, 60)
    ]
    completed = start(runners, "mpich", "encoded jxl", n_ranks, out, faults)
    assert completed.returncode == 5, explain(completed)
    for text in (".recoded/", "No space left", "are free in", str(disk.folder)):
        assert text in completed.stderr, explain(completed)
    assert "Traceback" not in completed.stderr, explain(completed)
    spools = list(disk.folder.glob("out.h5.recoded/*"))
    assert spools, "what was recoded is kept"
    filler.unlink()
    runner = runners["mpich"]
    runner.check("encoded jxl", out, runner.run("encoded jxl", out), resumed=False)


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_too_little_space_is_noticed_before_anything_is_written(
    mpich: Flavour, disk: Disk, n_ranks: int, tmp_path: Path
) -> None:
    def start() -> Completed:
        words = (manifest, disk.folder / "out.h5")
        return mpich.forked(*words) if n_ranks == 1 else mpich.run(n_ranks, *words)

    names = write_images(tmp_path / "large", make_pixels(20, (256, 256)))
    manifest = tmp_path / "manifest.txt"
    manifest.write_text("".join(f"large/{name}\n" for name in names))
    completed = start()
    assert completed.returncode == 5, explain(completed)
    (line,) = error_lines(completed)
    needed, free = re.findall(r": (\S+ \S+) are needed, (\S+ \S+) are free", line)[0]
    assert parse_size(needed) >= 20 * 256 * 256
    assert parse_size(free) <= 2**20
    assert "store:" not in completed.stderr
    disk.remount("size=8m")
    completed = start()
    assert completed.returncode == 0, explain(completed)


def test_how_much_is_needed_and_how_much_is_free_is_said_when_a_disk_gets_full(
    mpich: Flavour, disk: Disk, tmp_path: Path
) -> None:
    pixels = make_pixels(20, (256, 256))
    write_images(tmp_path / "large", pixels)
    (tmp_path / "manifest.txt").write_text(
        "".join(f"large/{row:04}.png\n" for row in range(len(pixels)))
    )
    disk.remount("size=8m")
    fault = {"act": f"fill:{disk.folder / 'filler'}", "site": "decode", "call": 7}
    out = disk.folder / "out.h5"
    completed = mpich.launch(
        2, mpich.bin / "python", FAULTS, "run", json.dumps([fault]), tmp_path / "manifest.txt", out,
        "--batch-bytes", "65536", "--chunk", "1",
    )  # fmt: skip
    assert_ended_well(completed, out)
    said = re.search(r"(\S+ \S+) are free in \S+, (\S+ \S+) more are needed", completed.stderr)
    assert said, explain(completed)
    free, needed = map(parse_size, said.groups())
    assert free < 2**16
    assert 2**16 < needed < pixels.nbytes + 2**20


def test_a_file_system_that_becomes_larger_is_enough(
    runners: dict[str, Runner], disk: Disk
) -> None:
    out = disk.folder / "out.h5"
    disk.remount("size=28k")
    completed = start(runners, "mpich", "ragged gzip", 2, out)
    assert_ended_well(completed, out, "are free in")
    disk.remount("size=4m")
    assert_goes_on(runners["mpich"], "ragged gzip", out)


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_a_read_only_file_system_is_refused_before_any_work(
    runners: dict[str, Runner], disk: Disk, n_ranks: int
) -> None:
    disk.remount("ro")
    out = disk.folder / "out.h5"
    completed = start(runners, "mpich", "stack", n_ranks, out)
    assert completed.returncode == 5, explain(completed)
    (line,) = error_lines(completed)
    assert f"no permission to create files in {disk.folder}" in line
    disk.remount("rw")
    assert list(disk.folder.iterdir()) == []


def test_a_file_system_that_becomes_read_only_ends_the_job(
    runners: dict[str, Runner], disk: Disk
) -> None:
    out = disk.folder / "out.h5"
    fault: Fault = {"act": f"sh:mount -o remount,ro {disk.folder}", "site": "begin"}
    completed = start(runners, "mpich", "stack", 3, out, [fault])
    assert completed.returncode == 5, explain(completed)
    assert "Read-only file system" in completed.stderr
    disk.remount("rw")
    assert_goes_on(runners["mpich"], "stack", out)


@pytest.mark.parametrize(JOB, soon(JOBS[::2], JOBS))
def test_an_input_output_error_ends_the_job_and_it_can_go_on(
    runners: dict[str, Runner], preload: Path, which: str, layout: str, n_ranks: int, out: Path
) -> None:
    env = faulty(preload, match="out.h5.partial", write=errno.EIO, after=40 // n_ranks)
    completed = start(runners, which, layout, n_ranks, out, env=env)
    assert_ended_well(completed, out, str(out))
    assert_goes_on(runners[which], layout, out)


def test_a_file_whose_space_cannot_be_taken_leaves_nothing_of_it_behind(
    runners: dict[str, Runner], preload: Path, out: Path
) -> None:
    need_space_to_be_taken(out.parent)
    unable = faulty(preload, match="out.h5.partial", space=errno.EOPNOTSUPP)
    assert start(runners, "mpich", "stack", 2, out, env=unable).returncode == 0
    out.unlink()
    full = faulty(preload, match="out.h5.partial", space=errno.EDQUOT)
    assert_ended_well(start(runners, "mpich", "stack", 2, out, env=full), out, "quota")
    assert out.with_name("out.h5.partial").stat().st_blocks == 0
    assert_goes_on(runners["mpich"], "stack", out)


@pytest.mark.parametrize(
    (*JOB, "name"),
    checkered([JOBS[0], JOBS[3], JOBS[5]], ["out.h5.partial", "out.h5.journal"]),
)
def test_what_cannot_be_brought_to_the_disk_is_not_taken_for_safe(
    runners: dict[str, Runner],
    preload: Path,
    which: str,
    layout: str,
    n_ranks: int,
    name: str,
    out: Path,
) -> None:
    env = faulty(preload, match=name, sync=errno.EIO)
    completed = start(runners, which, layout, n_ranks, out, env=env)
    assert completed.returncode == 5, explain(completed)
    assert "Input/output error" in completed.stderr
    if name == "out.h5.partial":
        assert n_done(out) == 0
    assert_goes_on(runners[which], layout, out)


def test_a_quota_is_named(runners: dict[str, Runner], preload: Path, out: Path) -> None:
    env = faulty(preload, match="out.h5.partial", write=errno.EDQUOT, after=20)
    completed = start(runners, "mpich", "stack zstd", 2, out, env=env)
    assert_ended_well(completed, out, "Disk quota exceeded", "are free in")
    assert_goes_on(runners["mpich"], "stack zstd", out)


@pytest.mark.parametrize("name", ["out.h5.journal", "out.h5.lock"])
def test_a_file_beside_the_output_that_cannot_be_written_is_named(
    runners: dict[str, Runner], preload: Path, name: str, out: Path
) -> None:
    env = faulty(preload, match=name, write=errno.ENOSPC)
    completed = start(runners, "mpich", "stack", 2, out, env=env)
    assert completed.returncode == 5, explain(completed)
    assert name in completed.stderr
    assert "No space left on device" in completed.stderr
    assert_goes_on(runners["mpich"], "stack", out)


def test_files_that_open_slowly_only_cost_time(
    runners: dict[str, Runner], preload: Path, out: Path
) -> None:
    env = faulty(preload, match="equal/0", open_us=50_000)
    started_s = time.monotonic()
    completed = start(runners, "mpich", "stack", 3, out, (), "--cache-bytes", "0", env=env)
    assert completed.returncode == 0, explain(completed)
    assert time.monotonic() - started_s > 20 * 0.05
    assert differences(runners["mpich"].one_shot("stack"), out) == []


AS_NOBODY = """
import os, sys
from h5ingest.cli.main import run
manifest, other, out = sys.argv[1:]
run([manifest, other])  # whatever is to be imported can be read now
os.setgid(65534)
os.setuid(65534)
sys.exit(run([manifest, out]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_without_permission_is_refused(runners: dict[str, Runner], mpich: Flavour) -> None:
    # Root may write everywhere, so as somebody else: to whom pytest's own folders are closed.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(runners["mpich"].images.folder, folder / "sources")
        (folder / "made").mkdir(mode=0o555)
        for closed in (folder, folder / "sources"):
            closed.chmod(0o755)
        manifest, out = folder / "sources" / "equal.csv", folder / "made" / "out.h5"
        completed = run([mpich.bin / "python", "-c", AS_NOBODY, manifest, folder / "first.h5", out])
        assert completed.returncode == 5, explain(completed)
        assert f"no permission to create files in {out.parent}" in completed.stderr
        assert list(out.parent.iterdir()) == []
