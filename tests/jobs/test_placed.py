"""Placed chunks: every filter at any number of ranks, read by others; canaries, journal, memory.

The files are checked by plain h5py and hdf5plugin in a process of their own (`plain_reader.py`),
of another HDF5 version than wrote them, and by Debian's tools.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from helpers.forking import Forker
from helpers.stacks import stack
from helpers.support import (
    FLAVOURS,
    PROGRAMS,
    WHEELS,
    Flavour,
    clean_environment,
    error_lines,
    explain,
    make_pixels,
    need_space_to_be_taken,
    run,
    soon,
    write_images,
    write_manifest,
)
from numpy.typing import NDArray
from PIL import Image
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import OutputError, SetupError, StorageError, UsageError
from h5ingest.core.group_datasets import tree_group
from h5ingest.core.layout import Layout
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.storage import journal
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.earlier_runs import done_spans
from h5ingest.storage.filters import available, canonical, filter_pipeline
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import (
    IMAGES,
    Begins,
    Done,
    Placement,
    Record,
    Run,
    Undone,
    pack,
)
from h5ingest.storage.writer import Image as TreeImage

ALL: dict[str, Flavour] = {**FLAVOURS, "wheels": WHEELS}
TESTS = PROGRAMS.parent

LARGE_TREE = Layout(kind="tree", groups=(tree_group("", "", 40, 256 * 256),), grouped=False)

SHUFFLE, GZIP, SZIP, LZF, BZIP2 = 2, 1, 4, 32000, 307
BLOSC, BLOSC2, LZ4, BITSHUFFLE, ZSTD = 32001, 32026, 32004, 32008, 32015
HTJ2K = 32033
FILTERS: tuple[tuple[str | None, bool, list[int]], ...] = (
    (None, False, []),
    (None, True, [SHUFFLE]),
    ("gzip:4", False, [GZIP]),
    ("gzip:9", True, [SHUFFLE, GZIP]),
    ("lzf", False, [LZF]),
    ("lzf", True, [SHUFFLE, LZF]),
    ("szip", False, [SZIP]),
    ("zstd:3", False, [ZSTD]),
    ("zstd:19", False, [ZSTD]),
    ("zstd:1", True, [SHUFFLE, ZSTD]),
    ("lz4", False, [LZ4]),
    ("lz4", True, [SHUFFLE, LZ4]),
    ("bzip2:9", False, [BZIP2]),
    ("blosc:lz4:5", False, [BLOSC]),
    ("blosc:blosclz:9:noshuffle", False, [BLOSC]),
    ("blosc:zstd:3:bitshuffle", False, [BLOSC]),
    ("blosc:zlib:1", False, [BLOSC]),
    ("blosc:lz4hc:noshuffle", False, [BLOSC]),
    ("blosc2:zstd:5:bitshuffle", False, [BLOSC2]),
    ("blosc2:lz4:noshuffle", False, [BLOSC2]),
    ("blosc2:blosclz", False, [BLOSC2]),
    ("blosc2:zlib:1", False, [BLOSC2]),
    ("blosc2:lz4hc", False, [BLOSC2]),
    ("bitshuffle:lz4", False, [BITSHUFFLE]),
    ("bitshuffle:zstd:3", False, [BITSHUFFLE]),
    ("bitshuffle:none", False, [BITSHUFFLE]),
    ("htj2k", False, [HTJ2K]),
    ("blosc2:zstd:5:bytedelta", False, [BLOSC2]),
)
"""--compression, --shuffle, and the filters that must be found in the file."""
DATA = ("smooth", "incompressible", "one chunk", "depth", "mnist", "kodak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Images on the disk, their pixels by another decoder, and what every file of them shares."""

    manifest: Path
    pixels: Path
    """File of numpy.save."""
    chunk_rows: int | None
    digest: str
    """content_digest of an ordinary file of one process, without a filter."""


def smooth(n: int, height: int, width: int, top: float) -> NDArray[np.float64]:
    """(n, H, W) waves between 0 and 1, all different."""
    row, y, x = np.ogrid[:n, :height, :width]
    waves: NDArray[np.float64] = (np.sin(x / 9 + row) + np.cos(y / 7 - row / 3)) / 4 + 0.5
    return waves * top


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> dict[str, Data]:
    folder = tmp_path_factory.mktemp("data")
    found: dict[str, Data] = {}

    def add(name: str, paths: Sequence[Path | str], pixels: Any, chunk_rows: int | None) -> None:
        stem = name.replace(" ", "-")
        manifest = write_manifest(folder / f"{stem}.txt", paths)
        np.save(folder / f"{stem}.npy", np.stack(pixels))
        report = ingest(manifest, folder / f"{stem}.h5", IngestOptions(chunk_rows=chunk_rows))
        found[name] = Data(
            manifest=manifest, pixels=folder / f"{stem}.npy", chunk_rows=chunk_rows,
            digest=report.content_digest,
        )  # fmt: skip

    def make(name: str, pixels: NDArray[Any], chunk_rows: int | None) -> None:
        names = write_images(folder / name, pixels)
        add(name, [folder / name / n for n in names], pixels, chunk_rows)

    waves = smooth(37, 24, 20, 255).astype(np.uint8)
    make("smooth", np.stack([waves, waves // 2, 255 - waves], axis=-1), 5)  # 8 chunks, ragged
    make("incompressible", make_pixels(37, (24, 20, 3)), 5)
    make("one chunk", waves, None)
    for name, paths, chunk_rows in (
        ("depth", all_of("*.png", corpora / "depth16_open3d", "I;16", (640, 480))[:3], 2),
        ("mnist", all_of("*.png", corpora / "mnist" / "test" / "7", "L", (28, 28))[:203], 16),
        ("kodak", all_of("*.png", corpora / "kodak", "RGB", (768, 512))[:3], 2),
    ):
        add(name, paths, [np.array(Image.open(path)) for path in paths], chunk_rows)
    return found


def all_of(pattern: str, folder: Path, mode: str, size: tuple[int, int]) -> list[Path]:
    """The images of one kind; Pillow reads no more than their headers."""
    found = []
    for path in sorted(folder.rglob(pattern)):
        with Image.open(path) as image:
            if (image.mode, image.size) == (mode, size):
                found.append(path)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file to make."""

    data: Data
    compression: str | None
    shuffle: bool
    filters: list[int]
    out: Path
    layout: str = "stack"


def cases_of(data: dict[str, Data], folder: Path, wanted: Sequence[tuple[int, int]]) -> list[Case]:
    names = [name for name in DATA if name in data]  # some tests want some of them
    return [
        Case(
            data=data[names[d % len(names)]],
            compression=FILTERS[f][0],
            shuffle=FILTERS[f][1],
            filters=FILTERS[f][2],
            out=folder / f"{names[d % len(names)]}-{FILTERS[f][0]}-{FILTERS[f][1]}.h5",
        )
        for f, d in wanted
    ]


def make_and_check(
    flavour: Flavour, n_ranks: int, cases: list[Case], folder: Path, timeout_s: float
) -> None:
    """One launch makes all files; a fresh process, by another HDF5 version, reads them."""
    flavour.checked()
    jobs = [
        {
            "manifest": str(case.data.manifest),
            "out": str(case.out),
            "options": {
                "layout": case.layout,
                "compression": case.compression,
                "shuffle": case.shuffle,
                "chunk_rows": case.data.chunk_rows if case.filters != [HTJ2K] else None,
                "batch_bytes": 10_000,  # several batches a rank, of the small images
                "checkpoint_s": 0.02,
            },
        }
        for case in cases
    ]
    (folder / "cases.json").write_text(json.dumps(jobs))
    completed = flavour.launch(
        n_ranks, flavour.bin / "python", PROGRAMS / "launched_placed.py",
        "ingest", folder / "cases.json", folder / "reports.json", timeout_s=timeout_s,
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    reports = json.loads((folder / "reports.json").read_text())
    for case, report in zip(cases, reports, strict=True):
        assert report["digest"] == case.data.digest, case
        assert report["writer"].startswith(writer_of(flavour, n_ranks, case)), (case, report)
    read_plainly(ALL["wheels" if flavour.name != "wheels" else "mpich"], cases, folder, timeout_s)
    left = {path.suffix for path in folder.iterdir()}
    assert left == {".h5", ".json"}, "a partial file or a journal is left"


def writer_of(flavour: Flavour, n_ranks: int, case: Case) -> str:
    if case.layout == "tree":
        return "placed datasets"
    if case.filters:
        return "placed chunks"
    if n_ranks == 1:
        return "HDF5 (one process)"
    return "placed rows" if flavour.name == "wheels" else "HDF5's MPI-IO driver"


def read_plainly(reader: Flavour, cases: list[Case], folder: Path, timeout_s: float = 60) -> None:
    files = [
        {"file": str(case.out), "pixels": str(case.data.pixels), "filters": case.filters}
        for case in cases
    ]
    (folder / "files.json").write_text(json.dumps(files))
    completed = run(
        [reader.bin / "python", TESTS / "helpers" / "plain_reader.py", folder / "files.json"],
        timeout_s=timeout_s,
    )
    assert completed.returncode == 0, explain(completed)


EVERY_PAIR = [(f, d) for f in range(len(FILTERS)) for d in range(len(DATA))]
PLACES = [(name, n_ranks) for name in ("mpich", "openmpi", "wheels") for n_ranks in (1, 2, 3, 5)]
ALL_PAIRS = [("wheels", 2), ("openmpi", 3)]
SOON = [("mpich", 1), ("openmpi", 2), ("wheels", 3)]
"""Each MPI, with another number of ranks; the other places take a minute more."""


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "n_ranks"), ALL_PAIRS)
def test_every_filter_gives_back_all_pixels(
    name: str, n_ranks: int, data: dict[str, Data], tmp_path: Path
) -> None:
    make_and_check(ALL[name], n_ranks, cases_of(data, tmp_path, EVERY_PAIR), tmp_path, 180)


@pytest.mark.parametrize(
    ("name", "n_ranks"),
    soon(SOON, [place for place in PLACES if place not in ALL_PAIRS]),
)
def test_every_filter_at_every_number_of_ranks_with_every_mpi(
    name: str, n_ranks: int, data: dict[str, Data], tmp_path: Path
) -> None:
    turn = PLACES.index((name, n_ranks))
    # Five ranks on two cores wait for each other in MPI: there, every second filter.
    chosen = range(turn % 2, len(FILTERS), 2) if n_ranks == 5 else range(len(FILTERS))
    wanted = [(f, f + turn) for f in chosen]
    make_and_check(ALL[name], n_ranks, cases_of(data, tmp_path, wanted), tmp_path, 120)


@pytest.mark.parametrize(
    ("layout", "name"),
    soon([("tree", "wheels")], itertools.product(["ragged", "tree"], ["mpich", "wheels"])),
)
def test_every_filter_in_the_other_layouts(
    layout: str, name: str, data: dict[str, Data], tmp_path: Path
) -> None:
    folder = tmp_path / "placed"
    folder.mkdir()
    like: dict[str, Data] = {}
    for corpus in ("smooth", "depth"):
        given = data[corpus]
        report = ingest(given.manifest, tmp_path / f"{corpus}.h5", IngestOptions(layout=layout))
        like[corpus] = replace(given, chunk_rows=None, digest=report.content_digest)
    turn = name == "wheels"
    wanted = [(f, f + turn) for f in range(1, len(FILTERS))]
    cases = [replace(case, layout=layout) for case in cases_of(like, folder, wanted)]
    if layout == "ragged":  # it codes images, and ragged has none
        cases = [case for case in cases if case.filters != [HTJ2K]]
    make_and_check(ALL[name], 3, cases, folder, 120)


@pytest.mark.soak
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(("name", "n_ranks"), PLACES)
def test_all_filters_all_data_all_ranks_all_mpis(
    name: str, n_ranks: int, data: dict[str, Data], tmp_path: Path
) -> None:
    cases = cases_of(data, tmp_path, EVERY_PAIR)
    make_and_check(ALL[name], n_ranks, cases, tmp_path, 600)
    read_plainly(ALL[name], cases, tmp_path, 120)


def test_the_matrix_has_every_codec_and_every_corpus(data: dict[str, Data]) -> None:
    named = {text.partition(":")[0] for text, _, _ in FILTERS if text}
    assert named == set(available())
    assert set(data) == set(DATA)


# --- Debian's tools ----------------------------------------------------------------------------

TOOL_FILTERS = [
    (f, name)
    for f, name in (
        (3, "COMPRESSION DEFLATE"), (4, "FILTER_ID 32000"), (6, "COMPRESSION SZIP"),
        (7, "FILTER_ID 32015"), (10, "FILTER_ID 32004"), (12, "FILTER_ID 307"),
        (13, "FILTER_ID 32001"), (18, "FILTER_ID 32026"), (23, "FILTER_ID 32008"),
        (26, "FILTER_ID 32033"),
    )
]  # fmt: skip
TOOLS = pytest.mark.parametrize("for_tools", soon(["wheels"], ["mpich", "wheels"]), indirect=True)


@pytest.fixture(scope="module")
def for_tools(
    request: pytest.FixtureRequest, data: dict[str, Data], tmp_path_factory: pytest.TempPathFactory
) -> list[Case]:
    """A file per filter, by HDF5 1.10 or by 2.x, on three ranks."""
    folder = tmp_path_factory.mktemp("tools")
    made = cases_of(data, folder, [(f, 0) for f, _ in TOOL_FILTERS])
    make_and_check(ALL[request.param], 3, made, folder, 60)
    return made


def tool(*command: str | Path) -> str:
    """Run one of Debian's HDF5 tools, which may load the same plugins as h5py."""
    if shutil.which(str(command[0])) is None:
        pytest.fail(f"{command[0]} is missing: scripts/venv.sh mpich installs hdf5-tools")
    completed = run(command, env={"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH})
    assert completed.returncode == 0, explain(completed)
    assert "rror" not in completed.stderr, explain(completed)
    return completed.stdout


@TOOLS
def test_debians_tools_accept_the_file(for_tools: list[Case], tmp_path: Path) -> None:
    copies = []
    for case, (_, marker) in zip(for_tools, TOOL_FILTERS, strict=True):
        assert marker in tool("h5dump", "-pH", case.out)
        assert re.search(r"^/images +Dataset \{37, 24, 20, 3\}", tool("h5ls", "-r", case.out), re.M)
        if case.filters == [LZF]:  # only h5py has that one: these tools can read the header alone
            continue
        copy = replace(case, out=tmp_path / case.out.name)
        tool("h5repack", case.out, copy.out)
        # It names all that has no value in one of the files: nobody writes one into a scale.
        told = tool("h5diff", "-c", case.out, copy.out).splitlines()
        scales = r"</(sample|y|x|channel|class|chunk)>|<DIMENSION_LIST of </\w+>>"
        assert [line for line in told if not re.match(f"Not comparable: (?:{scales})", line)] == []
        copies.append(copy)
    assert len(copies) == len(TOOL_FILTERS) - 1
    read_plainly(ALL["mpich"], copies, tmp_path)


@TOOLS
def test_no_space_is_lost(for_tools: list[Case], tmp_path: Path) -> None:
    """Next to an ordinary h5py file of the same datasets, opened twice as ours is."""
    for case in for_tools:
        with h5py.File(case.out) as placed:
            write_ordinary(placed, tmp_path / "ordinary.h5")
        assert unaccounted(case.out) <= unaccounted(tmp_path / "ordinary.h5")


def write_ordinary(placed: h5py.File, path: Path) -> None:
    def copy(names: Sequence[str], file: h5py.File) -> None:
        for name in names:
            source = placed[name].id
            made = h5py.h5d.create(
                file.id, name.encode(), source.get_type(), source.get_space(),
                source.get_create_plist(),
            )  # fmt: skip
            h5py.Dataset(made)[...] = placed[name][...]

    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        copy(("images", "status", "checksums"), file)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        copy(("paths",) if "paths" in placed else (), file)
        file.attrs.update(placed.attrs)


def unaccounted(file: Path) -> int:
    """Bytes that nothing is in. h5stat leaves out the heaps of texts, such as paths and labels."""
    found = re.search(r"Unaccounted space: (\d+) bytes", tool("h5stat", "-S", file))
    assert found
    heaps = re.findall(rb"GCOL\x01\0{3}(.{8})", file.read_bytes(), re.DOTALL)
    assert heaps
    return int(found[1]) - sum(int.from_bytes(n_bytes, "little") for n_bytes in heaps)


# --- which codecs there are --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sz", "lossy"), ("sz3", "lossy"), ("zfp", "lossy"), ("sperr", "lossy"),
        ("fcidecomp", "wrong pixels"),
    ],
)  # fmt: skip
def test_a_codec_that_does_not_give_the_pixels_back_is_refused(name: str, reason: str) -> None:
    for text in (name, name.upper(), f"{name}:3"):
        with pytest.raises(UsageError, match=rf"{text}: not offered.*{reason}.*gzip.*zstd") as info:
            filter_pipeline(text, shuffle=False)
        assert info.value.exit_code == 2


def test_no_plugin_is_left_undecided() -> None:
    """A new filter in hdf5plugin must be offered or refused, not overlooked."""
    for name in hdf5plugin.FILTERS:
        text = "bitshuffle" if name == "bshuf" else name
        if text not in available():
            with pytest.raises(UsageError, match="not offered"):
                filter_pipeline(text, shuffle=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip", "no such codec.*gzip, lzf, szip, zstd, lz4, bzip2, blosc, blosc2, bitshuffle"),
        ("gzip:10", "level from 0 to 9"),
        ("zstd:23", "level from 1 to 22"),
        ("bzip2:0", "level from 1 to 9"),
        ("lzf:3", "cannot take '3'"),
        ("gzip:fast", "cannot take 'fast'.*LEVEL"),
        ("gzip:1:2", "cannot take '2'"),
        ("zstd:bitshuffle", "cannot take 'bitshuffle'"),
        ("blosc:snappy", "cannot take 'snappy'.*blosclz.lz4"),
        ("blosc:lz4:zstd", "cannot take 'zstd'"),
        ("bitshuffle:lz4:3", "only bitshuffle:zstd takes a level"),
        ("gzip:", "cannot take ''"),
        ("", "no such codec"),
    ],
)
def test_what_cannot_be_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        filter_pipeline(text, shuffle=False)


@pytest.mark.parametrize(
    "text",
    [
        "gzip", "lzf", "szip", "zstd", "zstd:19", "lz4", "bzip2", "blosc", "blosc:bitshuffle",
        "blosc2", "blosc2:7:blosclz", "bitshuffle", "bitshuffle:zstd", "bitshuffle:none",
    ],
)  # fmt: skip
def test_the_canonical_name_of_a_codec_asks_for_the_same_filter(text: str) -> None:
    name = canonical(text)
    assert filter_pipeline(name, shuffle=False) == filter_pipeline(text, shuffle=False)
    assert canonical(name) == name
    assert canonical(text.upper()) == name
    assert filter_pipeline(text.upper(), shuffle=False) == filter_pipeline(text, shuffle=False)


def test_what_is_typed_in_another_way_and_means_the_same_has_one_name() -> None:
    for first, *others in (
        ("zstd:3", "zstd", "ZSTD:03"), ("gzip:4", "gzip"), ("blosc:lz4:5:shuffle", "blosc:5"),
        ("blosc2:zstd:5:shuffle", "blosc2:shuffle:zstd"), ("bitshuffle:lz4", "bitshuffle"),
    ):  # fmt: skip
        assert {canonical(text) for text in (first, *others)} == {first}
    assert canonical(None) is canonical("none") is None


def test_a_refused_codec_ends_the_command_before_any_work(
    data: dict[str, Data], tmp_path: Path
) -> None:
    reasons = {"sz3": "it is lossy", "zip": "available are gzip, lzf"}
    out = tmp_path / "made" / "out.h5"
    out.parent.mkdir()
    jobs = [("--compression", text, data["smooth"].manifest, out) for text in reasons]
    done = WHEELS.checked().run_many(2, jobs, tmp_path / "told")
    for completed, reason in zip(done, reasons.values(), strict=True):
        assert completed.returncode == 2, explain(completed)
        assert len(error_lines(completed)) == 1, explain(completed)
        assert reason in completed.stderr
    assert not list(out.parent.iterdir())


BROKEN = {
    "hdf5plugin cannot be loaded": 'raise ImportError("libhdf5plugin: cannot open shared object")',
    "hdf5plugin brings no filter": "class Zstd:\n"
    "    def __init__(self, **_):\n"
    "        self.filter_id, self.filter_options = 32015, (3,)\n"
    "LZ4 = BZip2 = Blosc = Blosc2 = Bitshuffle = Zstd\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_codec_that_is_missing_here_is_named_with_those_that_are_not(
    how: str, data: dict[str, Data], tmp_path: Path
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "hdf5plugin.py").write_text(BROKEN[how])
    before = filter(None, [str(shadow), os.environ.get("PYTHONPATH")])
    env = {"PYTHONPATH": os.pathsep.join(before), "HDF5_PLUGIN_PATH": str(shadow)}
    out = tmp_path / "out.h5"
    flavour = ALL["mpich"].checked()
    completed = flavour.run(2, "--compression", "zstd:3", data["smooth"].manifest, out, env=env)
    assert completed.returncode == 6, explain(completed)
    [line] = error_lines(completed)
    assert "--compression zstd" in line
    assert line.endswith("available are gzip, lzf, szip"), line
    assert not out.exists()
    # Whoever needs none of them does not notice.
    completed = flavour.alone("--compression", "gzip", data["smooth"].manifest, out, env=env)
    assert completed.returncode == 0, explain(completed)


# --- what placed chunks rely on ----------------------------------------------------------------

CANARIES = (
    "the_payload_comes_in_one_piece_before_the_call_returns",
    "places_do_not_overlap_and_lie_within_the_file",
    "the_same_placements_come_to_the_same_offsets",
    "metadata_that_is_evicted_meanwhile_reaches_the_file",
    "a_replay_keeps_what_has_been_written",
    "a_replay_keeps_what_a_job_that_was_taken_up_before_has_written",
    "unfiltered_chunks_lie_back_to_back",
    "unfiltered_rows_are_in_the_file_as_soon_as_they_are_written",
    "one_chunk_in_memory_is_what_an_ordinary_file_stores",
)


@pytest.fixture(scope="module", params=["mpich", "wheels"])
def canaries(request: pytest.FixtureRequest) -> Iterator[Forker]:
    """What runs `canary.py`, with each version of HDF5."""
    python = ALL[request.param].checked().bin / "python"
    forker = Forker([python, PROGRAMS / "canary.py"], clean_environment())
    yield forker
    forker.end()


@pytest.mark.parametrize("check", CANARIES)
def test_canary_this_hdf5_still_does_what_placed_chunks_rely_on(
    check: str, canaries: Forker, tmp_path: Path
) -> None:
    """See `canary.py`. If it fails, `ChunkPlacer` must not be used with this h5py or HDF5."""
    (tmp_path / "files").mkdir()
    told = tmp_path / "told"
    job = {"check": check, "folder": str(tmp_path / "files"), "out": str(told), "err": str(told)}
    assert canaries.run({**job, "timeout_s": 240}) == 0, told.read_text()


def test_the_placer_itself_notices_when_hdf5_does_otherwise(tmp_path: Path) -> None:
    placer = ChunkPlacer(tmp_path / "a.h5", stack(4))
    metadata = vars(placer)["_metadata"]
    metadata.token = bytes(32)  # what it waits for is then not what comes
    placer.place(0, 0, 100, 0)  # (the payload is made with the token at its first use)
    metadata.token = b"x" * 32
    with pytest.raises(SetupError, match="does not write a chunk as h5ingest expects"):
        placer.place(0, 1, 100, 0)
    with pytest.raises(StorageError, match="given up"):  # it is not taken for whole
        placer.close()


# --- the journal -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mpich", "openmpi", "wheels"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 600 chunks by three ranks, its journal, and what they did when."""
    folder = tmp_path_factory.mktemp(f"stored-{request.param}")
    return store(folder, request.param, side=4, compression="gzip:1", batch_bytes=480)


def store(folder: Path, flavour_name: str, **how: object) -> Path:
    job = {
        "n_chunks": 600, "chunk_rows": 3, "out": str(folder / "out.h5"),
        "journal": str(folder / "out.journal"), "pause_s": 0.01, "checkpoint_s": 0.03,
        "events": str(folder / "events"), **how,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    flavour = ALL[flavour_name].checked()
    completed = flavour.launch(
        3, flavour.bin / "python", PROGRAMS / "launched_placed.py", "store", folder / "job.json"
    )
    assert completed.returncode == 0, explain(completed)
    return folder


@dataclass(frozen=True, slots=True)
class Event:
    """What one rank did, and until when; for the journal: since when."""

    rank: int
    kind: str
    moment_s: float
    what: list[Any]


def events_of(stored: Path) -> list[Event]:
    return [
        Event(rank, kind, moment_s, what)
        for rank in range(3)
        for kind, moment_s, *what in json.loads((stored / f"events.{rank}").read_text())
    ]


def records_of(event: Event) -> list[Record]:
    kinds: dict[str, Any] = {"Placement": Placement, "Begins": Begins, "Done": Done}
    return [kinds[name](*fields) for name, *fields in event.what[0]]


class OnDisk:
    """When which bytes of the file had been brought to the disk, by rank 0 for all."""

    def __init__(self, events: Sequence[Event]) -> None:
        synced = [e for e in events if e.kind == "synced" and e.what[0].endswith("out.h5")]
        assert {event.rank for event in synced} == {0}
        began_s = np.array([event.what[1] for event in synced])
        found: list[tuple[int, int, float]] = []
        for event in (event for event in events if event.kind == "wrote" and event.what[1]):
            at, n = event.what
            k = int(np.searchsorted(began_s, event.moment_s))  # what came meanwhile is not covered
            assert k < len(synced), "written after the last checkpoint"
            found.append((at, at + n, synced[k].moment_s))
        self.writes = sorted(found)
        self.starts = np.array([start for start, _, _ in self.writes])

    def since_s(self, start: int, n_bytes: int) -> float:
        """When all of an interval was there, whatever writes it came in."""
        moments, end = [], start + n_bytes
        while start < end:
            first, stop, moment_s = self.writes[np.searchsorted(self.starts, start, "right") - 1]
            assert first <= start < stop, f"byte {start} was never written"
            moments.append(moment_s)
            start = stop
        return max(moments)


def test_rows_are_done_in_the_journal_only_once_they_are_on_the_disk(stored: Path) -> None:
    """Their chunks, the checksums of both and their status."""
    events = events_of(stored)
    on_disk = OnDisk(events)
    chunks: dict[int, Placement] = {}
    begins: dict[int, int] = {}
    n_done = []
    for event in (event for event in events if event.kind == "journal"):
        assert event.rank == 0
        for record in records_of(event):
            if isinstance(record, Placement):
                chunks[record.chunk] = record
            elif isinstance(record, Begins):
                begins[record.dataset] = record.offset
            elif isinstance(record, Done):
                rows = range(record.start, record.stop)
                places = [chunks[row // 3] for row in rows]  # placed before, in the journal too
                intervals = {(p.offset, p.n_bytes) for p in places}
                intervals |= {(begins[1] + row, 1) for row in rows}
                intervals |= {(begins[2] + 8 * row, 8) for row in rows}
                intervals |= {(begins[3] + 8 * (row // 3), 8) for row in rows}
                for interval in intervals:
                    assert on_disk.since_s(*interval) < event.moment_s, (record, interval)
                n_done.append((event.moment_s, len(rows)))
    assert sum(n for _, n in n_done) == 1800
    moments = {moment_s for moment_s, _ in n_done}
    assert len(moments) >= 4, "few checkpoints"


def test_what_a_thread_writes_is_done_only_once_it_is_on_the_disk(tmp_path: Path) -> None:
    """Rows written directly, in blocks of 4096 bytes and what is between these."""
    size = 37 * 37
    how = {"compression": "none", "direct": True, "pause_s": 0.01}
    events = events_of(store(tmp_path, "mpich", side=37, batch_bytes=20_000, **how))
    on_disk = OnDisk(events)
    assert any(n > 8192 and not at % 4096 and not n % 4096 for at, n, _ in on_disk.writes)
    entered = [(e, r) for e in events if e.kind == "journal" for r in records_of(e)]
    begins = {r.dataset: r.offset for _, r in entered if isinstance(r, Begins)}
    dones = [(event.moment_s, r) for event, r in entered if isinstance(r, Done)]
    for moment_s, done in dones:
        n = done.stop - done.start
        for dataset, row_bytes in ((0, size), (1, 1), (2, 8)):
            start = begins[dataset] + row_bytes * done.start
            assert on_disk.since_s(start, row_bytes * n) < moment_s, (done, dataset)
    assert sum(done.stop - done.start for _, done in dones) == 1800
    assert len({moment_s for moment_s, _ in dones}) >= 4, "few checkpoints"


def test_the_journal_itself_is_brought_to_the_disk_each_time(stored: Path) -> None:
    events = [event for event in events_of(stored) if event.rank == 0]
    for before, event in pairwise(events):
        if event.kind == "journal":
            assert before.kind == "synced"
            assert before.what[0].endswith("out.journal")
            assert before.moment_s >= event.moment_s, "an older one"


def test_placements_are_in_the_journal_in_the_order_in_which_they_were_made(stored: Path) -> None:
    """And where each was, before it was there: the places are taken in this order again."""
    events = events_of(stored)
    _, records, _ = journal.read(stored / "out.journal")
    made = [Placement(*event.what) for event in events if event.kind == "placed"]
    assert made == [record for record in records if isinstance(record, Placement)]
    assert {event.rank for event in events if event.kind == "placed"} == {0}
    assert [p.chunk for p in made] != list(range(600)), "the ranks did not take turns"
    entered = [r for event in events if event.kind == "journal" for r in records_of(event)]
    assert entered == list(records), "something was changed afterwards"
    assert {record.dataset for record in records[:3] if isinstance(record, Begins)} == {1, 2, 3}
    assert not any(isinstance(record, Begins) for record in records[3:])


def test_the_journal_tells_where_everything_lies_and_that_all_is_done(stored: Path) -> None:
    about, records, n_bytes = journal.read(stored / "out.journal")
    assert about == {"n_rows": 1800}
    assert n_bytes == (stored / "out.journal").stat().st_size
    assert n_bytes < 100 + 32 * len(records)
    placements = [record for record in records if isinstance(record, Placement)]
    dones = [record for record in records if isinstance(record, Done)]
    assert sorted(p.chunk for p in placements) == list(range(600))
    assert len(placements) + len(dones) + 3 == len(records)
    assert done_spans(records, 1) == [[range(1800)]]
    assert sum(done.stop - done.start for done in dones) == 1800, "done twice"
    with h5py.File(stored / "out.h5") as file:
        images = file["images"].id
        for p in placements[::7]:
            told = images.get_chunk_info_by_coord((p.chunk * 3, 0, 0))
            assert (told.byte_offset, told.size, told.filter_mask) == (
                p.offset, p.n_bytes, p.filter_mask
            )  # fmt: skip
        found = {b.dataset: b.offset for b in records if isinstance(b, Begins)}
        names = {1: "status", 2: "checksums", 3: "chunk_checksums"}
        assert found == {number: file[name].id.get_offset() for number, name in names.items()}
        assert (file["status"][()] == 1).all()
        images = file["images"][()]
        assert file["checksums"][()].tolist() == [xxh3_64_intdigest(i.data) for i in images]
        stored_chunks = (file["images"].id.read_direct_chunk((k, 0, 0)) for k in range(0, 1800, 3))
        sums = [xxh3_64_intdigest(data) for _, data in stored_chunks]
        assert file["chunk_checksums"][()].tolist() == sums


def copy_written(stored: Path, path: Path, records: Sequence[Record]) -> None:
    """Make a file of nothing but what its owners have written: no byte of HDF5's metadata."""
    whole = (stored / "out.h5").read_bytes()
    pieces = [(r.offset, r.n_bytes) for r in records if isinstance(r, Placement)]
    n_bytes = {1: 1800, 2: 8 * 1800, 3: 8 * 600}
    pieces += [(r.offset, n_bytes[r.dataset]) for r in records if isinstance(r, Begins)]
    with path.open("wb") as file:
        for start, size in pieces:
            file.seek(start)
            file.write(whole[start : start + size])


def assert_same(first: Path, again: Path) -> None:
    with h5py.File(first) as one, h5py.File(again) as other:
        for name in ("images", "status", "checksums", "chunk_checksums"):
            assert np.array_equal(one[name][()], other[name][()]), name
            assert one[name][()].any()


def test_a_replay_comes_to_the_same_offsets_and_the_same_file(stored: Path, tmp_path: Path) -> None:
    """Written by another HDF5 than this one too: 1.10 and 2.x place alike."""
    _, records, _ = journal.read(stored / "out.journal")
    copy_written(stored, tmp_path / "again.h5", records)
    placer = ChunkPlacer(tmp_path / "again.h5", stack(1800, chunk_rows=3), records)
    placer.replay()
    placer.close()
    assert_same(stored / "out.h5", tmp_path / "again.h5")


def test_half_a_replay_and_the_rest_placed_anew_is_a_whole_file(
    stored: Path, tmp_path: Path
) -> None:
    _, records, _ = journal.read(stored / "out.journal")
    known, rest = records[:350], [r for r in records[350:] if isinstance(r, Placement)]
    assert len(rest) > 100
    whole = (stored / "out.h5").read_bytes()
    copy_written(stored, tmp_path / "half.h5", known)
    placer = ChunkPlacer(tmp_path / "half.h5", stack(1800, chunk_rows=3), known)
    placer.replay()
    anew = [placer.place(0, p.chunk, p.n_bytes, p.filter_mask) for p in reversed(rest)]
    placer.close()
    with (tmp_path / "half.h5").open("r+b") as file:
        for old, new in zip(reversed(rest), anew, strict=True):
            file.seek(new.offset)
            file.write(whole[old.offset : old.offset + old.n_bytes])
    assert_same(stored / "out.h5", tmp_path / "half.h5")


RECORDS: list[Record] = [
    Run(2**63),
    Begins(1, 2048),
    Placement(0, 2**20, 2**40 + 1, 100, 2**31 + 1),
    Done(0, 2**34, 2**34 + 7, 3),
    Undone(7, 2**34, 2**35),
    Placement(3, 0, 4096, 2**32 - 1, 0),
    Begins(IMAGES, 2**64 - 1),
    Done(2**32 - 1, 0, 2**40, 0),
]
"""One of each kind, and the largest values."""


def write_journal(path: Path, records: list[Record]) -> bytes:
    book = Journal(path, {"manifest_sha256": "0" * 64, "note": "a\nb"})
    book.append(pack(records[:2]))
    book.append(pack(records[2:]))
    book.close()
    return path.read_bytes()


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    data = write_journal(tmp_path / "j", RECORDS)
    about, records, n_bytes = journal.read(tmp_path / "j")
    assert about == {"manifest_sha256": "0" * 64, "note": "a\nb"}
    assert list(records) == RECORDS
    assert list(map(type, records)) == list(map(type, RECORDS))
    assert all(type(field) is int for record in records for field in record)
    assert n_bytes == len(data)


def check_intact(path: Path, data: bytes, wanted: list[Record]) -> None:
    """Only the first records are read; and a journal that goes on there has those and the new."""
    path.write_bytes(data)
    _, records, n_bytes = journal.read(path)
    assert list(records) == wanted
    assert data[:n_bytes].endswith(wanted[-1].pack())
    book = Journal(path, None, keep=n_bytes)
    book.append(pack([Done(0, 1, 2)]))
    book.close()
    assert path.read_bytes() == data[:n_bytes] + Done(0, 1, 2).pack()
    assert list(journal.read(path)[1]) == [*wanted, Done(0, 1, 2)]


@pytest.mark.parametrize("n_lost", range(1, 65))
def test_a_torn_record_and_all_after_it_never_happened(n_lost: int, tmp_path: Path) -> None:
    data = write_journal(tmp_path / "j", RECORDS)
    check_intact(tmp_path / "j", data[:-n_lost], RECORDS[: -1 if n_lost <= 32 else -2])


@pytest.mark.parametrize("at", range(1, 33))
def test_a_damaged_record_and_all_after_it_never_happened(at: int, tmp_path: Path) -> None:
    data = bytearray(write_journal(tmp_path / "j", RECORDS))
    data[-32 - at] ^= 1
    check_intact(tmp_path / "j", bytes(data), RECORDS[:-2])


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\n"])
@pytest.mark.parametrize("n_bytes", [1, 31, 32, 33, 4096])
def test_what_a_crash_left_behind_the_records_is_no_record(
    fill: bytes, n_bytes: int, tmp_path: Path
) -> None:
    data = write_journal(tmp_path / "j", RECORDS)
    check_intact(tmp_path / "j", data + fill * n_bytes, RECORDS)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"{}\n", b"[1]\n", b'{"format": "other"}\n', b"\x89HDF",
        json.dumps({"format": journal.FORMAT}).encode(),  # torn: its line has no end
    ],
)  # fmt: skip
def test_another_file_is_no_journal(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(text)
    with pytest.raises(OutputError, match="expected a journal"):
        journal.read(tmp_path / "j")


def refused(path: Path, known: list[Record], what: str) -> None:
    placer = ChunkPlacer(path, stack(10), known)
    with pytest.raises(SetupError, match=what) as info:
        placer.replay()
    assert info.value.exit_code == 6


def test_a_replay_that_comes_to_another_offset_is_refused(tmp_path: Path) -> None:
    placer = ChunkPlacer(tmp_path / "a.h5", stack(10))
    placements = [placer.place(0, chunk, 20 + chunk, 0) for chunk in range(10)]
    begins = placer.begins()
    placer.close()
    assert [b.dataset for b in begins] == [1, 2, 3]
    placer = ChunkPlacer(tmp_path / "b.h5", stack(10), [*begins, *placements])
    placer.replay()
    placer.close()
    moved = placements[6]._replace(offset=placements[6].offset + 8)
    changed: list[Record] = [*begins, *placements[:6], moved, *placements[7:]]
    refused(tmp_path / "c.h5", changed, rf"expected chunk 6 at {moved.offset:#x}.*--restart")
    in_another_order: list[Record] = [*begins, *placements[:6], placements[7], placements[6]]
    refused(tmp_path / "d.h5", in_another_order, "expected chunk 7 at")
    elsewhere = Begins(2, begins[1].offset + 8)
    refused(tmp_path / "e.h5", [begins[0], elsewhere], rf"a dataset at {elsewhere.offset:#x}")
    for unknown in (Begins(0, 2048), Begins(4, 2048), Begins(IMAGES, 1)):
        refused(tmp_path / "f.h5", [*begins, unknown], "expected a dataset at")


def test_a_replay_of_a_tree_with_other_images_is_refused(tmp_path: Path) -> None:
    layout = Layout(kind="tree", groups=(tree_group("", "", 3, 36),), grouped=False)
    images = [TreeImage(0, row, b"", b"%d" % row, (3, 4), "uint8") for row in range(3)]
    placer = ChunkPlacer(tmp_path / "a.h5", layout)
    placer.create_images(images)
    known: list[Record] = [*placer.begins()]
    placer.close()
    assert known[-1][0] == IMAGES
    placer = ChunkPlacer(tmp_path / "a.h5", layout, known)
    placer.create_images(images)
    placer.replay()
    placer.close()
    placer = ChunkPlacer(tmp_path / "a.h5", layout, known)
    placer.create_images([*images[:1], images[1]._replace(shape=(300, 4)), images[2]])
    with pytest.raises(SetupError, match="expected a dataset at"):
        placer.replay()
    placer.close()


# --- memory ------------------------------------------------------------------------------------

GROWTH = """
import os, sys
from pathlib import Path
import numpy as np
from helpers.peak import peak_bytes
from helpers.stacks import stack
from h5ingest.mpi.comm import SerialComm
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Done, pack
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.chunk_queue import ChunkAllocator

folder, n = Path(sys.argv[1]), int(sys.argv[2])
comm = SerialComm()
placer, book = ChunkPlacer(folder / "a.h5", stack(n)), Journal(folder / "a.journal", {})
checkpoints = Checkpoints(comm, folder / "a.h5", book, None, 10_000)
checkpoints.open()
allocator = ChunkAllocator(placer, checkpoints, comm)
checkpoints.enter(pack(placer.begins()))
for start in range(0, n, 1000):
    allocator.place(np.array([(0, c, 10 + c % 20, 0) for c in range(start, start + 1000)]))
    checkpoints.tick()
    for row in range(start, start + 1000, 10):
        checkpoints.note(Done(0, row, row + 10))
checkpoints.finish()
if len(sys.argv) > 3:
    os._exit(0)
placer.close()
print(peak_bytes())
"""
RESUMED = """
import sys
from pathlib import Path
from helpers.peak import peak_bytes
from helpers.stacks import stack
from h5ingest.storage import journal
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.earlier_runs import done_spans

folder, n = Path(sys.argv[1]), int(sys.argv[2])
_, known, _ = journal.read(folder / "a.journal")
assert len(known) == n + 3 + n // 10
assert done_spans(known.spans(), 1) == [[range(n)]]
placer = ChunkPlacer(folder / "a.h5", stack(n), known)
placer.replay()
placer.close()
print(peak_bytes())
"""


@pytest.mark.parametrize("name", soon(["wheels"], ["mpich", "wheels"]))
def test_rank_0_grows_by_less_than_150_bytes_a_chunk(name: str, tmp_path: Path) -> None:
    """Even if no checkpoint takes anything off it."""
    python = ALL[name].checked().bin / "python"
    peaks = []
    for n_chunks in (25_000, 100_000):
        command: list[str | Path] = [python, "-c", GROWTH, tmp_path, str(n_chunks)]
        completed = run(command, cwd=TESTS, timeout_s=120)
        assert completed.returncode == 0, explain(completed)
        peaks.append(int(completed.stdout))
    assert (peaks[1] - peaks[0]) / 75_000 < 150, peaks


def test_rank_0_grows_by_less_than_100_bytes_a_chunk_when_it_resumes(tmp_path: Path) -> None:
    python = ALL["mpich"].checked().bin / "python"
    peaks = []
    for n_chunks in (20_000, 80_000):
        folder = tmp_path / str(n_chunks)
        folder.mkdir()
        for script, *more in ([GROWTH, "killed"], [RESUMED]):
            command: list[str | Path] = [python, "-c", script, folder, str(n_chunks), *more]
            completed = run(command, cwd=TESTS, timeout_s=120)
            assert completed.returncode == 0, explain(completed)
        peaks.append(int(completed.stdout))
    assert (peaks[1] - peaks[0]) / 60_000 < 100, peaks


@pytest.mark.parametrize("name", soon(["wheels"], ["openmpi", "wheels"]))
def test_the_memory_of_a_rank_does_not_grow_with_the_images(name: str, tmp_path: Path) -> None:
    # Large images, so that there are few rows: what grows with the rows, the paths, is not meant.
    # With threads in both runs: else the machine's load decides which of them has any.
    write_images(tmp_path, make_pixels(5, (256, 256)))
    flavour = ALL[name].checked()
    peaks = []
    for n_images in (300, 1200):  # 20 and 80 MB of pixels, which no filter makes smaller
        names = [f"{row % 5:04}.png" for row in range(n_images)]
        manifest = write_manifest(tmp_path / "m.txt", names)
        completed = flavour.run_launched(
            2, "peak", manifest, tmp_path / f"{n_images}.h5", "--compression", "zstd:1",
            "--chunk", "2", "--cache-bytes", "0", "--batch-bytes", "1MiB", "--readers", "16",
        )  # fmt: skip
        assert completed.returncode == 0, explain(completed)
        found = re.findall(r"peak of rank (\d): (\d+) KiB", completed.stderr)
        assert len(found) == 2
        peaks.append({rank: int(kib) for rank, kib in found})
    for rank, kib in peaks[0].items():
        # Of 60 MB that it has more of; malloc keeps some of what is freed (`beginning`).
        assert peaks[1][rank] - kib < 24 * 1024, peaks


@pytest.mark.parametrize("layout", [stack(40, side=256, compression="none"), LARGE_TREE])
def test_what_will_be_in_the_file_has_its_space_from_the_beginning(
    layout: Layout, tmp_path: Path
) -> None:
    need_space_to_be_taken(tmp_path)
    path, n_bytes = tmp_path / "a.h5", 40 * 256 * 256
    placer = ChunkPlacer(path, layout)
    if layout is LARGE_TREE:
        placer.create_images(
            TreeImage(0, i, b"", b"%d" % i, (256, 256), "uint8") for i in range(40)
        )
    before = path.stat()
    placer.close()
    after = path.stat()
    assert n_bytes <= before.st_blocks * 512 <= n_bytes + 2**20
    assert after.st_blocks * 512 <= after.st_size + 2**16
    with h5py.File(path) as file:
        pixels = file["images"] if layout is not LARGE_TREE else file["0"]
        assert not pixels[:].any()
