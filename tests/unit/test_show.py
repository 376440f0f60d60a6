"""`h5ingest show`: the tree, the contact sheet and the layers, of files in every layout."""

from __future__ import annotations

import doctest
import io
import json
import re
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from helpers.support import Flavour, explain, make_pixels, write_images, write_manifest
from numpy.typing import NDArray
from PIL import Image
from xxhash import xxh3_64_intdigest

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect import canvas, show
from h5ingest.inspect.canvas import Scale
from h5ingest.inspect.contact_sheet import layers, sheet
from h5ingest.pipeline.run import ingest

LABELS = np.array([1, 0, 1, 1, 2, 1, 0, 1, 1, 1, 1, 1])
N = len(LABELS)


def write(path: Path, pixels: NDArray[Any], **how: Any) -> Path:
    """A stack of N images in three classes, two of them failed."""
    with h5py.File(path, "w") as file:
        for name, value in {
            "schema": "h5ingest stack 1", "content_digest": "ab" * 32,
            "command": "h5ingest m.csv a.h5", "libraries": '{"HDF5": "1.10.8", "MPI": "x\\ty"}',
            "options": '{"compression": "zstd", "root": null}', "n_samples": N,
        }.items():  # fmt: skip
            file.attrs[name] = value
        fill(file, pixels, **how)
    return path


def fill(group: h5py.Group, pixels: NDArray[Any], **how: Any) -> None:
    group.create_dataset("images", data=pixels, **how)
    group["labels"] = LABELS
    text = h5py.string_dtype("utf-8")
    group.create_dataset("label_names", data=["ape", "b\x1b[1mee", "café"], dtype=text)
    paths = [b"dir/%d.png" % row for row in range(N)]
    paths[3] = b"caf\xe9\n.png"
    group.create_dataset("paths", data=paths, dtype=text)
    status = np.ones(N, np.uint8)
    status[[3, 7]] = 2, 0
    group["status"] = status
    group["checksums"] = np.zeros(N, np.uint64)
    group["columns/age"] = np.arange(N)


def printed(path: Path, group: str | None = None) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    console.print(show.tree(path, group))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


# --- text --------------------------------------------------------------------------------------


def test_the_tree_says_what_plain_h5py_finds(tmp_path: Path) -> None:
    pixels = np.zeros((N, 40, 30, 3), np.uint16)
    how = {"chunks": (5, 40, 30, 3), "shuffle": True, **hdf5plugin.Zstd(clevel=7)}
    path = write(tmp_path / "a.h5", pixels, **how)
    text = printed(path)
    with h5py.File(path) as file:
        stored = file["images"].id.get_storage_size()
    assert "h5ingest stack 1" in text
    assert "12 images of 40x30 RGB uint16, 2 failed" in text
    assert "3 chunks of 5 images (35.2 KiB), shuffle + zstd:7, 84.4 KiB of pixels in" in text
    assert f"{pixels.nbytes / stored:.1f} times smaller" in text
    assert re.search(r"images +\(12, 40, 30, 3\) uint16", text)
    assert re.search(r"columns/age +\(12,\) int64", text)
    assert re.search(r"paths +\(12,\) string", text)
    assert re.search(r"command +h5ingest m\.csv a\.h5", text)
    assert re.search(r"libraries +HDF5 1\.10\.8, MPI x y\n", text)
    assert re.search(r"options +compression zstd\n", text)
    assert "\x1b" not in text


def test_classes_are_counted_and_failed_rows_named(tmp_path: Path) -> None:
    text = printed(write(tmp_path / "a.h5", make_pixels(N, (4, 3))))
    assert "3 classes" in text
    assert re.search(r"0 +ape +2 +▇{5}\n", text)
    assert re.search(r"1 +b\\x1b\[1mee +9 +▇{24}\n", text)
    assert re.search(r"2 +café +1 +▇{2}\n", text)
    assert "2 failed (16.67% of all)" in text
    assert r"row 3  caf\udce9\n.png" in text
    assert "row 7  dir/7.png (never stored)" in text
    assert "contiguous, no filter, 144 B of pixels" in text


def test_many_classes_and_many_failures_are_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    with h5py.File(path, "r+") as file:
        for name in ("images", "labels", "label_names", "paths", "status"):
            del file[name]
        file.attrs["n_samples"] = 100
        file["images"] = np.zeros((100, 2, 2), np.uint8)
        file["labels"] = np.arange(100) // 2
        file["paths"] = [f"{row}.png" for row in range(100)]
        file["status"] = np.full(100, 2, np.uint8)
    text = printed(path)
    assert "50 classes" in text
    assert "… and 30 more of 2 images" in text
    assert text.count("▇" * 24) == 20
    assert "… and 95 more" in text
    assert text.count("row ") == 5


def test_inodes_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    text = printed(path)
    assert re.search(r"── 1 file of [\d.]+ KiB instead of 12 files\n", text)
    assert "inodes" not in text.replace(str(tmp_path), "")
    assert not re.search(r"\d [kMGT]B\b", text)


def test_groups_are_branches(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    with h5py.File(path, "r+") as file:
        file.attrs["groups"] = json.dumps(["train", "test"])
        fill(file.create_group("train"), make_pixels(N, (5, 6)))
        fill(file.create_group("test"), make_pixels(N, (7, 8, 4)))
    text = printed(path)
    places = [text.index(part) for part in ("── train", "5x6 gray", "── test", "7x8 RGBA")]
    assert places == sorted(places)
    assert "instead of 24 files" in text
    assert "7x8" not in printed(path, "train")
    with pytest.raises(UsageError, match="one of train, test; got 'x'"):
        printed(path, "x")
    with pytest.raises(UsageError, match="one of train, test; got none"):
        show.draw(path, sheet=tmp_path / "s.png")


@pytest.mark.parametrize("layout", ["ragged", "encoded", "tree"])
def test_other_layouts(tmp_path: Path, layout: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = f"h5ingest {layout} 1"
        file["status"] = np.ones(2, np.uint8)
        file["paths"] = ["a", "b"]
        file["labels"] = [0, 1]
        if layout == "tree":
            file["datasets"] = ["/x/a", "/x/b"]
            file["x/a"] = make_pixels(1, (2, 3))[0]
            file["x/b"] = make_pixels(1, (4, 5, 3))[0]
            sums = [xxh3_64_intdigest(file[name][()]) for name in ("x/a", "x/b")]
            file["checksums"] = np.array(sums, np.uint64)
        else:
            kind = {"ragged": "pixels", "encoded": "data"}[layout]
            file[f"images/{kind}"] = np.zeros(12 + 40, np.uint8)
            file["images/offsets"] = [0, 12, 52]
            file["images/shapes"] = np.array([[3, 4, 1], [10, 4, 1]], np.int32)
    text = printed(tmp_path / "a.h5")
    wanted = {
        "ragged": "heights 3 to 10, widths 4 to 4",
        "encoded": "52 B of image files as they were",
        "tree": "one dataset each\n",
    }
    assert "2 images, none failed" in text
    assert wanted[layout] in text
    if layout != "encoded":
        for name in show.draw(tmp_path / "a.h5", sheet=tmp_path / "s.png"):
            Image.open(name).verify()


@pytest.mark.parametrize(
    "compression",
    [
        "gzip:4", "lzf", "zstd:9", "bzip2:9", "blosc:lz4:5:bitshuffle", "blosc:zstd:1:noshuffle",
        "blosc2:zstd:5:bytedelta", "blosc2:lz4hc:9:shuffle", "htj2k",
    ],
)  # fmt: skip
def test_filters_are_named_as_they_are_asked_for(tmp_path: Path, compression: str) -> None:
    names = write_images(tmp_path, make_pixels(2, (32, 40, 3)) // 16)
    manifest = write_manifest(tmp_path / "m.txt", names)
    ingest(manifest, tmp_path / "a.h5", IngestOptions(compression=compression))
    assert f", {compression}, 7.5 KiB of pixels" in printed(tmp_path / "a.h5")


def test_the_examples_are_true() -> None:
    assert doctest.testmod(show).failed == 0


# --- pictures ----------------------------------------------------------------------------------


def picture(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as opened:
        assert opened.format == "PNG"
        return np.array(opened.convert("RGB"))


def holds(canvas: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Whether the part, (h, w, 3), is somewhere on the canvas."""
    height, width = part.shape[:2]
    corners = np.argwhere((canvas[: 1 - height, : 1 - width] == part[0, 0]).all(axis=2))
    return any(
        np.array_equal(canvas[y : y + height, x : x + width], part) for y, x in corners.tolist()
    )


def grown(image: NDArray[Any], factor: int) -> NDArray[np.uint8]:
    """(h, w) or (h, w, 3) pixels, each a square, as RGB."""
    rgb = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
    return rgb.astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)


@pytest.mark.parametrize("shape", [(14, 10), (10, 14, 3)])
def test_a_sheet_has_good_samples_of_every_class(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = make_pixels(N, shape)
    path = write(tmp_path / "a.h5", pixels)
    assert show.draw(path, sheet=tmp_path / "s.png") == [tmp_path / "s.png"]
    canvas = picture(tmp_path / "s.png")
    for row in range(N):
        assert holds(canvas, grown(pixels[row], 8)) == (row not in (3, 7))
    assert not (tmp_path / "s.png.partial").exists()


def test_a_sheet_without_labels_shows_samples_from_all_over_the_file(tmp_path: Path) -> None:
    pixels = np.zeros((300, 8, 8, 3), np.uint8)
    pixels[..., 0] = 7
    pixels[..., 1:] = np.stack(np.divmod(np.arange(300), 256), axis=1)[:, np.newaxis, np.newaxis]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = "h5ingest stack 1"
        file["images"] = pixels
        file["paths"] = [f"{row}.png" for row in range(300)]
        file["status"] = np.ones(300, np.uint8)
    sheet(ImageStore(tmp_path / "a.h5"), tmp_path / "s.png")
    colours = picture(tmp_path / "s.png").reshape(-1, 3).astype(int)
    own = colours[(colours[:, 0] == 7) & (colours[:, 1] < 2)]
    rows, counts = np.unique(own[:, 1] * 256 + own[:, 2], return_counts=True)
    shown = rows[counts == 112 * 112]
    assert len(shown) == 80
    assert (shown[0], shown[-1]) == (0, 299)
    assert max(np.diff(shown)) <= 4


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = "h5ingest stack 1"
        file["images"] = np.zeros((2, 3, 3), np.uint8)
        file["status"] = np.full(2, 2, np.uint8)
    with pytest.raises(UsageError, match="no images"):
        show.draw(tmp_path / "a.h5", sheet=tmp_path / "s.png")


def test_layers_are_the_image_and_each_channel(tmp_path: Path) -> None:
    pixels = make_pixels(N, (14, 10, 4))
    path = write(tmp_path / "a.h5", pixels)
    layers(ImageStore(path), 4, tmp_path / "l.png")
    canvas = picture(tmp_path / "l.png")
    for channel in range(4):
        assert holds(canvas, grown(pixels[4, :, :, channel], 32))
    alpha = pixels[4, :, :, 3] == 255
    assert alpha.any() == (pixels[4, :, :, 3].max() == 255)
    opaque = write(tmp_path / "b.h5", np.dstack([pixels[4, :, :, :3], np.full((14, 10), 255)])
                   .astype(np.uint8)[np.newaxis].repeat(N, 0))  # fmt: skip
    layers(ImageStore(opaque), -1, tmp_path / "o.png")
    assert holds(picture(tmp_path / "o.png"), grown(pixels[4, :, :, :3], 32))


def test_layers_of_16_bits_are_stretched_and_of_gray_are_one(tmp_path: Path) -> None:
    pixels = np.full((N, 20, 20), 1000, np.uint16)
    pixels[:, :10] = 3000
    path = write(tmp_path / "a.h5", pixels)
    layers(ImageStore(path), 0, tmp_path / "l.png")
    wanted = np.full((20, 20), 255, np.uint8)
    wanted[10:] = 0
    assert holds(picture(tmp_path / "l.png"), grown(wanted, 22))


def test_layers_of_what_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    with pytest.raises(UsageError, match=r"--layers 12: expected 0 to 11, as .*a\.h5 has"):
        show.draw(path, layers=12)
    with pytest.raises(OutputError, match="No such file"):
        show.draw(path, layers=0, layers_to=tmp_path / "nowhere/l.png")


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.array([[0, 200]], np.uint8), 0, 255),
        (np.array([[0, 21]], np.uint8), 0, 21),  # a mask of classes
        (np.array([[[0, 21, 3]]], np.uint8), 0, 255),  # a dark colour image
        (np.zeros((2, 2), np.uint8), 0, 255),
        (np.array([[7] * 9 + [900] * 9], np.uint16), 7, 900),
        (np.full((3, 3), 5, np.uint16), 5, 6),
    ],
)
def test_which_values_are_black_and_white(values: NDArray[Any], low: int, high: int) -> None:
    scale = Scale.of(values)
    assert (scale.low, scale.high) == (low, high)
    assert scale.stretched == ((low, high) != (0, 255))


def test_transparency_lies_over_a_checkerboard() -> None:
    image = np.zeros((20, 20, 4), np.uint8)
    image[:10] = 50, 60, 70, 255
    shown = np.array(canvas.fitted(Scale.of(image).to_screen(image), 20))
    assert (shown[:10] == (50, 60, 70)).all()
    assert set(np.unique(shown[10:]).tolist()) == {225, 245}


def test_large_images_shrink_and_letters_of_all_kinds_are_drawn(tmp_path: Path) -> None:
    image = np.zeros((900, 1200, 3), np.uint8)
    assert canvas.fitted(Scale.of(image).to_screen(image), 112).size == (112, 84)
    paper = canvas.canvas(400, 40)
    canvas.write(paper, (2, 2), canvas.cut("naïve Ω 語 \udce9 " * 9, 300, 16), 16, canvas.INK)
    dark = np.argwhere(np.array(paper).min(axis=2) < 128)
    assert 100 < dark[:, 1].max() <= 305
    with pytest.raises(OutputError, match="nowhere"):
        canvas.save(paper, tmp_path / "nowhere/p.png")


# --- the command -------------------------------------------------------------------------------


def test_the_command(mpich: Flavour, tmp_path: Path) -> None:
    pixels = make_pixels(6, (8, 8, 3))
    names = write_images(tmp_path, pixels)
    manifest = write_manifest(tmp_path / "m.txt", [(name, name[-5]) for name in names])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(compression="gzip"))
    done = mpich.alone("show", "out.h5", cwd=tmp_path)
    assert done.returncode == 0, explain(done)
    assert "6 images of 8x8 RGB uint8, none failed" in done.stdout
    assert "gzip:4" in done.stdout
    done = mpich.alone("show", "out.h5", "--sheet", "s.png", "--layers", "2", cwd=tmp_path)
    assert done.stdout.splitlines() == ["s.png", "out-layers-2.png"]
    assert holds(picture(tmp_path / "s.png"), grown(pixels[5], 14))
    assert holds(picture(tmp_path / "out-layers-2.png"), grown(pixels[2], 56))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.h5"], 5, "No such file"),
        (["."], 5, "expected a file that h5ingest made, found a folder"),
        (["text.h5"], 5, "not an HDF5 file"),
        (["other.h5"], 5, "not one of h5ingest"),
        (["a.h5", "--layers", "99"], 2, "--layers 99: expected 0 to 11, as a.h5 has"),
        (["a.h5", "--layers", "-1"], 2, "--layers -1: expected 0 to 11, as a.h5 has"),
        (["a.h5", "--group", "x"], 2, "expected no group"),
        (["a.h5", "--sheet", "no/s.png"], 2, "expected an existing folder"),
    ],
)
def test_errors_of_the_command(
    mpich: Flavour, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    h5py.File(tmp_path / "other.h5", "w").close()
    write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    done = mpich.forked("show", *arguments, cwd=tmp_path)
    assert done.returncode == code, explain(done)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- damage ------------------------------------------------------------------------------------


def a_chunk(file: h5py.File) -> int:
    """Where a chunk of the labels lies, which are compressed for it."""
    del file["labels"]
    made = file.create_dataset("labels", data=LABELS, chunks=(N,), compression="gzip")
    file.flush()
    return int(made.id.get_chunk_info(0).byte_offset)


def a_text(file: h5py.File) -> int:
    """Where it says where the path of row 3 is, which has failed."""
    return int(file["paths"].id.get_offset() + 3 * 16)


def a_header(file: h5py.File) -> int:
    """Where HDF5 describes the status."""
    return int(h5py.h5o.get_info(file["status"].id).addr)


DAMAGE = {"/labels": a_chunk, "/paths": a_text, "/status": a_header}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_named(mpich: Flavour, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.h5", make_pixels(N, (4, 3)))
    with h5py.File(path, "r+") as file:
        offset = DAMAGE[name](file)
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xee" * 8)
    done = mpich.forked("show", "a.h5", cwd=tmp_path)
    assert done.returncode == 5, explain(done)
    assert f"a.h5: {name} cannot be read: " in done.stderr
    assert "Traceback" not in done.stderr
