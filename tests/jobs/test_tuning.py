"""What tunes a file to its disk: stripes, alignment, hints. None of it changes what is stored."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import pytest
from helpers.support import (
    FLAVOURS,
    MPICH_SOON,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    write_images,
    write_manifest,
)

from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.mpi.comm import SerialComm
from h5ingest.storage import lustre_stripes
from h5ingest.storage.file_systems import FileSystem, Mount
from h5ingest.storage.lustre_stripes import Stripes, advised_count, choose, create_empty

GB = 10**9
MOMENT = {"SOURCE_DATE_EPOCH": "1700000000"}
CREATE = """
import sys
from pathlib import Path
from h5ingest.mpi.world import world
comm = world()
path = Path(sys.argv[1])
comm.create(path, {"cb_buffer_size": "7654321", "striping_factor": "8"})
try:
    comm.create(path, {})
except OSError:
    print("refused the second time")
"""


def lustre(told: str = "stripe_count: 1 stripe_size: 1048576") -> FileSystem:
    """A folder on Lustre, of which `lfs getstripe -d` says this."""
    mount = Mount(point="/scratch", type="lustre", source="10.0.0.1@tcp:/fs", options=frozenset())
    return FileSystem(folder="/scratch", mount=mount, free_bytes=1, free_inodes=None, stripes=told)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    names = write_images(folder / "images", make_pixels(24, (50, 60, 3)))
    return write_manifest(folder / "manifest.txt", [f"images/{name}" for name in names])


@pytest.fixture
def lfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command in place of Lustre's: creates the file and says what it was asked."""
    command = tmp_path / "bin" / "lfs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\numask 077\necho "$@" >{tmp_path}/asked\n: >"$6"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(lustre_stripes, "look", lambda _: lustre())
    return command


# --- stripes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_bytes", "count"),
    [
        (0, 1), (GB - 1, 1), (GB, 8), (10 * GB - 1, 8), (10 * GB, 24), (100 * GB - 1, 24),
        (100 * GB, 72), (10**15, 72),
    ],
)  # fmt: skip
def test_the_size_of_a_file_says_over_how_many_targets_it_is_spread(
    n_bytes: int, count: int
) -> None:
    assert advised_count(n_bytes) == count


def test_stripes_are_chosen_by_size_unless_somebody_has_chosen() -> None:
    assert choose(lustre(), 20 * GB, None, None) == Stripes(24, 4 * MIB)
    assert choose(lustre(), GB // 2, None, None) is None
    assert choose(lustre("unknown: no lfs command here"), GB, None, None) == Stripes(8, 4 * MIB)
    assert choose(lustre("stripe_count: 16"), 20 * GB, None, None) is None
    assert choose(lustre("stripe_count: -1"), 20 * GB, None, None) is None
    assert choose(lustre("lcm_layout_gen: 0 stripe_count: 1"), 20 * GB, None, None) is None
    assert choose(lustre("stripe_count: 16"), 20 * GB, 5, None) == Stripes(5, 4 * MIB)
    assert choose(lustre("stripe_count: 16"), 20 * GB, None, MIB) == Stripes(24, MIB)
    assert choose(lustre(), 20 * GB, 0, None) is None


def test_stripes_are_for_lustre() -> None:
    place = lustre()
    assert place.mount is not None
    local = Mount(point="/", type="ext4", source="/dev/sda", options=frozenset())
    for mount in (local, None):
        where = FileSystem(folder="/", mount=mount, free_bytes=1, free_inodes=None)
        assert choose(where, 20 * GB, 8, MIB) is None


def test_a_file_is_created_with_its_stripes(tmp_path: Path, lfs: Path) -> None:
    path = tmp_path / "out.h5.partial"
    mask = os.umask(0o027)
    try:
        assert create_empty(path, SerialComm(), 20 * GB, None, None) == ""
    finally:
        os.umask(mask)
    asked = (tmp_path / "asked").read_text()
    assert re.fullmatch(rf"setstripe -c 24 -S 4194304 {path}\.[0-9a-f]{{16}}\n", asked)
    assert path.stat().st_size == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["asked", "bin", path.name]


def test_no_file_is_replaced_by_an_empty_one_with_stripes(tmp_path: Path, lfs: Path) -> None:
    path = tmp_path / "out.h5.partial"
    path.write_text("somebody's")
    with pytest.raises(OutputError, match="cannot be created"):
        create_empty(path, SerialComm(), 20 * GB, None, None)
    assert path.read_text() == "somebody's"


def test_where_lustre_refuses_the_file_is_made_all_the_same(tmp_path: Path, lfs: Path) -> None:
    lfs.write_text("#!/bin/sh\necho 'no space on enough OSTs' >&2\nexit 28\n")
    path = tmp_path / "out.h5.partial"
    notice = create_empty(path, SerialComm(), 20 * GB, None, None)
    assert "no space on enough OSTs" in notice
    assert "stripes that its folder has" in notice
    assert path.stat().st_size == 0


def test_stripes_that_cannot_be_are_said(manifest: Path, tmp_path: Path) -> None:
    flavour = FLAVOURS["mpich"].checked()
    done = flavour.forked(
        manifest, tmp_path / "out.h5", "--stripe-count", "8", "--hint", "cb_nodes=2"
    )
    assert done.returncode == 0, explain(done)
    assert "--stripe-count and --stripe-size do nothing here" in done.stderr
    assert "--hint does nothing here" in done.stderr


# --- hints -------------------------------------------------------------------------------------


def test_hints_reach_mpi(manifest: Path, tmp_path: Path) -> None:
    flavour = FLAVOURS["mpich"].checked()
    done = flavour.run(
        2, manifest, tmp_path / "out.h5", "--hint", "cb_buffer_size=1234567", "--stripe-size",
        "128KiB", env={"ROMIO_PRINT_HINTS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, explain(done)
    used = dict(re.findall(r"key = (\S+)\s+value = (\S+)", done.stdout))
    assert used["cb_buffer_size"] == "1234567"
    assert used["striping_unit"] == str(128 * 1024)


def test_without_options_no_hint_is_given(manifest: Path, tmp_path: Path) -> None:
    flavour = FLAVOURS["mpich"].checked()
    done = flavour.run(2, manifest, tmp_path / "out.h5", env={"ROMIO_PRINT_HINTS": "1"})
    used = dict(re.findall(r"key = (\S+)\s+value = (\S+)", done.stdout))
    assert used["cb_buffer_size"] == str(16 * MIB)
    assert "striping_unit" not in used


def test_open_mpi_takes_hints_too(manifest: Path, tmp_path: Path) -> None:
    done = (
        FLAVOURS["openmpi"]
        .checked()
        .run(
            2,
            manifest,
            tmp_path / "out.h5",
            "--hint",
            "cb_buffer_size=1234567",
            "--stripe-count",
            "4",
        )
    )
    assert done.returncode == 0, explain(done)


def test_mpi_creates_an_empty_file_with_hints_and_replaces_none(
    flavour: Flavour, tmp_path: Path
) -> None:
    path = tmp_path / "new"
    done = flavour.launch(
        1, flavour.bin / "python", "-c", CREATE, path, env={"ROMIO_PRINT_HINTS": "1"}
    )
    assert done.returncode == 0, explain(done)
    assert "refused the second time" in done.stdout
    assert path.stat().st_size == 0
    if flavour.name == "mpich":
        assert "7654321" in done.stdout


# --- alignment ---------------------------------------------------------------------------------


HOW = {"chunk": "5", "layout encoded": "encoded", "layout ragged": "ragged"}
"""Option (its first word) -> its value."""


@pytest.fixture(scope="module")
def aligned(
    manifest: Path, flavour: Flavour, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    """For each of `HOW` what 1, 2 and 3 ranks make with --alignment, and 2 without."""
    folder = tmp_path_factory.mktemp("aligned")
    made: dict[str, list[Path]] = {how: [] for how in HOW}
    plain = {how: folder / f"{how}-plain.h5" for how in HOW}
    for n_ranks in (1, 2, 3):
        jobs: list[tuple[str | Path, ...]] = []
        for how, value in HOW.items():
            option = f"--{how.split()[0]}"
            out = folder / f"{how}.h5"  # always the same: the command is in the file
            jobs.append((manifest, out, option, value, "--alignment", "64KiB"))
            if n_ranks == 2:
                jobs.append((manifest, plain[how], option, value))
        for done in flavour.run_many(n_ranks, jobs, folder / "told", env=MOMENT):
            assert done.returncode == 0, explain(done)
        for how, files in made.items():
            out = folder / f"{how}.h5"
            files.append(out.rename(folder / f"{how}-{len(files)}.h5"))
    return {how: [*files, plain[how]] for how, files in made.items()}


@MPICH_SOON
@pytest.mark.parametrize("how", HOW)
def test_what_is_as_large_as_the_alignment_begins_at_a_multiple_of_it(
    aligned: dict[str, list[Path]], how: str
) -> None:
    *made, plain = aligned[how]
    for out in made:
        with h5py.File(out) as file:
            images = file["images"]
            pixels = images if how == "chunk" else images.get("pixels", images.get("data"))
            offset = pixels.id.get_offset()
            if pixels.chunks:
                offset = pixels.id.get_chunk_info(0).byte_offset
            assert offset % (64 * 1024) == 0
            assert offset > 0
            assert file["status"].id.get_offset() % 1024, "small ones are not spread"
    assert len({out.read_bytes() for out in made}) == 1
    digests = set()
    for out in (*made, plain):
        with h5py.File(out) as file:
            digests.add(file.attrs["content_digest"])
    assert len(digests) == 1


def test_an_unfinished_job_goes_on_with_its_own_alignment_only(
    manifest: Path, tmp_path: Path
) -> None:
    flavour = FLAVOURS["mpich"].checked()
    out = tmp_path / "out.h5"
    killed = flavour.run_launched(
        2, "kill", "1", "3", manifest, out, "--chunk", "4", "--alignment", "64KiB"
    )
    assert killed.returncode != 0
    other = flavour.forked(manifest, out, "--chunk", "4")
    assert other.returncode == OutputError.exit_code, explain(other)
    assert "alignment: 65536 then, 0 now" in other.stderr
    assert len(error_lines(other)) == 1
    done = flavour.forked(
        manifest, out, "--chunk", "4", "--alignment", "65536", "--stripe-count", "4",
        "--hint", "cb_nodes=1",
    )  # fmt: skip
    assert done.returncode == 0, explain(done)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"stripe_count": -1}, "--stripe-count: expected a number of storage targets"),
        ({"stripe_size": 100_000}, "--stripe-size: expected a multiple of 64KiB"),
        ({"stripe_size": 0}, "--stripe-size: expected a multiple of 64KiB"),
        ({"stripe_size": 4 * 1024**3}, "below 4GiB"),
        ({"stripe_size": MIB, "stripe_count": 0}, "--stripe-count 0 leaves the stripes"),
        ({"alignment": -1}, "--alignment: expected 0 to 1GiB"),
        ({"alignment": 2 * 1024**3}, "--alignment: expected 0 to 1GiB"),
        ({"hints": (("", "1"),)}, "--hint: expected KEY=VALUE"),
        ({"hints": (("a b", "1"),)}, "--hint: expected KEY=VALUE"),
        ({"hints": (("a", "é"),)}, "--hint: expected KEY=VALUE"),
        ({"hints": (("a", "1"), ("a", "2"))}, "--hint: expected each key once"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        IngestOptions(**wrong)  # type: ignore[arg-type]


def test_a_hint_without_a_value_is_refused(manifest: Path, tmp_path: Path) -> None:
    done = FLAVOURS["mpich"].checked().forked(manifest, tmp_path / "out.h5", "--hint", "cb_nodes")
    assert done.returncode == UsageError.exit_code
    assert "expected KEY=VALUE, got 'cb_nodes'" in done.stderr
