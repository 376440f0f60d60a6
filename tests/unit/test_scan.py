"""`h5ingest manifest`: which files are images, in what order, and that an ingest reads it back."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.faults import ALL_FLAVOURS, faulty
from helpers.support import FLAVOURS, WHEELS, error_lines, explain, make_pixels, soon, write_png
from helpers.support import run as start
from helpers.threads import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from h5ingest.cli.main import run
from h5ingest.core.errors import ManifestError, OutputError, SampleError, StoppedError, UsageError
from h5ingest.core.manifest import stream
from h5ingest.core.manifest_dialect import sniff
from h5ingest.core.options import IngestOptions
from h5ingest.core.signatures import format_of
from h5ingest.images import prefetch, source_files
from h5ingest.images.decode import probe
from h5ingest.images.folder_manifest import FolderScan, Form
from h5ingest.images.folders import Walk
from h5ingest.images.scan import EXTENSIONS, HEAD_BYTES, ScanOptions, Tally
from h5ingest.images.scan_summary import describe
from h5ingest.mpi import led
from h5ingest.mpi.comm import SerialComm
from h5ingest.mpi.led import Deal, led_by_rank_0
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest

PNG = b"\x89PNG\r\n\x1a\n and so on"
NOBODY = 65534


def plant(folder: Path, *names: str | bytes, content: bytes = PNG) -> Path:
    """Write files, and the folders that they lie in."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return folder


def found(folder: Path, **options: Any) -> list[str]:
    return [os.fsdecode(path) for path in scanned(folder, **options)[0]]


def scanned(folder: Path, **options: Any) -> tuple[list[bytes], Tally]:
    tally, lines = Tally(), []
    chosen = ScanOptions(label="none", **options)
    base = os.path.join(os.fsencode(folder), b"")
    form = Form(base=base, prefix=b"", comma=False, options=chosen)

    def lead(deal: Deal) -> None:
        for part in deal("files", Walk(base, tally, deal, hidden=chosen.hidden)):
            lines.append(part.lines)
            tally.add(part.tally)

    with FolderScan(form) as scan:
        led_by_rank_0(SerialComm(), scan, lead, Interrupt())
    return b"".join(lines).splitlines(), tally


def noted(tally: Tally) -> dict[str, list[str]]:
    return {reason: [os.fsdecode(p) for p in paths] for reason, (_, paths) in tally.noted.items()}


def written(folder: Path, out: Path, **options: Any) -> list[tuple[bytes, ...]]:
    """The rows of the manifest, header first, as an ingest parses them."""
    write_manifest(folder, out, ScanOptions(**options))
    return rows_of(out)


def rows_of(manifest: Path) -> list[tuple[bytes, ...]]:
    dialect = sniff(manifest)
    assert dialect.has_header
    rows = [tuple(name.encode() for name in dialect.columns)]
    for columns in stream(manifest, dialect):
        rows += zip(*(columns[name] for name in dialect.columns), strict=True)
    return rows


# --- which files are images --------------------------------------------------------------------

PILLOW = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "AVIF", "QOI")


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_formats_are_told_by_the_first_bytes(name: str, mode: str) -> None:
    file = io.BytesIO()
    image = Image.effect_noise((40, 30), 50).convert(mode)
    try:
        image.save(file, name)
    except (OSError, ValueError):
        image.convert("RGB").save(file, name)
    expected = {"JPEG2000": "JPEG 2000", "PPM": "PNM", "WEBP": "WebP"}.get(name, name)
    data = file.getvalue()
    assert format_of(data[:HEAD_BYTES]) == expected
    assert expected in EXTENSIONS.values()
    assert probe(data) is not None, "what the manifest names must be an image to the ingest too"


def test_other_kinds_of_these_formats() -> None:
    big = io.BytesIO()
    Image.new("L", (3, 3)).save(big, "TIFF", big_tiff=True)
    assert format_of(big.getvalue()[:HEAD_BYTES]) == "TIFF"
    assert format_of(b"MM\0*\0\0\0\x08") == "TIFF"
    assert format_of(b"P2 # plain\n3 3\n") == "PNM"
    assert format_of(b"\xff\x4f\xff\x51\0\x2f") == "JPEG 2000"
    others = [b"", b"P5", b"MM\0", b"%PDF-1.7", b"P1 is a name", b"RIFF\0\0\0\0WAVEfmt ",
              b"BM is not always a bitmap's beginning.", b"\0\0\0\x18ftypmp42"]  # fmt: skip
    for other in others:
        assert format_of(other[:HEAD_BYTES]) is None, other


def test_every_real_image_is_found_and_nothing_else(corpora: Path) -> None:
    folder = corpora / "pngsuite"
    expected = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            try:
                probe(path.read_bytes())
            except SampleError as error:
                if error.kind == "not an image" or path.read_bytes()[:8] != PNG[:8]:
                    continue  # a damaged PNG is one: the ingest says what is wrong with it
            expected.append(os.fsencode(path.relative_to(folder)))
    assert len(expected) > 160
    images, tally = scanned(folder)
    assert images == sorted(expected)
    (damaged,) = noted(tally).values()
    assert {Path(name).name[:2] for name in damaged} == {"xs", "xc", "xl"}  # by its own naming


def test_content_decides_over_the_name(tmp_path: Path) -> None:
    plant(tmp_path, "a.txt", "b", "c.JPG", "d.png.bak")
    plant(tmp_path, "page.jpg", content=b"<html>404</html>")
    plant(tmp_path, "empty.png", content=b"")
    plant(tmp_path, "notes.txt", "README", "x.md", content=b"text")
    images, tally = scanned(tmp_path)
    assert images == [b"a.txt", b"b", b"c.JPG", b"d.png.bak"]
    assert tally.formats == {"PNG": 4}
    assert tally.others == {".txt": 1, ".md": 1, "no extension": 1}
    assert noted(tally) == {
        "file that is named like an image (something else inside)": ["page.jpg"],
        "file that is named like an image (empty)": ["empty.png"],
    }


def test_without_sniffing_the_name_decides_and_no_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "a.txt", "b", "c.JPG", "e.png", "d.png.bak")
    with monkeypatch.context() as patch:
        patch.setattr("h5ingest.images.source_files.read", None)
        images, tally = scanned(tmp_path, sniff=False)
    assert images == [b"c.JPG", b"e.png"]
    assert tally.formats == {"PNG": 1, "JPEG": 1}
    assert tally.others == {".txt": 1, "no extension": 1, ".bak": 1}


def test_hidden_files_and_folders_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "._a.png", ".git/b.png", "c/.d/e.png")
    images, tally = scanned(tmp_path)
    assert images == [b"a.png"]
    assert tally.hidden == 3
    assert found(tmp_path, hidden=True) == ["._a.png", ".git/b.png", "a.png", "c/.d/e.png"]


def test_what_is_no_regular_file_is_noted_and_nothing_waits_for_it(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as unix, contextlib.chdir(tmp_path):
        unix.bind("s.png")
        images, tally = scanned(tmp_path)
    assert images == [b"a.png"]
    (others,) = noted(tally).values()
    assert sorted(others) == ["device.png", "fifo.png", "s.png"]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_named_and_does_not_end_the_scan(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "locked/b.png", "no.png", "no.txt", "z/c.png")
    for name in ("locked", "no.png", "no.txt"):
        (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    try:
        with contextlib.chdir(tmp_path), as_nobody():
            images, tally = scanned(Path())
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert images == [b"a.png", b"no.png", b"z/c.png"], "an ingest shall report no.png"
    assert noted(tally) == {
        "folder that cannot be read (Permission denied)": ["locked/"],
        "file that cannot be read (Permission denied)": ["no.png", "no.txt"],
    }


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_an_ingest_leaves_no_folder_out_unless_asked_to(n_ranks: int) -> None:
    found: list[Any] = []

    def work(comm: Any) -> None:
        with pytest.raises(ManifestError, match="nothing is stored") as caught:
            ingest(Path("im"), Path("o.h5"), comm=comm)
        if comm.rank == 0:
            found.extend((os.listdir(), str(caught.value)))
        report = ingest(Path("im"), Path("o.h5"), IngestOptions(on_error="blank"), comm)
        if comm.rank == 0:
            found.extend((report.n_samples, report.warnings))

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(folder).chmod(0o777)
        for name in ("im/a/a.png", "im/b/locked/b.png"):
            Path(name).parent.mkdir(parents=True)
            write_png(Path(name), make_pixels(1, (3, 3))[0])
        ingest(Path("im/a"), Path("all.h5"))  # imports what nobody may read, maybe
        Path("all.h5").unlink()
        Path("im/b/locked").chmod(0)
        with as_nobody():
            on_ranks(n_ranks, work)
        Path("im/b/locked").chmod(0o700)
    left, said, n_samples, warnings = found
    for part in ("1 x folder that cannot be read (Permission denied)", "'b/locked/'",
                 "--on-error blank", "h5ingest manifest im -o LIST.csv"):  # fmt: skip
        assert part in said
    assert left == ["im"]
    assert n_samples == 1
    assert warnings == ("1 folder that cannot be read: left out (first: b/locked/)",)


# --- links -------------------------------------------------------------------------------------


def test_links_to_files_are_files(tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", "x")
    data = plant(tmp_path / "data", "a.png")
    (data / "b.png").symlink_to("a.png")
    (data / "c").symlink_to(outside / "x")
    (data / "gone.png").symlink_to("nowhere")
    (data / "self.png").symlink_to("self.png")
    images, tally = scanned(data)
    assert images == [b"a.png", b"b.png", b"c"]
    assert noted(tally) == {
        "broken link (No such file or directory)": ["gone.png"],
        "broken link (Too many levels of symbolic links)": ["self.png"],
    }


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", "x.png", "sub/y.png")
    data = plant(tmp_path / "data", "a.png")
    (data / "one").symlink_to(outside)
    (data / "two").symlink_to(outside)
    (data / "zsub").symlink_to(outside / "sub")
    images, tally = scanned(data)
    assert images == [b"a.png", b"one/sub/y.png", b"one/x.png"]
    assert list(noted(tally).values()) == [["two/", "zsub/"]]


def test_loops_end(tmp_path: Path) -> None:
    data = plant(tmp_path / "data", "a/b/c.png")
    plant(tmp_path, "sibling.png")
    (data / "a/b/up").symlink_to("..")
    (data / "a/b/top").symlink_to(data)
    (data / "above").symlink_to(tmp_path)
    (data / "here").symlink_to(".")
    images, tally = scanned(data)
    assert images == [b"a/b/c.png"]
    assert list(noted(tally).values()) == [["a/b/top/", "a/b/up/", "above/", "here/"]]
    outside = plant(tmp_path / "outside", "x.png")
    (outside / "back").symlink_to(data)
    (outside / "loop").symlink_to(outside)
    (data / "z").symlink_to(outside)
    assert found(data) == ["a/b/c.png", "z/x.png"]


def test_a_real_folder_goes_before_a_link_to_it(tmp_path: Path) -> None:
    plant(tmp_path, "real/x.png", ".store/y.png")
    (tmp_path / "alias").symlink_to("real")  # comes first
    (tmp_path / "latest").symlink_to(".store")  # which is not scanned by itself
    assert found(tmp_path) == ["latest/y.png", "real/x.png"]
    assert found(tmp_path, hidden=True) == [".store/y.png", "real/x.png"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    plant(tmp_path / "real", "cat/x.png")
    (tmp_path / "data").symlink_to("real")
    plant(tmp_path / "real", "y.png")
    rows = written(tmp_path / "data", tmp_path / "m.txt")
    assert rows[1:] == [(b"data/cat/x.png", b"cat"), (b"data/y.png", b"data")]


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    deep = "d/" * 200 + "x.png"
    plant(tmp_path, deep)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        images, _ = scanned(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert images == [deep.encode()]


# --- order -------------------------------------------------------------------------------------


def test_the_order_is_that_of_the_bytes_of_the_paths(tmp_path: Path) -> None:
    names = ["a b.png", "a-1/x.png", "a.png", "a/b.png", "a0.png", "B.png", "b.png", "é.png",
             "z.png", "10.png", "9.png", "a/B/c.png", "a/b/c.png", "a/b-c.png"]  # fmt: skip
    random.Random(1).shuffle(names)
    plant(tmp_path, *names)
    assert found(tmp_path) == sorted(names, key=str.encode)


def test_the_order_is_not_that_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, *(f"{i % 7}/{i}.png" for i in range(50)))
    expected = found(tmp_path)
    listing = os.scandir

    def backwards(path: bytes) -> Any:
        entries = sorted(listing(path), key=lambda entry: entry.name, reverse=True)
        return contextlib.nullcontext(entries)

    monkeypatch.setattr(os, "scandir", backwards)
    assert found(tmp_path) == expected


# --- the manifest ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "m"])
def test_labels_groups_and_relative_paths(tmp_path: Path, name: str) -> None:
    data = plant(tmp_path / "data", "test/dog/1.png", "train/cat/1.png", "train/dog/deep/1.png")
    (tmp_path / "lists").mkdir()
    rows = written(data, tmp_path / "lists" / name, group_level=1)
    assert rows == [
        (b"path", b"label", b"group"),
        (b"../data/test/dog/1.png", b"dog", b"test"),
        (b"../data/train/cat/1.png", b"cat", b"train"),
        (b"../data/train/dog/deep/1.png", b"deep", b"train"),
    ]
    assert written(data, data / name, label="none")[:2] == [(b"path",), (b"test/dog/1.png",)]
    rows = written(data, data / name, label="path", overwrite=True)
    assert rows[3][1] == b"train/dog/deep"
    rows = written(data, data / name, label="path", group_level=1, overwrite=True)
    assert rows[3][1:] == (b"dog/deep", b"train")
    rows = written(data, data / name, label="path", group_level=2, overwrite=True)
    assert rows[3][1:] == (b"train/deep", b"dog")
    assert rows[2][1:] == (b"train", b"cat")
    rows = written(data, data / name, absolute=True, overwrite=True)
    assert rows[1][0] == os.fsencode(data / "test/dog/1.png")
    assert sorted(p.name for p in data.iterdir()) == sorted([name, "test", "train"])


def test_images_right_in_the_folder_have_its_name_for_a_label(tmp_path: Path) -> None:
    data = plant(tmp_path / "data", "1.png")
    assert written(data, tmp_path / "m.txt")[1] == (b"data/1.png", b"data")
    with contextlib.chdir(data):
        assert written(Path(), Path("m.txt"))[1] == (b"1.png", b"data")
        assert written(Path(), Path("n.txt"), label="path")[1] == (b"1.png", b"data")
    tally = write_manifest(data, data / "o.txt", ScanOptions())
    assert "--label none leaves labels out" in describe(tally)


def test_relative_paths_lead_there_whatever_links_are_on_the_way(tmp_path: Path) -> None:
    data = plant(tmp_path / "far/away/data", "c/x.png")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/data").symlink_to(data)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "home/lists").symlink_to(tmp_path / "elsewhere/deep")
    home = tmp_path / "home"
    assert written(home / "data", home / "m.txt")[1][0] == b"data/c/x.png"
    # From here `..` is not the home that the manifest's own path shows.
    ((path, _),) = written(home / "data", home / "lists" / "m.txt")[1:]
    assert path == b"../../far/away/data/c/x.png"
    with contextlib.chdir(home):
        ((path, _),) = written(Path("lists/../../far/away/data"), Path("n.txt"))[1:] or [(b"", b"")]
        assert (home / os.fsdecode(path)).read_bytes() == PNG


def test_an_image_above_the_level_of_the_groups_is_refused_by_name(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "train/1.png", "train/cat/1.png")
    with pytest.raises(ManifestError, match=r"1 x no folder of level 1\n    '1.png'$"):
        write_manifest(tmp_path, tmp_path / "m.txt", ScanOptions(group_level=1))
    with pytest.raises(ManifestError, match="2 x no folder of level 2"):
        write_manifest(tmp_path, tmp_path / "m.txt", ScanOptions(group_level=2))
    assert not (tmp_path / "m.txt").exists()


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_odd_names_come_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    names = [b"a b/ x .png", b'q"uo"te/",".png', b"com,ma/1,2.png", b"\xff\xfe/caf\xe9.png",
             "ü/日本.png".encode(), b"-x/-o", b"#/'.png", b"path/path", b" / ", b"\x0b\x0c\x85/x",
             b"\xed\xa0\x80/x", b"\\t/\\n.png"]  # fmt: skip
    if name == "m.csv":
        names += [b"ta\tb/\t.png", b'"\t/x']
    data = plant(tmp_path / "data", *names)
    rows = written(data, data / name, group_level=1)
    expected = sorted((n, n.split(b"/")[0], n.split(b"/")[0]) for n in names)
    assert rows[1:] == expected


@pytest.mark.parametrize("extension", [".csv", ".tsv"])
def test_a_name_of_spaces_does_not_make_a_blank_line(tmp_path: Path, extension: str) -> None:
    data = plant(tmp_path / " ", b" ", b"  ", b"path")
    rows = written(data, data / f"m{extension}", label="none")
    assert rows == [(b"path",), (b"./ ",), (b"./  ",), (b"path",)]
    assert len(written(data, data / f"n{extension}")) == 4


@pytest.mark.parametrize(
    ("bad", "extension", "reason"),
    [
        (b"a\nb.png", ".csv", "a line end in the name or its folder's, which no manifest can hold"),
        (b"a\nb.png", ".txt", "a line end in the name or its folder's, which no manifest can hold"),
        (b"a\rb.png", ".csv", "a line end in the name or its folder's, which no manifest can hold"),
        (
            b"x\r/b.png",
            ".txt",
            "a line end in the name or its folder's, which no manifest can hold",
        ),
        (
            b"a\tb.png",
            ".txt",
            "a tab in the name or its folder's, which only a .csv manifest can hold",
        ),
        (
            b"\tx/b.png",
            ".tsv",
            "a tab in the name or its folder's, which only a .csv manifest can hold",
        ),
    ],
)
def test_what_no_line_can_hold_is_refused_by_name(
    tmp_path: Path, bad: bytes, extension: str, reason: str
) -> None:
    data = plant(tmp_path / "data", "0.png", bad, b"sub/" + bad, b"z.png")
    out = tmp_path / f"m{extension}"
    with pytest.raises(ManifestError) as caught:
        write_manifest(data, out, ScanOptions())
    first, count, *names = str(caught.value).split("\n")
    assert first == f"{data}: nothing written, rename or move:"
    assert count == f"  2 x {reason}"
    assert names == [f"    {n.decode()!r}" for n in sorted([b"data/" + bad, b"data/sub/" + bad])]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


CHARACTERS = st.sampled_from([b"a", b"b", b".", b" ", b'"', b",", b"\t", b"\n", b"\r", b"\xff",
                              b"\xc3\xa9", b"'", b"\\", b"-", b"0"])  # fmt: skip
NAMES = st.lists(CHARACTERS, min_size=1, max_size=4).map(b"".join)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)


@settings(max_examples=60)
@given(paths=st.lists(PATHS, min_size=1, max_size=6, unique=True), comma=st.booleans())
def test_any_tree_comes_back_or_is_refused(paths: Sequence[bytes], comma: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "m.csv" if comma else "m.txt")
        kept: set[bytes] = set()
        for path in paths:
            with contextlib.suppress(OSError):  # `..`, or one name for a file and a folder
                if b".." not in path.split(b"/"):
                    plant(data, path)
        for where, _, names in os.walk(os.fsencode(data)):
            kept.update(os.path.relpath(os.path.join(where, n), os.fsencode(data)) for n in names)
        seen = sorted(p for p in kept if not any(n.startswith(b".") for n in p.split(b"/")))
        unsayable = b"\r\n" if comma else b"\r\n\t"
        try:
            rows = written(data, out) if data.exists() else []
        except ManifestError:
            assert not seen or any(byte in path for path in seen for byte in unsayable)
            return
        assert rows[1:] == [
            (b"data/" + p, p.split(b"/")[-2] if b"/" in p else b"data") for p in seen
        ]


# --- errors and the summary --------------------------------------------------------------------


def test_no_image_is_an_error_that_says_what_was_looked_at(tmp_path: Path) -> None:
    plant(tmp_path, "a.txt", "b.txt", "c.md", content=b"text")
    plant(tmp_path, ".cache/x.png", "y.png.zip")
    (tmp_path / "y.png.zip").write_bytes(b"PK")
    with pytest.raises(ManifestError) as caught:
        write_manifest(tmp_path, tmp_path / "m.csv", ScanOptions())
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: expected images")
    assert "  4 x not an image (2 .txt, 1 .md, 1 .zip)" in text
    assert "  1 x hidden file or folder (--hidden includes them)" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no files at all"):
        write_manifest(tmp_path / "empty", tmp_path / "m.csv", ScanOptions())
    assert not (tmp_path / "m.csv").exists()


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    for name, what in (("nowhere", "no such folder"), ("a.png", "a file")):
        with pytest.raises(UsageError, match=what):
            write_manifest(tmp_path / name, tmp_path / "m.txt", ScanOptions())


def test_a_manifest_that_exists_is_kept_unless_asked_otherwise(tmp_path: Path) -> None:
    data = plant(tmp_path / "data", "a.png")
    out = tmp_path / "m.txt"
    precious = "path\tlabel\nprecious.png\t1\n"
    out.write_text(precious)
    with pytest.raises(OutputError, match="--overwrite"):
        write_manifest(data, out, ScanOptions())
    assert out.read_text() == precious
    (tmp_path / "none").mkdir()
    with pytest.raises(ManifestError):  # nor is it lost if there is nothing to write
        write_manifest(tmp_path / "none", out, ScanOptions(overwrite=True))
    assert out.read_text() == precious
    write_manifest(data, out, ScanOptions(overwrite=True))
    assert out.read_text() == "path\tlabel\ndata/a.png\tdata\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "m.txt", "none"]


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    data = plant(tmp_path / "data", "a.png")
    with pytest.raises(OutputError, match="No such file or directory"):
        write_manifest(data, tmp_path / "no/folder/m.txt", ScanOptions())
    (tmp_path / "m.txt").mkdir()
    with pytest.raises(OutputError, match=r"m\.txt: .* found a folder"):
        write_manifest(data, tmp_path / "m.txt", ScanOptions(overwrite=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "m.txt"]


def test_options_cannot_be_built_wrong() -> None:
    with pytest.raises(UsageError, match="--label"):
        ScanOptions(label="grandparent")
    with pytest.raises(UsageError, match="--group-by-folder"):
        ScanOptions(group_level=0)


def test_the_summary(tmp_path: Path) -> None:
    data = plant(tmp_path, "b/1.png", "b/2.png", "a/1.png")
    plant(data, "a/2.jpg", content=b"\xff\xd8\xff\xe0")
    plant(data, *(f"a/{i:02}.gif" for i in range(12)), "a/x.txt", content=b"text")
    tally = write_manifest(data, data / "m.csv", ScanOptions(group_level=1))
    assert describe(tally).split("\n") == [
        "4 images (3 PNG, 1 JPEG)",
        "2 classes",
        "2 groups: a 2, b 2",
        "left out, or doubtful:",
        "  1 x not an image (1 .txt)",
        "  12 x file that is named like an image (something else inside)",
        *(f"    'a/{i:02}.gif'" for i in range(10)),
        "    … and 2 more",
    ]


def test_class_names_that_an_ingest_would_merge_are_warned_of(tmp_path: Path) -> None:
    plant(tmp_path, "1/a.png", "01/a.png")
    tally = write_manifest(tmp_path, tmp_path / "m.csv", ScanOptions())
    assert "WARNING: some class names differ only in leading zeros" in describe(tally)
    shutil.rmtree(tmp_path / "01")
    tally = write_manifest(tmp_path, tmp_path / "n.csv", ScanOptions())
    assert "WARNING" not in describe(tally)


# --- with an ingest, and as a command ----------------------------------------------------------


def make_images(folder: Path) -> list[str]:
    names = ["test/dog/1 1.png", "train/cat/1,1.png", "train/cat/é.png", 'train/dog/"1".png']
    for name, pixels in zip(names, make_pixels(4, (5, 6)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / name, pixels)
    return names


@pytest.mark.parametrize("name", ["m.csv", "m.txt"])
def test_an_ingest_finds_what_was_written(tmp_path: Path, name: str) -> None:
    names = make_images(tmp_path / "data")
    manifest, out = tmp_path / name, tmp_path / "out.h5"
    assert (
        run(["manifest", str(tmp_path / "data"), "-o", str(manifest), "--group-by-folder=1"]) == 0
    )
    ingest(manifest, out, IngestOptions(), SerialComm())
    with h5py.File(out) as file:
        assert list(file["paths"].asstr()) == [f"data/{name}" for name in names]
        classes = list(file["label_names"].asstr())
        assert [classes[k] for k in file["labels"]] == ["dog", "cat", "cat", "dog"]
        assert list(file["columns/group"].asstr()) == ["test", "train", "train", "train"]
        assert (file["images"][:] == make_pixels(4, (5, 6))).all()
    ingest(manifest, out, IngestOptions(group_by="group", overwrite=True), SerialComm())
    with h5py.File(out) as file:
        assert list(file["test/paths"].asstr()) == [f"data/{names[0]}"]
        assert list(file["train/paths"].asstr()) == [f"data/{name}" for name in names[1:]]


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = make_images(tmp_path / "data")
    command = ["manifest", str(tmp_path / "data"), "-o", str(tmp_path / "m.csv")]
    assert run(command) == 0
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == f"{tmp_path}/m.csv: 4 images (4 PNG)\n2 classes\n"
    assert run(command) == 5
    assert capfd.readouterr().err.startswith(f"h5ingest: error: {tmp_path}/m.csv: exists")
    assert run([*command, "--overwrite", "-q", "--label", "none"]) == 0
    assert capfd.readouterr() == ("", "")
    assert len(rows_of(tmp_path / "m.csv")[0]) == 1
    assert run(["manifest", str(tmp_path / "none"), "-o", "-"]) == 2
    assert run([*command, "--label", "mother"]) == 2
    assert run(["manifest", str(tmp_path / "data")]) == 2
    (tmp_path / "none").mkdir()
    assert run(["manifest", str(tmp_path / "none"), "-o", str(tmp_path / "n.csv")]) == 4
    capfd.readouterr()
    with contextlib.chdir(tmp_path):
        assert run(["manifest", "data", "-o", "-", "-q"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines == ["path\tlabel", *(f"data/{n}\t{n.split('/')[1]}" for n in names)]


def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{'x' * 200}{i}.png" for i in range(1000)))
    python = WHEELS.checked().bin / "python"
    done = subprocess.run(
        f"{python} -m h5ingest manifest {tmp_path} -o - | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "path\tlabel\n5\n"
    assert done.stderr == "h5ingest: error: standard output: cannot be written: Broken pipe\n"


# --- on several ranks --------------------------------------------------------------------------


def plant_everything(folder: Path) -> Path:
    """A folder with all that a scan makes a difference of, and twelve of each reason to note."""
    for top in ("a", "b.d", "é"):
        for k in range(12):
            plant(folder, f"{top}/{k}/{k}.png", f"{top}/{k}.png", f"{top}/{k}.d/deep/x,{k}.jpg")
            plant(folder, f"{top}/{k}/no.png", f"{top}/{k}.txt", content=b"text")
            plant(folder, f"{top}/.hidden{k}.png")
            (folder / top / f"gone{k}").symlink_to("nowhere")
            (folder / top / f"loop{k}").symlink_to(folder)
            (folder / top / f"file{k}").symlink_to(f"{k}.png")
            (folder / top / f"out{k}").symlink_to(folder.with_name("outside") / str(k % 7))
            os.mkfifo(folder / top / f"fifo{k}")
    for k, pixels in enumerate(make_pixels(12, (5, 6))):
        write_png(folder / "b.d" / f"real{k}.png", pixels)
        plant(folder.with_name("outside"), f"{k}/{k}.png", f"{k}/inner/{k}.png")
        (folder.with_name("outside") / str(k) / "next").symlink_to(f"../{(k + 1) % 12}")
    return folder


def small_turns(patch: pytest.MonkeyPatch, n: int = 3) -> None:
    patch.setattr(led, "_FIRST", n)
    patch.setattr(led, "_MOST", n)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_any_number_of_ranks_finds_the_same(
    tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = plant_everything(tmp_path / "data")
    options = ScanOptions(index=True, group_level=1, overwrite=True)
    alone = write_manifest(data, tmp_path / "alone.csv", options)
    assert alone.n_images > 150
    assert len(alone.noted) == 4
    assert min(count for count, _ in alone.noted.values()) > 10
    small_turns(monkeypatch)
    out = tmp_path / "many.csv"
    tally, *others = on_ranks(n, lambda comm: write_manifest(data, out, options, comm))
    assert tally == alone
    assert describe(tally) == describe(alone)
    assert others == [Tally()] * (n - 1)
    for end in ("", ".index"):
        same = [(tmp_path / f"{name}.csv{end}").read_bytes() for name in ("alone", "many")]
        assert same[0] == same[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alone.csv", "alone.csv.index", "data", "many.csv", "many.csv.index", "outside",
    ]  # fmt: skip


def test_no_rank_has_more_to_do_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "links", "0.png")
    for k in range(1, 400):
        (tmp_path / "links" / f"{k}.png").symlink_to("0.png")
    plant(tmp_path / "flat", *(f"{k}.png" for k in range(400)))
    plant(tmp_path / "many", *(f"{k}/{k}.png" for k in range(400)))
    lock, done = threading.Lock(), Counter[tuple[str, int]]()
    for task in ("folders", "names", "files"):
        real = getattr(FolderScan, task)

        def counted(
            scan: FolderScan, paths: list[bytes], task: str = task, real: Any = real
        ) -> Any:
            with lock:
                done[task, id(scan)] += len(paths)
            return real(scan, paths)

        monkeypatch.setattr(FolderScan, task, counted)
    for name, tasks in (
        ("links", {"folders": 1, "names": 399, "files": 400}),
        ("flat", {"folders": 1, "names": 0, "files": 400}),
        ("many", {"folders": 401, "names": 0, "files": 400}),
    ):
        done.clear()
        work = functools.partial(
            write_manifest, tmp_path / name, tmp_path / f"{name}.csv", ScanOptions()
        )
        on_ranks(4, work)
        for task, total in tasks.items():
            shares = [count for (of, _), count in done.items() if of == task]
            assert sum(shares) == total
            assert max(shares, default=0) <= total / 4 + 2, (name, task, shares)


def test_ranks_agree_on_what_one_of_them_finds(tmp_path: Path) -> None:
    data, out = plant(tmp_path / "data", "a.png", "b/c.png"), tmp_path / "m.csv"
    with pytest.raises(UsageError, match="elsewhere: no such folder"):
        on_ranks(
            3,
            lambda comm: write_manifest(
                tmp_path / "elsewhere" if comm.rank == 2 else data, out, ScanOptions(), comm
            ),
        )
    stop = Interrupt()
    stop.requested = True
    with pytest.raises(StoppedError, match="stopped as asked"):
        on_ranks(
            3,
            lambda comm: write_manifest(
                data, out, ScanOptions(), comm, stop if comm.rank == 2 else Interrupt()
            ),
        )
    with pytest.raises(StoppedError):
        write_manifest(data, out, ScanOptions(), interrupt=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", soon(["mpich"], FLAVOURS))
def test_launched(tmp_path: Path, name: str) -> None:
    data = plant_everything(tmp_path / "data")
    plant(tmp_path / "none", "a.txt", content=b"text")
    plant(tmp_path / "bad", "a.png", "b\n.png")
    (tmp_path / "there.csv").write_text("path\nmine\n")
    options = ("--group-by-folder=1", "--index")
    jobs: list[list[str | Path]] = [
        ["manifest", data, "-o", tmp_path / "many.csv", *options],
        ["manifest", data, "-o", "-", "-q"],
        ["manifest", data, "-o", tmp_path / "there.csv"],
        ["manifest", tmp_path / "none", "-o", tmp_path / "no.csv"],
        ["manifest", tmp_path / "bad", "-o", tmp_path / "no.csv"],
        ["manifest", tmp_path / "nowhere", "-o", tmp_path / "no.csv"],
        ["manifest", data, "-o", tmp_path / "no" / "no.csv"],
    ]
    done = FLAVOURS[name].checked().run_many(3, jobs, tmp_path / "jobs")
    assert [each.returncode for each in done] == [0, 0, 5, 4, 4, 2, 5], [*map(explain, done)]
    tally = write_manifest(data, tmp_path / "alone.csv", ScanOptions(group_level=1, index=True))
    assert done[0].stderr == f"{tmp_path}/many.csv: {describe(tally)}\n"
    for end in ("", ".index"):
        same = [(tmp_path / f"{name}.csv{end}").read_bytes() for name in ("alone", "many")]
        assert same[0] == same[1]
    stream = io.BytesIO()
    write_manifest(data, stream, ScanOptions())
    assert done[1].stdout == stream.getvalue().decode()
    assert all(len(error_lines(each)) == 1 for each in done[2:])
    assert (tmp_path / "there.csv").read_text() == "path\nmine\n"
    assert not (tmp_path / "no.csv").exists()


SIGNALLED = (
    '[ "${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}" != "$1" ] || '
    "{ until [ $(ls /proc/$$/task | wc -l) -gt 16 ]; do sleep 0.1; done; kill -TERM $$; } & "
    'shift; exec "$@"'
)
"""One rank gets a signal when its threads read."""


@pytest.mark.parametrize("name", ["mpich", "openmpi", "alone"])
def test_a_signal_ends_every_rank_and_nothing_is_written(
    tmp_path: Path, preload: Path, name: str
) -> None:
    data = plant(tmp_path / "data", *(f"{k}.png" for k in range(8000)))
    env = faulty(preload, match=".png", open_us=100_000)
    flavour = ALL_FLAVOURS["wheels" if name == "alone" else name].checked()
    command = [
        "sh", "-c", SIGNALLED, "sh", "0" if name == "alone" else "1", flavour.bin / "h5ingest",
        "manifest", data, "-o", tmp_path / "m.csv",
    ]  # fmt: skip
    began_s = time.monotonic()
    done = start(command, env=env) if name == "alone" else flavour.launch(3, *command, env=env)
    assert done.returncode == 75, explain(done)
    assert error_lines(done) == ["h5ingest: error: stopped as asked: start the same command again"]
    assert time.monotonic() - began_s < 30
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_where_listing_does_not_tell_what_is_a_file(tmp_path: Path, preload: Path) -> None:
    data = plant_everything(tmp_path / "data")
    plant(data, *(f"a/many/{k}.png" for k in range(100)))
    stream = io.BytesIO()
    tally = write_manifest(data, stream, ScanOptions())
    for stat_us in (0, 2000):  # whoever lists asks; then any rank does
        env = faulty(preload, no_kinds=1, stat_us=stat_us, match="many")
        done = WHEELS.checked().alone("manifest", data, "-o", "-", env=env)
        assert done.returncode == 0, explain(done)
        assert done.stdout == stream.getvalue().decode()
        assert done.stderr == f"standard output: {describe(tally)}\n"


def test_a_file_costs_little_more_than_to_look_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "SLOW_S", 10.0)  # threads cost more, on a busy machine
    n_folders, n_files = 10, 1000  # links to one file: quickly made
    plant(tmp_path, "0/0.png")
    for folder in range(n_folders):
        (tmp_path / f"{folder}").mkdir(exist_ok=True)
        for i in range(folder == 0, n_files):
            os.link(tmp_path / "0/0.png", tmp_path / f"{folder}/{i}.png")

    def look() -> None:
        for folder in os.scandir(tmp_path):
            if folder.is_dir():
                for name in sorted(entry.name for entry in os.scandir(folder)):
                    with open(f"{folder.path}/{name}", "rb", buffering=0) as file:
                        file.read(HEAD_BYTES)

    scanned_s, looked_s = [], []
    for _ in range(5):  # in turns, since the machine may be busy with something else
        before_s = time.process_time()
        tally = write_manifest(tmp_path, tmp_path / "m.csv", ScanOptions(overwrite=True))
        scanned_s.append(time.process_time() - before_s)
        before_s = time.process_time()
        look()
        looked_s.append(time.process_time() - before_s)
    assert tally.n_images == n_folders * n_files
    assert min(scanned_s) < 2.5 * min(looked_s)


def test_files_that_are_slow_to_open_are_looked_at_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [b"%03d.png" % k for k in range(200)]
    for name in expected:
        (tmp_path / os.fsdecode(name)).write_bytes(PNG)
    threads = set()
    read = source_files.read

    def slow(*arguments: Any, **how: Any) -> tuple[bytes, int]:
        threads.add(threading.get_ident())
        time.sleep(0.002)
        return read(*arguments, **how)

    monkeypatch.setattr(source_files, "read", slow)
    assert scanned(tmp_path)[0] == expected
    assert len(threads) > 4
