"""Decode files made by an enemy, and compare what comes out with other decoders.

    launched_fuzz.py SEEDS FIRST COUNT PROGRESS   cases FIRST to FIRST + COUNT - 1

Each case is an image of the folder SEEDS that a generator seeded with its number has changed. The
number of the case under way stands in the file PROGRESS, should the process end by a signal. The
last line on stdout is JSON: what was found, and what it cost.

Launched by tests; never imported.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.peak import peak_bytes

from h5ingest.core.errors import SampleError
from h5ingest.images.decode import Prober, decode_into, probe

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 10**6
GUARD = 64
"""Bytes before and behind the pixels that no decoder may touch."""
INTERESTING = (0, 1, 2, 3, 4, 6, 7, 8, 16, 127, 128, 255)

Chunk = tuple[bytes, bytes]


def chunks_of(data: bytes) -> list[Chunk]:
    found, position = [], len(SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        found.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def joined(chunks: list[Chunk]) -> bytes:
    """The PNG of these chunks, with right lengths and checksums."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        crc = zlib.crc32(kind + body)
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc))
    return b"".join(parts)


def with_a_byte_changed(data: bytes, dice: random.Random) -> bytes:
    if not data:
        return data
    at = dice.randrange(len(data))
    new = dice.choice((dice.randrange(256), data[at] ^ 1 << dice.randrange(8), *INTERESTING))
    return data[:at] + bytes([new]) + data[at + 1 :]


def with_other_pixels(chunks: list[Chunk], dice: random.Random) -> list[Chunk]:
    """Change bytes of the lines as the filters see them, or how many there are."""
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return chunks
    how = dice.randrange(4)
    if how == 0:
        raw = raw[: dice.randrange(len(raw) + 1)]
    elif how == 1:
        raw += dice.randbytes(dice.randrange(1, 200))
    else:
        for _ in range(dice.randrange(1, 5)):
            raw = with_a_byte_changed(raw, dice)
    body = zlib.compress(raw, dice.randrange(10))
    cut = dice.randrange(len(body) + 1) if dice.random() < 0.3 else len(body)
    new = [(b"IDAT", part) for part in (body[:cut], body[cut:])]
    at = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return [*rest[:at], *new, *rest[at:]]


def mutant_png(data: bytes, dice: random.Random) -> bytes:
    chunks = chunks_of(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(chunks))
        kind, body = chunks[at]
        how = dice.randrange(8)
        if how <= 1:
            chunks[at] = kind, with_a_byte_changed(body, dice)
        elif how <= 3:
            chunks = with_other_pixels(chunks, dice)
        elif how == 4 and len(chunks) > 1:
            del chunks[at]
        elif how == 5:
            chunks.insert(dice.randrange(len(chunks)), chunks[at])
        elif how == 6:
            new = (dice.choice((b"tRNS", b"PLTE", b"gAMA", b"sBIT", b"iCCP", b"IDAT", b"acTL")),
                   dice.randbytes(dice.choice((0, 1, 2, 3, 6, 12, 256, 768))))  # fmt: skip
            chunks.insert(dice.randint(1, len(chunks)), new)
        else:
            chunks[at] = kind, body[: dice.randrange(len(body) + 1)]
        if not chunks:
            break
    return mutant_bytes(joined(chunks), dice) if dice.random() < 0.25 else joined(chunks)


def mutant_bytes(data: bytes, dice: random.Random) -> bytes:
    how = dice.randrange(4)
    if how == 0:
        return data[: dice.randrange(len(data) + 1)]
    if how == 1:
        return data + dice.randbytes(dice.randrange(1, 100))
    for _ in range(dice.randint(1, 4)):
        data = with_a_byte_changed(data, dice)
    return data


def by_pypng(data: bytes, *, raw: bool) -> NDArray[Any] | None:
    """The pixels by a decoder in pure Python; None if it refuses, or if no pixels are right.

    The specification does not say what two palettes, or two tRNS chunks, mean.
    """
    kinds = Counter(kind for kind, _ in chunks_of(data))
    if kinds[b"PLTE"] > 1 or kinds[b"tRNS"] > 1:
        return None
    try:
        width, height, rows, info = png.Reader(bytes=data).read()
        samples = np.array([list(row) for row in rows], np.int64)
    except Exception:
        return None  # any of its errors
    depth, planes = info["bitdepth"], info["planes"]
    if samples.shape != (height, width * planes):
        return None  # it reads lines on and on
    indexed = planes == 1 and not info["greyscale"]
    if raw and (indexed or (planes == 1 and depth < 8)):
        return samples
    if indexed:
        palette = np.array([list(entry) for entry in info["palette"]], np.int64)
        if samples.max(initial=0) >= len(palette):
            return None  # of no colour: decoders differ
        return palette[samples]
    samples = samples.reshape(height, width, planes)
    if "transparent" in info:
        # 11.3.2.1: only the bits of a sample count. (pypng compares all 16.)
        colour = np.array(info["transparent"]) & (2**depth - 1)
        clear = (samples == colour).all(axis=2, keepdims=True)
        samples = np.concatenate([samples, np.where(clear, 0, 2**depth - 1)], axis=2)
    if depth < 8:
        samples = samples * (255 // (2**depth - 1))
    return samples[:, :, 0] if samples.shape[2] == 1 else samples


def by_pillow(data: bytes) -> NDArray[Any] | None:
    """The pixels of 8-bit gray, RGB and RGBA without transparent colours, by Pillow."""
    if data[24:25] != b"\x08":
        return None
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            if opened.mode not in ("L", "RGB", "RGBA") or "transparency" in opened.info:
                return None
            return np.asarray(opened)
    except Exception:
        return None  # any of its errors


def lacks_pixels(data: bytes) -> bool:
    """Whether the pixels' stream ends before the last line does."""
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    whole = ((0, 0, 1, 1),)
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
             (0, 1, 1, 2))  # fmt: skip
    wanted = 0
    for x, y, dx, dy in adam7 if interlaced else whole:
        columns, lines = -(-(width - x) // dx), -(-(height - y) // dy)
        wanted += lines * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    stream, n_bytes = zlib.decompressobj(), 0
    with contextlib.suppress(zlib.error):
        for byte in b"".join(body for kind, body in chunks_of(data) if kind == b"IDAT"):
            n_bytes += len(stream.decompress(bytes([byte])))
    return n_bytes < wanted


def decoded(data: bytes, *, raw: bool) -> NDArray[Any] | None:
    """The pixels by h5ingest, which writes nothing beside them; None if it refuses."""
    try:
        spec = probe(data, max_pixels=MAX_PIXELS, raw=raw)
    except SampleError:
        return None
    assert spec is not None, "the whole file tells"
    n_bytes = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    buffer = np.full(n_bytes + 2 * GUARD, 0xA5, np.uint8)
    pixels = buffer[GUARD : GUARD + n_bytes].view(spec.dtype).reshape(spec.shape)
    try:
        decode_into(data, pixels, raw=raw)
        refused = False
    except SampleError:
        refused = True
    untouched = (buffer[:GUARD] == 0xA5).all() and (buffer[-GUARD:] == 0xA5).all()
    assert untouched, "bytes beside the pixels were written"
    for n_head in (64, len(data) // 2):
        try:
            early = probe(data[:n_head], whole=False, max_pixels=MAX_PIXELS, raw=raw)
        except SampleError:
            assert refused, f"refused by its first {n_head} bytes, and decoded"
        else:
            assert early in (None, spec), f"{early} by its first {n_head} bytes, then {spec}"
    return None if refused else pixels


def check_beside(seed: bytes, data: bytes, found: NDArray[Any] | None, *, raw: bool) -> None:
    """Raise if a case comes out otherwise because the file before it was its seed."""
    prober = Prober(MAX_PIXELS, raw=raw)
    try:
        spec = prober(seed)
        assert spec is not None, "the whole file tells"
    except SampleError:
        return
    both = np.empty((2, *spec.shape), spec.dtype)
    if prober.decode_mixed([seed, data], [*both])[1]:
        assert found is not None, "refused, but not beside its seed"
        assert np.array_equal(found, both[1]), "other pixels beside its seed"
    if prober.decode_alike([seed, data], both):
        assert found is not None, "refused, but not after its seed"
        assert np.array_equal(found, both[1]), "other pixels after its seed"
    elif data == seed:
        assert not prober.decode_alike([seed], both[:1]), "one can be decoded in one go, two not"
    with contextlib.suppress(SampleError):
        assert prober(data) == probe(data, max_pixels=MAX_PIXELS, raw=raw), "another spec"


def check(data: bytes, *, raw: bool, seed: bytes) -> str:
    """Return how a case made of a seed came out; raises if h5ingest is wrong."""
    found = decoded(data, raw=raw)
    check_beside(seed, data, found, raw=raw)
    if found is None:
        return "refused"
    if not data.startswith(SIGNATURE):
        return "decoded, no PNG"
    others = {"pypng": by_pypng(data, raw=raw), "Pillow": None if raw else by_pillow(data)}
    known = {name: pixels for name, pixels in others.items() if pixels is not None}
    for name, pixels in known.items():
        assert found.shape == pixels.shape, f"{found.shape}, by {name} {pixels.shape}"
        assert np.array_equal(found, pixels), f"pixels differ from those by {name}"
    if known:
        return "decoded, the same by another decoder"
    assert not lacks_pixels(data), "pixels were made up"
    return "decoded, others refuse"


def main() -> None:
    folder, progress = Path(sys.argv[1]), os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT)
    seeds = [path.read_bytes() for path in sorted(folder.iterdir())]
    warnings.simplefilter("ignore")  # of Pillow's, on files that are damaged
    for data, raw in itertools.product(seeds, (False, True)):
        check(data, raw=raw, seed=data)  # whatever is to be imported and set up is there now
    before_bytes = peak_bytes()
    counts: Counter[str] = Counter()
    problems, slowest_s = [], 0.0
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
        os.pwrite(progress, b"%20d" % number, 0)
        dice = random.Random(number)
        seed = dice.choice(seeds)
        data = (mutant_png if seed.startswith(SIGNATURE) else mutant_bytes)(seed, dice)
        started_s = time.process_time()
        try:
            counts[check(data, raw=dice.random() < 0.3, seed=seed)] += 1
        except Exception as error:  # whatever it is that is not a SampleError
            problems.append(f"case {number}: {type(error).__name__}: {error}")
        slowest_s = max(slowest_s, time.process_time() - started_s)
    told = {"counts": counts, "problems": problems, "slowest_s": slowest_s,
            "grown_bytes": peak_bytes() - before_bytes}  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
