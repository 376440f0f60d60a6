"""Small pictures in many formats, and what h5ingest makes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import png
import pytest
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.errors import SampleError
from h5ingest.images.decode import decode_into, probe

Pixels = NDArray[Any]


def drawn(height: int, width: int, channels: int, dtype: str, kind: str) -> Pixels:
    """(H, W) or (H, W, C) pixels: noise, or waves as a photograph has them."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    top = np.iinfo(dtype).max
    if kind == "noise":
        return np.random.default_rng(height * 31 + width).integers(0, top + 1, shape, dtype)
    y, x = np.ogrid[:height, :width]
    waves = ((np.sin(x / 9) + np.cos(y / 7)) / 4 + 0.5) * top
    waves = waves[..., None] if channels > 1 else waves
    return np.ascontiguousarray(np.broadcast_to(waves, shape).astype(dtype))


KINDS = {"not an image", "damaged", "unsupported", "too large", "changed"}


def expanded(samples: Pixels, info: dict[str, Any]) -> Pixels:
    """(H, W) or (H, W, C) pixels from unscaled samples, as the PNG specification says."""
    if "palette" in info and samples.shape[2] == 1:  # in colour it is only a suggestion
        palette: Pixels = np.array(info["palette"], np.uint8)
        return palette[samples[:, :, 0]]
    highest = 2 ** info["bitdepth"] - 1
    pixels: Pixels = samples * samples.dtype.type(1 if highest >= 255 else 255 // highest)
    if "transparent" in info:
        clear = (samples == np.ravel(info["transparent"])).all(axis=2, keepdims=True)
        opaque = np.iinfo(samples.dtype).max
        alpha = np.where(clear, 0, opaque).astype(samples.dtype)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        found.append((data[position + 4 : position + 8], data[position + 8 :][:length]))
        position += 12 + length
    return found


def decoded(data: bytes) -> Pixels:
    """What h5ingest makes of a file: probed, then decoded into a buffer full of something else."""
    spec = probe(data)
    assert spec is not None
    out = np.full(spec.shape, 0xA5, spec.dtype)
    decode_into(data, out)
    return out


def refusal(data: bytes) -> SampleError:
    """Why the file is refused, by the header or later; it must be."""
    with pytest.raises(SampleError) as caught:
        decoded(data)
    assert caught.value.kind in KINDS
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value


def encode(
    colour: int,
    depth: int,
    size: tuple[int, int] = (5, 6),
    *,
    interlace: bool = False,
    transparent: bool = False,
    seed: int = 0,
) -> tuple[bytes, Pixels]:
    """A PNG written by pypng, and the pixels that it has."""
    height, width = size
    planes = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    random = np.random.default_rng(seed)
    dtype = "<u2" if depth == 16 else "|u1"
    samples = random.integers(0, 2**depth, (height, width, planes)).astype(dtype)
    info: dict[str, Any] = {"bitdepth": depth}
    if colour == 3:
        info["palette"] = random.integers(0, 256, (2**depth, 4 if transparent else 3)).tolist()
    elif transparent:
        info["transparent"] = tuple(samples[height // 2, width // 2].tolist())
    file = io.BytesIO()
    png.Writer(
        width=width,
        height=height,
        bitdepth=depth,
        interlace=interlace,
        greyscale=colour in (0, 4) if colour != 3 else png.Default,
        alpha=colour in (4, 6),
        palette=[tuple(entry) for entry in info["palette"]] if colour == 3 else None,
        transparent=(
            None if "transparent" not in info
            else info["transparent"][0] if planes == 1 else info["transparent"]
        ),
    ).write(file, samples.reshape(height, -1).tolist())  # fmt: skip
    data = file.getvalue()
    assert struct.unpack_from(">BBBBB", data, 24) == (depth, colour, 0, 0, interlace)
    assert transparent == any(kind == b"tRNS" for kind, _ in chunks(data))
    return data, expanded(samples, info)


RGB = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)


GRAY = RGB[:, :, 0].copy()


def by_pillow(pixels: Pixels, kind: str, mode: str | None = None, **how: Any) -> bytes:
    image = Image.fromarray(pixels)
    if mode is not None and image.mode != mode:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


PALETTED = Image.fromarray(GRAY // 64)  # 4 indices


PALETTED.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 210, 220])


def paletted(kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    PALETTED.save(file, kind, **how)
    return file.getvalue()


def smooth(height: int, width: int, channels: int, dtype: str, seed: int = 0) -> Pixels:
    """(H, W) or (H, W, C) pixels as a photograph has them, each channel its own."""
    y, x = np.ogrid[:height, :width]
    top = np.iinfo(dtype).max
    planes = [
        ((np.sin(x / (9 + c + seed % 5)) + np.cos(y / (7 + c))) / 4 + 0.5) * top
        for c in range(channels)
    ]
    pixels = np.stack(planes, axis=2).astype(dtype)
    return np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)


def noise(height: int, width: int, channels: int, dtype: str) -> Pixels:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(height).integers(0, np.iinfo(dtype).max, shape, dtype, True)
