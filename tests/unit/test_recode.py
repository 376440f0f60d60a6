"""`--recode`: every image comes back, from no more bytes than its file has; what cannot is kept."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
from helpers.pictures import PALETTED, by_pillow, decoded, noise, paletted, smooth
from helpers.support import damage, write_images, write_manifest, write_png
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from h5ingest import ImageStore, IngestOptions, ingest, recompress
from h5ingest.core import notes
from h5ingest.core.errors import OutputError, SamplesFailedError, SetupError, UsageError
from h5ingest.core.recoding import CODECS, Recoding
from h5ingest.images import decode
from h5ingest.images import recode as recode_module
from h5ingest.images.recode import recode
from h5ingest.inspect.contact_sheet import sheet
from h5ingest.inspect.show import tree
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.recoding import Recoder
from h5ingest.pipeline.report import IngestReport
from h5ingest.reading import dataset_rule
from h5ingest.storage import spool

Pixels = NDArray[Any]
TO = {codec: Recoding.parse(codec) for codec in CODECS}


def as_png(folder: Path, pixels: Pixels) -> bytes:
    write_png(folder / "one.png", pixels)
    return (folder / "one.png").read_bytes()


def recoded(data: bytes, to: Recoding) -> tuple[bytes | None, tuple[str, ...]]:
    spec = decode.probe(data)
    assert spec is not None
    return recode(data, spec, to)


def takes(codec: str, channels: int, dtype: str) -> bool:
    if codec == "webp":
        return channels >= 3 and dtype == "uint8"
    return codec in ("jxl", "png") or channels in (1, 3)


# --- one image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_come_back_from_fewer_bytes(
    codec: str, dtype: str, channels: int, tmp_path: Path
) -> None:
    n_smaller = 0
    for height, width in ((1, 1), (1, 7), (9, 1), (31, 45), (240, 301), (511, 129)):
        for pixels in (
            smooth(height, width, channels, dtype),
            noise(height, width, channels, dtype),
        ):
            data = as_png(tmp_path, pixels)
            coded, kinds = recoded(data, TO[codec])
            if not takes(codec, channels, dtype):
                assert (coded, kinds) == (None, (notes.NOT_TAKEN,))
            elif coded is None:
                assert kinds == (notes.NOT_SMALLER,)
            else:
                assert kinds == ()
                assert len(coded) < len(data)
                np.testing.assert_array_equal(decoded(coded), pixels)
                n_smaller += 1
    assert (n_smaller > 0) == takes(codec, channels, dtype)


def test_noise_keeps_its_own_bytes(tmp_path: Path) -> None:
    raw = by_pillow(noise(64, 64, 3, "uint8"), "PPM")
    assert recoded(raw, TO["htj2k"]) == (None, (notes.NOT_SMALLER,))


def test_colours_below_full_transparency_come_back(tmp_path: Path) -> None:
    pixels = smooth(90, 80, 4, "uint8")
    pixels[:45, :, 3] = 0
    for codec in ("jxl", "webp"):
        coded, _ = recoded(as_png(tmp_path, pixels), TO[codec])
        assert coded is not None
        np.testing.assert_array_equal(decoded(coded), pixels)
    pixels[..., 3] = 255  # a WebP then comes back as RGB
    assert recoded(as_png(tmp_path, pixels), TO["webp"]) == (None, (notes.NOT_EXACT,))


def test_a_palette_and_low_bits_come_back_as_the_reader_shows_them() -> None:
    picture = Image.fromarray(smooth(80, 90, 3, "uint8"))
    for image in (picture.convert("1"), picture.quantize(16)):
        for how in ({}, {"transparency": 1}):
            file = io.BytesIO()
            image.save(file, "PNG", **how)
            data = file.getvalue()
            coded, _ = recoded(data, Recoding("jxl", 7))
            assert coded is not None
            np.testing.assert_array_equal(decoded(coded), decoded(data))


def jpegs() -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x112] = 6
    picture = smooth(123, 150, 3, "uint8") + noise(123, 150, 3, "uint8") // 16
    return {
        "RGB": by_pillow(picture, "JPEG"),
        "gray": by_pillow(picture[..., 0].copy(), "JPEG"),
        "progressive, to be turned": by_pillow(picture, "JPEG", progressive=True, exif=turned),
        "no subsampling, a comment": by_pillow(picture, "JPEG", subsampling=0, comment=b"x" * 99),
        "bytes behind its end": by_pillow(picture, "JPEG") + b"what a camera appends",
        "a second picture": by_pillow(
            picture, "MPO", save_all=True, append_images=[Image.fromarray(picture[:9])]
        ),
    }


@pytest.mark.parametrize("name", jpegs())
def test_a_jpeg_comes_back_byte_for_byte(name: str) -> None:
    data = jpegs()[name]
    coded, kinds = recoded(data, TO["jxl"])
    assert coded is not None
    assert kinds == ()
    assert len(coded) < 0.96 * len(data)
    assert imagecodecs.jpegxl_decode_jpeg(coded, numthreads=1) == data
    np.testing.assert_array_equal(decoded(coded), decoded(data))
    for other in ("webp", "htj2k"):
        assert recoded(data, TO[other])[0] is None  # its pixels take more


def test_frames_after_the_first_are_not_lost() -> None:
    frames = [Image.fromarray(smooth(60, 60, 1, "uint8", seed)) for seed in range(3)]
    for kind in ("GIF", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        assert recoded(file.getvalue(), TO["jxl"]) == (None, (notes.MORE_TO_LOSE,))


def test_an_encoder_that_makes_other_pixels_or_none_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = as_png(tmp_path, smooth(50, 60, 3, "uint8"))
    lossy = imagecodecs.webp_encode(smooth(50, 60, 3, "uint8"), level=10, lossless=False)
    other_size = imagecodecs.jpegxl_encode(smooth(50, 61, 3, "uint8"), lossless=True)
    for wrong in (bytes(lossy), bytes(other_size), bytes(other_size)[:40], b"nothing"):
        monkeypatch.setattr(recode_module, "_encode", lambda *_, wrong=wrong: wrong)
        assert recoded(data, TO["jxl"]) == (None, (notes.NOT_EXACT,))

    def fails(*_: object) -> bytes:
        raise imagecodecs.JpegxlError("JxlEncoderProcessOutput", 1)

    monkeypatch.setattr(recode_module, "_encode", fails)
    assert recoded(data, TO["jxl"]) == (None, (notes.NOT_TAKEN,))


class Absent:
    """What imagecodecs has in place of a codec that it was built without."""

    available = False


def test_a_codec_that_is_not_there_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagecodecs, "HTJ2K", Absent)
    (tmp_path / "images").mkdir()
    manifest = manifest_of(tmp_path, {"a.png": as_png(tmp_path, smooth(9, 9, 1, "uint8"))})
    before = sorted(tmp_path.iterdir())
    for dry in (False, True):
        options = IngestOptions(layout="encoded", recode="htj2k", dry_run=dry)
        with pytest.raises(SetupError, match=r"--recode htj2k: imagecodecs .* from 2026.1.1 on"):
            ingest(manifest, tmp_path / "out.h5", options)
    assert sorted(tmp_path.iterdir()) == before


def test_htj2k_is_read_without_its_encoder(
    made: dict[str, tuple[Path, IngestReport]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ImageStore(made["htj2k"][0]) as store:
        expected = store[:][0]
    monkeypatch.setattr(imagecodecs, "HTJ2K", Absent)
    monkeypatch.setattr(imagecodecs, "htj2k_decode", None)
    with ImageStore(made["htj2k"][0]) as store:
        assert all(map(np.array_equal, store[:][0], expected))


def test_what_is_typed_is_checked() -> None:
    for wrong in ("", "jxl:", "jxl:0", "jxl:10", "webp:3", "gif"):
        with pytest.raises(UsageError, match="--recode: expected jxl, jxl:1 to jxl:9, webp, htj"):
            IngestOptions(layout="encoded", recode=wrong)
    with pytest.raises(UsageError, match="--recode goes with --layout encoded"):
        IngestOptions(layout="ragged", recode="jxl")
    assert IngestOptions(layout="encoded", recode="JXL").content()["recode"] == "jxl:3"
    assert IngestOptions().content()["recode"] is None


# --- a file --------------------------------------------------------------------------------------


def sources(folder: Path) -> dict[str, bytes]:
    """Name -> file: of all kinds, some of which no codec makes smaller, or takes."""
    kinds = [(channels, dtype) for dtype in ("uint8", "uint16") for channels in (1, 2, 3, 4)]
    made = {
        f"{row}-{channels}-{dtype}.png": as_png(folder, smooth(30 + row, 41 - row, channels, dtype))
        for row, (channels, dtype) in enumerate(kinds)
    }
    icon = io.BytesIO()
    PALETTED.save(icon, "GIF", save_all=True, append_images=[PALETTED.rotate(90)])
    return made | {
        "dot.png": as_png(folder, noise(1, 1, 3, "uint8")),
        "noise.ppm": by_pillow(noise(20, 30, 3, "uint8"), "PPM"),
        "palette.png": paletted("PNG"),
        "photo.jpg": jpegs()["progressive, to be turned"],
        "moving.gif": icon.getvalue(),
        "large.png": as_png(folder, smooth(301, 257, 3, "uint8")),
    }


def manifest_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / "images" / name).write_bytes(data)
    return write_manifest(folder / "m.txt", [f"images/{name}" for name in files])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, IngestReport]]:
    """Codec, or nothing -> the file made with it, and the report."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "images").mkdir()
    manifest = manifest_of(folder, sources(folder))
    found = {}
    for codec in ("", *CODECS):
        out = folder / f"{codec or 'plain'}.h5"
        options = IngestOptions(layout="encoded", recode=codec or None, batch_bytes=900)
        found[codec] = out, ingest(manifest, out, options)
    assert not list(folder.glob("*.recoded*"))
    opened = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert not [path for path in opened if ".recoded" in path]
    return found


def parts(path: Path) -> list[bytes]:
    """The bytes of each image in a file, by plain h5py."""
    with h5py.File(path) as file:
        ends = file["images/offsets"][:].tolist()
        return [file["images/data"][a:b].tobytes() for a, b in pairwise(ends)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_recoded_file_shows_what_the_file_of_the_same_images_shows(
    codec: str, made: dict[str, tuple[Path, IngestReport]]
) -> None:
    (plain, _), (out, report) = made[""], made[codec]
    with ImageStore(plain) as one, ImageStore(out) as other:
        for row in range(len(one)):
            expected, found = one[row][0], other[row][0]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found, expected)
        assert all(map(np.array_equal, one[:][0], other[:][0]))
        with ImageStore(out, verify="never") as unchecked:  # HTJ2K: by another decoder
            assert all(map(np.array_equal, one[:][0], unchecked[:][0]))
    before, after = parts(plain), parts(out)
    smaller = [len(new) < len(own) for own, new in zip(before, after, strict=True)]
    assert 1 < sum(smaller) < len(smaller)
    for own, new, is_smaller in zip(before, after, smaller, strict=True):
        assert is_smaller or own == new
    with h5py.File(out) as file, h5py.File(plain) as same:
        assert json.loads(file.attrs["options"])["recode"] == str(TO[codec])
        assert "imagecodecs" in json.loads(file.attrs["libraries"])["encoder"]
        np.testing.assert_array_equal(file["images/shapes"][:], same["images/shapes"][:])
    said = {note.kind: note.count for note in report.notes}
    assert sum(said.values()) == smaller.count(False)
    assert said[notes.MORE_TO_LOSE] == 1
    assert "recoded as" in report.image
    checked = verify(out, sources=True)
    assert checked.ok, checked
    assert checked.n_sources == len(before)


def test_a_recoded_file_is_shown_and_drawn_as_any_other(
    made: dict[str, tuple[Path, IngestReport]], tmp_path: Path
) -> None:
    drawn = []
    for name in ("", "jxl"):
        (tmp_path / "same-name.h5").write_bytes(made[name][0].read_bytes())
        with ImageStore(tmp_path / "same-name.h5", failed="skip") as store:
            sheet(store, tmp_path / "sheet.png")
        drawn.append((tmp_path / "sheet.png").read_bytes())
    assert drawn[0] == drawn[1]
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as shown:
        console.print(tree(made["jxl"][0]))
    assert "of image files, recoded as jxl:3 where that is smaller" in shown.get()


def test_verify_finds_a_changed_byte_and_another_source(
    made: dict[str, tuple[Path, IngestReport]], tmp_path: Path
) -> None:
    out, _ = made["jxl"]
    data = bytearray(out.read_bytes())
    part = parts(out)[0]
    at = data.index(part)
    data[at + len(part) // 2] ^= 1
    (tmp_path / "changed.h5").write_bytes(data)
    report = verify(tmp_path / "changed.h5")
    assert [bad.row for bad in report.bad] == [0]
    with ImageStore(tmp_path / "changed.h5") as store, pytest.raises(OutputError):
        store[0]

    (tmp_path / "images").mkdir()
    for source in (out.parent / "images").iterdir():
        (tmp_path / "images" / source.name).write_bytes(source.read_bytes())
    one = sorted((tmp_path / "images").glob("0-*.png"))[0]
    pixels = decoded(one.read_bytes())
    pixels[3, 4] ^= 1
    write_png(one, pixels)
    report = verify(out, sources=True, root=tmp_path)
    assert [(bad.row, bad.reason) for bad in report.bad] == [
        (0, "its pixels differ from those of its source")
    ]


def test_a_damaged_image_is_named_and_what_was_recoded_is_kept(tmp_path: Path) -> None:
    images = [smooth(30, 40 + row, 3, "uint8", row) for row in range(6)]
    names = write_images(tmp_path / "images", images)
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    damage(tmp_path / "images" / names[2])
    out, options = tmp_path / "out.h5", IngestOptions(layout="encoded", recode="jxl")
    with pytest.raises(SamplesFailedError, match="1 damaged"):
        ingest(manifest, out, options)
    assert len(list(tmp_path.glob("out.h5.recoded/*"))) == 1
    blank = ingest(manifest, tmp_path / "blank.h5", replace(options, on_error="blank"))
    assert [(failure.index, failure.kind) for failure in blank.failures] == [(2, "damaged")]
    with ImageStore(tmp_path / "blank.h5", failed="include") as store:
        np.testing.assert_array_equal(store[3][0], images[3])
    assert verify(tmp_path / "blank.h5").ok
    write_png(tmp_path / "images" / names[2], images[2])
    ingest(manifest, out, options)
    assert sorted(path.name for path in tmp_path.iterdir() if "out.h5" in path.name) == ["out.h5"]
    with ImageStore(out) as store:
        assert all(map(np.array_equal, store[:][0], images))


def test_only_what_is_intact_and_of_the_same_codec_is_taken_from_a_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [smooth(30, 40 + row, 3, "uint8", row) for row in range(5)]
    names = write_images(tmp_path / "images", images)
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in [*names, "gone"]])
    out, options = tmp_path / "out.h5", IngestOptions(layout="encoded", recode="jxl")
    n_coded: list[int] = []
    real = recode_module._encode

    def counting(pixels: Pixels, to: Recoding) -> bytes | None:
        n_coded[-1] += 1
        return real(pixels, to)

    def run(how: IngestOptions) -> int:
        n_coded.append(0)
        with pytest.raises(SamplesFailedError, match="1 missing"):
            ingest(manifest, out, how)
        return n_coded[-1]

    monkeypatch.setattr(recode_module, "_encode", counting)
    assert run(options) == 5
    assert run(options) == 0
    (left,) = tmp_path.glob("out.h5.recoded/*")
    intact = left.read_bytes()
    changed = bytearray(intact)
    changed[-3] ^= 1  # in the bytes of the last image
    left.write_bytes(changed)
    assert run(options) == 1  # goes into a spool of its own
    assert len(list(tmp_path.glob("out.h5.recoded/*"))) == 2
    assert run(options) == 0
    first = intact.index(b"\n") + 1
    for torn, n_lost in (
        (intact[:-1], 1),
        (intact[: first + 9], 5),
        (intact[:first] + b"\1" + intact[first + 1 :], 5),  # which sample it is
        (b"", 5),
        (intact.replace(b"jxl:3", b"jxl:4"), 5),
    ):
        for path in tmp_path.glob("out.h5.recoded/*"):
            path.unlink()
        left.write_bytes(torn)
        assert run(options) == n_lost
    assert run(replace(options, recode="webp")) == 5
    assert run(replace(options, restart=True)) == 5
    assert len(list(tmp_path.glob("out.h5.recoded/*"))) == 1
    write_png(tmp_path / "images" / names[1], images[0])  # another image of that name
    assert run(options) == 1


def test_a_finished_job_leaves_no_spool_of_another_and_nothing_else_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a job that was ended while it recoded, under the same OUT: by whatever comes after it."""
    names = write_images(tmp_path / "images", [smooth(30, 40, 3, "uint8", row) for row in range(5)])
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    out, plain = tmp_path / "out.h5", IngestOptions(layout="encoded")
    of_others = [
        tmp_path / "other.h5.recoded" / f"{'0' * 16}.0",
        tmp_path / f"out.h5.recoded.{'0' * 16}.0",
        tmp_path / "a-out.h5.recoded" / f"{'0' * 16}.0",
    ]
    for path in of_others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of another job")
    before = sorted(tmp_path.iterdir())

    def leave_spools() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Recoder, "finish", gives_up)
            with pytest.raises(OutputError, match="as if ended"):
                ingest(manifest, out, replace(plain, recode="jxl", overwrite=True))
        assert len(list((tmp_path / "out.h5.recoded").iterdir())) == 1

    def gives_up(self: Recoder) -> None:
        raise OutputError("as if ended")

    def finish_otherwise(options: IngestOptions) -> None:
        leave_spools()
        ingest(manifest, out, options)
        assert sorted(tmp_path.iterdir()) == sorted([*before, out])

    finish_otherwise(plain)
    finish_otherwise(replace(plain, restart=True, overwrite=True))
    finish_otherwise(replace(plain, recode="webp", overwrite=True))
    finish_otherwise(IngestOptions(overwrite=True))  # another layout
    source = out.rename(tmp_path / "source.h5")
    leave_spools()
    recompress(source, out, IngestOptions(compression="zstd:3"))
    assert sorted(tmp_path.iterdir()) == sorted([*before, out, source])
    # A job that only tells touches nothing; nor does one that is refused.
    leave_spools()
    ingest(manifest, out, replace(plain, dry_run=True, overwrite=True, restart=True))
    with pytest.raises(OutputError, match="--overwrite"):
        ingest(manifest, out, plain)
    assert (tmp_path / "out.h5.recoded").exists()
    # What somebody else has put there stays.
    (tmp_path / "out.h5.recoded" / "notes").write_text("mine")
    ingest(manifest, out, replace(plain, overwrite=True))
    assert [path.name for path in (tmp_path / "out.h5.recoded").iterdir()] == ["notes"]
    assert {path.read_bytes() for path in of_others} == {b"of another job"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_spools_go_into_no_folder_that_is_none_of_ours(kind: str, tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", [smooth(30, 40, 3, "uint8")])
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    place, elsewhere = tmp_path / "out.h5.recoded", tmp_path / "elsewhere"
    elsewhere.mkdir()
    left = elsewhere / f"{'0' * 16}.0"
    left.write_bytes(b"kept")
    if kind == "file":
        place.write_bytes(b"kept")
    else:
        place.symlink_to(elsewhere)
    said = {"file": "a text file", "link": "a symbolic link"}[kind]
    with pytest.raises(OutputError, match=f"recoded: expected a folder or nothing, found {said}"):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="encoded", recode="jxl"))
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="encoded"))
    assert left.read_bytes() == b"kept"
    assert os.path.lexists(place)


def test_a_spool_that_is_damaged_later_is_found_before_anything_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [smooth(30, 40 + row, 3, "uint8", row) for row in range(5)]
    names = write_images(tmp_path / "images", images)
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    out, options = tmp_path / "out.h5", IngestOptions(layout="encoded", recode="jxl")
    closing = spool.Spool.close

    def close(self: spool.Spool, *, sync: bool) -> None:
        closing(self, sync=sync)
        (path,) = tmp_path.glob("out.h5.recoded/*")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(spool.Spool, "close", close)
    with pytest.raises(SamplesFailedError, match="recoded bytes beside the output are damaged"):
        ingest(manifest, out, options)
    assert not out.exists()
    monkeypatch.undo()
    ingest(manifest, out, options)
    with ImageStore(out) as store:
        assert all(map(np.array_equal, store[:][0], images))


def test_an_image_that_readers_would_not_believe_keeps_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_rule, "_BELIEVED_BYTES", 2**16)  # an image of 64 MiB takes long
    (tmp_path / "images").mkdir()
    blank = np.zeros((700, 900), np.uint8)
    manifest = manifest_of(tmp_path, {"blank.png": bytes(imagecodecs.png_encode(blank, level=6))})
    out = tmp_path / "out.h5"
    report = ingest(manifest, out, IngestOptions(layout="encoded", recode="jxl:1"))
    assert [note.kind for note in report.notes] == [notes.NOT_BELIEVED]
    with ImageStore(out) as store:
        assert not store[0][0].any()


def test_a_dry_run_codes_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    manifest = manifest_of(tmp_path, {"a.png": as_png(tmp_path, smooth(90, 90, 3, "uint8"))})
    before = sorted(tmp_path.iterdir())
    options = IngestOptions(layout="encoded", recode="jxl", dry_run=True)
    report = ingest(manifest, tmp_path / "out.h5", options)
    assert any("--dry-run codes no image" in line for line in report.warnings)
    assert sorted(tmp_path.iterdir()) == before
