"""Input made by an enemy: names that want out, files that want to blow up (see also test_fuzz)."""

from __future__ import annotations

import ast
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from helpers.forking import Forker
from helpers.support import (
    PROGRAMS,
    ROOT,
    Flavour,
    clean_environment,
    make_pixels,
    soon,
    write_images,
    write_manifest,
    write_png,
    zlib_of_zeros,
)

from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}


def test_nothing_read_from_the_disk_can_run_code() -> None:
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        # What ranks of one job tell each other is pickled, what a judge tells who started it, and
        # what a rank keeps for itself in a file without a name; `safe_pickle` imports no name.
        if path.name in ("mpi4py_comm.py", "led.py", "judge_process.py", "list_samples.py",
                         "safe_pickle.py"):  # fmt: skip
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if node.func.id in ("eval", "exec", "compile") else []
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                is_off = isinstance(node.value, ast.Constant) and node.value.value is False
                names = [] if is_off else ["allow_pickle"]
            found += [f"{path.name}: {name}" for name in names if name in DANGEROUS or (
                name in ("eval", "exec", "compile", "allow_pickle"))]  # fmt: skip
    assert found == []


NAMES = [
    "..", ".", "/", "//", "../../etc", "/absolute", "a/b/c", "a//b", "./a", "checksums", "status",
    "paths", "labels", "%2F", "%", "x" * 200, "‮evil", "new\x0bline", "é", "e\u0301", " ", "\x7f",
]  # fmt: skip


@pytest.mark.parametrize("layout", ["tree", "stack"])
def test_names_of_groups_and_images_stay_in_their_place(layout: str, tmp_path: Path) -> None:
    pixels = make_pixels(len(NAMES), (3, 4))
    files = write_images(tmp_path / "images", pixels)
    rows = [(f"images/{file}", name) for file, name in zip(files, NAMES, strict=True)]
    manifest = write_manifest(tmp_path / "names.tsv", [("path", "label"), *rows])
    options = IngestOptions(layout=layout, group_by="label" if layout == "stack" else None)
    ingest(manifest, tmp_path / "out.h5", options)
    with h5py.File(tmp_path / "out.h5", "r") as file:
        found: list[str] = []
        file.visit_links(found.append)
        for name in found:
            link = file.get(name, getlink=True)
            assert isinstance(link, h5py.HardLink), name
            assert not {"", ".", ".."} & set(name.split("/")), name
        images = {
            file[name][()].tobytes()
            for name in found
            if isinstance(file[name], h5py.Dataset) and file[name].shape[-2:] == (3, 4)
        }
        assert {image.tobytes() for image in pixels} <= images
        depth = max(name.count("/") for name in found)
        assert depth <= 2
        assert len(file["status"] if layout == "tree" else file) >= len(NAMES) - 1


@pytest.mark.parametrize("name", ["../x.png", "a/../../b.png", "...png", "..", ".png"])
def test_an_image_is_named_by_its_file_and_never_leaves_its_folder(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "down"
    (folder / "a").mkdir(parents=True)
    path = folder / name
    if path.is_dir():
        pytest.skip("it names a folder")
    write_png(path, make_pixels(1, (3, 4))[0])
    manifest = write_manifest(folder / "manifest.txt", [(name, "label")])
    ingest(manifest, folder / "out.h5", IngestOptions(layout="tree"))
    with h5py.File(folder / "out.h5", "r") as file:
        (where,) = file["datasets"][:]
        assert where.startswith(b"/label/")
        assert not {b"", b".", b".."} & set(where[1:].split(b"/"))


# --- files that blow up --------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def image(*extra: bytes, width: int = 4, height: int = 4, data: bytes | None = None) -> bytes:
    """A gray PNG with more chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(bytes(height * (width + 1))) if data is None else data
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND")


def bombs() -> dict[str, bytes]:
    big = zlib_of_zeros(2**28)
    return {
        "zTXt": image(chunk(b"zTXt", b"Comment\0\0" + big)),
        "many zTXt": image(*[chunk(b"zTXt", b"k\0\0" + zlib_of_zeros(2**24))] * 30),
        "iTXt": image(chunk(b"iTXt", b"Comment\0\1\0\0\0" + big)),
        "iCCP": image(chunk(b"iCCP", b"profile\0\0" + big)),
        "iCCP that lies": image(
            chunk(b"iCCP", b"p\0\0" + zlib.compress(struct.pack(">I", 2**31 - 1) + bytes(2**20)))
        ),
        "IDAT": image(data=big),
        "a huge header": image(width=2**31 - 1, height=2**31 - 1, data=b""),
        "a large header": image(width=60_000, height=60_000, data=zlib.compress(bytes(99))),
        "a wide header": image(width=89_000_000, height=1, data=zlib.compress(bytes(99))),
        "a length beyond the file": SIGNATURE + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(99),
        "many chunks": image(*[chunk(b"tEXt", b"a\0b")] * 200_000),
        "many empty IDAT": image(*[chunk(b"IDAT")] * 200_000),
        "many unknown chunks": image(*[chunk(b"quUx")] * 200_000),
        "a large unknown chunk": image(chunk(b"quUx", bytes(2**25))),
    }


@pytest.fixture(scope="module")
def exploding() -> dict[str, bytes]:
    return bombs()


@pytest.fixture(scope="module")
def forker(mpich: Flavour) -> Iterator[Forker]:
    command = (mpich.bin / "python", PROGRAMS / "launched_bombs.py")
    forker = Forker(command, clean_environment())
    yield forker
    forker.end()


BOMBS = (
    "zTXt", "many zTXt", "iTXt", "iCCP", "iCCP that lies", "IDAT", "a huge header",
    "a large header", "a length beyond the file", "many chunks", "many empty IDAT",
    "many unknown chunks", "a large unknown chunk", "a wide header",
)  # fmt: skip
CHECKED = ("zTXt", "IDAT", "many chunks")
"""Also tried soon where files are stored as they are: there, only checksums are compared."""


@pytest.mark.parametrize(
    ("name", "layout"),
    soon(
        [*itertools.product(BOMBS, ["stack"]), *itertools.product(CHECKED, ["encoded"])],
        itertools.product(BOMBS, ["stack", "encoded"]),
    ),
)
def test_a_bomb_costs_little_memory_and_time(
    forker: Forker, exploding: dict[str, bytes], name: str, layout: str, tmp_path: Path
) -> None:
    (tmp_path / "bomb.png").write_bytes(exploding[name])
    (tmp_path / "good.png").write_bytes(image())
    job = {
        kind: str(write_manifest(tmp_path / f"{kind}.txt", [f"{kind}.png"]))
        for kind in ("good", "bomb")
    }
    told = tmp_path / "told"
    job |= {"target": str(tmp_path / "out.h5"), "layout": layout, "out": str(told)}
    code = forker.run({**job, "err": str(told), "timeout_s": 60})
    said = told.read_text()
    assert code == 0, said
    _, exit_code, n_bytes, seconds = said[said.index("measured") :].split()[:4]
    assert int(exit_code) in (0, 3), said
    # Rust's png gives itself 64 MiB for an ICC profile, however long that is.
    allowed = 4 * len(exploding[name]) + (300e6 if name == "a wide header" else 100e6)
    assert int(n_bytes) < allowed, f"{int(n_bytes):,} bytes\n{said}"
    assert float(seconds) < 10, said
