"""How images are scaled, cut and turned: compared with Pillow's own steps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layout_runs import ingest_on
from helpers.oracle import scaled_size
from helpers.support import make_pixels, write_images, write_manifest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from h5ingest.core.errors import SamplesFailedError, UsageError
from h5ingest.core.geometry import Scale, contained, covering
from h5ingest.core.notes import MORE_IMAGES, ORIENTED, TURNED
from h5ingest.core.options import IngestOptions
from h5ingest.images import orientation
from h5ingest.images.decode import Prober, decode_into, probe
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest
from h5ingest.reading.store import ImageStore

SIDES = st.integers(1, 400)
SIZES = st.tuples(SIDES, SIDES)


@given(SIZES, SIZES)
def test_sizes_are_those_of_pillow(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    outline = Image.new("1", size[::-1])
    assert covering(size, wanted) == ImageOps.cover(outline, wanted[::-1]).size[::-1]
    height, width = contained(size, wanted)
    pixels = np.zeros(size, np.uint8)
    assert (height, width) == scaled_size(pixels, wanted, "contain")
    assert 1 <= height <= wanted[0]
    assert 1 <= width <= wanted[1]


@given(SIZES, SIDES)
def test_a_side_becomes_what_is_asked(size: tuple[int, int], side: int) -> None:
    longest, shortest = Scale(longest=side).of(size), Scale(shortest=side).of(size)
    assert (max(longest), min(shortest)) == (side, side)
    for new in (longest, shortest):
        assert (new[0] >= new[1]) == (size[0] >= size[1]) or new[0] == new[1]
        sides = zip(new, size, strict=True)
        assert all(abs(n * max(size) - old * max(new)) <= max(size) for n, old in sides)
    shapes = np.array([(*size, 3, 1), (0, 0, 0, 0), (*size[::-1], 1, 2)], np.int32)
    scaled = Scale(longest=side).of_shapes(shapes)
    assert scaled.tolist() == [[*longest, 3, 1], [0] * 4, [*longest[::-1], 1, 2]]
    assert not Scale()
    assert Scale().of(size) == size


def photographs(folder: Path) -> Path:
    images = [make_pixels(1, shape)[0] for shape in ((40, 60, 3), (64, 32, 3), (50, 50, 3))]
    return write_manifest(folder / "m.txt", write_images(folder, images))


@pytest.mark.parametrize("fit", ["cover", "contain", "pad", "crop"])
def test_a_stack_is_cut_as_pillow_cuts(fit: str, tmp_path: Path) -> None:
    manifest = photographs(tmp_path)
    scales: dict[str, Any] = {"pad": {"longest": 24}, "crop": {"shortest": 24}}.get(fit, {})
    options = IngestOptions(fit=fit, size=(24, 24), resample="lanczos", **scales)
    ingest_on(2, manifest, tmp_path / "out.h5", options)
    assert verify(tmp_path / "out.h5", sources=True).ok
    with ImageStore(tmp_path / "out.h5") as store:
        for row, (found, _) in enumerate(store):
            source = Image.open(tmp_path / f"{row:04}.png")
            height, width = source.height, source.width
            ratio = 24 / (min(height, width) if fit in ("cover", "crop") else max(height, width))
            size = round(width * ratio), round(height * ratio)
            scaled = np.asarray(source.resize(size, Image.Resampling.LANCZOS))
            h, w = scaled.shape[:2]
            if fit in ("cover", "crop"):
                top, left = (h - 24) // 2, (w - 24) // 2
                expected = scaled[top : top + 24, left : left + 24]
            else:
                expected = np.pad(scaled, ((0, 24 - h), (0, 24 - w), (0, 0)))
                assert store.sizes is not None
                assert store.sizes[row].tolist() == [h, w]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", ["ragged", "tree"])
def test_images_of_any_size_keep_their_proportions(layout: str, tmp_path: Path) -> None:
    manifest = photographs(tmp_path)
    options = IngestOptions(layout=layout, shortest=16, probe="auto")
    report = ingest_on(2, manifest, tmp_path / "out.h5", options)
    assert "scaled to 16 pixels on the shorter side" in report.conversions[0]
    assert verify(tmp_path / "out.h5", sources=True).ok
    with ImageStore(tmp_path / "out.h5") as store:
        shapes = [image.shape for image, _ in store]
        assert shapes == [(16, 24, 3), (32, 16, 3), (16, 16, 3)]
        source = Image.open(tmp_path / "0001.png")
        expected = np.asarray(source.resize((16, 32), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(store[1][0], expected)


def test_what_is_proposed_is_of_use(tmp_path: Path) -> None:
    images = [make_pixels(1, shape)[0] for shape in ((3, 900), (700, 5), (300, 400), (300, 400))]
    manifest = write_manifest(tmp_path / "m.txt", write_images(tmp_path, images))
    with pytest.raises(SamplesFailedError) as caught:
        ingest(manifest, tmp_path / "out.h5")
    message = str(caught.value)
    assert "--fit cover --size 224" in message
    assert "--fit contain --size 224" in message
    assert "3x5" not in message
    for fit in ("cover", "contain"):
        ingest(manifest, tmp_path / f"{fit}.h5", IngestOptions(fit=fit, size=(224, 224)))
        with ImageStore(tmp_path / f"{fit}.h5") as store:
            assert store.shape == (4, 224, 224)


def test_what_would_have_no_effect_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"longest": 9, "shortest": 9}, "expected one of them"),
        ({"longest": 9, "fit": "cover", "size": (4, 4)}, "go with --fit pad or crop"),
        ({"resample": "box"}, "--resample goes with"),
        ({"longest": 0}, "--longest: expected at least 1"),
    ]
    for options, said in wrong:
        with pytest.raises(UsageError, match=said):
            IngestOptions(**options)


# --- orientation --------------------------------------------------------------------------------


def oriented(form: str, value: int) -> tuple[bytes, Any, Any]:
    """A file with an orientation; its pixels as they lie in it, and as Pillow turns them."""
    pixels = make_pixels(1, (6, 9, 3))[0]
    exif = Image.Exif()
    exif[0x0112] = value
    file = io.BytesIO()
    lossless: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(pixels).save(file, form, exif=exif, **lossless)
    stored = Image.open(io.BytesIO(file.getvalue()))
    return (
        file.getvalue(),
        np.asarray(Image.open(io.BytesIO(file.getvalue()))),
        np.asarray(ImageOps.exif_transpose(stored)),
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_counted_or_followed(form: str) -> None:
    for value in range(1, 9):
        data, lying, standing = oriented(form, value)
        if form == "TIFF":  # whose pixels Pillow turns by itself
            lying = make_pixels(1, (6, 9, 3))[0]
        for upright, expected in ((False, lying), (True, standing)):
            spec = probe(data, upright=upright)
            assert spec is not None
            assert spec.shape == expected.shape
            out = np.empty(spec.shape, spec.dtype)
            notes = decode_into(data, out, upright=upright)
            np.testing.assert_array_equal(out, expected)
            assert notes == (() if value == 1 else (TURNED,) if upright else (ORIENTED,))
            prober = Prober(upright=upright)
            assert prober(data) == spec
            batch = np.empty((2, *spec.shape), spec.dtype)
            assert not prober.decode_alike([data, data], batch) or value == 1


def test_damaged_exif_is_no_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()
    assert orientation.of_exif(data) == 6
    assert orientation.of_exif(data.replace(b"\0\x06", b"\0\x09", 1)) == 1
    for end in range(data.index(b"\0\x06") + 1):
        assert orientation.of_exif(data[:end]) == 1


def test_the_summary_counts_orientations_and_animations(tmp_path: Path) -> None:
    names = []
    for number, value in enumerate((1, 6, 8)):
        (tmp_path / f"{number}.jpg").write_bytes(oriented("JPEG", value)[0])
        names.append(f"{number}.jpg")
    frames = [Image.fromarray(make_pixels(2, (6, 9))[k]) for k in range(2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    manifest = write_manifest(tmp_path / "m.txt", [*names, "moving.gif", "pages.tif"])
    for options, kind in (
        (IngestOptions(layout="ragged"), ORIENTED),
        (IngestOptions(layout="ragged", orientation="exif"), TURNED),
    ):
        out = tmp_path / f"{options.orientation}.h5"
        report = ingest_on(2, manifest, out, options)
        counts = {note.kind: note.count for note in report.notes}
        assert counts == {kind: 2, MORE_IMAGES: 2}
        assert verify(out, sources=True).ok
        with ImageStore(out) as store:
            turned = options.orientation == "exif"
            assert store[1][0].shape == ((9, 6, 3) if turned else (6, 9, 3))
            np.testing.assert_array_equal(store[1][0], oriented("JPEG", 6)[1 + turned])
