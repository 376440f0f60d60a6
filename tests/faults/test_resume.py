"""Killed at any moment, on any rank, any number of times: the next run goes on and loses nothing.

Kills are SIGKILL at a chosen call of a chosen function (`launched_faults.SITES`), or at a moment. A
run on one rank without a launcher comes from a server that forks, so that many kills cost little.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
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
    n_done,
    say,
    serving,
)
from helpers.support import (
    WHEELS,
    Completed,
    checkered,
    damage,
    error_lines,
    explain,
    read_file,
    soon,
    write_manifest,
    write_png,
)
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.storage import journal
from h5ingest.storage.journal_records import Done

ANYWHERE = {
    "probe": (("before", "after"), 14),
    "decode": (("before", "after"), 14),
    "write": (("before", "after"), 8),
    "book": (("before", "after"), 4),
    "mark": (("before", "after"), 4),
    "sync": (("before", "after"), 3),
    "checkpoint": (("before", "after"), 3),
    "finish": (("before", "after"), 1),
}
"""Site -> (when, calls that there are at least): on any rank."""
ON_ROOT = {
    "lock": (("after",), 1),
    "begin": (("before", "after"), 1),
    "reserve": (("before", "after"), 1),
    "create": (("before", "after"), 1),
    "metadata": (("before", "after", "torn"), 6),
    "replay": (("before", "after"), 1),
    "journal": (("before", "after", "torn"), 4),
    "close": (("before", "after"), 1),
    "join": (("before", "after"), 1),
    "final": (("before", "after"), 1),
    "digest": (("before", "after"), 2),
    "table": (("before", "after"), 4),
    "publish": (("before", "after"), 1),
    "rename": (("before", "after"), 2),
    "discard": (("before", "after"), 1),
    "release": (("before",), 1),
}
"""The same, on rank 0 only."""
PLACED = {"place": (("before", "after"), 12), "raw": (("before", "after", "torn"), 4)}
DIRECT = {"direct": (("before", "after"), 6)}
RECODED = {"spool": (("before", "after", "torn"), 14), "recoded": (("before", "after"), 1)}
TREE = {"images": (("before", "after"), 1)}
PUBLISHED = ("rename", "publish", "discard", "release")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images.write(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session", params=list(ALL_FLAVOURS))
def runner(
    request: pytest.FixtureRequest, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    with serving(ALL_FLAVOURS[request.param]) as server:
        folder = tmp_path_factory.mktemp(request.param)
        yield Runner(server=server, images=images, folder=folder)


@pytest.fixture(scope="session")
def alone(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Where one flavour is enough."""
    with serving(ALL_FLAVOURS["mpich"]) as server:
        yield Runner(server=server, images=images, folder=tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="session")
def newer(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One with another version of HDF5."""
    with serving(WHEELS) as server:
        yield Runner(server=server, images=images, folder=tmp_path_factory.mktemp("newer"))


PHASES = {
    "in the probe": ("probe", "spool", "recoded"),
    "at the beginning": ("lock", "begin", "reserve", "create", "metadata", "images", "replay"),
    "while images are stored": ("decode", "write", "place", "raw", "direct", "book", "mark"),
    "in a checkpoint": ("sync", "checkpoint", "journal", "finish"),
    "in the final pass": ("close", "join", "final", "digest", "table"),
    "when the file gets its name": PUBLISHED,
}
"""What the sites of kills have in common, for the table."""


def mpi_of(flavour: str, n_ranks: int) -> str:
    return "one process" if n_ranks == 1 else "Open MPI" if flavour == "openmpi" else "MPICH"


@dataclass(slots=True)
class Tally:
    """What has been tried."""

    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(what was killed when, MPI) -> kills."""
    n_survived: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = ["| killed | MPI | tries | survived | lost rows |", "|--|--|--|--|--|"]
        for (kind, mpi), tries in sorted(self.tries.items()):
            n_survived = self.n_survived[kind, mpi]
            lost = "0" if n_survived == tries else "see below"
            lines.append(f"| {kind} | {mpi} | {tries:,} | {n_survived:,} | {lost} |")
        total, n_survived = self.tries.total(), self.n_survived.total()
        return "\n".join([*lines, f"| **all** | | {total:,} | {n_survived:,} | |"])


def draw(
    dice: random.Random, layout: str, flavour: str, n_ranks: int, *, last: bool
) -> tuple[str, Fault]:
    """Return a kill at a random place, and its name; the last may be after the rename."""
    act = dice.choice(("kill", "kill-all")) if n_ranks > 1 else "kill"
    if dice.random() < 0.1:
        after_s = dice.uniform(0.0, 0.08 if n_ranks == 1 else 0.4)
        fault = {"act": act, "after_s": after_s, "rank": dice.randrange(n_ranks)}
        return "at a random moment", fault
    filtered = "--compression" in LAYOUTS[layout]
    sites: dict[str, Any] = dict(ON_ROOT)
    if filtered:
        sites["place"] = PLACED["place"]
    direct = layout.endswith("direct")
    if (
        filtered
        or layout.startswith("tree")
        or (flavour == "wheels" and n_ranks > 1 and not direct)
    ):
        sites["raw"] = PLACED["raw"]
    if layout.startswith("tree"):
        sites |= TREE
    anywhere: dict[str, Any] = dict(ANYWHERE)
    if layout.startswith("tree"):
        del anywhere["write"]
    if layout.endswith("jxl"):
        anywhere |= RECODED
    if direct:
        anywhere |= DIRECT
        del sites["replay"]  # of what an earlier run left only
    site = dice.choice([s for s in [*sites, *anywhere] if last or s not in PUBLISHED])
    whens, n_calls = (sites | anywhere)[site]
    rank = dice.randrange(n_ranks) if site in anywhere else 0
    fault = {
        "act": act, "site": site, "rank": rank,
        "when": dice.choice(whens), "call": dice.randint(1, max(1, n_calls // n_ranks)),
    }  # fmt: skip
    return next(phase for phase, sites in PHASES.items() if site in sites), fault


def varied(story: list[str]) -> tuple[str, ...]:
    """Return how the next run shows its progress, and whether it keeps files: each in its own way,
    for a run may have nothing left to do, or may not have read all headers."""
    shown = "--progress", ("line", "bar", "off", "auto")[len(story) % 4]
    return *shown, "--cache-bytes", ("0", "0", "auto")[len(story) % 3]


def chain(runner: Runner, layout: str, folder: Path, dice: random.Random, tally: Tally) -> None:
    """Kill a job several times, on other numbers of ranks each time, then let it end."""
    folder.mkdir()
    out = folder / "out.h5"
    story: list[str] = []
    try:
        plan = [dice.choice((2, 4)), 1, 1, 1]
        dice.shuffle(plan)
        struck: list[tuple[str, str]] = []
        last: Completed | None = None
        for number, n_ranks in enumerate(plan, 1):
            last_one = number == len(plan)
            kind, fault = draw(dice, layout, runner.flavour.name, n_ranks, last=last_one)
            last = runner.run(layout, out, n_ranks, [fault], *varied(story))
            story.append(f"{n_ranks} ranks, {fault}: {last.returncode}, {n_done(out)} done")
            if last.returncode == 0:  # it was not struck: the job was faster, or had nothing to do
                break
            assert last.returncode in (-9, 9, 137, 255), explain(last)
            who = "all processes" if fault["act"] == "kill-all" else "one rank"
            name = f"{kind}, {who}" if n_ranks > 1 else kind
            struck.append((name, mpi_of(runner.flavour.name, n_ranks)))
            tally.tries[struck[-1]] += 1
            if out.exists():
                assert kind in ("when the file gets its name", "at a random moment"), story
                break
        if last is None or last.returncode != 0 or not struck:
            finish(runner, layout, out, dice, story)
        elif struck:
            runner.check(layout, out, last, resumed=False)
        tally.n_survived.update(struck)
    except AssertionError as error:
        tally.problems.append("\n".join([f"{runner.flavour.name}, {layout}", *story, str(error)]))


def finish(runner: Runner, layout: str, out: Path, dice: random.Random, story: list[str]) -> None:
    """Run the same command to its end, and compare what it made with what one run makes."""
    n_known = n_done(out)
    n_ranks = dice.choice((1, 1, 1, 3))
    published = out.exists()
    completed = runner.run(layout, out, n_ranks, (), *varied(story))
    story.append(f"{n_ranks} ranks: {completed.returncode}, {n_known} were done")
    if published:  # killed after the rename: the file is complete, and what is left is taken away
        assert completed.returncode == 5, explain(completed)
        assert "exists already" in completed.stderr
        assert not differences(runner.one_shot(layout), out)
        assert not [file.name for file in out.parent.glob("out.h5.*")]
        return
    # A span of compressed ragged pixels may hold the middle of one image only.
    resumed = n_known > (30 if layout == "ragged gzip" else 0)
    runner.check(layout, out, completed, resumed=resumed)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_job_that_is_killed_goes_on_and_loses_nothing(
    runner: Runner, layout: str, tmp_path: Path
) -> None:
    tally = Tally()
    for number in range(2):
        dice = random.Random(f"{runner.flavour.name} {layout} {number}")
        chain(runner, layout, tmp_path / str(number), dice, tally)
    assert not tally.problems, "\n\n".join(tally.problems)
    assert tally.tries.total() >= 4, "the kills did not strike"


LATE_MISFIT = [
    ("first look", "before", 1), ("first look", "after", 1), ("decode", "after", 40),
    ("decode", "after", 76), ("anew", "before", 1), ("probe", "before", 11), ("probe", "after", 85),
    ("begin", "before", 2), ("begin", "after", 2), ("reserve", "after", 2), ("create", "before", 2),
    ("create", "after", 2), ("write", "after", 9), ("journal", "torn", 8), ("join", "before", 1),
]  # fmt: skip
"""Site, when and which call: of a job that stores 76 images of 80 before one does not fit."""


@pytest.mark.long
@pytest.mark.parametrize("layout", ["stack", "stack zstd"])
def test_killed_around_an_image_that_is_not_like_those_looked_at_first(
    alone: Runner, layout: str, tmp_path: Path
) -> None:
    images: list[NDArray[Any]] = [np.full((7, 5), k, np.uint8) for k in range(80)]
    images[75] = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)
    for k, image in enumerate(images):
        write_png(tmp_path / f"{k}.png", image)
    manifest = write_manifest(tmp_path / "m.txt", [f"{k}.png" for k in range(80)])

    def run(out: Path, faults: list[Fault], *more: str, n_ranks: int = 1) -> Completed:
        words: list[str | Path] = [manifest, out, *SMALL, *LAYOUTS[layout], *more]
        words += ["--cache-bytes", "0"]
        if n_ranks == 1:
            return alone.server.run(words, faults, tmp_path / "log", 60)
        python = alone.flavour.bin / "python"
        return alone.flavour.launch(n_ranks, python, FAULTS, "run", json.dumps(faults), *words)

    wanted = tmp_path / "wanted.h5"
    assert run(wanted, [], "--probe", "all").returncode == 0
    stored = read_file(wanted).arrays["images"]
    assert stored.shape == (80, 7, 5, 3)
    np.testing.assert_array_equal(stored[75], images[75])
    cases = [
        (n, *moment) for n in (1, 2) for moment in LATE_MISFIT if n == 1 or moment[0] == "anew"
    ]
    for n_ranks, site, when, call in cases:
        out = tmp_path / "out.h5"
        fault = {"act": "kill", "site": site, "when": when, "call": call}
        killed = run(out, [fault], n_ranks=n_ranks)
        assert killed.returncode in (-9, 9, 137), (site, when, explain(killed))
        done = run(out, [])
        assert done.returncode == 0, (site, when, explain(done))
        assert not differences(wanted, out), (site, when, explain(done))
        assert not list(tmp_path.glob("out.h5.*"))
        out.unlink()


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_kills(images: Images, tmp_path: Path) -> None:
    """`H5INGEST_KILLS` says how many, `H5INGEST_MPI` with which of mpich, openmpi and wheels.

    The table at the end is that of docs/reliability.md.
    """
    wanted = int(os.environ.get("H5INGEST_KILLS", "1000"))
    names = os.environ.get("H5INGEST_MPI", ",".join(ALL_FLAVOURS)).split(",")
    seed = os.environ.get("H5INGEST_SEED", "soak")
    tally, number = Tally(), 0
    with contextlib.ExitStack() as stack:
        runners = []
        for name in names:
            server = stack.enter_context(serving(ALL_FLAVOURS[name]))
            (tmp_path / name).mkdir()
            runners.append(Runner(server=server, images=images, folder=tmp_path / name))
        while tally.tries.total() < wanted and len(tally.problems) < 20:
            dice = random.Random(f"{seed} {number}")
            runner, layout = dice.choice(runners), dice.choice(list(LAYOUTS))
            folder = tmp_path / f"{number:05}"
            before = len(tally.problems)
            chain(runner, layout, folder, dice, tally)
            for problem in tally.problems[before:]:
                say(problem)
            shutil.rmtree(folder)
            number += 1
            if number % 50 == 0:
                say(f"{tally.tries.total():,} kills, {len(tally.problems)} problems")
    say(tally.table())
    assert not tally.problems, "\n\n".join(tally.problems)


def kill_after_a_checkpoint(runner: Runner, layout: str, out: Path, *more: str | Path) -> bytes:
    """Leave a partial file and its journal, with something done; return both, to be compared."""
    slow = {"act": "nap:0.02", "site": "decode", "rank": "all", "call": 0}
    fault = {"act": "kill", "site": "mark", "call": 5, "when": "after"}
    completed = runner.run(layout, out, 1, [slow, fault], *more)
    assert completed.returncode == -9, explain(completed)
    assert n_done(out) > 0
    return left_by(out)


def left_by(out: Path) -> bytes:
    """Return the bytes of the partial file and of its journal."""
    beside = [out.with_name(f"{out.name}.{ending}") for ending in ("partial", "journal")]
    return b"\0".join(path.read_bytes() for path in beside)


def assert_refused(
    completed: Completed, out: Path, before: bytes, *said: str, code: int = 5
) -> None:
    assert completed.returncode == code, explain(completed)
    assert len(error_lines(completed)) == 1, explain(completed)
    for text in said:
        assert text in completed.stderr, explain(completed)
    assert left_by(out) == before, "what an earlier job had made was touched"
    assert not out.with_name(out.name + ".lock").exists()


def copy_of(images: Images, folder: Path) -> Images:
    """Images of the same content in another place, which a test may change."""
    again = Images.write(folder)
    assert again.manifest("ragged").read_bytes() == images.manifest("ragged").read_bytes()
    return again


@pytest.mark.parametrize(
    "layout", soon(["stack", "ragged"], ["stack", "stack zstd", "ragged", "tree"])
)
def test_other_options_are_refused_and_named_and_nothing_is_destroyed(
    alone: Runner, layout: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    before = kill_after_a_checkpoint(alone, layout, out)
    had = {"stack zstd": "'zstd:1' then", "stack": "None then"}.get(layout, "None then")
    completed = alone.run(layout, out, 1, (), "--compression", "lz4")
    assert_refused(
        completed, out, before, "an unfinished job is here", f"compression: {had}, 'lz4' now",
        "--restart",
    )  # fmt: skip
    completed = alone.run(layout, out, 1, (), "--channels", "rgb", "--max-pixels", "9999")
    said = ("channels: 'auto' then, 'rgb' now", "max_pixels: 89478485 then, 9999 now")
    assert_refused(completed, out, before, *said)
    alone.check(layout, out, alone.run(layout, out), resumed=True)


def test_another_codec_is_refused_before_an_image_is_recoded(alone: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    before = kill_after_a_checkpoint(alone, "encoded jxl", out)
    (spool,) = tmp_path.glob("out.h5.recoded/*")
    completed = alone.run("encoded jxl", out, 1, (), "--recode", "webp")
    assert_refused(completed, out, before, "recode: 'jxl:3' then, 'webp' now", "--restart")
    assert list(tmp_path.glob("out.h5.recoded/*")) == [spool]
    completed = alone.run("encoded jxl", out, 1, (), "--recode", "JXL:3")
    alone.check("encoded jxl", out, completed, resumed=True)


def test_a_job_of_another_version_of_the_format_is_refused_and_named(
    alone: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    kill_after_a_checkpoint(alone, "stack zstd", out)
    beside = out.with_name("out.h5.journal")
    about, records = beside.read_bytes().split(b"\n", 1)
    assert b'"schema": "h5ingest stack 2"' in about
    beside.write_bytes(about.replace(b"stack 2", b"stack 1") + b"\n" + records)
    completed = alone.run("stack zstd", out)
    said = "schema: 'h5ingest stack 1' then, 'h5ingest stack 2' now"
    assert_refused(completed, out, left_by(out), said, "--restart")
    alone.check("stack zstd", out, alone.run("stack zstd", out, 1, (), "--restart"), resumed=False)


def test_the_same_codec_typed_in_another_way_goes_on(alone: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    kill_after_a_checkpoint(alone, "stack zstd", out)
    completed = alone.run("stack zstd", out, 1, (), "--compression", "ZSTD:01")
    alone.check("stack zstd", out, completed, resumed=True)


def test_the_report_says_that_losses_of_an_earlier_run_are_not_counted(
    alone: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    more = ["--channels", "gray", "--batch-bytes", "200"]
    kill_after_a_checkpoint(alone, "stack", out, *more)
    completed = alone.run("stack", out, 1, (), *more)
    assert completed.returncode == 0, explain(completed)
    report = json.loads(out.with_suffix(".json").read_text())
    n_before = report["n_resumed"]
    assert 0 < n_before < 60
    assert report["losses"] == [
        f"{60 - n_before} images lost their colour",
        f"not counted: the {n_before} images that an earlier run stored",
    ]


def test_another_manifest_or_root_is_refused_and_named(alone: Runner, tmp_path: Path) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path)
    (tmp_path / "made").mkdir()
    out = tmp_path / "made" / "out.h5"
    before = kill_after_a_checkpoint(runner, "stack", out)
    completed = runner.run("stack", out, 1, (), "--root", alone.images.folder)
    assert_refused(completed, out, before, f"root: '{mine.folder}' then, '{alone.images.folder}'")
    manifest = mine.manifest("stack")
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*lines, lines[-1]]))
    completed = runner.run("stack", out)
    assert_refused(completed, out, before, "manifest: '", "samples: 60 then, 61 now")
    completed = runner.run("stack", out, 1, (), "--restart")
    assert completed.returncode == 0, explain(completed)
    assert read_file(out).attrs["n_samples"] == 61
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["n_resumed"] == 0


@pytest.mark.parametrize("layout", ["ragged", "tree", "encoded"])
def test_images_of_other_sizes_are_refused(alone: Runner, layout: str, tmp_path: Path) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path)
    out = tmp_path / "out.h5"
    before = kill_after_a_checkpoint(runner, layout, out)
    pixels = mine.different[0]
    assert pixels.shape[0] != pixels.shape[1]
    turned = np.ascontiguousarray(pixels.swapaxes(0, 1))  # as many values, in another shape
    write_png(mine.file(layout, 0), turned)
    said = "sizes and places of the images: not what they were"
    assert_refused(runner.run(layout, out), out, before, said)


@pytest.mark.parametrize("layout", soon(["stack zstd", "ragged", "tree", "encoded"], LAYOUTS))
def test_another_version_of_hdf5_is_refused_and_destroys_nothing(
    alone: Runner, newer: Runner, layout: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    before = kill_after_a_checkpoint(alone, layout, out)
    assert_refused(newer.run(layout, out), out, before, "HDF5: '1.", " then, '2.")
    alone.check(layout, out, alone.run(layout, out), resumed=True)


JUNK = {
    "empty": b"",
    "text": b"not a journal\n",
    "json": b'{"format": "something else"}\n',
    "deep json": b"[" * 100_000,
    "a pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R.",
    "noise": random.Random(3).randbytes(5000),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_what_is_no_journal_is_refused_and_restart_discards_it(
    alone: Runner, junk: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    (tmp_path / "out.h5.partial").write_bytes(b"precious")
    (tmp_path / "out.h5.journal").write_bytes(junk)
    before = left_by(out)
    completed = alone.run("stack", out)
    assert_refused(completed, out, before, "out.h5.journal: expected a journal", "--restart")
    completed = alone.run("stack", out, 1, (), "--restart")
    alone.check("stack", out, completed, resumed=False)


def test_a_partial_file_without_a_journal_is_refused_and_restart_discards_it(
    alone: Runner, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out.h5", tmp_path / "out.h5.partial"
    partial.write_bytes(b"precious")
    completed = alone.run("stack", out)
    assert completed.returncode == 5, explain(completed)
    assert "expected its journal out.h5.journal beside it, found none" in completed.stderr
    assert partial.read_bytes() == b"precious"
    alone.check("stack", out, alone.run("stack", out, 1, (), "--restart"), resumed=False)


@pytest.mark.parametrize(
    "layout", soon(["stack", "ragged gzip"], ["stack", "stack zstd", "ragged gzip", "tree gzip"])
)
def test_a_journal_that_is_cut_or_damaged_anywhere_costs_time_but_no_row(
    alone: Runner, layout: str, tmp_path: Path
) -> None:
    first = tmp_path / "first" / "out.h5"
    first.parent.mkdir()
    fault = {"act": "kill", "site": "finish", "when": "after"}
    assert alone.run(layout, first, 1, [fault]).returncode == -9
    partial, whole = (
        (first.parent / f"out.h5.{ending}").read_bytes() for ending in ("partial", "journal")
    )
    dice = random.Random(layout)
    head = whole.index(b"\n") + 1
    for number in range(8):
        at = dice.randrange(head, len(whole))
        flipped = bytes([whole[at] ^ 1 << dice.randrange(8)])
        damaged = whole[:at] if number % 2 else whole[:at] + flipped + whole[at + 1 :]
        out = tmp_path / str(number) / "out.h5"
        out.parent.mkdir()
        (out.parent / "out.h5.partial").write_bytes(partial)
        (out.parent / "out.h5.journal").write_bytes(damaged)
        alone.check(layout, out, alone.run(layout, out), resumed=False)


@pytest.mark.parametrize(
    "layout", soon(["stack", "ragged gzip"], ["stack", "stack zstd", "ragged gzip", "tree"])
)
def test_mended_images_are_all_that_is_done_again(
    alone: Runner, layout: str, tmp_path: Path
) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path, expected=alone.expected)
    expected = alone.one_shot(layout)
    (tmp_path / "made").mkdir()
    out = tmp_path / "made" / "out.h5"
    bad = mine.file(layout, 33)
    good = bad.read_bytes()
    damage(bad)
    completed = runner.run(layout, out)
    assert completed.returncode == 3, explain(completed)
    assert "1 of 60 images failed" in completed.stderr
    table = (out.parent / "out.h5.failed.tsv").read_text().splitlines()
    folder = bad.parent.name
    assert table[0] == "index\tpath\tkind\treason"
    assert table[1].startswith(f"33\t{folder}/033.png\tdamaged\t")
    assert not out.exists()
    again = runner.run(layout, out)  # not mended yet: the same, sooner
    assert again.returncode == 3, explain(again)
    bad.write_bytes(good)
    completed = runner.run(layout, out)
    assert completed.returncode == 0, explain(completed)
    assert not differences(expected, out)
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["n_resumed"] > 40
    names = {file.name for file in out.parent.iterdir()}
    assert names == {"out.h5", "out.json", "out.log"}


@pytest.mark.parametrize(
    "layout",
    soon(["stack zstd", "tree gzip"], ["stack zstd", "ragged", "ragged gzip", "tree gzip"]),
)
def test_an_image_that_stays_bad_may_be_blank_the_next_time(
    alone: Runner, layout: str, tmp_path: Path
) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path)
    out = tmp_path / "out.h5"
    damage(mine.file(layout, 33))
    assert runner.run(layout, out).returncode == 3
    completed = runner.run(layout, out, 1, (), "--on-error", "blank")
    assert completed.returncode == 0, explain(completed)
    stored = read_file(out)
    assert stored.attrs["n_failed"] == 1
    assert np.flatnonzero(stored.arrays["status"] != 1).tolist() == [33]
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["n_resumed"] > 40
    assert [failure["index"] for failure in report["failures"]] == [33]


def test_missing_images_are_counted_once_however_often_a_job_is_resumed(
    alone: Runner, tmp_path: Path
) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path)
    missing = [0, 1, 30, 31, 59]
    for row in missing:
        mine.file("ragged", row).unlink()
    outs = {layout: tmp_path / f"{layout}.h5" for layout in ("ragged", "ragged gzip", "encoded")}
    for layout, out in outs.items():
        for call in (2, 5):
            fault = {"act": "kill", "site": "mark", "call": call, "when": "after"}
            assert runner.run(layout, out, 1, [fault], "--on-error", "blank").returncode == -9
    jobs = [runner.arguments(layout, out, "--on-error", "blank") for layout, out in outs.items()]
    done = runner.flavour.run_many(3, jobs, tmp_path / "told", small_chunks=True)
    for out, completed in zip(outs.values(), done, strict=True):
        assert completed.returncode == 0, explain(completed)
        stored = read_file(out)
        assert np.flatnonzero(stored.arrays["status"] == 2).tolist() == missing
        assert stored.attrs["n_failed"] == len(missing)
        report = json.loads(out.with_suffix(".json").read_text())
        assert [failure["index"] for failure in report["failures"]] == missing


@pytest.mark.parametrize(("what", "n_ranks"), checkered(["changed", "vanished", "blank"], [1, 2]))
def test_an_image_is_never_stored_half_from_one_file_and_half_from_another(
    alone: Runner, n_ranks: int, what: str, tmp_path: Path
) -> None:
    mine = copy_of(alone.images, tmp_path / "sources")
    runner = Runner(server=alone.server, images=mine, folder=tmp_path)
    out = tmp_path / "out.h5"
    large = mine.file("ragged gzip", 7)  # it takes several chunks
    good = large.read_bytes()
    for call in range(2, 9):  # until a kill comes when a part of it is done
        fault = {"act": "kill", "site": "mark", "call": call, "when": "after"}
        assert runner.run("ragged gzip", out, 1, [fault]).returncode == -9
        _, records, _ = journal.read(out.with_name("out.h5.journal"))
        spans = [(r.start, r.stop) for r in records if isinstance(r, Done)]
        first = sum(image.size for image in mine.different[:7])
        if first + 512 < max(stop for _, stop in spans) < first + mine.different[7].size:
            break
    else:
        pytest.fail("no kill left a part of the image")
    other = 255 - mine.different[7]
    write_png(large, other)
    if what == "vanished":  # after its header has been read
        large.write_bytes(good)
        damage(large)
    if what == "blank":  # in place of what two runs have stored of it
        more = ["--cache-bytes", "0", "--on-error", "blank"]
        completed = runner.run("ragged gzip", out, n_ranks, (), *more)
        assert completed.returncode == 0, explain(completed)
        stored = read_file(out).arrays
        assert np.flatnonzero(stored["status"] != 1).tolist() == [7]
        assert not stored["images/pixels"][first : first + other.size].any()
        store = ImageStore(out, failed="skip")  # what was replaced is in no sum
        kinds = store.stats.kinds.values()
        assert sum(moments.n_images for moments in kinds) == 59
        total = sum(int(image.sum(dtype=np.int64)) for image, _ in store)
        assert sum(sum(moments.sums) for moments in kinds) == total
        return
    completed = runner.run("ragged gzip", out, n_ranks, (), "--cache-bytes", "0")
    assert completed.returncode == 3, explain(completed)
    assert "1 of 60 images failed" in completed.stderr, explain(completed)
    assert (tmp_path / "out.h5.failed.tsv").read_text().splitlines()[1].startswith("7\t")
    if what == "vanished":
        more = ["--on-error", "blank"]
        completed = runner.run("ragged gzip", out, n_ranks, (), *more)
        assert completed.returncode == 0, explain(completed)
        stored = read_file(out).arrays
        assert np.flatnonzero(stored["status"] != 1).tolist() == [7]
        image = stored["images/pixels"][first : first + other.size]
        assert not image.any()
        return
    completed = runner.run("ragged gzip", out, n_ranks)
    assert completed.returncode == 0, explain(completed)
    stored = read_file(out).arrays
    image = stored["images/pixels"][first : first + other.size]
    np.testing.assert_array_equal(image, other.ravel())
    assert (stored["status"] == 1).all()


def test_the_old_file_stays_until_the_new_one_is_whole(alone: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    other = write_manifest(tmp_path / "other.txt", [alone.images.file("stack", 3)])
    ingest(other, out)
    other.unlink()
    before = out.read_bytes()
    for site, when in (("mark", "after"), ("publish", "before"), ("rename", "before")):
        fault = {"act": "kill", "site": site, "when": when}
        completed = alone.run("stack", out, 1, [fault], "--overwrite")
        assert completed.returncode == -9, explain(completed)
        assert out.read_bytes() == before
    completed = alone.run("stack", out, 1, (), "--overwrite")
    alone.check("stack", out, completed, resumed=True)


def test_python_callers_resume_too(images: Images, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "few.txt", [images.file("stack", row) for row in range(9)])
    out, beside = tmp_path / "out.h5", tmp_path / "out.h5.partial"
    beside.write_bytes(b"")
    with pytest.raises(OutputError, match="expected its journal"):
        ingest(manifest, out)
    report = ingest(manifest, out, IngestOptions(restart=True))
    assert (report.n_samples, report.n_resumed) == (9, 0)
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["images"][:], np.array(images.equal[:9]))
