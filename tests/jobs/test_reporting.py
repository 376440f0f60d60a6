"""What is printed never decides how work ends: readers that go away, full disks, closed streams.

Through real pipes and descriptors, with progress as lines, as in a batch job.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import h5py
import pytest
from helpers.support import (
    MPICH_SOON,
    WHEELS,
    Completed,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    run,
    soon,
    write_images,
    write_manifest,
)

PIXELS = make_pixels(24, (6, 5))
LOST = (
    "2>&1 | true", "2>&1 | head -n 1", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1",
    ">&-", "2>&-", "<&- >&- 2>&-",
)  # fmt: skip
""">/dev/full: the disk is full; >&-: the descriptor is closed."""
BOTH_LOST = ("2>&1 | true", ">/dev/full 2>&1", ">&- 2>&-")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reporting")
    names = write_images(folder / "images", PIXELS)
    return write_manifest(folder / "m.txt", [f"images/{name}" for name in names])


@pytest.fixture(scope="module")
def made(manifest: Path) -> Path:
    out = manifest.with_name("made.h5")
    completed = WHEELS.checked().forked(manifest, out)
    assert completed.returncode == 0, explain(completed)
    return out


def shell(*words: str | Path, to: str = "", flavour: Flavour = WHEELS) -> Completed:
    """Run h5ingest in bash with its output led elsewhere; the exit code is that of h5ingest."""
    command = shlex.join(map(str, (flavour.checked().bin / "python", "-m", "h5ingest", *words)))
    return run(["bash", "-c", f'{command} {to}; exit "${{PIPESTATUS[0]}}"'])


def assert_made(out: Path) -> None:
    with h5py.File(out) as file:
        assert (file["images"][:] == PIXELS).all()
        assert file.attrs["status"] == "complete"
    assert not list(out.parent.glob(f"{out.name}.*"))


@pytest.mark.parametrize("to", soon(LOST[::2], LOST))
def test_a_lost_report_is_no_error_of_the_ingest(manifest: Path, to: str, tmp_path: Path) -> None:
    out, report = tmp_path / "out.h5", tmp_path / "report.json"
    completed = shell(manifest, out, "--progress", "line", "--report", report, to=to)
    assert completed.returncode == 0, explain(completed)
    assert "Traceback" not in completed.stderr + completed.stdout
    assert_made(out)
    assert report.exists()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    # Else what a library says on standard error would end up in it.
    listing = tmp_path / "descriptors"
    program = (
        "import os, sys\n"
        "from h5ingest.cli import main\n"
        "def look(arguments):\n"
        f"    open({str(listing)!r}, 'w').write(repr([os.readlink(f'/proc/self/fd/{{n}}')"
        " for n in range(3)]))\n"
        "    return 0\n"
        "main.run = look\n"
        "main.main()\n"
    )
    python = WHEELS.checked().bin / "python"
    run(["bash", "-c", f"{shlex.join([str(python), '-c', program])} <&- >&- 2>&-"])
    assert listing.read_text() == repr([os.devnull] * 3)


def test_a_lost_message_does_not_change_the_exit_code(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "absent" / "out.h5"
    for to in BOTH_LOST:
        assert shell(manifest, out, to=to).returncode == 5, to


@MPICH_SOON
def test_ranks_whose_streams_are_lost_do_their_work(
    flavour: Flavour, manifest: Path, tmp_path: Path
) -> None:
    command = shlex.join([str(flavour.checked().bin / "python"), "-m", "h5ingest"])
    for n, to in enumerate(BOTH_LOST):
        out = tmp_path / f"{n}.h5"
        told = f"{command} {shlex.join([str(manifest), str(out)])} --chunk 2 --progress line {to}"
        completed = flavour.launch(2, "bash", "-c", f'{told}; exit "${{PIPESTATUS[0]}}"')
        assert completed.returncode == 0, explain(completed)
        assert_made(out)


def test_a_rank_that_fails_alone_ends_all_although_nobody_can_be_told(
    flavour: Flavour, manifest: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "import h5ingest.pipeline.load_batch\n"
        "from h5ingest.cli.main import main\n"
        "from h5ingest.mpi.launcher import launcher_rank\n"
        "def fail(image):\n"
        "    raise ZeroDivisionError('arranged by a test')\n"
        "if launcher_rank() == 1:\n"
        "    vars(h5ingest.pipeline.load_batch)['xxh3_64_intdigest'] = fail\n"
        "main()\n"
    )
    command = shlex.join(map(str, [flavour.bin / "python", program, manifest, tmp_path / "o.h5"]))
    completed = flavour.launch(2, "bash", "-c", f"exec {command} --chunk 2 >&- 2>&-", timeout_s=30)
    assert completed.returncode == 1, explain(completed)
    assert not (tmp_path / "o.h5").exists()


def test_a_name_that_cannot_be_printed_is_no_error(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9.h5")
    python = WHEELS.checked().bin / "python"
    for encoding in ("utf-8", "ascii"):
        completed = run(
            [python, "-m", "h5ingest", manifest, out, "--overwrite"],
            env={"PYTHONIOENCODING": encoding},
        )
        assert completed.returncode == 0, explain(completed)
        assert r"caf\udce9.h5" in completed.stdout
    assert_made(out)


def test_the_exit_code_of_verify_says_what_was_found(made: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h5"
    wrong.write_bytes(made.read_bytes())
    with h5py.File(wrong, "r+") as file:
        file["images"][3] = 0
    for to in BOTH_LOST:
        assert shell("verify", made, to=to).returncode == 0, to
        assert shell("verify", wrong, to=to).returncode == 3, to


@pytest.mark.parametrize("verb", ["show", "doctor", "--help"])
def test_a_reader_that_goes_away_has_seen_enough(made: Path, verb: str) -> None:
    words = [verb, made] if verb != "--help" else [verb]
    for to in ("| true", ">&-"):
        completed = shell(*words, to=to)
        assert (completed.returncode, completed.stderr) == (0, ""), explain(completed)


@pytest.mark.parametrize("verb", ["show", "doctor", "--help"])
def test_what_was_to_be_shown_and_found_no_space_is_an_error(made: Path, verb: str) -> None:
    completed = shell(verb, *[made][: verb != "--help"], to=">/dev/full")
    assert completed.returncode == 5, explain(completed)
    expected = "h5ingest: error: standard output cannot be written: No space left on device"
    assert completed.stderr.splitlines() == [expected]


# --- mistyped verbs ----------------------------------------------------------------------------

VERBS = (
    "ingest, manifest, extend, recompress, show, verify, export, croissant, codecs, doctor, bench"
)


MISTYPED = {
    "verfy": "did you mean verify?",
    "Show": "did you mean show?",
    "xyzzy": f"the verbs are {VERBS}",
}


@pytest.fixture(scope="module")
def mistyped(
    mpich: Flavour, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Completed]:
    """What three ranks say to each."""
    done = mpich.run_many(3, [(typed, made) for typed in MISTYPED], tmp_path_factory.mktemp("m"))
    return dict(zip(MISTYPED, done, strict=True))


@pytest.mark.parametrize("typed", MISTYPED)
def test_a_mistyped_verb_is_no_manifest(
    mpich: Flavour, mistyped: dict[str, Completed], tmp_path: Path, typed: str
) -> None:
    neither = f"there is no file or folder {typed!r}, and no such verb"
    expected = f"h5ingest: error: {neither}; {MISTYPED[typed]}"
    seconds: list[tuple[str | Path, ...]] = [(tmp_path / "new.h5",), (), ("/",)]
    alone = [mpich.forked(typed, *second) for second in seconds]
    for completed in (mistyped[typed], *alone):
        assert completed.returncode == 2, explain(completed)
        assert error_lines(completed) == [expected], explain(completed)
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_is_absent_is_said_before_anything_of_the_output(made: Path) -> None:
    before = made.read_bytes()
    for words in (("absent.csv",), ("-q", "absent"), ("ingest", "absent"), ("./absent",)):
        completed = WHEELS.forked(*words, made)
        assert completed.returncode == 4, explain(completed)
        (line,) = error_lines(completed)
        assert line.endswith("absent: cannot be read: No such file or directory") or (
            line == "h5ingest: error: absent.csv: cannot be read: No such file or directory"
        )
    assert made.read_bytes() == before


def test_a_manifest_may_have_any_name(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "verfy").symlink_to(manifest)
    python = WHEELS.checked().bin / "python"
    completed = run(
        [python, "-m", "h5ingest", "verfy", "out.h5", "--root", manifest.parent], cwd=tmp_path
    )
    assert completed.returncode == 0, explain(completed)
    assert_made(tmp_path / "out.h5")
