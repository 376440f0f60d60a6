"""What `verify` finds: files of which each is wrong in one way, made from one that is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import damage, make_pixels, write_manifest, write_png
from helpers.threads import on_ranks

from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import VerifyReport, verify
from h5ingest.pipeline.run import ingest

SHAPES = ((5, 6), (6, 5), (5, 6, 3), (4, 9), (7, 3, 4), (5, 6), (9, 9))


def check(out: Path, n_ranks: int = 1, *, sources: bool = True) -> VerifyReport:
    return on_ranks(n_ranks, lambda comm: verify(out, comm, sources=sources))[0]


def signed_anew(out: Path) -> None:
    """Let the digests be those of what the file now holds, as whoever made it would have."""
    said = [text for text in check(out, sources=False).problems if "_digest: expected" in text]
    assert said
    with h5py.File(out, "r+") as file:
        for text in said:
            file.attrs[text.partition(":")[0]] = text.rpartition(" ")[2]


def with_options(out: Path, **changed: Any) -> None:
    with h5py.File(out, "r+") as file:
        file.attrs["options"] = json.dumps(json.loads(file.attrs["options"]) | changed)
    signed_anew(out)


def made(folder: Path, shapes: tuple[tuple[int, ...], ...], **options: Any) -> Path:
    """A file of images of these shapes, the third of each three in group b."""
    rows = []
    for k, shape in enumerate(shapes):
        write_png(folder / f"{k}.png", make_pixels(k + 1, shape)[k])
        rows.append((f"{k}.png", "aab"[k % 3], k % 2, k / 2))
    manifest = write_manifest(folder / "m.csv", [("path", "cls", "half", "age"), *rows])
    ingest(manifest, folder / "out.h5", IngestOptions(**options))
    return folder / "out.h5"


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "ragged"},
        {"layout": "ragged", "channels": "rgb", "group_by": "cls"},
        {"layout": "tree", "dtype": "uint16"},
        {"layout": "encoded", "group_by": "half"},
        {"fit": "pad"},
        {"fit": "pad", "size": (10, 11), "channels": "gray"},
        {"fit": "crop"},
        {"fit": "resize", "group_by": "age", "dtype": "uint16"},
        {"fit": "resize", "size": (3, 3), "group_by": "cls", "compression": "gzip"},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_what_is_right_passes(options: dict[str, Any], n_ranks: int, tmp_path: Path) -> None:
    shapes = SHAPES if options.get("fit") != "crop" else ((6, 7), (8, 9), (6, 7), (6, 7))
    report = check(made(tmp_path, shapes, **options), n_ranks)
    assert (report.bad, report.problems) == ((), ())
    assert report.n_sources == len(shapes)


def test_blank_images_pass(tmp_path: Path) -> None:
    """What the sources of a group say is not known then: the damaged one is larger than all."""
    made(tmp_path, SHAPES, fit="pad")
    damage(tmp_path / "6.png")
    out = tmp_path / "blank.h5"
    ingest(tmp_path / "m.csv", out, IngestOptions(fit="pad", on_error="blank"))
    report = check(out, 2)
    assert (report.bad, report.problems, report.n_failed) == ((), (), 1)


def wrong_depth(folder: Path) -> Path:
    write_png(folder / "0.png", make_pixels(1, (5, 6), "uint16")[0])
    manifest = write_manifest(folder / "m.txt", ["0.png"])
    ingest(manifest, folder / "out.h5", IngestOptions(dtype="uint8", reduce_depth=True))
    with_options(folder / "out.h5", dtype="auto", reduce_depth=False)
    return folder / "out.h5"


def wrong_channels(folder: Path) -> Path:
    out = made(folder, ((5, 6), (5, 6)), channels="rgb")
    with_options(out, channels="auto")
    return out


def wrong_channels_of_one(folder: Path) -> Path:
    out = made(folder, ((5, 6), (6, 7, 3)), layout="tree", channels="rgb")
    with_options(out, channels="auto")
    return out


def wrong_size(folder: Path) -> Path:
    out = made(folder, ((5, 6), (6, 5)), fit="resize", size=(9, 9))
    with_options(out, size=None)
    return out


def wrong_shape(folder: Path) -> Path:
    """As many pixels, all alike, in another shape."""
    write_png(folder / "0.png", np.full((8, 8), 7, np.uint8))
    write_png(folder / "1.png", np.full((4, 16), 7, np.uint8))
    ingest(write_manifest(folder / "m.txt", ["1.png"]), folder / "out.h5")
    with h5py.File(folder / "out.h5", "r+") as file:
        file["paths"][0] = "0.png"
    with_options(folder / "out.h5", fit="resize")  # nothing of the pixels would tell
    return folder / "out.h5"


def wrong_true_size(folder: Path) -> Path:
    out = made(folder, ((5, 6), (6, 5)), fit="pad")
    with h5py.File(out, "r+") as file:
        file["sizes"][0] = 6, 6
    signed_anew(out)
    return out


def wrong_shape_of_a_file(folder: Path) -> Path:
    out = made(folder, ((5, 6), (6, 5)), layout="encoded")
    with h5py.File(out, "r+") as file:
        file["images/shapes"][1] = 5, 6, 1
    signed_anew(out)
    return out


BY_SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "depth": (wrong_depth, "its source is 5x6 gray uint16, which makes 5x6 pixels of 1 channels, "),
    "channels": (wrong_channels, "/images: its sources make [5, 6], found [5, 6, 3]"),
    "channels of one": (wrong_channels_of_one, "which makes 5x6 pixels of 1 channels, uint8; foun"),
    "size": (wrong_size, "/images: its sources make [6, 6], found [9, 9]"),
    "shape": (wrong_shape, "/images: its sources make [8, 8], found [4, 16]"),
    "true size": (wrong_true_size, "its source is 5x6 gray uint8, found 6x6 in sizes"),
    "shape of a file": (wrong_shape_of_a_file, "which makes 6x5 pixels of 1 channels, uint8; foun"),
}


@pytest.mark.parametrize("name", BY_SOURCES)
def test_a_shape_or_type_that_the_sources_do_not_make_is_found(name: str, tmp_path: Path) -> None:
    make, said = BY_SOURCES[name]
    out = make(tmp_path)
    for n_ranks in (1, 2):
        report = check(out, n_ranks)
        found = [*report.problems, *(bad.reason for bad in report.bad)]
        assert len(found) == 1, found
        assert said in found[0]
    assert check(out, sources=False).ok


def test_the_digest_is_that_of_the_pixels_not_of_the_checksums_beside_them(tmp_path: Path) -> None:
    out = made(tmp_path, ((5, 6),) * 4, group_by="cls")
    with h5py.File(out, "r+") as file:
        file["b/images"][0, 2, 3] ^= 1
    for n_ranks in (1, 2):
        report = check(out, n_ranks, sources=False)
        assert [(bad.dataset, bad.row) for bad in report.bad] == [("/b/images", 0)]
        assert [text.partition(":")[0] for text in report.problems] == ["content_digest"]


def test_pixels_that_do_not_fill_the_shape_beside_them_are_found(tmp_path: Path) -> None:
    out = made(tmp_path, ((5, 6), (6, 5)), layout="ragged")
    with h5py.File(out, "r+") as file:
        file["images/shapes"][1] = 6, 4, 1
    signed_anew(out)
    (bad,) = check(out).bad
    assert (bad.row, bad.reason) == (1, "expected pixels of the shape (6, 4, 1), found 30")


@pytest.mark.parametrize("sources", [False, True])
def test_of_a_file_that_is_not_complete_that_is_said(sources: bool, tmp_path: Path) -> None:
    out = made(tmp_path, ((5, 6),))
    with h5py.File(out, "r+") as file:
        del file.attrs["status"], file.attrs["options"]
    report = check(out, 2, sources=sources)
    assert report.problems == ("its status is not 'complete'",)
    assert not report.ok


@pytest.mark.parametrize("group_by", ["cls", "half", "age"])
def test_a_row_in_another_group_is_found(group_by: str, tmp_path: Path) -> None:
    """All that is stored of two rows changes places, but what the manifest says of them."""
    out = made(tmp_path, ((5, 6),) * 6, group_by=group_by)
    column = f"columns/{group_by}"
    with h5py.File(out, "r+") as file:
        one, other = (file[name] for name in json.loads(file.attrs["groups"])[:2])
        for name in ("images", "checksums", "paths", column):
            one[name][0], other[name][0] = other[name][0], one[name][0]
    signed_anew(out)
    report = check(out)
    assert len(report.problems) == 2
    assert all(
        f"expected only rows whose {group_by} is the group's name, found 1 of" in text
        for text in report.problems
    )


@pytest.mark.parametrize("number", [0, 77, -1, 1])
def test_a_sample_that_is_in_no_group_or_in_two_is_found(number: int, tmp_path: Path) -> None:
    out = made(tmp_path, ((5, 6),) * 6, group_by="cls")
    with h5py.File(out, "r+") as file:
        assert file["b/samples"][:].tolist() == [2, 5]
        file["b/samples"][0] = number
    signed_anew(out)
    (problem,) = check(out, sources=False).problems
    assert problem == "/b/samples: expected samples of no other group, in order, below 6"


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ({"fit": "pad", "chunk_rows": 2}, [""]),
        ({"fit": "pad", "chunk_rows": 1, "group_by": "cls"}, ["/a", "/b"]),
        ({"layout": "ragged"}, [""]),
        ({"layout": "ragged", "group_by": "half"}, ["/0", "/1"]),
        ({"layout": "tree", "group_by": "cls"}, ["/a", "/b"]),
    ],
    ids=str,
)
def test_each_wrong_checksum_of_a_chunk_is_named_once(
    options: dict[str, Any], prefixes: list[str], tmp_path: Path
) -> None:
    """And nothing else, as the images are right; by whichever rank has the row it begins in."""
    shapes: tuple[tuple[int, ...], ...] = SHAPES * 4
    if "ragged" in options.values():  # of which a chunk has 1 MiB
        shapes = ((700, 600), (20, 30), (3, 5), (900, 1400), (1500, 1300), (2, 2), (40, 5000))
    out = made(tmp_path, shapes, compression="gzip", **options)
    expected = []
    with h5py.File(out, "r+") as file:
        for prefix in prefixes:
            name = f"{prefix}/chunk_checksums"
            right = file[name][()]
            assert len(right) > 1 or prefix
            file[name][::2] = right[::2] ^ np.uint64(1)
            expected += [
                f"{name}: chunk {k}: expected checksum {right[k] ^ np.uint64(1):016x}, "
                f"found {right[k]:016x}"
                for k in range(0, len(right), 2)
            ]
    for n_ranks in (1, 3):
        report = check(out, n_ranks, sources=False)
        assert (report.bad, report.problems) == ((), tuple(expected))


def test_checksums_of_chunks_that_are_not_as_many_or_not_there_are_said_once(
    tmp_path: Path,
) -> None:
    out = made(tmp_path, SHAPES, fit="pad", chunk_rows=1, compression="gzip")
    with h5py.File(out, "r+") as file:
        sums = file["chunk_checksums"]
        values, about = sums[()], dict(sums.attrs)
        del file["chunk_checksums"]
        file["chunk_checksums"] = values[:3]
        file["chunk_checksums"].attrs.update(about)
    for n_ranks in (1, 3):
        found = [line for line in check(out, n_ranks).problems if "compared" in line]
        assert len(found) == 1
        assert "expected 7 checksums of chunks, found (3,)" in found[0]
    with h5py.File(out, "r+") as file:
        del file["chunk_checksums"]
    for n_ranks in (1, 3):
        found = [line for line in check(out, n_ranks).problems if "digest" not in line]
        assert found == ["expected a dataset /chunk_checksums, found none"]


def test_an_empty_content_digest_is_none(tmp_path: Path) -> None:
    out = made(tmp_path, ((12, 16), (12, 16)))
    with h5py.File(out, "r+") as file:
        file.attrs["content_digest"] = ""
    report = check(out, sources=False)
    assert report.problems == ("attribute content_digest: expected a digest, found nothing",)


def test_an_image_with_a_damaged_header_is_bad_however_often_it_is_opened(tmp_path: Path) -> None:
    """HDF5 1.10 opens it if it is asked a second time."""
    out = made(tmp_path, ((12, 16), (12, 15)), layout="tree", compression="gzip:1")
    whole = out.read_bytes()
    attribute = b"IMAGE_WHITE_IS_ZERO"
    assert whole.count(attribute) == 2
    for at in (whole.index(attribute), whole.rindex(attribute)):
        out.write_bytes(whole[: at - 9] + bytes([whole[at - 9] ^ 1]) + whole[at - 8 :])
        report = check(out, sources=False)
        assert [bad.row for bad in report.bad] == [0 if at == whole.index(attribute) else 1]
        assert "cannot be read" in report.bad[0].reason
