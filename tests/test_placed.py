"""Placed chunks: every filter at any number of ranks, read by others; canaries, journal, memory.

The files are checked by plain h5py and hdf5plugin in a process of their own (`plain_reader.py`),
of another HDF5 version than wrote them, and by Debian's tools.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support import (
    FLAVOURS,
    ROOT,
    WHEELS,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    run,
    write_images,
    write_manifest,
)

from h5ingest.errors import OutputError, SetupError, UsageError
from h5ingest.ingest import ingest
from h5ingest.layout import ImageSpec, stack
from h5ingest.options import IngestOptions
from h5ingest.storage import journal
from h5ingest.storage.filters import available, pipeline
from h5ingest.storage.journal import Journal, Placement
from h5ingest.storage.placer import Placer

ALL: dict[str, Flavour] = {**FLAVOURS, "wheels": WHEELS}
TESTS = Path(__file__).parent
SHARED = ROOT.parent / "shared"

SHUFFLE, GZIP, SZIP, LZF, BZIP2 = 2, 1, 4, 32000, 307
BLOSC, BLOSC2, LZ4, BITSHUFFLE, ZSTD = 32001, 32026, 32004, 32008, 32015
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
def data(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Data]:
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
    if not SHARED.exists():
        make("depth", smooth(7, 60, 80, 60_000).astype(np.uint16), 2)
        return found
    corpora: Path = request.getfixturevalue("corpora")
    for name, paths, chunk_rows in (
        ("depth", all_of("*.png", corpora / "depth16_open3d", "I;16", (640, 480))[:5], 2),
        ("mnist", all_of("*.png", corpora / "mnist" / "test" / "7", "L", (28, 28))[:203], 16),
        ("kodak", all_of("*.png", corpora / "kodak", "RGB", (768, 512))[:5], 2),
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


def cases_of(data: dict[str, Data], folder: Path, wanted: Sequence[tuple[int, int]]) -> list[Case]:
    names = [name for name in DATA if name in data]
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
                "compression": case.compression,
                "shuffle": case.shuffle,
                "chunk_rows": case.data.chunk_rows,
                "batch_bytes": 10_000,  # several batches a rank, of the small images
            },
        }
        for case in cases
    ]
    (folder / "cases.json").write_text(json.dumps(jobs))
    completed = flavour.launch(
        n_ranks, flavour.bin / "python", TESTS / "launched_placed.py",
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
        [reader.bin / "python", TESTS / "plain_reader.py", folder / "files.json"],
        timeout_s=timeout_s,
    )
    assert completed.returncode == 0, explain(completed)


EVERY_PAIR = [(f, d) for f in range(len(FILTERS)) for d in range(len(DATA))]
PLACES = [(name, n_ranks) for name in ("mpich", "openmpi", "wheels") for n_ranks in (1, 2, 3, 5)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "n_ranks"), [("wheels", 2), ("openmpi", 3)])
def test_every_filter_gives_back_all_pixels(
    name: str, n_ranks: int, data: dict[str, Data], tmp_path: Path
) -> None:
    make_and_check(ALL[name], n_ranks, cases_of(data, tmp_path, EVERY_PAIR), tmp_path, 180)


@pytest.mark.parametrize(
    ("name", "n_ranks"), [p for p in PLACES if p not in (("wheels", 2), ("openmpi", 3))]
)
def test_every_filter_at_every_number_of_ranks_with_every_mpi(
    name: str, n_ranks: int, data: dict[str, Data], tmp_path: Path
) -> None:
    turn = PLACES.index((name, n_ranks))
    # Five ranks on two cores wait for each other in MPI: there, every second filter.
    chosen = range(turn % 2, len(FILTERS), 2) if n_ranks == 5 else range(len(FILTERS))
    wanted = [(f, f + turn) for f in chosen]
    make_and_check(ALL[name], n_ranks, cases_of(data, tmp_path, wanted), tmp_path, 120)


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
    if SHARED.exists():
        assert set(data) == set(DATA)


# --- Debian's tools ----------------------------------------------------------------------------

TOOL_FILTERS = [
    (f, name)
    for f, name in (
        (3, "COMPRESSION DEFLATE"), (4, "FILTER_ID 32000"), (6, "COMPRESSION SZIP"),
        (7, "FILTER_ID 32015"), (10, "FILTER_ID 32004"), (12, "FILTER_ID 307"),
        (13, "FILTER_ID 32001"), (18, "FILTER_ID 32026"), (23, "FILTER_ID 32008"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def for_tools(
    data: dict[str, Data], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Case]]:
    """A file per filter, by HDF5 1.10 and by 2.x, both on three ranks."""
    made = {}
    for name in ("mpich", "wheels"):
        folder = tmp_path_factory.mktemp(f"tools-{name}")
        made[name] = cases_of(data, folder, [(f, 0) for f, _ in TOOL_FILTERS])
        make_and_check(ALL[name], 3, made[name], folder, 60)
    return made


def tool(*command: str | Path) -> str:
    """Run one of Debian's HDF5 tools, which may load the same plugins as h5py."""
    if shutil.which(str(command[0])) is None:
        pytest.fail(f"{command[0]} is missing: scripts/venv.sh mpich installs hdf5-tools")
    completed = run(command, env={"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH})
    assert completed.returncode == 0, explain(completed)
    assert "rror" not in completed.stderr, explain(completed)
    return completed.stdout


@pytest.mark.parametrize("name", ["mpich", "wheels"])
@pytest.mark.parametrize("at", range(len(TOOL_FILTERS)), ids=[n for _, n in TOOL_FILTERS])
def test_debians_tools_accept_the_file(
    at: int, name: str, for_tools: dict[str, list[Case]], tmp_path: Path
) -> None:
    case, marker = for_tools[name][at], TOOL_FILTERS[at][1]
    assert marker in tool("h5dump", "-pH", case.out)
    assert re.search(r"^/images +Dataset \{37, 24, 20, 3\}", tool("h5ls", "-r", case.out), re.M)
    if case.filters == [LZF]:  # only h5py has that one: these tools can read the header alone
        return
    tool("h5repack", case.out, tmp_path / "copy.h5")
    copy = Case(
        data=case.data, compression=case.compression, shuffle=case.shuffle,
        filters=case.filters, out=tmp_path / "copy.h5",
    )  # fmt: skip
    read_plainly(ALL["mpich"], [copy], tmp_path)
    assert tool("h5diff", case.out, tmp_path / "copy.h5") == ""


@pytest.mark.parametrize("name", ["mpich", "wheels"])
def test_no_space_is_lost(name: str, for_tools: dict[str, list[Case]], tmp_path: Path) -> None:
    """Next to an ordinary h5py file of the same datasets, opened twice as ours is."""
    for case in for_tools[name]:
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
    found = re.search(r"Unaccounted space: (\d+) bytes", tool("h5stat", "-S", file))
    assert found
    return int(found[1])


# --- which codecs there are --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sz", "lossy"), ("sz3", "lossy"), ("zfp", "lossy"), ("sperr", "lossy"),
        ("fcidecomp", "wrong pixels"), ("htj2k", "no stacks"),
    ],
)  # fmt: skip
def test_a_codec_that_does_not_give_the_pixels_back_is_refused(name: str, reason: str) -> None:
    for text in (name, name.upper(), f"{name}:3"):
        with pytest.raises(UsageError, match=rf"{text}: not offered.*{reason}.*gzip.*zstd") as info:
            pipeline(text, shuffle=False)
        assert info.value.exit_code == 2


def test_no_plugin_is_left_undecided() -> None:
    """A new filter in hdf5plugin must be offered or refused, not overlooked."""
    for name in hdf5plugin.FILTERS:
        text = "bitshuffle" if name == "bshuf" else name
        if text not in available():
            with pytest.raises(UsageError, match="not offered"):
                pipeline(text, shuffle=False)


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
        pipeline(text, shuffle=False)


def test_a_refused_codec_ends_the_command_before_any_work(
    data: dict[str, Data], tmp_path: Path
) -> None:
    for text, reason in (("sz3", "it is lossy"), ("zip", "available are gzip, lzf")):
        completed = WHEELS.run(
            2, "--compression", text, data["smooth"].manifest, tmp_path / "out.h5"
        )
        assert completed.returncode == 2, explain(completed)
        assert len(error_lines(completed)) == 1, explain(completed)
        assert reason in completed.stderr
        assert not list(tmp_path.iterdir())


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
    env = {"PYTHONPATH": str(shadow), "HDF5_PLUGIN_PATH": str(shadow)}
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
    "one_chunk_in_memory_is_what_an_ordinary_file_stores",
)


@pytest.mark.parametrize("name", ["mpich", "wheels"])
@pytest.mark.parametrize("check", CANARIES)
def test_canary_this_hdf5_still_does_what_placed_chunks_rely_on(
    check: str, name: str, tmp_path: Path
) -> None:
    """See `canary.py`. If this fails, storage/placer.py must not be used with this h5py or HDF5."""
    completed = run(
        [ALL[name].checked().bin / "python", TESTS / "canary.py", check, tmp_path], timeout_s=120
    )
    assert completed.returncode == 0, explain(completed)


def test_the_placer_itself_notices_when_hdf5_does_otherwise(tmp_path: Path) -> None:
    placer = Placer(tmp_path / "a.h5", tiny(4))
    metadata = vars(placer)["_metadata"]
    metadata.token = bytes(32)  # what it waits for is then not what comes
    placer.place(0, 0, 100, 0)  # (the payload is made with the token at its first use)
    metadata.token = b"x" * 32
    with pytest.raises(SetupError, match="does not write a chunk as h5ingest expects"):
        placer.place(0, 1, 100, 0)
    placer.close()


# --- the journal -------------------------------------------------------------------------------


def tiny(n_chunks: int) -> Any:
    image = ImageSpec(height=4, width=4, channels=1, dtype="uint8")
    return stack(n_chunks, image, chunk_rows=1, filters=pipeline("gzip:1", shuffle=False))


@pytest.fixture(scope="module", params=["mpich", "openmpi", "wheels"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 600 chunks by three ranks, its journal, and what they did when."""
    folder = tmp_path_factory.mktemp(f"stored-{request.param}")
    job = {
        "side": 4, "n_chunks": 600, "chunk_rows": 3, "compression": "gzip:1",
        "out": str(folder / "out.h5"), "journal": str(folder / "out.journal"),
        "batch_bytes": 480, "pause_s": 0.01, "checkpoint_s": 0.03, "events": str(folder / "events"),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    flavour = ALL[request.param].checked()
    completed = flavour.launch(
        3, flavour.bin / "python", TESTS / "launched_placed.py", "store", folder / "job.json"
    )
    assert completed.returncode == 0, explain(completed)
    return folder


def test_a_chunk_is_in_the_journal_only_once_it_is_on_the_disk(stored: Path) -> None:
    events = [json.loads((stored / f"events.{rank}").read_text()) for rank in range(3)]
    durable: dict[int, float] = {}  # where a write began -> when it was on the disk
    ends: dict[int, int] = {}
    for of_rank in events:
        open_writes: list[int] = []
        for kind, moment_s, *what in of_rank:
            if kind == "wrote":
                open_writes.append(what[0])
                ends[what[0]] = what[0] + what[1]
            elif kind == "synced" and what[0].endswith("out.h5"):
                durable.update(dict.fromkeys(open_writes, moment_s))
                open_writes.clear()
    starts = np.array(sorted(durable))
    noted = [(moment_s, what[0]) for kind, moment_s, *what in events[0] if kind == "journal"]
    seen = 0
    for began_s, placements in noted:
        for offset, n_bytes in placements[seen:]:
            start = int(starts[np.searchsorted(starts, offset, "right") - 1])
            assert start <= offset
            assert offset + n_bytes <= ends[start]
            assert durable[start] < began_s
        seen = len(placements)
    assert seen == 600
    assert len({len(placements) for _, placements in noted} - {0, 600}) >= 3, "few checkpoints"


def test_the_journal_tells_where_all_chunks_lie(stored: Path) -> None:
    about, placements = journal.read(stored / "out.journal")
    assert about == {"n_rows": 1800}
    assert (stored / "out.journal").stat().st_size < 100 + 32 * 600
    assert sorted(p.chunk for p in placements) == list(range(600))
    assert [p.chunk for p in placements] != list(range(600)), "the ranks did not take turns"
    with h5py.File(stored / "out.h5") as file:
        images = file["images"].id
        for p in placements[::7]:
            told = images.get_chunk_info_by_coord((p.chunk * 3, 0, 0))
            assert (told.byte_offset, told.size, told.filter_mask) == (
                p.offset, p.n_bytes, p.filter_mask
            )  # fmt: skip


def layout_of_stored() -> Any:
    image = ImageSpec(height=4, width=4, channels=1, dtype="uint8")
    return stack(1800, image, chunk_rows=3, filters=pipeline("gzip:1", shuffle=False))


def test_a_replay_comes_to_the_same_offsets_and_the_same_file(stored: Path, tmp_path: Path) -> None:
    """Written by another HDF5 than this one too: 1.10 and 2.x place alike."""
    _, placements = journal.read(stored / "out.journal")
    placer = Placer(tmp_path / "again.h5", layout_of_stored())
    placer.replay(placements)
    placer.close()
    whole = (stored / "out.h5").read_bytes()
    with (tmp_path / "again.h5").open("r+b") as file:
        for p in placements:
            file.seek(p.offset)
            file.write(whole[p.offset : p.offset + p.n_bytes])
    with h5py.File(stored / "out.h5") as first, h5py.File(tmp_path / "again.h5") as again:
        assert np.array_equal(first["images"][()], again["images"][()])
        assert first["images"][()].any()


def test_half_a_replay_and_the_rest_placed_anew_is_a_whole_file(
    stored: Path, tmp_path: Path
) -> None:
    _, placements = journal.read(stored / "out.journal")
    whole = (stored / "out.h5").read_bytes()
    placer = Placer(tmp_path / "half.h5", layout_of_stored())
    placer.replay(placements[:250])
    rest = [placer.place(0, p.chunk, p.n_bytes, p.filter_mask) for p in reversed(placements[250:])]
    placer.close()
    offsets = {p.chunk: p.offset for p in placements}
    with (tmp_path / "half.h5").open("r+b") as file:
        for p in [*placements[:250], *rest]:
            file.seek(p.offset)
            file.write(whole[offsets[p.chunk] : offsets[p.chunk] + p.n_bytes])
    with h5py.File(stored / "out.h5") as first, h5py.File(tmp_path / "half.h5") as again:
        assert np.array_equal(first["images"][()], again["images"][()])


PLACEMENTS = [Placement(0, chunk, 4096 + 100 * chunk, 100, chunk % 2) for chunk in range(5)]


def write_journal(path: Path, placements: list[Placement]) -> bytes:
    book = Journal(path, {"manifest_sha256": "0" * 64, "note": "a\nb"})
    book.append(journal.pack(placements[:2]))
    book.append(journal.pack(placements[2:]))
    book.close()
    return path.read_bytes()


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    write_journal(tmp_path / "j", PLACEMENTS)
    about, placements = journal.read(tmp_path / "j")
    assert about == {"manifest_sha256": "0" * 64, "note": "a\nb"}
    assert placements == PLACEMENTS
    assert all(type(p.offset) is int for p in placements)


@pytest.mark.parametrize("n_lost", range(1, 65))
def test_a_torn_record_and_all_after_it_never_happened(n_lost: int, tmp_path: Path) -> None:
    data = write_journal(tmp_path / "j", PLACEMENTS)
    (tmp_path / "j").write_bytes(data[:-n_lost])
    assert journal.read(tmp_path / "j")[1] == PLACEMENTS[: 4 if n_lost <= 32 else 3]


@pytest.mark.parametrize("at", range(1, 33))
def test_a_damaged_record_and_all_after_it_never_happened(at: int, tmp_path: Path) -> None:
    data = bytearray(write_journal(tmp_path / "j", PLACEMENTS))
    data[-32 - at] ^= 1
    (tmp_path / "j").write_bytes(data)
    assert journal.read(tmp_path / "j")[1] == PLACEMENTS[:3]


def test_zeros_that_a_crash_left_are_no_records(tmp_path: Path) -> None:
    data = write_journal(tmp_path / "j", PLACEMENTS)
    (tmp_path / "j").write_bytes(data + bytes(4096))
    assert journal.read(tmp_path / "j")[1] == PLACEMENTS


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"{}\n", b"[1]\n", b'{"format": "other"}\n', b"\x89HDF"]
)
def test_another_file_is_no_journal(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(text)
    with pytest.raises(OutputError, match="expected a journal"):
        journal.read(tmp_path / "j")


def test_a_replay_that_comes_to_another_offset_is_refused(tmp_path: Path) -> None:
    placer = Placer(tmp_path / "a.h5", tiny(10))
    known = [placer.place(0, chunk, 20 + chunk, 0) for chunk in range(10)]
    placer.close()
    known[6] = Placement(0, 6, known[6].offset + 8, known[6].n_bytes, 0)
    placer = Placer(tmp_path / "b.h5", tiny(10))
    with pytest.raises(SetupError, match=rf"expected chunk 6 at byte {known[6].offset}") as info:
        placer.replay(known)
    assert info.value.exit_code == 6
    placer.close()


# --- memory ------------------------------------------------------------------------------------

GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from h5ingest.comm import SerialComm
from h5ingest.layout import ImageSpec, stack
from h5ingest.storage.filters import pipeline
from h5ingest.storage.journal import Journal
from h5ingest.storage.placed import Desk
from h5ingest.storage.placer import Placer

folder, n = Path(sys.argv[1]), int(sys.argv[2])
image = ImageSpec(height=4, width=4, channels=1, dtype="uint8")
layout = stack(n, image, chunk_rows=1, filters=pipeline("gzip:1", shuffle=False))
placer, book = Placer(folder / "a.h5", layout), Journal(folder / "a.journal", {})
desk = Desk(placer, book, SerialComm())
for start in range(0, n, 1000):
    desk.place(0, np.array([(0, c, 10 + c % 20, 0) for c in range(start, start + 1000)]))
desk.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize("name", ["mpich", "wheels"])
def test_root_grows_by_less_than_100_bytes_a_chunk(name: str, tmp_path: Path) -> None:
    """Even if no checkpoint takes anything off it."""
    python = ALL[name].checked().bin / "python"
    peaks = []
    for n_chunks in (50_000, 200_000):
        completed = run([python, "-c", GROWTH, tmp_path, str(n_chunks)])
        assert completed.returncode == 0, explain(completed)
        peaks.append(int(completed.stdout))
    assert (peaks[1] - peaks[0]) / 150_000 < 100, peaks


@pytest.mark.parametrize("name", ["openmpi", "wheels"])
def test_the_memory_of_a_rank_does_not_grow_with_the_images(name: str, tmp_path: Path) -> None:
    # Large images, so that there are few rows: what grows with the rows, the paths, is not meant.
    write_images(tmp_path, make_pixels(5, (256, 256)))
    flavour = ALL[name].checked()
    peaks = []
    for n_images in (300, 1200):  # 20 and 80 MB of pixels, which no filter makes smaller
        names = [f"{row % 5:04}.png" for row in range(n_images)]
        manifest = write_manifest(tmp_path / "m.txt", names)
        completed = flavour.run_launched(
            2, "peak", manifest, tmp_path / f"{n_images}.h5", "--compression", "zstd:1",
            "--chunk", "2", "--cache-bytes", "0", "--batch-bytes", "1MiB",
        )  # fmt: skip
        assert completed.returncode == 0, explain(completed)
        found = re.findall(r"peak of rank (\d): (\d+) KiB", completed.stderr)
        assert len(found) == 2
        peaks.append({rank: int(kib) for rank, kib in found})
    for rank, kib in peaks[0].items():
        assert peaks[1][rank] - kib < 4 * 1024, peaks
