"""The pixels of an image are what its format says, exactly; a damaged file is never an image."""

from __future__ import annotations

import csv
import hashlib
import itertools
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import png
import pytest
from helpers.pictures import (
    GRAY,
    KINDS,
    RGB,
    Pixels,
    by_pillow,
    chunk,
    chunks,
    decoded,
    encode,
    expanded,
    paletted,
    refusal,
)
from helpers.support import REAL, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.images.decode import HEAD_BYTES, Prober, decode_into, probe
from h5ingest.images.png import decoder_version

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_FORMATS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4),
               (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]  # fmt: skip
"""(colour type, bit depth): all that PNG has."""


def decoded_or_refused(data: bytes) -> Pixels | None:
    try:
        return decoded(data)
    except SampleError as error:
        assert error.kind in KINDS  # noqa: PT017 - both outcomes are right
        return None


# --- the oracle: pypng's unscaled samples, expanded by hand --------------------------------------


def samples_of(data: bytes) -> tuple[Pixels, dict[str, Any]]:
    """The samples of a PNG as pypng reads them, (H, W, planes), and what it says of them."""
    width, height, rows, info = png.Reader(bytes=data).read()
    dtype = "<u2" if info["bitdepth"] == 16 else "|u1"
    return np.array([list(row) for row in rows], dtype).reshape(height, width, -1), info


def by_pypng(data: bytes) -> Pixels:
    return expanded(*samples_of(data))


def assert_same(found: Pixels, expected: Pixels) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def as_rgba8(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels = pixels.shape[2]
    colour = pixels[:, :, :3] if channels > 2 else np.repeat(pixels[:, :, :1], 3, axis=2)
    alpha = pixels[:, :, -1:] if channels in (2, 4) else np.full_like(pixels[:, :, :1], 255)
    return np.concatenate([colour, alpha], axis=2)


def sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


# --- making PNGs ---------------------------------------------------------------------------------


def header(
    width: int, height: int, *, depth: int = 8, colour: int = 0, rest: bytes = b"\0\0\0"
) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + rest)


def with_chunk(data: bytes, new: bytes, *, before: bytes) -> bytes:
    """The file with a chunk added before the first one of a kind."""
    position = data.index(before) - 4
    return data[:position] + new + data[position:]


SMALL = {
    "gray": encode(0, 8, (3, 4)),
    "bilevel interlaced": encode(0, 1, (3, 4), interlace=True),
    "gray, one value transparent": encode(0, 4, (3, 4), transparent=True),
    "16-bit RGB": encode(2, 16, (2, 3)),
    "RGB, one colour transparent": encode(2, 8, (2, 3), transparent=True),
    "palette": encode(3, 2, (3, 4)),
    "palette with alpha": encode(3, 2, (3, 4), transparent=True),
    "RGBA interlaced": encode(6, 8, (3, 3), interlace=True),
    "gray+alpha with gamma": (
        with_chunk(encode(4, 8, (3, 4))[0], chunk(b"gAMA", b"\0\0\xb1\x8f"), before=b"IDAT"),
        encode(4, 8, (3, 4))[1],
    ),
}  # fmt: skip
small = pytest.mark.parametrize(("data", "pixels"), SMALL.values(), ids=SMALL)


# --- synthetic PNGs ------------------------------------------------------------------------------


WITH_TRANSPARENCY = [
    (colour, depth, transparent)
    for colour, depth in PNG_FORMATS
    for transparent in ([False, True] if colour in (0, 2, 3) else [False])
]


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("colour", "depth", "transparent"), WITH_TRANSPARENCY)
def test_every_kind_of_png_has_exactly_the_pixels_that_were_written(
    colour: int, depth: int, transparent: bool, interlace: bool
) -> None:
    for seed, size in enumerate([(1, 1), (1, 9), (9, 1), (5, 6), (17, 13)]):
        data, pixels = encode(
            colour, depth, size, interlace=interlace, transparent=transparent, seed=seed
        )
        assert_same(by_pypng(data), pixels)  # the oracle agrees with itself
        assert_same(decoded(data), pixels)


@pytest.mark.parametrize(("colour", "depth", "transparent"), WITH_TRANSPARENCY)
def test_the_header_tells_shape_and_type(colour: int, depth: int, transparent: bool) -> None:
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour] + transparent
    data, _ = encode(colour, depth, (4, 7), transparent=transparent)
    dtype = "uint16" if depth == 16 else "uint8"
    assert probe(data) == ImageSpec(height=4, width=7, channels=channels, dtype=dtype)


@small
def test_the_first_bytes_of_a_file_tell_the_same_or_nothing_yet(
    data: bytes, pixels: Pixels
) -> None:
    spec = probe(data)
    told = [probe(data[:n], whole=False) for n in range(1, len(data))]
    assert set(told) == {None, spec}
    assert told == sorted(told, key=lambda known: known is not None)
    assert probe(data[:HEAD_BYTES], whole=len(data) <= HEAD_BYTES) == spec


def test_a_header_longer_than_the_first_bytes_is_told_by_the_whole_file() -> None:
    data, pixels = encode(0, 8, transparent=True)
    long = with_chunk(data, chunk(b"iTXt", b"k\0\0\0\0\0" + b"x" * HEAD_BYTES), before=b"tRNS")
    assert probe(long[:HEAD_BYTES], whole=False) is None
    assert_same(decoded(long), pixels)


@pytest.mark.parametrize("raw", [False, True])
def test_what_an_image_is_does_not_depend_on_those_before_it(raw: bool) -> None:
    kinds = [
        with_chunk(data, chunk(b"gAMA", gamma.to_bytes(4)), before=b"IDAT")
        for colour, depth, transparent in WITH_TRANSPARENCY
        for data, _ in [encode(colour, depth, (4, 7), transparent=transparent)]
        for gamma in (45455, 100000)
    ]
    kinds += [data for data, _ in (encode(2, 8, (4, 7)), encode(2, 8, (7, 4)))]
    prober = Prober(raw=raw)
    for one, other in itertools.product(kinds, repeat=2):
        assert [prober(data) for data in (one, one, other)] == [
            probe(data, raw=raw) for data in (one, one, other)
        ]


@pytest.mark.parametrize(("colour", "depth", "channels"), [(0, 8, 1), (2, 8, 3), (6, 16, 4)])
def test_images_that_are_alike_are_decoded_in_one_go(
    colour: int, depth: int, channels: int
) -> None:
    files = [encode(colour, depth, (5, 6), seed=seed)[0] for seed in range(9)]
    shape = (9, 5, 6, channels)[: 3 + (channels > 1)]
    out = np.zeros(shape, np.uint16 if depth == 16 else np.uint8)
    prober = Prober()
    assert prober.decode_alike(files, out)
    for data, pixels in zip(files, out, strict=True):
        assert_same(pixels, decoded(data))
    pixels_at = files[4].index(b"IDAT") + 4
    for odd in (
        files[4][:-1],
        files[4][: len(files[4]) // 2],
        files[4][:pixels_at] + b"\0\0" + files[4][pixels_at + 2 :],
        encode(colour, depth, (6, 5))[0],
        b"",
    ):
        assert not prober.decode_alike([*files[:4], odd, *files[5:]], out)
    assert not prober.decode_alike(files, out.reshape(9, 6, 5, *shape[3:]))
    assert prober.decode_alike(files, out)


def test_images_of_any_size_are_decoded_in_one_go() -> None:
    dice = np.random.default_rng(3)
    sizes = [(1, 1), (30, 2), (2, 30), *dice.integers(1, 30, (20, 2)).tolist()]
    made = [encode(2, 8, tuple(size), seed=seed)[0] for seed, size in enumerate(sizes)]
    images = [np.full_like(decoded(data), 0xA5) for data in made]
    prober = Prober()

    def done(files: list[bytes]) -> list[bool]:
        for image in images:
            image[...] = 0xA5
        found = prober.decode_mixed(files, images)
        for data, pixels, is_done in zip(files, images, found, strict=True):
            if is_done:
                assert_same(pixels, decoded(data))
        return found

    near = Counter(width.bit_length() for _, width in sizes)  # a wider one has room for the others
    expected = [near[width.bit_length()] > 1 for _, width in sizes]
    assert done(made) == expected
    assert expected.count(True) > 18
    assert expected[4]
    for odd in (
        made[4][:-1],
        made[4][:-20] + b"\0" + made[4][-19:],
        encode(0, 8, images[4].shape[:2])[0],
        encode(2, 16, images[4].shape[:2])[0],
        made[5],
        b"",
        b"no image",
    ):
        assert done([*made[:4], odd, *made[5:]]) == [*expected[:4], False, *expected[5:]], odd
    assert not any(prober.decode_mixed(made, [image[::-1].copy().T for image in images]))


def test_of_several_kinds_each_is_decoded_in_one_go() -> None:
    kinds = [(0, 8), (2, 8), (6, 8), (0, 16), (3, 8), (0, 1)]
    fast = [True, True, True, True, False, False]
    made = [encode(*kind, (9, 8 + k), seed=k)[0] for k in range(3) for kind in kinds]
    images = [np.full_like(decoded(data), 0xA5) for data in made]
    assert Prober().decode_mixed(made, images) == 3 * fast
    for data, pixels, is_fast in zip(made, images, 3 * fast, strict=True):
        assert not is_fast or np.array_equal(pixels, decoded(data))
    parts = [
        *chunks(made[8])
    ]  # the second RGBA image: only its Adler-32 is wrong, its CRC is right
    streams = [body for kind, body in parts if kind == b"IDAT"]
    bent = bytes([*streams[-1][:-1], streams[-1][-1] ^ 1])
    made[8] = SIGNATURE + b"".join(
        chunk(kind, bent if body is streams[-1] else body) for kind, body in parts
    )
    no_rgba = [True, True, False, True, False, False]
    assert Prober().decode_mixed(made, images) == 3 * no_rgba


def test_pixels_in_many_chunks_are_the_same() -> None:
    data, pixels = encode(2, 8, (16, 16))
    parts = chunks(data)
    split = [
        chunk(kind, piece)
        for kind, body in parts
        for piece in (
            [body[i : i + 7] for i in range(0, len(body), 7)] if kind == b"IDAT" else [body]
        )
    ]
    assert len(split) > 50
    assert_same(decoded(SIGNATURE + b"".join(split)), pixels)


def test_of_an_animation_the_default_image_is_taken() -> None:
    data, pixels = encode(0, 8, (2, 3))
    frame = struct.pack(">IIIIHHBB", 3, 2, 0, 0, 1, 10, 0, 0)
    data = with_chunk(data, chunk(b"acTL", struct.pack(">II", 2, 0)), before=b"IDAT")
    other = zlib.compress(b"\0\1\2\3\0\4\5\6")
    second = chunk(b"fcTL", struct.pack(">I", 0) + frame)
    second += chunk(b"fdAT", struct.pack(">I", 1) + other)
    assert_same(decoded(with_chunk(data, second, before=b"IEND")), pixels)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"sRGB", b"\0"),
        chunk(b"bKGD", struct.pack(">HHH", 255, 0, 0)),
        chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),  # turned by 90°
        chunk(b"sBIT", b"\5\5\5"),
    ],
    ids=lambda extra: extra[4:8].decode(),
)
def test_gamma_background_and_rotation_do_not_touch_the_pixels(extra: bytes) -> None:
    data, pixels = encode(2, 8)
    assert_same(decoded(with_chunk(data, extra, before=b"IDAT")), pixels)


def test_bytes_after_the_end_of_a_png_are_no_part_of_it() -> None:
    data, pixels = encode(2, 8)
    assert_same(decoded(data + b"junk"), pixels)
    assert_same(decoded(data + data), pixels)


# --- damage --------------------------------------------------------------------------------------


@small
def test_a_file_cut_anywhere_is_refused(data: bytes, pixels: Pixels) -> None:
    assert_same(decoded(data), pixels)
    for n in range(len(data)):
        refusal(data[:n])


@small
def test_a_flipped_bit_is_noticed_or_harmless(
    data: bytes, pixels: Pixels, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found = decoded_or_refused(bytes(flipped))
        if found is not None and not (
            found.shape == pixels.shape and np.array_equal(found, pixels)
        ):
            wrong.append((bit // 8, bit % 8, found.shape))
    assert not wrong, f"(byte, bit, shape) of {len(data)} bytes that gave other pixels"
    assert capfd.readouterr() == ("", "")


@given(st.sampled_from(sorted(SMALL)), st.data())
@settings(max_examples=300)
def test_any_mangled_file_is_decoded_or_refused_and_nothing_else(
    name: str, drawn: st.DataObject
) -> None:
    data = bytearray(SMALL[name][0])
    for _ in range(drawn.draw(st.integers(1, 4))):
        start = drawn.draw(st.integers(8, len(data)))
        stop = drawn.draw(st.integers(start, min(start + 12, len(data))))
        data[start:stop] = drawn.draw(st.binary(max_size=12))
    decoded_or_refused(bytes(data))


@given(st.lists(st.tuples(
    st.sampled_from([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"sBIT", b"iCCP",
                     b"quux", b"QUUX", b"\xff\xfe\xfd\xfc"]),
    st.one_of(st.binary(max_size=20), st.binary(max_size=20).map(zlib.compress)),
), max_size=6), st.sampled_from(PNG_FORMATS))  # fmt: skip
@settings(max_examples=300)
def test_any_sequence_of_intact_chunks_is_decoded_or_refused_and_nothing_else(
    parts: list[tuple[bytes, bytes]], kind: tuple[int, int]
) -> None:
    colour, depth = kind
    body = b"".join(itertools.starmap(chunk, parts)) + chunk(b"IEND")
    decoded_or_refused(header(2, 2, depth=depth, colour=colour) + body)


@pytest.mark.parametrize("claimed", [(65536, 65536), (2**31 - 1, 2**31 - 1), (1, 89_478_486)])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(
    claimed: tuple[int, int],
) -> None:
    data = header(*claimed) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND")
    tracemalloc.start()
    try:
        error = refusal(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.kind == "too large"
    assert f"{claimed[0]}x{claimed[1]}" in error.reason
    assert "--max-pixels 89,478,485" in error.reason
    assert peak < 1024**2


def test_the_limit_of_pixels_itself_is_allowed() -> None:
    data, _ = encode(2, 8, (5, 6))
    assert probe(data, max_pixels=30) is not None
    with pytest.raises(SampleError, match="too large"):
        probe(data, max_pixels=29)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header(0, 5), "0x5"),
        (header(5, 0), "5x0"),
        (header(2**31, 1), "2147483648x1"),
        (header(5, 5, depth=3), r"bit depth \(3\)"),
        (header(5, 5, depth=16, colour=3), r"bit depth \(16\)"),
        (header(5, 5, colour=5), r"colour type \(5\)"),
        (header(5, 5, rest=b"\1\0\0"), r"compression \(1\)"),
        (header(5, 5, rest=b"\0\1\0"), r"filter \(1\)"),
        (header(5, 5, rest=b"\0\0\2"), r"interlace \(2\)"),
        (SIGNATURE + chunk(b"IHDR", b"short"), "IHDR|IDAT"),
        (SIGNATURE + chunk(b"IDAT") * 3, "IHDR|IDAT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_header_that_cannot_be_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    whole = data + chunk(b"IDAT", zlib.compress(b"\0" * 30)) + chunk(b"IEND")
    with pytest.raises(SampleError, match=reason) as caught:
        probe(whole)
    assert caught.value.kind == "damaged"


@pytest.mark.parametrize(
    "body",
    [
        b"\0\1\2",  # one row of two
        b"\0\1\2\x09\3\4",  # no such filter
        b"",
    ],
)
def test_pixels_that_are_missing_or_meaningless_are_damage(body: bytes) -> None:
    data = header(2, 2) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND")
    assert refusal(data).kind == "damaged"


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\1\2"])
def test_a_transparency_that_cannot_be_read_is_refused(body: bytes) -> None:
    data = header(2, 1) + chunk(b"tRNS", body) + chunk(b"IDAT", zlib.compress(b"\0\1\2"))
    assert refusal(data + chunk(b"IEND")).kind == "damaged"


def test_pixels_are_no_image_without_a_palette() -> None:
    data = header(2, 1, colour=3) + chunk(b"IDAT", zlib.compress(b"\0\1\2")) + chunk(b"IEND")
    assert refusal(data).kind == "damaged"


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"junk" * 100,
        b"images/a.png\t3\n",
        b"<html><body>404</body></html>",
        b"\0" * 5000,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        SIGNATURE[1:] + b"x" * 50,
        SIGNATURE[:7],
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_image_is_refused_as_such(data: bytes) -> None:
    assert refusal(data).kind == "not an image"
    with pytest.raises(SampleError):
        decode_into(data, np.empty((2, 2), np.uint8))


def test_an_empty_file_is_refused_as_such() -> None:
    error = refusal(b"")
    assert (error.kind, error.reason) == ("damaged", "the file is empty")
    with pytest.raises(SampleError):
        decode_into(b"", np.empty((2, 2), np.uint8))


# --- the caller's buffer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((6, 5, 3), "uint8"),
        ((5, 6, 4), "uint8"),
        ((5, 6), "uint8"),
        ((5, 6, 3), "uint16"),
        ((1, 5, 6, 3), "uint8"),
        ((5, 3, 6), "uint8"),
    ],
)
@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_a_buffer_made_for_another_image_is_refused_saying_so(
    kind: str, shape: tuple[int, ...], dtype: str
) -> None:
    data, pixels = encode(2, 8)
    if kind == "bmp":
        data = by_pillow(pixels, "BMP")
    with pytest.raises(SampleError) as caught:
        decode_into(data, np.empty(shape, dtype))
    assert caught.value.kind == "changed"
    assert str(shape) in caught.value.reason
    assert dtype in caught.value.reason
    assert "found" in caught.value.reason


def test_an_image_fills_its_row_of_a_buffer_and_nothing_else() -> None:
    buffer = np.full((3, 5, 6, 3), 7, np.uint8)
    data, pixels = encode(2, 8)
    decode_into(data, buffer[1])
    assert_same(buffer[1], pixels)
    assert (buffer[[0, 2]] == 7).all()


# --- real images ---------------------------------------------------------------------------------


def reference(folder: Path) -> list[dict[str, str]]:
    with (folder / "reference.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_valid_files_of_the_conformance_suite_are_exact(
    corpora: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in reference(corpora / "pngsuite") if row["raw_status"] == "ok"]
    assert len(rows) == 162 if REAL else len(rows) > 162
    for row in rows:
        data = (corpora / "pngsuite" / row["path"]).read_bytes()
        samples, info = samples_of(data)
        assert sha256(samples) == row["raw_sha256"], f"{row['path']}: the oracle is wrong"
        assert_same(decoded(data), expanded(samples, info))
    assert capfd.readouterr() == ("", "")


def test_all_corrupt_files_of_the_conformance_suite_are_refused(
    corpora: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = sorted((corpora / "pngsuite").rglob("x*.png"))
    assert len(files) == 14
    for file in files:
        assert refusal(file.read_bytes()).kind in ("damaged", "not an image"), file.name
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "n", "n_files"),
    [
        ("kodak", 12, 24),
        ("depth16_open3d", 19, 19),
        ("scikit_image", 42, 42),
        ("omniglot", 200, 5840),
        ("pngsuite", 220, 176),
    ],
)
def test_real_images_have_the_pixels_of_the_reference(
    corpora: Path, name: str, n: int, n_files: int
) -> None:
    rows = reference(corpora / name)
    assert len(rows) == n_files or not REAL
    n_exact = 0
    for row in spread(rows, n):
        if row["raw_status"] == "error":
            continue
        data = (corpora / name / row["path"]).read_bytes()
        depth, colour = data[24], data[25]
        pixels = decoded(data)
        assert pixels.shape[:2] == (int(row["height"]), int(row["width"])), row["path"]
        assert pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
        transparent = colour in (0, 2, 3) and any(kind == b"tRNS" for kind, _ in chunks(data))
        if depth == 16 or (colour == 0 and transparent):
            # Pillow keeps neither 16 bits in colour nor the transparency of few bits.
            samples = pixels[..., :-1] if transparent else pixels
            scale = 1 if depth >= 8 else 255 // (2**depth - 1)
            assert sha256(samples // scale) == row["raw_sha256"], row["path"]
        else:
            assert sha256(as_rgba8(pixels)) == row["rgba8_sha256"], row["path"]
        if row["raw_status"] == "ok" and colour != 3 and depth >= 8 and not transparent:
            assert sha256(pixels) == row["raw_sha256"], row["path"]
        n_exact += 1
    assert n_exact >= 12


@pytest.mark.parametrize(
    ("name", "n", "at_least"), [("mnist", 70, 70), ("emoji32", 60, 50), ("davis_palette", 6, 5)]
)
def test_real_images_have_the_pixels_that_another_library_finds(
    corpora: Path, name: str, n: int, at_least: int
) -> None:
    files = spread(sorted((corpora / name).rglob("*.png")), n)
    assert len(files) >= at_least
    for file in files:
        data = file.read_bytes()
        if name == "davis_palette":  # too many pixels for pypng, which is pure Python
            with Image.open(file) as image:
                assert image.mode == "P"
                assert_same(decoded(data), np.asarray(image.convert("RGB")))
        else:
            assert_same(decoded(data), by_pypng(data))


def test_the_log_of_the_user_stays_clean(corpora: Path) -> None:
    # In a process of its own: the test runner has handlers that would hide what is printed.
    script = f"""
        import sys
        from pathlib import Path
        import numpy as np
        from h5ingest.images.decode import decode_into, probe
        from h5ingest.core.errors import SampleError
        files = sorted(Path({str(corpora / "pngsuite")!r}).rglob("*.png"))
        for data in [b"junk", b"GIF89a", *(file.read_bytes() for file in files)]:
            try:
                spec = probe(data)
                decode_into(data, np.empty(spec.shape, spec.dtype))
            except SampleError:
                pass
        print(len(files) > 170)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True\n", "")


# --- other formats -------------------------------------------------------------------------------

BILEVEL = GRAY > 127


def tiff(pixels: Pixels, *, order: str = "<", sample_format: int = 1) -> bytes:
    """An uncompressed TIFF of one strip, written out by hand (TIFF 6.0, section 2)."""
    height, width = pixels.shape[:2]
    n = pixels.shape[2] if pixels.ndim == 3 else 1
    body = pixels.astype(pixels.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    n_entries = 10
    bits_at = 8 + 2 + 12 * n_entries + 4
    body_at = bits_at + 2 * n

    def entry(tag: int, value: int, *, count: int = 1, long: bool = False) -> bytes:
        inside = struct.pack(order + ("I" if long else "HH"), *([value] if long else [value, 0]))
        return struct.pack(order + "HHI", tag, 4 if long and count == 1 else 3, count) + inside

    bits = 8 * pixels.dtype.itemsize
    entries = [
        entry(256, width), entry(257, height),
        entry(258, bits) if n == 1 else entry(258, bits_at, count=n, long=True),
        entry(259, 1), entry(262, 2 if n == 3 else 1), entry(273, body_at, long=True),
        entry(277, n), entry(278, height), entry(279, len(body), long=True),
        entry(339, sample_format),
    ]  # fmt: skip
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, n_entries)
    all_bits = struct.pack(order + "H" * n, *[bits] * n)
    return start + b"".join(entries) + b"\0\0\0\0" + all_bits + body


PALETTED_RGB = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 210, 220]], np.uint8)[
    GRAY // 64
]


LOSSLESS = {
    "BMP RGB": (by_pillow(RGB, "BMP"), RGB),
    "BMP gray": (by_pillow(GRAY, "BMP"), GRAY),
    "BMP palette": (paletted("BMP"), PALETTED_RGB),
    "BMP bilevel": (by_pillow(BILEVEL, "BMP"), BILEVEL * np.uint8(255)),
    "WebP lossless": (by_pillow(RGB, "WEBP", lossless=True), RGB),
    "GIF": (paletted("GIF"), PALETTED_RGB),
    "GIF, first of two frames": (
        paletted("GIF", save_all=True, append_images=[Image.new("RGB", (6, 5), (255, 0, 0))]),
        PALETTED_RGB,
    ),
    "PPM": (by_pillow(RGB, "PPM"), RGB),
    "TIFF deflate": (by_pillow(RGB, "TIFF", compression="tiff_deflate"), RGB),
    "TIFF 8-bit gray": (tiff(GRAY), GRAY),
    "TIFF 8-bit RGB": (tiff(RGB, order=">"), RGB),
    "TIFF bilevel": (by_pillow(BILEVEL, "TIFF"), BILEVEL * np.uint8(255)),
    "TIFF bilevel, group 4": (
        by_pillow(BILEVEL, "TIFF", compression="group4"),
        BILEVEL * np.uint8(255),
    ),
    "TIFF 16-bit": (tiff(GRAY.astype(np.uint16) * 257 + 3), GRAY.astype(np.uint16) * 257 + 3),
    "TIFF 16-bit, big-endian": (
        tiff(GRAY.astype(np.uint16) * 257 + 3, order=">"),
        GRAY.astype(np.uint16) * 257 + 3,
    ),
}
REAL_JPEG = by_pillow(np.kron(RGB, np.ones((9, 9, 1), np.uint8)), "JPEG", quality=90)


@pytest.mark.parametrize(("data", "pixels"), LOSSLESS.values(), ids=LOSSLESS)
def test_other_lossless_formats_have_the_pixels_that_were_written(
    data: bytes, pixels: Pixels
) -> None:
    assert_same(decoded(data), pixels)


def test_a_gif_with_transparency_keeps_it_as_alpha() -> None:
    pixels = decoded(paletted("GIF", transparency=2))
    clear = GRAY // 64 == 2
    assert pixels.shape == (5, 6, 4)
    assert (pixels[:, :, 3] == np.where(clear, 0, 255)).all()
    assert (pixels[~clear][:, :3] == PALETTED_RGB[~clear]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_has_the_pixels_that_another_library_finds(mode: str) -> None:
    blocks = np.kron(RGB, np.ones((9, 9, 1), np.uint8))
    data = by_pillow(blocks, "JPEG", mode, quality=90)
    assert_same(decoded(data), np.asarray(imagecodecs.jpeg_decode(data)))


def test_a_jpeg_is_not_turned_by_its_camera_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = by_pillow(RGB, "JPEG", exif=exif)
    assert_same(decoded(turned), decoded(by_pillow(RGB, "JPEG")))


UNSUPPORTED = {
    "CMYK JPEG": (by_pillow(RGB, "JPEG", "CMYK"), "CMYK"),
    "float TIFF": (tiff(GRAY.astype(np.float32), sample_format=3), "float32"),
    "32-bit TIFF": (tiff(GRAY.astype(np.uint32)), "16-bit"),
    "signed 16-bit TIFF": (tiff(GRAY.astype(np.int16), sample_format=2), "16-bit"),
    "signed 8-bit TIFF": (tiff(GRAY.astype(np.int8), sample_format=2), "8-"),
    "Lab TIFF": (by_pillow(RGB, "TIFF", "LAB"), "LAB"),
}


@pytest.mark.parametrize(("data", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_has_no_lossless_form_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    error = refusal(data)
    assert error.kind == "unsupported"
    assert reason.lower() in error.reason.lower()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_16_bit_colour_tiff_keeps_its_16_bits_or_is_refused(order: str) -> None:
    pixels = RGB.astype(np.uint16) * 257 + 3
    found = decoded_or_refused(tiff(pixels, order=order))
    assert found is None or (found.dtype == np.uint16 and np.array_equal(found, pixels))


HALVES = {name: data for name, (data, _) in LOSSLESS.items()} | {"JPEG": REAL_JPEG}


@pytest.mark.parametrize("data", HALVES.values(), ids=HALVES)
def test_half_a_file_of_another_format_is_refused(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refusal(data[: len(data) // 2]).kind in ("damaged", "not an image")
    assert capfd.readouterr() == ("", "")


def bmp(width: int, height: int, bits: int) -> bytes:
    """The header of a BMP with few of its pixels."""
    palette = b"\0" * 1024 if bits == 8 else b""
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + 100, 0, 0, start) + info + palette + b"\0" * 100


def gif(width: int, height: int) -> bytes:
    """The header of a GIF with none of its pixels."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + frame + b"\2\2\x44\1\0;"


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "max_pixels"),
    [
        (bmp(3000, 3000, 24), 1000),
        (bmp(3000, 3000, 8), 1000),
        (gif(3000, 3000), 1000),
        (bmp(10_000, 10_000, 24), 89_478_485),
        (bmp(10_000, 10_000, 8), 89_478_485),
        (bmp(65_536, 65_536, 24), 89_478_485),
        (gif(65_535, 65_535), 89_478_485),
    ],
    ids=["rgb", "palette", "gif", "rgb-default", "palette-default", "rgb-65536", "gif-65535"],
)
def test_other_formats_are_refused_by_their_headers_too(data: bytes, max_pixels: int) -> None:
    with pytest.raises(SampleError) as caught:
        probe(data, max_pixels=max_pixels)
    assert caught.value.kind == "too large"


def test_a_large_image_of_another_format_warns_nobody() -> None:
    # Pillow has a limit and a warning of its own; --max-pixels is the only one here.
    spec = probe(bmp(10_000, 10_000, 24), max_pixels=10**9)
    assert spec == ImageSpec(height=10_000, width=10_000, channels=3, dtype="uint8")
    spec = probe(bmp(20_000, 20_000, 24), max_pixels=10**9)
    assert spec == ImageSpec(height=20_000, width=20_000, channels=3, dtype="uint8")


def test_the_decoders_have_names_and_versions() -> None:
    expected = f"kornia-rs {version('kornia-rs')}, imagecodecs {version('imagecodecs')}, libpng 1."
    assert decoder_version().startswith(expected)
