"""Images that do not fit together: channels, depths, sizes, masks, and what the user is told."""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import png
import pytest
from helpers.oracle import (
    Kind,
    Picture,
    Sample,
    Wanted,
    assert_holds,
    encode,
    expected,
    fitted,
    group_path,
    write_samples,
)
from helpers.support import (
    Flavour,
    Meddler,
    error_lines,
    explain,
    read_file,
    run,
    write_manifest,
    write_png,
)
from helpers.threads import on_ranks
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.errors import SamplesFailedError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.images.conversion import Fit, Losses, change_channels, change_depth, convert_into
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest

Pixels = NDArray[Any]

COLOURS = {"gray": 1, "gray+alpha": 2, "rgb": 3, "rgba": 4}
PAIRS = list(itertools.combinations_with_replacement(COLOURS, 2))


def sample(row: int, picture: Picture, *, raw: bool = False, **more: Any) -> Sample:
    pixels = picture.raw if raw else picture.scaled
    return Sample(path=f"{row}.png", data=picture.data, pixels=pixels, **more)


def store(
    folder: Path, every: Sequence[Sample], /, *, n_ranks: int = 1, **options: Any
) -> IngestReport:
    """Ingest into `out.h5` of the folder."""
    manifest = write_samples(folder, every)
    known = IngestOptions(overwrite=True, **options)
    return on_ranks(n_ranks, lambda comm: ingest(manifest, folder / "out.h5", known, comm))[0]


def refusal(folder: Path, every: Sequence[Sample], /, **options: Any) -> str:
    """What the user is told; nothing is written."""
    with pytest.raises(SamplesFailedError) as caught:
        store(folder, every, **options)
    assert not list(folder.glob("out.h5*"))
    return str(caught.value)


# --- channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("depth", [8, 16])
def test_auto_takes_the_fewest_channels_that_lose_nothing(
    one: str, other: str, depth: int, tmp_path: Path
) -> None:
    pictures = [
        encode(Kind(colour=c, depth=depth), 3, 4, seed) for seed, c in enumerate((one, other))
    ]
    samples = [sample(row, picture) for row, picture in enumerate(pictures)]
    report = store(tmp_path, samples)
    stored = read_file(tmp_path / "out.h5")
    assert_holds(stored, expected(samples, Wanted()))
    images = stored.arrays["images"]
    colour = "rgb" in one or "rgb" in other
    alpha = "a" in one.removeprefix("gray") or "a" in other.removeprefix("gray")
    channels = (3 if colour else 1) + alpha
    assert images.shape[1:] == ((3, 4) if channels == 1 else (3, 4, channels))
    assert report.losses == ()
    changed = [name for name in (one, other) if COLOURS[name] != channels]
    assert len(report.conversions) == len(set(changed))
    names = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
    for name in changed:
        text = f"from 3x4 {names[COLOURS[name]]} uint{depth} to 3x4 {names[channels]} uint{depth}"
        assert any(text in line for line in report.conversions), report.conversions


@pytest.mark.parametrize("kind", ["stack", "ragged", "tree"])
@pytest.mark.parametrize("channels", ["gray", "rgb", "rgba"])
def test_channels_as_asked_with_losses_counted(kind: str, channels: str, tmp_path: Path) -> None:
    samples = []
    for row, (colour, depth) in enumerate(itertools.product(COLOURS, (8, 16))):
        samples.append(sample(row, encode(Kind(colour=colour, depth=depth), 5, 4, row)))
    # Nothing is lost of these: opaque, and gray in colour.
    opaque, plain = np.full((5, 4, 4), 255, np.uint8), np.zeros((5, 4, 3), np.uint8)
    opaque[..., :3], plain[...] = np.arange(20).reshape(5, 4, 1), 77
    for pixels in (opaque, plain):
        name = tmp_path / "one.png"
        write_png(name, pixels)
        samples.append(Sample(path=f"{len(samples)}.png", data=name.read_bytes(), pixels=pixels))
    wanted = Wanted(layout=kind, channels=channels, dtype="auto" if kind == "tree" else "uint16")
    report = store(tmp_path, samples, layout=kind, channels=channels, dtype=wanted.dtype, n_ranks=3)
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, wanted))
    lost = {
        "gray": ("4 images lost their transparency", "4 images lost their colour"),
        "rgb": ("4 images lost their transparency",),
        "rgba": (),
    }
    assert report.losses == lost[channels]


def test_gray_is_the_luminance_of_pillow(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    every = rng.integers(0, 255, (64, 1024, 3), np.uint8, endpoint=True)
    every[0] = np.arange(1024)[:, None] % 256
    gray = change_channels(every, 1, Losses())
    np.testing.assert_array_equal(gray, np.asarray(Image.fromarray(every).convert("L")))
    deep = rng.integers(0, 65535, (64, 1024, 3), np.uint16, endpoint=True)
    exact = deep @ np.array([0.299, 0.587, 0.114])
    assert np.abs(change_channels(deep, 1, Losses()) - exact).max() <= 1
    white = np.full((1, 1, 3), 65535, np.uint16)
    assert change_channels(white, 1, Losses()).item() == 65535
    wide = np.asarray(Image.fromarray(every[:, :4]).convert("L")).astype(np.uint16) * 257
    assert np.abs(change_channels(every[:, :4].astype(np.uint16) * 257, 1, Losses())
                  - wide.astype(int)).max() <= 129  # fmt: skip


# --- depth ---------------------------------------------------------------------------------------


def test_all_16_bit_values_become_the_nearest_8_bit_value_and_back() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    losses = Losses()
    shallow = change_depth(deep, np.dtype(np.uint8), losses)
    assert losses == Losses(depth=1)
    np.testing.assert_array_equal(shallow, np.rint(deep / 257))
    every = np.arange(256, dtype=np.uint8)
    wide = change_depth(every, np.dtype(np.uint16), losses)
    np.testing.assert_array_equal(wide, np.arange(256) * 257)
    np.testing.assert_array_equal(change_depth(wide, np.dtype(np.uint8), losses), every)
    assert losses == Losses(depth=1)  # multiples of 257 lose nothing


@pytest.mark.parametrize("kind", ["stack", "ragged"])
def test_mixed_depths_are_refused_and_each_way_out_works(kind: str, tmp_path: Path) -> None:
    samples = [
        sample(row, encode(Kind(colour=colour, depth=depth), 4, 3, row))
        for row, (colour, depth) in enumerate([("gray", 8), ("gray", 16), ("rgb", 8), ("rgb", 16)])
    ]
    message = refusal(tmp_path, samples, layout=kind)
    assert "8 and 16 bits are mixed" in message
    what = "4x3 gray uint16" if kind == "stack" else "gray uint16"  # sizes do not matter there
    assert f"1 x {what} (first: line 3: 1.png)" in message
    ways: list[dict[str, Any]] = [
        {"layout": kind, "dtype": "uint16"},
        {"layout": kind, "dtype": "uint8", "reduce_depth": True},
        {"layout": "tree"},
        {"layout": "encoded"},
    ]
    for options in ways:
        for name, value in options.items():
            said = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            assert said in message or value == kind
        wanted = replace(Wanted(), **{k: v for k, v in options.items() if k != "reduce_depth"})
        report = store(tmp_path, samples, **options)
        assert_holds(read_file(tmp_path / "out.h5"), expected(samples, wanted))
        lost = ("2 images lost depth (16 to 8 bits)",) if "reduce_depth" in options else ()
        assert report.losses == lost


@pytest.mark.parametrize("kind", ["stack", "ragged", "tree"])
def test_8_bits_of_16_are_refused_unless_the_loss_is_asked_for(kind: str, tmp_path: Path) -> None:
    samples = [sample(row, encode(Kind(colour="gray", depth=16), 4, 3, row)) for row in range(3)]
    message = refusal(tmp_path, samples, layout=kind, dtype="uint8")
    assert "would lose half of the bits of 16-bit images: add --reduce-depth" in message
    report = store(tmp_path, samples, layout=kind, dtype="uint8", reduce_depth=True)
    assert report.losses == ("3 images lost depth (16 to 8 bits)",)
    wanted = Wanted(layout=kind, dtype="uint8")
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, wanted))


# --- label masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stack", "ragged", "tree"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_raw_masks_keep_indices_and_unscaled_gray(
    kind: str, interlaced: bool, tmp_path: Path
) -> None:
    samples: list[Sample] = []
    for colour, depths in {"palette": (1, 2, 4, 8), "gray": (1, 2, 4, 8)}.items():
        for depth, transparent in itertools.product(depths, (False, True)):
            if colour == "gray" and depth == 8 and transparent:
                continue  # a full image with alpha: not a mask
            kind_ = Kind(colour=colour, depth=depth, transparent=transparent, interlaced=interlaced)
            samples.append(sample(len(samples), encode(kind_, 9, 7, len(samples)), raw=True))
    assert {s.pixels.shape for s in samples if s.pixels is not None} == {(9, 7)}
    report = store(tmp_path, samples, layout=kind, samples="raw", n_ranks=2)
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, Wanted(layout=kind, raw=True)))
    assert report.losses == ()


def palette_attribute(out: Path, name: str) -> Pixels | None:
    with h5py.File(out) as file:
        found: Pixels | None = file[name].attrs.get("palette")
    return found


@pytest.mark.parametrize(
    ("kind", "name"), [("stack", "images"), ("ragged", "images/pixels"), ("tree", "/")]
)
def test_one_palette_becomes_an_attribute_several_do_not(
    kind: str, name: str, tmp_path: Path
) -> None:
    masks = Kind(colour="palette", depth=4)
    samples = [sample(row, encode(masks, 3, 4, row), raw=True) for row in range(5)]
    data = samples[0].data
    assert data is not None
    info = png.Reader(bytes=data).read()[3]
    for n_ranks in (1, 3):
        store(tmp_path, samples, layout=kind, samples="raw", n_ranks=n_ranks)
        colours = palette_attribute(tmp_path / "out.h5", name)
        assert colours is not None
        assert colours.dtype == np.uint8
        assert colours.tolist() == [list(colour) for colour in info["palette"]]
        images = read_file(tmp_path / "out.h5").arrays
        if kind == "stack":  # shown with it, the masks are the pictures
            np.testing.assert_array_equal(
                colours[images["images"][0]], encode(masks, 3, 4, 0).scaled
            )
    other = sample(5, encode(masks, 3, 4, 5, palette_seed=8), raw=True)
    for n_ranks in (1, 3):
        store(tmp_path, [*samples, other], layout=kind, samples="raw", n_ranks=n_ranks)
        assert palette_attribute(tmp_path / "out.h5", name) is None
    store(tmp_path, samples, layout=kind)
    assert palette_attribute(tmp_path / "out.h5", name) is None


def test_each_group_of_masks_has_the_palette(tmp_path: Path) -> None:
    masks = Kind(colour="palette", depth=2)
    samples = [
        sample(row, encode(masks, 3, 4, row), raw=True, group="ab"[row % 2]) for row in range(4)
    ]
    store(tmp_path, samples, samples="raw", group_by="group")
    assert palette_attribute(tmp_path / "out.h5", "a/images") is not None
    assert palette_attribute(tmp_path / "out.h5", "b/images") is not None
    store(tmp_path, samples, samples="raw", group_by="group", layout="tree")
    assert palette_attribute(tmp_path / "out.h5", "a") is not None


def test_labels_keep_their_values_at_any_depth_and_size(tmp_path: Path) -> None:
    masks = [Kind(colour="palette", depth=8), Kind(colour="gray", depth=16)]
    samples = [sample(row, encode(masks[row % 2], 5, 4, row), raw=True) for row in range(4)]
    message = refusal(tmp_path, samples, samples="raw")
    assert "--dtype uint16 makes all 16 bits without loss (raw values stay)" in message
    assert "--reduce-depth" not in message
    assert "encoded" not in message
    store(tmp_path, samples, samples="raw", dtype="uint16")
    wanted = Wanted(raw=True, dtype="uint16")
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, wanted))
    stored = read_file(tmp_path / "out.h5").arrays["images"]
    np.testing.assert_array_equal(stored[0], encode(masks[0], 5, 4, 0).raw)
    assert "cannot hold the raw samples" in refusal(
        _fresh(tmp_path), samples, samples="raw", dtype="uint8"
    )
    store(tmp_path, samples[::2], samples="raw", fit="resize", size=(11, 3))
    images = read_file(tmp_path / "out.h5").arrays["images"]
    for row, picture in zip(images, samples[::2], strict=True):
        assert picture.pixels is not None
        assert set(np.unique(row)) <= set(np.unique(picture.pixels))  # nearest: no new labels


def _fresh(folder: Path) -> Path:
    new = folder / "fresh"
    new.mkdir()
    return new


def test_a_damaged_palette_does_not_harm_indices(tmp_path: Path) -> None:
    import zlib

    data = encode(Kind(colour="palette", depth=2), 3, 4).data
    at = data.index(b"PLTE")
    short = b"PLTE" + data[at + 4 : at + 4 + 11]  # not a multiple of three bytes
    end = at + 4 + int.from_bytes(data[at - 4 : at]) + 4
    data = data[: at - 4] + (11).to_bytes(4) + short + zlib.crc32(short).to_bytes(4) + data[end:]
    picture = encode(Kind(colour="palette", depth=2), 3, 4)
    samples = [Sample(path="0.png", data=data, pixels=picture.raw)]
    store(tmp_path, samples, samples="raw")
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, Wanted(raw=True)))
    assert palette_attribute(tmp_path / "out.h5", "images") is None


# --- sizes ---------------------------------------------------------------------------------------

SIZES = [(4, 9), (9, 4), (4, 9), (7, 7), (1, 1), (4, 9), (12, 5)]
COMBINED = list(itertools.product(COLOURS, (8, 16)))


@pytest.mark.parametrize(("colour", "depth"), COMBINED)
@pytest.mark.parametrize(
    ("fit", "size"),
    [
        ("pad", None),
        ("pad", (13, 11)),
        ("crop", (1, 1)),
        ("resize", None),
        ("resize", (3, 20)),
        ("cover", (5, 5)),
        ("cover", (13, 2)),
        ("contain", (6, 7)),
        ("contain", (20, 3)),
    ],
)
def test_fit(
    colour: str, depth: int, fit: str, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    kind = Kind(colour=colour, depth=depth)
    samples = [sample(row, encode(kind, *hw, row)) for row, hw in enumerate(SIZES)]
    pad_value = 200 if fit in ("pad", "contain") else 0
    wanted = Wanted(fit=fit, size=size, pad_value=pad_value)
    report = store(
        tmp_path, samples, fit=fit, size=size, pad_value=pad_value, chunk_rows=2, n_ranks=2
    )
    stored = read_file(tmp_path / "out.h5")
    assert_holds(stored, expected(samples, wanted))
    assert stored.arrays["images"].shape[1:3] == (size or (12, 9))
    if fit == "pad":
        assert stored.arrays["sizes"].tolist() == [list(hw) for hw in SIZES]
        for image, one in zip(stored.arrays["images"], samples, strict=True):
            assert one.pixels is not None
            height, width = one.pixels.shape[:2]
            np.testing.assert_array_equal(image[:height, :width], one.pixels)
            assert (image[height:] == pad_value).all()
            assert (image[:, width:] == pad_value).all()
    assert any("to" in line for line in report.conversions)


@pytest.mark.parametrize(
    "resample", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
)
@pytest.mark.parametrize(("colour", "depth"), COMBINED)
def test_resizing_is_that_of_pillow(resample: str, colour: str, depth: int) -> None:
    pixels = encode(Kind(colour=colour, depth=depth), 11, 17, 3).scaled
    for size in ((5, 6), (23, 40), (11, 8), (1, 1)):
        out = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
        kept = convert_into(pixels, out, Fit(how="resize", resample=resample), Losses())
        assert kept == size
        wanted = Wanted(fit="resize", resample=resample)
        np.testing.assert_array_equal(out, fitted(pixels, size, wanted))


def test_crop_takes_the_centre_of_the_commonest_size_by_default(tmp_path: Path) -> None:
    kind = Kind(colour="rgb", depth=8)
    sizes = [(4, 5), (4, 5), (4, 5), (9, 5), (4, 12), (7, 8)]
    samples = [sample(row, encode(kind, *hw, row)) for row, hw in enumerate(sizes)]
    store(tmp_path, samples, fit="crop")
    images = read_file(tmp_path / "out.h5").arrays["images"]
    assert images.shape == (6, 4, 5, 3)
    centres = {3: np.s_[2:6, :], 4: np.s_[:, 3:8], 5: np.s_[1:5, 1:6]}
    for row, one in enumerate(samples):
        assert one.pixels is not None
        np.testing.assert_array_equal(images[row], one.pixels[centres.get(row, np.s_[:, :])])


def test_sizes_that_cannot_be_are_refused_with_what_can(tmp_path: Path) -> None:
    kind = Kind(colour="gray", depth=8)
    samples = [sample(row, encode(kind, *hw, row)) for row, hw in enumerate(SIZES)]
    message = refusal(tmp_path, samples, fit="pad", size=(8, 8))
    assert "--fit pad --size 8x8 is too small for these images: leave out --size" in message
    assert "(then all become 12x9)" in message
    message = refusal(tmp_path, samples, fit="crop", size=(8, 8))
    assert "--fit crop to 8x8 is larger than these images" in message
    assert "--size 1x1" not in message
    assert "--fit crop to 4x9 is larger than these images" in refusal(tmp_path, samples, fit="crop")
    message = refusal(tmp_path, samples, fit="pad", pad_value=256)
    assert "--pad-value 256 is more than 8 bits hold" in message
    deep = [*samples, sample(9, encode(Kind(colour="gray", depth=16), 2, 2, 1))]
    store(tmp_path, deep, fit="pad", pad_value=60000, dtype="uint16")
    wanted = Wanted(fit="pad", pad_value=60000, dtype="uint16")
    assert_holds(read_file(tmp_path / "out.h5"), expected(deep, wanted))


def test_each_group_has_its_own_kind(tmp_path: Path) -> None:
    samples = [
        sample(row, encode(Kind(colour=colour, depth=depth), *size, row), group=group)
        for row, (group, colour, depth, size) in enumerate(
            [("a", "gray", 8, (3, 4)), ("b", "rgb", 16, (5, 2)), ("a", "gray", 8, (3, 4)),
             ("c", "gray", 8, (2, 2)), ("c", "rgba", 8, (2, 2)), ("b", "rgb", 16, (5, 2))]
        )
    ]  # fmt: skip
    store(tmp_path, samples, group_by="group", n_ranks=3)
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, Wanted(grouped=True)))
    message = refusal(_fresh(tmp_path), samples)
    assert "--group-by COLUMN gives each group its own size" in " ".join(message.split())
    mixed = [replace(one, group="b/c") for one in samples]
    message = refusal(tmp_path / "fresh", mixed, group_by="group")
    assert "group 'b/c': the images do not fit together" in message
    assert "--group-by" not in message
    assert group_path("b/c") == "b%2Fc"


# --- what the user is told -----------------------------------------------------------------------


def test_a_mixed_folder_is_refused_in_one_message_and_each_way_out_works(
    mpich: Flavour, tmp_path: Path
) -> None:
    kinds = [("gray", 8, (6, 8)), ("rgb", 8, (4, 9)), ("rgb", 16, (5, 5)), ("gray", 8, (6, 8))]
    samples = [
        sample(row, encode(Kind(colour=colour, depth=depth), *size, row))
        for row, (colour, depth, size) in enumerate(kinds)
    ]
    manifest = write_samples(tmp_path, samples)
    (tmp_path / "made").mkdir()
    out = tmp_path / "made" / "out.h5"
    refused = mpich.run(2, manifest, out)
    assert refused.returncode == 3, explain(refused)
    assert len(error_lines(refused)) == 1
    assert not list(out.parent.iterdir())
    assert "store:" not in refused.stderr
    for text in (
        "the images do not fit together",
        "2 x 6x8 gray uint8 (first: line 2: 0.png)",
        "1 x 4x9 RGB uint8 (first: line 3: 1.png)",
        "1 x 5x5 RGB uint16 (first: line 4: 2.png)",
        "8 and 16 bits are mixed",
        "3 sizes are mixed",
    ):
        assert text in refused.stderr, explain(refused)
    pattern = r"--[a-z-]+[^;:(,)]*?(?= makes?| keeps?| stores?| or --| \()"
    depths = next(line for line in refused.stderr.splitlines() if line[:2] == "- ")
    depth, sizes = re.findall(pattern, depths), re.findall(r"\n    (--.+?)  ", refused.stderr)
    assert depth == ["--dtype uint16", "--dtype uint8 --reduce-depth", "--layout tree",
                     "--layout encoded"]  # fmt: skip
    assert sizes == [
        "--fit cover --size 32",
        "--fit contain --size 32",
        "--fit pad",
        "--layout ragged",
        "--group-by COLUMN",
    ]
    ways = [" ".join(pair) for pair in itertools.product(depth[:2], sizes[:-1])] + depth[2:]
    known = IngestOptions()
    for way in ways:
        words = shlex.split(way)
        options: dict[str, Any] = {"reduce_depth": "--reduce-depth" in words}
        for name in ("dtype", "fit", "layout", "size"):
            if f"--{name}" in words:
                options[name] = words[words.index(f"--{name}") + 1]
        if "size" in options:
            options["size"] = int(options["size"]), int(options["size"])
        ingest(manifest, out, IngestOptions(overwrite=True, **options))
        del options["reduce_depth"]
        assert_holds(read_file(out), expected(samples, replace(Wanted(), **options)))
    assert known.fit == "error"
    done = mpich.forked(manifest, out, "--overwrite", *shlex.split(ways[0]))  # as it is typed
    assert done.returncode == 0, explain(done)
    for text in ("2 of 4 images became RGB, because 2 are in colour",
                 "3 of 4 images became 16 bits, times 257 (--dtype uint16)",
                 "4 of 4 images, of 3 sizes, were scaled and cropped to 32x32"):  # fmt: skip
        assert f"converted  {text}\n" in done.stdout, explain(done)
    done = mpich.forked(manifest, out, "-v", "--overwrite", *shlex.split(ways[0]))
    assert re.search(r"converted +2 images from 6x8 gray uint8 to 32x32 RGB uint16", done.stdout)


def test_the_summary_says_what_was_dropped(mpich: Flavour, tmp_path: Path) -> None:
    samples = [sample(row, encode(Kind(colour="rgba", depth=16), 3, 3, row)) for row in range(3)]
    manifest = write_samples(tmp_path, samples)
    done = mpich.forked(
        manifest, tmp_path / "out.h5", "--channels", "gray", "--dtype", "uint8", "--reduce-depth"
    )
    assert done.returncode == 0, explain(done)
    for text in ("3 images lost their transparency", "3 images lost their colour",
                 "3 images lost depth"):  # fmt: skip
        assert re.search(rf"dropped +{text}", done.stdout), explain(done)


def test_options_that_do_not_go_together_are_usage_errors(mpich: Flavour, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.txt", ["a.png"])
    for arguments, said in (
        (["--layout", "encoded", "--compression", "gzip"], "compressed already"),
        (["--size", "3x"], "expected HEIGHTxWIDTH"),
        (["--size", "3"], "--size: say how with --fit"),
        (["--fit", "pad", "--size", "3x0"], "at least 1"),
        (["--fit", "pad", "--resample", "box"], "--resample goes with --fit resize"),
        (["--layout", "nonsense"], "nonsense"),
    ):
        refused = run([mpich.bin / "h5ingest", manifest, tmp_path / "out.h5", *arguments])
        assert refused.returncode == 2, explain(refused)
        assert said in " ".join(refused.stderr.split()), explain(refused)
    assert not list(tmp_path.glob("out*"))


def test_losses_of_an_image_that_two_ranks_store_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h5ingest.core import group_datasets

    monkeypatch.setattr(group_datasets, "EXTENT_CHUNK_BYTES", 10)
    samples = [sample(row, encode(Kind(colour="rgba", depth=8), 9, 9, row)) for row in range(2)]
    for n_ranks in (1, 2, 5):
        report = store(
            tmp_path, samples, layout="ragged", channels="gray", compression="gzip", n_ranks=n_ranks
        )
        assert report.losses == ("2 images lost their transparency", "2 images lost their colour")


def test_a_16_bit_image_that_takes_the_place_of_an_8_bit_one_is_not_cut(tmp_path: Path) -> None:
    shallow, deep = (encode(Kind(colour="gray", depth=d), 4, 4, 1) for d in (8, 16))
    samples = [sample(row, shallow) for row in range(2)]
    manifest = write_samples(tmp_path, samples)

    options = IngestOptions(dtype="uint8", cache_bytes=0, on_error="blank")
    report = ingest(
        manifest,
        tmp_path / "out.h5",
        options,
        watch=Meddler(lambda: (tmp_path / "1.png").write_bytes(deep.data)),
    )
    assert [failure.kind for failure in report.failures] == ["changed"]


@pytest.mark.parametrize(
    "bad", [{"layout": "ragged", "fit": "pad"}, {"samples": "raw", "channels": "rgb"}]
)
def test_python_callers_get_the_same_refusals(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        IngestOptions(**bad)


def test_a_file_of_another_format_is_an_image_by_its_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 255, (8, 12, 3), np.uint8, endpoint=True)
    gray = rgb[..., 0]
    deep = rng.integers(0, 65535, (8, 12), np.uint16, endpoint=True)
    frames = [Image.fromarray(gray), Image.fromarray(255 - gray)]
    cases: dict[str, tuple[str, dict[str, Any], Image.Image]] = {
        "photo.png": ("JPEG", {"quality": 90}, Image.fromarray(rgb)),
        "gray.bmp": ("JPEG", {}, Image.fromarray(gray)),
        "scan.jpg": ("TIFF", {}, Image.fromarray(rgb)),
        "deep": ("TIFF", {}, Image.fromarray(deep)),
        "icon.txt": ("BMP", {}, Image.fromarray(rgb)),
        "web.gif": ("WEBP", {"lossless": True}, Image.fromarray(rgb)),
        "movie.png": ("GIF", {"save_all": True, "append_images": frames[1:]}, frames[0]),
        "real.jpeg": ("PNG", {}, Image.fromarray(rgb)),
    }
    samples = []
    for path, (format_, how, image) in cases.items():
        file = io.BytesIO()
        image.save(file, format_, **how)
        with Image.open(io.BytesIO(file.getvalue())) as opened:
            assert opened.format == format_
            plain = opened if opened.mode in ("L", "RGB", "I;16") else opened.convert("RGB")
            pixels = np.asarray(plain)
        samples.append(Sample(path=path, data=file.getvalue(), pixels=pixels))
    deeper: dict[str, Any] = {"dtype": "uint16"}
    for layout, more in (("tree", {}), ("encoded", {}), ("ragged", deeper), ("stack", deeper)):
        store(tmp_path, samples, layout=layout, n_ranks=2, **more)
        wanted = replace(Wanted(layout=layout), **more)
        assert_holds(read_file(tmp_path / "out.h5"), expected(samples, wanted))
