"""One rule for all kinds of PNG: what libpng refuses is refused, and so is any damaged chunk.

The judges are libpng and Pillow; files are changed here, with right checksums of the chunks.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from helpers.oracle import KINDS, Kind, encode
from helpers.support import write_manifest, zlib_of_zeros
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.errors import SampleError
from h5ingest.core.notes import BEYOND_PALETTE, EXPANDED
from h5ingest.core.options import IngestOptions
from h5ingest.images.decode import Prober, check_intact, decode, decode_into, probe
from h5ingest.images.libdeflate import FEW_BYTES, crc32
from h5ingest.images.png_chunks import LARGE_BYTES
from h5ingest.inspect.verify import verify
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.run import ingest

Pixels = NDArray[Any]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FAST = [
    Kind(colour=colour, depth=depth, interlaced=interlaced)
    for colour in ("gray", "rgb", "rgba")
    for depth in (8, 16)
    for interlaced in (False, True)
]
"""Those that do not go through libpng, unless something is wrong."""
PALETTE = Kind(colour="palette", depth=8)


def decoded(data: bytes, *, raw: bool = False) -> tuple[Pixels, tuple[str, ...]]:
    spec = probe(data, raw=raw)
    assert spec is not None
    out = np.full(spec.shape, 0xA5, spec.dtype)
    try:
        notes = decode_into(data, out, raw=raw)
    except SampleError as error:
        with pytest.raises(SampleError) as again:
            decode(data, spec)
        assert again.value.reason == error.reason  # noqa: PT017 - it is raised
        raise
    if not raw:
        np.testing.assert_array_equal(decode(data, spec), out)
    return out, notes


def refusal(data: bytes) -> str | None:
    """Why h5ingest refuses a file; None if it does not."""
    try:
        decoded(data)
    except SampleError as error:
        assert error.kind == "damaged"  # noqa: PT017 - both outcomes are looked at
        return error.reason
    return None


def by_libpng(data: bytes) -> Pixels | None:
    try:
        return np.asarray(imagecodecs.png_decode(data)).squeeze()
    except (RuntimeError, ValueError):
        return None


def by_pillow(data: bytes) -> Pixels | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image).squeeze()
    except (OSError, SyntaxError, ValueError):
        return None


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 :][:length]
        position += 12 + length


def stream_of(data: bytes) -> bytes:
    return b"".join(body for kind, body in chunks(data) if kind == b"IDAT")


def with_stream(data: bytes, *streams: bytes, after: bytes = b"", before: bytes = b"") -> bytes:
    """The file with other pixel data, a chunk for each, and chunks beside them."""
    parts, placed = [SIGNATURE], False
    for kind, body in chunks(data):
        if kind != b"IDAT":
            parts.append(chunk(kind, body))
        elif not placed:
            parts += [before, *(chunk(b"IDAT", stream) for stream in streams), after]
            placed = True
    return b"".join(parts)


def photograph(kind: Kind) -> bytes:
    """An image whose stream has matches near and far."""
    return encode(kind, 24, 20, 1).data


def mutant(data: bytes, dice: random.Random) -> bytes:
    stream = bytearray(stream_of(data))
    match dice.randrange(5):
        case 0:
            stream[-1 - dice.randrange(4)] ^= 1 << dice.randrange(8)
        case 1:
            del stream[dice.randrange(2, len(stream)) :]
        case 2:
            stream[dice.randrange(2, len(stream))] ^= 1 << dice.randrange(8)
        case 3:
            at = dice.randrange(2, len(stream) - 4)
            del stream[at : at + 1 + dice.randrange(4)]
        case _:
            at = dice.randrange(2, len(stream))
            stream[at:at] = dice.randbytes(1 + dice.randrange(4))
    whole = bytes(stream)
    if dice.randrange(4):
        return with_stream(data, whole)
    cut = dice.randrange(len(whole) + 1)
    return with_stream(data, whole[:cut], whole[cut:])


@pytest.mark.parametrize("kind", [*FAST, PALETTE, Kind(colour="gray", depth=2)], ids=str)
def test_what_libpng_refuses_is_refused_and_nothing_else(kind: Kind) -> None:
    seed, dice = photograph(kind), random.Random(14)
    n_refused, wrong = 0, []
    prober = Prober()
    spec = prober(seed)
    assert spec is not None
    both = np.empty((2, *spec.shape), spec.dtype)
    for case in range(300):
        data = mutant(seed, dice)
        expected, reason = by_libpng(data), refusal(data)
        n_refused += expected is None
        if (expected is None) != (reason is not None):
            wrong.append((case, reason))
        if expected is None:
            assert not prober.decode_alike([seed, data], both), case
            assert not any(prober.decode_mixed([seed, data], [*both])), case
        elif reason is None:
            assert np.array_equal(decoded(data)[0].squeeze(), expected), case
        other = by_pillow(data)
        if other is not None and reason is None and kind.depth == 8 and kind != PALETTE:
            assert np.array_equal(decoded(data)[0].squeeze(), other), case
    assert not wrong, "(case, why h5ingest refuses) where libpng says otherwise"
    assert n_refused > 150


def with_a_small_window(stream: bytes) -> bytes:
    """A zlib stream that says that no match is further away than 256 bytes."""
    return bytes([0x08, 31 - 0x0800 % 31]) + stream[2:]


@pytest.mark.parametrize("kind", [*FAST, PALETTE], ids=str)
def test_each_damage_of_the_stream_is_found(kind: Kind) -> None:
    # The same row again and again, longer than 256 bytes: matches go further back than that.
    width = 300
    row = encode(kind, 1, width).data
    seed = encode(kind, 9, width).data
    if not kind.interlaced:
        line = zlib.decompress(stream_of(row))
        seed = with_stream(seed, zlib.compress(line * 9, 9))
    good = stream_of(seed)
    raw = zlib.decompress(good)
    too_far = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=raw[:400])
    damaged = {
        "Adler-32": good[:-1] + bytes([good[-1] ^ 1]),
        "no Adler-32": good[:-4],
        "half": good[: len(good) // 2],
        "a row less": zlib.compress(raw[: -len(raw) // 9 - 1]),
        "before the beginning": b"\x78\x9c" + too_far.compress(raw) + too_far.flush()
        + zlib.adler32(raw).to_bytes(4),
        "no header": good[2:],
        "empty": b"",
    }  # fmt: skip
    if not kind.interlaced:
        damaged["beyond the window"] = with_a_small_window(good)
    for name, stream in damaged.items():
        data = with_stream(seed, stream)
        assert by_libpng(data) is None, f"{name}: the judge accepts it"
        assert refusal(data) is not None, name
    harmless = {
        "more behind it": [good + b"more"],
        "more pixels": [zlib.compress(raw + b"\0\0\0\0")],
        "Adler-32 apart": [good[:-4], good[-4:]],
        "empty chunks": [b"", good[:5], b"", good[5:], b""],
    }
    for name, streams in harmless.items():
        data = with_stream(seed, *streams)
        expected = by_libpng(data)
        assert expected is not None, f"{name}: the judge refuses it"
        assert np.array_equal(decoded(data)[0].squeeze(), expected), name


@pytest.mark.parametrize("kind", FAST, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 9), (70, 90), (300, 200)])
def test_every_filter_is_undone_in_one_image_and_in_many(kind: Kind, size: tuple[int, int]) -> None:
    seeds = [encode(kind, *size, seed) for seed in range(3)]
    random_ = np.random.default_rng(5)
    files = []
    for seed in seeds:
        raw = bytearray(zlib.decompress(stream_of(seed.data)))
        if not kind.interlaced:
            step = len(raw) // size[0]
            raw[::step] = random_.integers(0, 5, size[0], np.uint8).tobytes()
        files.append(with_stream(seed.data, zlib.compress(bytes(raw), 1)))
    expected = [np.asarray(imagecodecs.png_decode(data)).squeeze() for data in files]
    for data, pixels in zip(files, expected, strict=True):
        assert np.array_equal(decoded(data)[0].squeeze(), pixels)
    prober = Prober()
    # The widest between others, and one that is only as wide as a filter looks back.
    files += [encode(kind, 9, size[1] + 3, 4).data, encode(kind, 5, 1, 5).data, files[0]]
    expected_mixed = [np.asarray(imagecodecs.png_decode(data)) for data in files]
    images = [np.full_like(pixels, 0xA5) for pixels in expected_mixed]
    is_done = prober.decode_mixed(files, images)
    assert any(is_done) == (not kind.interlaced)
    for image, pixels, done in zip(images, expected_mixed, is_done, strict=True):
        assert not done or np.array_equal(image, pixels)
    files = files[:3]
    spec = prober(files[0])
    assert spec is not None
    out = np.full((3, *spec.shape), 0xA5, spec.dtype)
    assert prober.decode_alike(files, out) == (not kind.interlaced)
    if not kind.interlaced:
        assert np.array_equal(out.reshape(3, -1), np.reshape(expected, (3, -1)))


ALL = [kind for kind in KINDS if not kind.interlaced]


def test_the_crc_of_many_bytes_is_that_of_few() -> None:
    data = random.Random(20).randbytes(3 * FEW_BYTES)
    for n in (0, 1, FEW_BYTES - 1, FEW_BYTES, FEW_BYTES + 1, len(data)):
        for part in (data[:n], memoryview(data)[:n]):
            assert crc32(part) == zlib.crc32(part)
            assert crc32(part, 7) == zlib.crc32(part, 7)


def test_a_flip_anywhere_in_a_large_chunk_is_found() -> None:
    noise = np.random.default_rng(20).integers(0, 256, (128, 129, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    data = file.getvalue()
    assert data.index(b"IDAT") + LARGE_BYTES < len(data)
    checks = check_intact, Prober().check_intact
    for check in checks:
        check(data)
    for at in [*range(data.index(b"IDAT"), len(data) - 12, 2999), len(data) - 13]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        for check in checks:
            with pytest.raises(SampleError):
                check(bytes(damaged))


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_unknown_critical_chunk_is_refused_wherever_it_is(where: str) -> None:
    for kind in ALL:
        seed = encode(kind, 5, 6).data
        extra: dict[str, Any] = {where: chunk(b"QUUX", b"what it says may be needed")}
        data = with_stream(seed, stream_of(seed), **extra)
        assert (refusal(data) or "").startswith("the QUUX chunk is critical"), kind
        extra[where] = chunk(b"quUX", b"nobody needs it")
        data = with_stream(seed, stream_of(seed), **extra)
        assert np.array_equal(decoded(data)[0], decoded(seed)[0]), kind
        extra[where] = chunk(b"qu\xfe1", b"no type")
        assert "type of a chunk" in (refusal(with_stream(seed, b"", **extra)) or ""), kind


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("layout", ["stack", "ragged", "encoded"])
def test_a_damaged_chunk_is_refused_wherever_it_is(where: str, layout: str, tmp_path: Path) -> None:
    names: list[str] = []
    for kind in (PALETTE, Kind(colour="rgb", depth=8)):
        seed = encode(kind, 5, 6).data
        extra: dict[str, Any] = {where: chunk(b"tEXt", b"Title\0a text")[:-1] + b"?"}
        for data in (seed, with_stream(seed, stream_of(seed), **extra)):
            names.append(f"{len(names)}.png")
            (tmp_path / names[-1]).write_bytes(data)
    manifest = write_manifest(tmp_path / "m.txt", names)
    options = IngestOptions(layout=layout, on_error="blank")
    report = ingest(manifest, tmp_path / "out.h5", options)
    assert [failure.index for failure in report.failures] == [1, 3]
    for failure in report.failures:
        assert failure.reason == "the checksum of the tEXt chunk is wrong"


# --- palettes ------------------------------------------------------------------------------------


def paletted(indices: Pixels, colours: bytes, depth: int = 8, alphas: bytes | None = None) -> bytes:
    height, width = indices.shape
    bits = np.unpackbits(indices[:, :, None], axis=2)[:, :, -depth:].reshape(height, -1)
    rows = np.packbits(bits, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0))
        + chunk(b"PLTE", colours)
        + (b"" if alphas is None else chunk(b"tRNS", alphas))
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND")
    )


@pytest.mark.parametrize("alphas", [None, b"\x80\x00"])
@pytest.mark.parametrize(
    ("depth", "n_colours"), [(2, 3), (4, 3), (4, 15), (8, 3), (8, 100), (8, 255)]
)
def test_indices_without_a_colour_are_black_and_said(
    depth: int, n_colours: int, alphas: bytes | None
) -> None:
    # Every value occurs in some channel, once there are enough of them; black is a colour too.
    colours = np.arange(3 * n_colours).reshape(n_colours, 3) % 256
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    table[:n_colours, :3] = colours
    if alphas is not None:
        table[:2, 3] = list(alphas)
    random_ = np.random.default_rng(depth)
    for highest in (n_colours - 1, n_colours, 2**depth - 1):
        indices = random_.integers(0, highest + 1, (9, 13), np.uint8)
        indices[3, 4] = highest
        data = paletted(indices, colours.astype(np.uint8).tobytes(), depth, alphas)
        beyond = (BEYOND_PALETTE,) if highest >= n_colours else ()
        pixels, notes = decoded(data)
        assert np.array_equal(pixels, table[indices][:, :, : 3 if alphas is None else 4])
        assert np.array_equal(pixels, imagecodecs.png_decode(data))
        assert notes == (EXPANDED, *beyond)
        pixels, notes = decoded(data, raw=True)
        assert np.array_equal(pixels, indices)
        assert notes == beyond


def test_more_alphas_than_colours_are_refused() -> None:
    data = paletted(np.zeros((2, 2), np.uint8), b"abc", 8, b"\x01\x02")
    assert "tRNS" in (refusal(data) or "")


@pytest.mark.parametrize("samples", ["scaled", "raw"])
def test_indices_without_a_colour_are_counted_and_verify_agrees(
    samples: Any, tmp_path: Path
) -> None:
    for number, highest in enumerate((1, 2, 1, 7)):
        indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % (highest + 1)
        (tmp_path / f"{number}.png").write_bytes(paletted(indices, b"abcdef", 4))
    manifest = write_manifest(tmp_path / "m.txt", [f"{number}.png" for number in range(4)])
    report = ingest(manifest, tmp_path / "out.h5", IngestOptions(samples=samples))
    expanded = [(EXPANDED, 4, 0, "0.png")] if samples == "scaled" else []
    assert [(note.kind, note.count, note.index, note.path) for note in report.notes] == [
        *expanded, (BEYOND_PALETTE, 2, 1, "1.png"),
    ]  # fmt: skip
    assert report.failures == ()
    checked = verify(tmp_path / "out.h5", SerialComm(), sources=True)
    assert (checked.bad, checked.problems, checked.n_sources) == ((), (), 4)


# --- what the ingest takes, verify takes ---------------------------------------------------------


EXTRAS = {
    "an animation without a frame": chunk(b"acTL", struct.pack(">II", 1, 0)),
    "an animation of none": chunk(b"acTL", struct.pack(">II", 0, 0)),
    "a short acTL": chunk(b"acTL"),
    "a text of 80 MB": chunk(b"zTXt", b"Comment\0\0" + zlib_of_zeros(80 * 2**20)),
    "a profile of 80 MB": chunk(b"iCCP", b"profile\0\0" + zlib_of_zeros(80 * 2**20)),
    "an international text of 80 MB": chunk(b"iTXt", b"C\0\1\0\0\0" + zlib_of_zeros(80 * 2**20)),
    "many long texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000), 9)) * 90,
    "Exif": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "Exif of nothing": chunk(b"eXIf"),
    **{
        f"an empty {kind}": chunk(kind.encode())
        for kind in ("tEXt", "zTXt", "iTXt", "pHYs", "gAMA", "cHRM", "sRGB", "iCCP", "sBIT",
                     "bKGD", "hIST", "sPLT", "tIME")
    },
}  # fmt: skip
"""Chunks that say nothing of the pixels. Pillow alone refuses some of these files."""


def test_verify_takes_every_source_that_the_ingest_took(tmp_path: Path) -> None:
    kinds = [Kind(colour="rgb", depth=8), PALETTE]
    names = []
    for number, extra in enumerate(EXTRAS.values()):
        for kind in kinds:
            for where in ("before", "after"):
                seed = encode(kind, 5, 6).data
                beside: dict[str, Any] = {where: extra}
                data = with_stream(seed, stream_of(seed), **beside)
                names.append(f"{number}-{kind.colour}-{where}.png")
                (tmp_path / names[-1]).write_bytes(data)
    # And pixels that Pillow takes for damaged, or does not look at to their end.
    seed = encode(kinds[0], 5, 6).data
    good = stream_of(seed)
    for number, streams in enumerate(([good[:-4], good[-4:]], [good + b"more"], [good, b"x" * 9])):
        names.append(f"pixels-{number}.png")
        (tmp_path / names[-1]).write_bytes(with_stream(seed, *streams))
    manifest = write_manifest(tmp_path / "m.txt", names)
    ingested = ingest(manifest, tmp_path / "out.h5", IngestOptions(channels="rgb", layout="ragged"))
    assert ingested.failures == ()
    checked = verify(tmp_path / "out.h5", SerialComm(), sources=True)
    assert (checked.bad, checked.problems) == ((), ())
    assert checked.n_sources == len(names)
    assert checked.n_other >= len(names) - 3, "by another decoder than the one that wrote them"


def test_verify_refuses_a_source_that_was_damaged_since(tmp_path: Path) -> None:
    seed = encode(Kind(colour="rgb", depth=8), 5, 6).data
    good = stream_of(seed)
    (tmp_path / "a.png").write_bytes(seed)
    manifest = write_manifest(tmp_path / "m.txt", ["a.png"])
    ingest(manifest, tmp_path / "out.h5", IngestOptions())
    for stream in (good[:-1] + bytes([good[-1] ^ 1]), good[:-6]):
        (tmp_path / "a.png").write_bytes(with_stream(seed, stream))
        checked = verify(tmp_path / "out.h5", SerialComm(), sources=True)
        assert [bad.reason[:27] for bad in checked.bad] == ["its source cannot be read n"]
