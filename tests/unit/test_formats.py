"""Formats other than PNG: no bomb gets memory, no sample is cut, and a refusal says what it is."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from helpers.layout_runs import extent_chunks, ingest_on
from helpers.pictures import GRAY, PALETTED, RGB, by_pillow, decoded, encode, paletted, refusal
from helpers.support import PROGRAMS, clean_environment
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.notes import MORE_IMAGES, Note
from h5ingest.core.options import IngestOptions

Pixels = NDArray[Any]
RGB16 = RGB.astype(np.uint16) * 257 + 3
GRAY16 = RGB16[:, :, 0].copy()
ALPHA = RGB[:, :, 1].copy()
TABLE = np.arange(768).reshape(256, 3)[:, ::-1] % 251
"""A palette of 256 colours."""
N = 30_000
"""Height and width of a bomb: 900 million pixels."""


# --- making files --------------------------------------------------------------------------------


def tiff(tags: dict[int, list[int]], body: bytes = b"", *, pages: int = 1) -> bytes:
    """A TIFF of one IFD (repeated as further pages); offsets 273 and 324 count from the body."""
    kinds = {tag: "I" if max(values) > 65535 or tag in (273, 324) else "H" for tag, values in
             tags.items()}  # fmt: skip
    length = 2 + 12 * len(tags) + 4
    at = 8 + pages * length
    outside, entries = b"", b""
    body_at = at + sum(
        n
        for tag, values in tags.items()
        if (n := len(values) * (4 if kinds[tag] == "I" else 2)) > 4
    )
    for tag in sorted(tags):
        values = [v + body_at for v in tags[tag]] if tag in (273, 324) else tags[tag]
        raw = struct.pack("<" + kinds[tag] * len(values), *values)
        entries += struct.pack("<HHI", tag, 4 if kinds[tag] == "I" else 3, len(values))
        if len(raw) <= 4:
            entries += raw.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", at + len(outside))
            outside += raw
    ifds = b""
    for page in range(1, pages + 1):
        following = 8 + page * length if page < pages else 0
        ifds += struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + ifds + outside + body


def strip(pixels: Pixels, photometric: int, **more: list[int]) -> bytes:
    """An uncompressed TIFF of one strip; `t338=[2]` sets a tag."""
    n = pixels.shape[2] if pixels.ndim == 3 else 1
    body = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    tags = {
        256: [pixels.shape[1]], 257: [pixels.shape[0]], 258: [8 * pixels.dtype.itemsize] * n,
        259: [1], 262: [photometric], 273: [0], 277: [n], 278: [pixels.shape[0]],
        279: [len(body)],
    }  # fmt: skip
    return tiff(tags | {int(name[1:]): values for name, values in more.items()}, body)


def jp2(
    width: int, height: int, *, boxed: tuple[int, int] | None = None, tile: int | None = None
) -> bytes:
    """A JPEG 2000 file whose codestream claims a size (and one of its tiles), its box another."""
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), codecformat="jp2"))
    siz = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", data, siz, width, height)
    struct.pack_into(">II", data, siz + 16, tile or width, tile or height)
    struct.pack_into(">II", data, data.index(b"ihdr") + 4, *(boxed or (height, width)))
    return bytes(data)


def icns(kind: bytes, image: bytes) -> bytes:
    return b"icns" + struct.pack(">I4sI", 16 + len(image), kind, 8 + len(image)) + image


def ico(image: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(image), 22) + image


def psd(width: int, height: int) -> bytes:
    """Run-length encoded, with next to no runs."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3)
    return head + bytes(12) + struct.pack(">H", 1) + bytes(1000)


def huge_png() -> bytes:
    """The header of N x N pixels, and few of them."""
    body = zlib.compress(bytes(40_001 * 100))
    parts = [b"IHDR" + struct.pack(">IIBBBBB", N, N, 8, 0, 0, 0, 0), b"IDAT" + body, b"IEND"]
    chunks = [struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def gif(screen: int, frame: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\2\2\x44\1\0;"


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


def sof(data: bytes) -> int:
    """Where the frame header of a JPEG begins."""
    return next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)


def webp_canvas(width: int, height: int) -> bytes:
    inner = by_pillow(RGB, "WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jxl_header(height: int, width: int) -> bytes:
    """The beginning of a JPEG XL file of 8-bit RGB, without loss."""
    fields = [  # (value, bits); a size of 30-bit numbers, no ratio; then one field after the other
        (0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30),
        (0, 1), (0, 1), (0, 1), (0, 2), (1, 1), (0, 2), (0, 1), (1, 1),
    ]  # fmt: skip
    bits = at = 0
    for value, n_bits in fields:
        bits, at = bits | value << at, at + n_bits
    return b"\xff\x0a" + bits.to_bytes(64, "little")


def jxl(pixels: Pixels, **how: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, **{"lossless": True, **how}))


# --- memory --------------------------------------------------------------------------------------

JPEG = by_pillow(np.kron(RGB, np.ones((9, 9, 1), np.uint8)), "JPEG", quality=90)
STRIP = {256: [4], 257: [4], 258: [8], 259: [1], 262: [1], 273: [0], 277: [1], 278: [4], 279: [16]}


def bombs() -> dict[str, tuple[bytes, str]]:
    """Name -> (file, kind of the refusal)."""
    png, avif = huge_png(), by_pillow(RGB, "AVIF")
    return {
        "ICNS of JPEG 2000": (icns(b"ic07", jp2(N, N)), "unsupported"),
        "ICNS of PNG": (icns(b"ic07", png), "unsupported"),
        "ICO of PNG": (ico(png), "unsupported"),
        "PSD": (psd(N, N), "unsupported"),
        "JPEG 2000": (jp2(N, N), "too large"),
        "JPEG 2000, many tiles": (jp2(256, 255, tile=1), "damaged"),
        "JPEG 2000, small box": (jp2(N, N, boxed=(8, 8)), "damaged"),
        "JPEG 2000, large box": (jp2(8, 8, boxed=(N, N)), "damaged"),
        "TIFF": (tiff(STRIP | {256: [N], 257: [N]}), "too large"),
        "TIFF, a tile": (
            tiff({**{t: v for t, v in STRIP.items() if t not in (273, 278, 279)}, 322: [65536],
                  323: [65536], 324: [0], 325: [99]}, bytes(99)),
            "too large",
        ),
        "TIFF, a long strip": (tiff(STRIP | {278: [2**32 - 1], 279: [2**32 - 1]}), "damaged"),
        "TIFF, many samples": (tiff(STRIP | {277: [65535]}, bytes(99)), "unsupported"),
        "TIFF, deflated": (
            tiff(STRIP | {256: [N], 257: [N], 259: [8], 278: [N]}, zlib.compress(bytes(10**6))),
            "too large",
        ),
        "GIF": (gif(65535, 65535), "too large"),
        "GIF, a large frame": (gif(8, 65535), "too large"),
        "BMP": (patched(by_pillow(RGB, "BMP"), 18, "<ii", N, N), "too large"),
        "BMP, upside down": (patched(by_pillow(RGB, "BMP"), 18, "<ii", N, -N), "too large"),
        "WebP": (webp_canvas(16384, 16384), "too large"),
        "JPEG": (patched(JPEG, sof(JPEG) + 5, ">HH", 65000, 65000), "too large"),
        "AVIF": (patched(avif, avif.index(b"ispe") + 8, ">II", 16384, 16384), "too large"),
        "JPEG XL": (jxl_header(N, N), "too large"),
        "JPEG XL of 2**60 pixels": (jxl_header(2**30, 2**30), "too large"),
        "PPM": (b"P6 65535 65535 255\n", "too large"),
        "PGM of 16 bits": (b"P5 65535 65535 65535\n", "too large"),
        "PBM as text": (b"P1 65535 65535\n1", "too large"),
        "QOI": (b"qoif" + struct.pack(">IIBB", N, N, 3, 0) + bytes(99), "too large"),
    }  # fmt: skip


MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
import imagecodecs, PIL.Image
import h5ingest.images.other_formats
from h5ingest.images.decode import decode_into, probe
from h5ingest.core.errors import SampleError
from helpers.peak import peak_bytes

def outcome(file):
    data = file.read_bytes()
    try:
        spec = probe(data)
        decode_into(data, np.empty(spec.shape, spec.dtype))
    except SampleError as error:
        return error.kind, error.reason
    return "stored", str(spec)

first, *files = sorted(Path(sys.argv[1]).iterdir())
outcome(first)
told = {}
for file in files:
    before = peak_bytes()
    told[file.name] = *outcome(file), peak_bytes() - before
print(json.dumps(told))
"""


def test_no_bomb_of_any_format_gets_memory(tmp_path: Path) -> None:
    cases = bombs()
    (tmp_path / "a good one").write_bytes(by_pillow(RGB, "TIFF"))
    for number, (data, _) in enumerate(cases.values()):
        (tmp_path / f"b{number:02}").write_bytes(data)
    limit = 3 * 2**30
    completed = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path],
        capture_output=True, text=True, timeout=120, check=False,
        env=clean_environment({"OPENBLAS_NUM_THREADS": "1"}),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        cwd=PROGRAMS.parent,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    told = dict(zip(cases, json.loads(completed.stdout).values(), strict=True))
    assert {name: kind for name, (kind, *_) in told.items()} == {
        name: kind for name, (_, kind) in cases.items()
    }, told
    grown = {name: n_bytes for name, (*_, n_bytes) in told.items() if n_bytes > 30e6}
    assert not grown


# --- pixels --------------------------------------------------------------------------------------

LOW = GRAY // 16


def packed(samples: Pixels, bits: int) -> bytes:
    """Rows of samples of fewer than 8 bits, each row in whole bytes."""
    each = np.unpackbits(samples[:, :, None], axis=2)[:, :, 8 - bits :]
    return np.packbits(each.reshape(len(samples), -1), axis=1).tobytes()


def low(samples: Pixels, bits: int, photometric: int, **more: list[int]) -> bytes:
    body = packed(samples, bits)
    tags = STRIP | {256: [samples.shape[1]], 257: [samples.shape[0]], 258: [bits],
                    262: [photometric], 278: [len(samples)], 279: [len(body)]}  # fmt: skip
    return tiff(tags | {int(name[1:]): values for name, values in more.items()}, body)


def layers(*planes: Pixels) -> Pixels:
    return np.dstack(planes)


COLOURS = [int(v) * 257 for v in TABLE.T.ravel()]
EXACT = {
    "TIFF palette": (strip(GRAY, 3, t320=COLOURS), TABLE[GRAY].astype(np.uint8)),
    "TIFF palette with alpha": (
        strip(layers(GRAY, ALPHA), 3, t320=COLOURS, t338=[2]),
        layers(TABLE[GRAY], ALPHA).astype(np.uint8),
    ),
    "TIFF palette of 4 bits": (
        low(LOW, 4, 3, t320=[int(v) * 256 for v in TABLE[:16].T.ravel()]),
        TABLE[LOW].astype(np.uint8),
    ),
    "TIFF palette of 8-bit colours": (
        strip(GRAY, 3, t320=[int(v) for v in TABLE.T.ravel()]), TABLE[GRAY].astype(np.uint8)
    ),
    "TIFF of 4 bits": (low(LOW, 4, 1), LOW * np.uint8(17)),
    "TIFF of 2 bits, white is zero": (low(LOW // 4, 2, 0), (3 - LOW // 4) * np.uint8(85)),
    "TIFF bilevel, white is zero": (low(GRAY // 128, 1, 0), (1 - GRAY // 128) * np.uint8(255)),
    "TIFF of 8 bits, white is zero": (strip(GRAY, 0), 255 - GRAY),
    "TIFF of 16 bits, white is zero": (strip(GRAY16, 0), 65535 - GRAY16),
    "TIFF RGB of 16 bits": (strip(RGB16, 2), RGB16),
    "TIFF RGBA": (strip(layers(RGB, ALPHA), 2, t338=[2]), layers(RGB, ALPHA)),
    "TIFF RGBA of 16 bits": (
        strip(layers(RGB16, GRAY16), 2, t338=[2]), layers(RGB16, GRAY16)
    ),
    "TIFF gray and alpha of 16 bits, white is zero": (
        strip(layers(GRAY16, GRAY16), 0, t338=[2]), layers(65535 - GRAY16, GRAY16)
    ),
    "TIFF in planes": (
        tiff(STRIP | {256: [6], 257: [5], 258: [8] * 3, 262: [2], 273: [0, 30, 60], 277: [3],
                      278: [5], 279: [30] * 3, 284: [2]}, RGB.transpose(2, 0, 1).tobytes()),
        RGB,
    ),
    **{
        f"TIFF, {how}": (by_pillow(RGB, "TIFF", compression=how), RGB)
        for how in ("tiff_lzw", "packbits", "zstd", "tiff_adobe_deflate")
    },
    "PGM of 16 bits": (b"P5 # big-endian\n6 5\n65535\n" + GRAY16.astype(">u2").tobytes(), GRAY16),
    "PPM of 16 bits": (b"P6\n6 5 65535\n" + RGB16.astype(">u2").tobytes(), RGB16),
    "PPM as text": (f"P3 6 5 255\n{' '.join(map(str, RGB.ravel()))}\n".encode(), RGB),
    "PBM": (b"P4 6 5\n" + packed(1 - GRAY // 128, 1), GRAY // 128 * np.uint8(255)),
    "AVIF": (imagecodecs.avif_encode(RGB, level=100), RGB),
    "QOI": (imagecodecs.qoi_encode(RGB), RGB),
    **{
        f"{kind}, {pixels.dtype}, {pixels.ndim}-D": (
            imagecodecs.jpeg2k_encode(pixels, codecformat=kind, reversible=True, level=0), pixels
        )
        for kind in ("j2k", "jp2")
        for pixels in (GRAY, RGB, GRAY16, RGB16, layers(RGB16, GRAY16))
    },
    **{
        f"JPEG XL, {pixels.dtype}, {pixels.shape}": (jxl(pixels), pixels)
        for pixels in (
            GRAY, RGB, layers(GRAY, ALPHA), layers(RGB, ALPHA), GRAY16, RGB16,
            layers(GRAY16, GRAY16), layers(RGB16, GRAY16), RGB[:1, :1], np.tile(RGB, (80, 60, 1)),
            np.tile(GRAY16, (96, 80)),
        )
    },
    "JPEG 2000 in tiles": (by_pillow(RGB, "JPEG2000", tile_size=(4, 4)), RGB),
}  # fmt: skip


@pytest.mark.parametrize(("data", "pixels"), EXACT.values(), ids=EXACT)
def test_samples_are_stored_as_the_file_has_them(data: bytes, pixels: Pixels) -> None:
    found = decoded(data)
    assert (found.dtype, found.shape) == (pixels.dtype, pixels.shape)
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_orientation_turns_a_tiff(orientation: int) -> None:
    for pixels, photometric in ((RGB, 2), (GRAY16, 1)):
        found = decoded(strip(pixels, photometric, t274=[orientation]))
        np.testing.assert_array_equal(found, pixels)
    compressed = Image.fromarray(RGB)
    file = io.BytesIO()
    compressed.save(file, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    np.testing.assert_array_equal(decoded(file.getvalue()), RGB)


def test_a_gray_gif_keeps_its_transparency() -> None:
    palette = bytes([0, 0, 0, 1, 1, 1])  # Pillow calls that gray
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 1, 0x80, 0, 0) + palette
    control = b"!\xf9\4\1\0\0\1\0"  # colour 1 is transparent
    data = head + control + b"," + struct.pack("<HHHHB", 0, 0, 2, 1, 0) + b"\2\2\x44\x0a\0;"
    assert decoded(data).tolist() == [[[0, 255], [1, 0]]]


# --- reasons -------------------------------------------------------------------------------------

SGI = b"\x01\xda\0\2" + struct.pack(">HHHH", 3, 6, 5, 3) + bytes(600)
WIDE = {np.dtype(kind): strip(GRAY.astype(kind), 1, t339=[3]) for kind in ("f2", "f4", "f8")}
REFUSED = {
    "PSD": (psd(6, 5), "unsupported", "Photoshop"),
    "ICO": (ico(encode(2, 8)[0]), "unsupported", "icon (ICO)"),
    "ICNS": (icns(b"ic07", encode(2, 8)[0]), "unsupported", "icon (ICNS)"),
    "SGI": (SGI, "unsupported", "SGI"),
    "TGA, which has no signature": (by_pillow(RGB, "TGA"), "not an image", "PNG, JPEG"),
    "DDS": (by_pillow(RGB, "DDS"), "unsupported", "DDS"),
    "PCX": (by_pillow(RGB, "PCX"), "unsupported", "PCX"),
    "half of a PSD": (psd(6, 5)[:20], "unsupported", "Photoshop"),
    **{
        f"TIFF {kind}": (data, "unsupported", f"float{8 * kind.itemsize} samples")
        for kind, data in WIDE.items()
    },
    "TIFF of signed samples": (strip(GRAY, 1, t339=[2]), "unsupported", "int8 samples"),
    "TIFF CMYK": (strip(layers(RGB, ALPHA), 5), "unsupported", "CMYK"),
    "TIFF multiplied by alpha": (
        strip(layers(RGB, ALPHA), 2, t338=[1]), "unsupported", "multiplied by their alpha"
    ),
    "TIFF of five channels": (
        strip(layers(RGB, RGB[:, :, :2]), 2, t338=[0, 0]), "unsupported", "5 channels"
    ),
    "TIFF of old JPEG": (strip(RGB, 2, t259=[6]), "unsupported", "JPEG of TIFF 6.0"),
    "TIFF by LZMA": (by_pillow(RGB, "TIFF", compression="lzma"), "unsupported", "34925"),
    "TIFF without its palette": (strip(GRAY, 3), "damaged", "no palette"),
    "TIFF cut in its tags": (strip(GRAY, 1)[:60], "damaged", "TIFF file is damaged or truncated"),
    "TIFF cut in its pixels": (strip(GRAY, 1)[:-9], "damaged", "TIFF file is damaged or truncated"),
    "JPEG of 12 bits": (patched(JPEG, sof(JPEG) + 4, "B", 12), "unsupported", "12-bit"),
    "JPEG CMYK": (by_pillow(RGB, "JPEG", "CMYK"), "unsupported", "CMYK"),
    **{
        f"JPEG cut after {n} bytes": (JPEG[:n], "damaged", "JPEG file is damaged or truncated")
        for n in (3, 4, 12, 30, 200, len(JPEG) // 2, len(JPEG) - 2)
    },
    "PGM up to 1023": (b"P5 6 5 1023\n" + bytes(60), "unsupported", "samples up to 1023"),
    "PPM of 16 bits as text": (b"P3 1 1 65535\n1 2 3\n", "unsupported", "as text"),
    "PGM of 16 bits, cut": (b"P5 6 5 65535\n" + bytes(59), "damaged", "PNM file is truncated"),
    "PGM without a size": (b"P5 6 x 255\n" + bytes(59), "damaged", "PNM header"),
    "PAM": (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "unsupported", "PAM"),
    "PFM": (b"Pf\n1 1\n-1.0\n\0\0\0\0", "unsupported", "PFM"),
    "JPEG 2000 of 12 bits": (
        imagecodecs.jpeg2k_encode(GRAY16 // 16, bitspersample=12), "unsupported", "uint12 samples"
    ),
    "JPEG 2000, cut": (
        imagecodecs.jpeg2k_encode(RGB16, reversible=True, level=0)[:-40], "damaged", "JPEG 2000"
    ),
    "JPEG 2000 of 8 bits, cut": (
        imagecodecs.jpeg2k_encode(RGB, reversible=True, level=0)[:-40], "damaged", "JPEG 2000"
    ),
    "JPEG 2000 without its other tiles": (jp2(8, 16, tile=8), "damaged", "1 of its 2 tiles"),
    "AVIF of 10 bits": (
        imagecodecs.avif_encode(RGB16 // 64, bitspersample=10), "unsupported", "uint10 samples"
    ),
    "AVIF of 12 bits": (
        imagecodecs.avif_encode(RGB16 // 16, bitspersample=12), "unsupported", "uint12 samples"
    ),
    "JPEG XL, lossy": (jxl(RGB, lossless=False, distance=1.0), "unsupported", "lossy coding"),
    "JPEG XL of floats": (jxl(RGB.astype("f4") / 255), "unsupported", "floats"),
    "JPEG XL of 10 bits": (jxl(RGB16 // 64, bitspersample=10), "unsupported", "uint10 samples"),
    "JPEG XL, animated": (jxl(np.stack([RGB, RGB])), "unsupported", "animation"),
    **{
        f"JPEG XL {name}, {n}": (whole[:n], "damaged", "JPEG XL")
        for name, whole in {
            "of 8 bits": jxl(RGB), "of 16 bits": jxl(layers(RGB16, GRAY16)),
            "of a JPEG": bytes(imagecodecs.jpegxl_encode_jpeg(JPEG)),
        }.items()
        for n in (12, 14, 24, 60, len(whole) // 2, len(whole) - 1)
    },
    "NumPy array": (b"\x93NUMPY\1\0", "unsupported", "NumPy"),
    "a web page": (b"<html>404</html>", "not an image", "PNG, JPEG"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_what_the_file_is_and_what_to_do(data: bytes, kind: str, words: str) -> None:
    error = refusal(data)
    assert (error.kind, words in error.reason) == (kind, True), error.reason
    if kind == "unsupported":
        assert "convert it to PNG" in error.reason


# --- what is said of images that are stored ------------------------------------------------------


def animated(kind: str, **how: Any) -> bytes:
    """Two frames or pages; the first is the paletted test image, or its RGB."""
    first = PALETTED if kind in ("GIF", "TIFF") else PALETTED.convert("RGB")
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=[Image.new("RGB", (6, 5))], **how)
    return file.getvalue()


def apng() -> bytes:
    data, _ = encode(2, 8)
    body = b"acTL" + struct.pack(">II", 2, 0)
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]


MORE = {
    "GIF": animated("GIF"), "TIFF": animated("TIFF"), "MPO": animated("MPO"),
    "WebP": animated("WEBP", lossless=True), "AVIF": animated("AVIF"), "PNG": apng(),
    "PNM": 2 * by_pillow(RGB, "PPM"),
    "two pages": tiff(STRIP | {256: [6], 257: [5], 278: [5], 279: [30]}, bytes(30), pages=2),
}  # fmt: skip
ONE = {
    "GIF": paletted("GIF"), "JPEG": by_pillow(RGB, "JPEG"), "WebP": by_pillow(RGB, "WEBP"),
    "AVIF": by_pillow(RGB, "AVIF"), "PNG": encode(2, 8)[0], "PNM": by_pillow(RGB, "PPM"),
    "TIFF": by_pillow(RGB, "TIFF"), "PNM and a line end": by_pillow(RGB, "PPM") + b"\n",
}  # fmt: skip


def files(folder: Path, *groups: dict[str, bytes]) -> Path:
    """A manifest of the files, in order."""
    names = []
    for number, data in enumerate(data for group in groups for data in group.values()):
        names.append(f"{number:02}")
        (folder / names[-1]).write_bytes(data)
    manifest = folder / "manifest.txt"
    manifest.write_text("\n".join(names) + "\n")
    return manifest


@pytest.mark.parametrize("layout", ["stack", "ragged"])
def test_frames_and_pages_after_the_first_are_counted_over_all_ranks(
    layout: str, tmp_path: Path
) -> None:
    manifest = files(tmp_path, ONE, MORE, {"again": apng()}, {"again": apng()})
    options = IngestOptions(
        layout=layout, channels="rgb", compression="gzip" if layout == "ragged" else None,
        overwrite=True, chunk_rows=1 if layout == "stack" else None,
    )  # fmt: skip
    for n_ranks in (1, 3):
        with extent_chunks(100):  # images lie on two ranks and are counted once
            report = ingest_on(n_ranks, manifest, tmp_path / "out.h5", options)
        note = Note(kind=MORE_IMAGES, count=len(MORE) + 2, index=len(ONE), path=f"{len(ONE):02}")
        assert report.notes == (note,)
        assert json.loads(json.dumps(report.to_json()))["notes"] == [asdict(note)]


def test_files_that_are_stored_as_they_are_lack_no_frame(tmp_path: Path) -> None:
    manifest = files(tmp_path, MORE)
    report = ingest_on(1, manifest, tmp_path / "out.h5", IngestOptions(layout="encoded"))
    assert (report.n_samples, report.notes) == (len(MORE), ())


def noisy() -> dict[str, bytes]:
    """Images of which Pillow and libtiff say something: on stderr, as warnings, in a log."""
    segment = b"\xff\xe2\0\x16MPF\0II*\0\x08\0\0\0" + bytes(8)
    odd = STRIP | {65000: [1, 2, 3], 33432: [1, 2]}
    return {
        "a broken MPO": JPEG[:2] + segment + JPEG[2:],
        "odd tags": tiff(odd, bytes(16)),
        "a broken strip": tiff(STRIP | {259: [8]}, bytes(16)),
        "many samples": tiff(STRIP | {277: [65535]}, bytes(99)),
        "an endless tag": patched(strip(RGB, 2), 14, "<I", 2**31),
        "an animation": animated("GIF"),
    }


def test_the_summary_names_them_and_no_library_speaks_on_stderr(tmp_path: Path) -> None:
    manifest = files(tmp_path, noisy())
    completed = subprocess.run(
        [sys.executable, "-m", "h5ingest", manifest, tmp_path / "out.h5", "--layout", "ragged",
         "--on-error", "blank", "--progress", "off"],
        capture_output=True, text=True, timeout=60, check=False, env=clean_environment(),
    )  # fmt: skip
    assert (completed.returncode, completed.stderr) == (0, ""), completed.stderr
    assert f"1 image has {MORE_IMAGES} (first: sample 5, 05)" in completed.stdout
    assert "3 images, stored as zeros" in completed.stdout
