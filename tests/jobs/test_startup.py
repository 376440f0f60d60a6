"""What a rank costs before its first image: the files that it opens, the modules that it imports.

Hundreds of ranks that start at the same moment on a shared file system pay for each of them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers.support import Flavour, explain, make_pixels, run, write_images, write_manifest

MOST_FILES = {"mpich": 540, "openmpi": 650}
"""Opened by a rank other than 0, by the MPI library too. The kernel's own (/proc, /sys, /dev) do
not count: they are on no shared file system, and their number changes from run to run; nor do
compiled modules that Python writes at their first import."""
HEAVY = {
    "rich", "typer", "click", "imageio", "imagecodecs", "PIL", "matplotlib", "torch", "hdf5plugin",
    "lmdb",
}  # fmt: skip
ROOT_ONLY = {
    "h5ingest.cli.app", "h5ingest.cli.collective_commands", "h5ingest.cli.serial_commands",
    "h5ingest.cli.messages",
    "h5ingest.cli.progress", "h5ingest.storage.rank0_pass", "statistics", "socket", "hashlib",
}  # fmt: skip

ONE_RANK_TRACED = (
    'if [ "${PMI_RANK:-$OMPI_COMM_WORLD_RANK}" = 1 ]; then '
    'exec strace -f -qq -e trace=openat,open -o "$@"; else shift; exec "$@"; fi'
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    names = write_images(folder / "images", make_pixels(8, (6, 5)))
    return write_manifest(folder / "manifest.txt", [f"images/{name}" for name in names])


Modules = list[set[str]]
"""Of each rank."""


def imported_by(flavour: Flavour, manifest: Path, folder: Path, *more: str) -> Modules:
    done = flavour.run_launched(2, "modules", folder, manifest, folder / "out.h5", *more)
    assert done.returncode == 0, explain(done)
    return [set((folder / rank).read_text().split()) for rank in "01"]


@pytest.fixture(scope="module")
def modules(manifest: Path, flavour: Flavour, tmp_path_factory: pytest.TempPathFactory) -> Modules:
    return imported_by(
        flavour, manifest, tmp_path_factory.mktemp("modules"), "--chunk", "2", "--quiet"
    )


def assert_only_what_it_needs(imported: set[str]) -> None:
    assert "kornia_rs" in imported, "this rank has decoded an image"
    assert not {name.partition(".")[0] for name in imported} & HEAVY
    assert not imported & ROOT_ONLY


def test_a_rank_imports_only_what_it_needs(modules: Modules) -> None:
    assert_only_what_it_needs(modules[1])


@pytest.mark.parametrize(
    "more", [("--layout", "ragged"), ("--chunk", "2", "--compression", "gzip:1")]
)
def test_a_rank_imports_only_what_it_needs_for_other_files(
    manifest: Path, tmp_path: Path, mpich: Flavour, more: tuple[str, ...]
) -> None:
    assert_only_what_it_needs(imported_by(mpich, manifest, tmp_path, *more)[1])


def test_numpy_starts_no_threads() -> None:
    """It starts one for each further core, so on one core this proves nothing."""
    program = (
        "import os, sys; from h5ingest.cli.main import run; run(['--version']); "
        "print('numpy' in sys.modules, len(os.listdir('/proc/self/task')))"
    )
    done = run(["env", "-u", "OPENBLAS_NUM_THREADS", sys.executable, "-c", program])
    assert done.stdout.split()[-2:] == ["True", "1"], explain(done)


def test_rank_0_imports_no_library_for_pictures(modules: Modules) -> None:
    assert not modules[0] & {"h5ingest.cli.bench_commands", "h5ingest.cli.serial_commands"}
    imported = {name.partition(".")[0] for name in modules[0]}
    assert "typer" in imported, "this rank has read the arguments"
    assert not imported & {"imageio", "PIL", "matplotlib", "torch", "hdf5plugin", "lmdb"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_rank_opens_few_files(manifest: Path, tmp_path: Path, flavour: Flavour) -> None:
    trace = tmp_path / "trace"
    done = flavour.launch(
        2, "sh", "-c", ONE_RANK_TRACED, "sh", trace,
        flavour.bin / "h5ingest", manifest, tmp_path / "out.h5", "--chunk", "2",
    )  # fmt: skip
    assert done.returncode == 0, explain(done)
    opened = re.findall(r'open(?:at)?\([^"]*"([^"]*)".* = \d+$', trace.read_text(), re.MULTILINE)
    opened = [name for name in opened if not re.match(r"/(proc|sys|dev)/|.*\.pyc\.\d+$", name)]
    of_images = [
        name for name in opened if name.startswith((f"{manifest.parent}/images/", "images/"))
    ]
    assert of_images, "the trace shows the work of a rank"
    assert len(opened) - len(of_images) <= MOST_FILES[flavour.name], "\n".join(opened)
