"""What a file must hold, worked out from the samples that a test encoded; nothing of h5ingest.

The PNGs come from pypng, with the pixels that the PNG specification gives their samples.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image, ImageOps
from xxhash import xxh3_64_intdigest

from helpers.support import Stored

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of PNG."""

    colour: str
    """`gray`, `palette`, `rgb`, `gray+alpha`, `rgba`."""
    depth: int
    transparent: bool = False
    """Whether a tRNS chunk names a transparent colour, or alphas of a palette."""
    interlaced: bool = False

    def __str__(self) -> str:
        return f"{self.colour}{self.depth}{'t' * self.transparent}{'i' * self.interlaced}"


KINDS = tuple(
    Kind(colour=colour, depth=depth, transparent=transparent, interlaced=interlaced)
    for colour, depths in {
        "gray": (1, 2, 4, 8, 16),
        "palette": (1, 2, 4, 8),
        "rgb": (8, 16),
        "gray+alpha": (8, 16),
        "rgba": (8, 16),
    }.items()
    for depth in depths
    for transparent in ((False, True) if colour in ("gray", "palette", "rgb") else (False,))
    for interlaced in (False, True)
)
"""All valid combinations."""

_PLANES = {"gray": 1, "palette": 1, "rgb": 3, "gray+alpha": 2, "rgba": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image file and what is in it."""

    data: bytes
    scaled: Pixels
    """(H, W) or (H, W, C), as the PNG specification has it."""
    raw: Pixels
    """The same, but indices and unscaled gray of 1, 2, 4 bits."""


def encode(kind: Kind, height: int, width: int, seed: int = 0, *, palette_seed: int = 7) -> Picture:
    """A PNG with random samples."""
    rng = np.random.default_rng(seed)
    planes, top = _PLANES[kind.colour], 2**kind.depth - 1
    samples = rng.integers(0, top, (height, width, planes), np.uint16, endpoint=True)
    how: dict[str, Any] = {"bitdepth": kind.depth, "interlace": kind.interlaced}
    deep = np.uint16 if kind.depth == 16 else np.uint8
    if kind.colour == "palette":
        n_planes = 4 if kind.transparent else 3
        colours = np.random.default_rng(palette_seed).integers(
            0, 255, (top + 1, n_planes), np.uint8, endpoint=True
        )
        how["palette"] = [tuple(map(int, colour)) for colour in colours]
        scaled = colours[samples[..., 0]]
        raw = samples[..., 0].astype(np.uint8)
    else:
        how |= {"greyscale": "gray" in kind.colour, "alpha": kind.colour in ("gray+alpha", "rgba")}
        scaled = (samples * np.uint16(255 // top if kind.depth < 8 else 1)).astype(deep)
        if kind.transparent:
            clear = samples[0, 0]
            how["transparent"] = tuple(map(int, clear)) if planes > 1 else int(clear[0])
            opaque = (samples != clear).any(axis=2, keepdims=True)
            alpha = opaque * np.array(np.iinfo(deep).max, deep)
            scaled = np.concatenate([scaled, alpha.astype(deep)], axis=2)
        scaled = scaled[..., 0] if scaled.shape[2] == 1 else scaled
        raw = samples[..., 0].astype(np.uint8) if kind.depth < 8 else scaled
    file = io.BytesIO()
    png.Writer(width, height, **how).write(file, samples.reshape(height, -1).tolist())
    return Picture(data=file.getvalue(), scaled=scaled, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A line of a manifest, with what its file holds."""

    path: str
    pixels: Pixels | None
    """None: the header tells that it cannot be read, or there is no file."""
    data: bytes | None = None
    """Of the file; None: there is none."""
    broken: bool = False
    """The header is good, the rest is not."""
    label: str = ""
    group: str = ""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """The options, as far as they decide the content."""

    layout: str = "stack"
    grouped: bool = False
    channels: str = "auto"
    dtype: str = "auto"
    raw: bool = False
    fit: str = "error"
    size: tuple[int, int] | None = None
    pad_value: int = 0
    resample: str = "bicubic"
    losses: dict[str, int] = field(default_factory=lambda: {"alpha": 0, "colour": 0, "depth": 0})
    """Filled: images that lose something."""


def channels_of(pixels: Pixels) -> int:
    return pixels.shape[2] if pixels.ndim == 3 else 1


def with_dtype(pixels: Pixels, dtype: str, wanted: Wanted) -> Pixels:
    if pixels.dtype == dtype:
        return pixels
    if dtype == "uint16":
        return (pixels.astype(np.uint32) * (1 if wanted.raw else 257)).astype(np.uint16)
    reduced = np.rint(pixels / 257).astype(np.uint8)
    wanted.losses["depth"] += bool((reduced.astype(int) * 257 != pixels).any())
    return reduced


def with_channels(pixels: Pixels, channels: int, wanted: Wanted) -> Pixels:
    """Each plane by itself."""
    present = channels_of(pixels)
    top = np.iinfo(pixels.dtype).max
    planes = [pixels] if present == 1 else [pixels[..., c] for c in range(present)]
    alpha = planes.pop() if present in (2, 4) else None
    if channels <= 2 and len(planes) == 3:
        wanted.losses["colour"] += any(not np.array_equal(planes[0], plane) for plane in planes[1:])
        planes = [luminance(np.stack(planes, axis=-1))]
    if channels >= 3 and len(planes) == 1:
        planes *= 3
    if channels in (2, 4):
        planes.append(np.full_like(planes[0], top) if alpha is None else alpha)
    elif alpha is not None:
        wanted.losses["alpha"] += bool((alpha != top).any())
    return planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)


def luminance(rgb: Pixels) -> Pixels:
    if rgb.dtype == np.uint8:
        return np.asarray(Image.fromarray(rgb).convert("L"))
    exact = rgb.astype(object) @ np.array([19595, 38470, 7471], object)
    gray: Pixels = ((exact + 2**15) // 2**16).astype(rgb.dtype)
    return gray


def resized(pixels: Pixels, size: tuple[int, int], resample: str) -> Pixels:
    """By Pillow itself; 16 bits a channel at a time, as floats."""
    how = Image.Resampling[resample.upper()]
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], how))
    if pixels.ndim == 3:
        planes = [resized(pixels[..., c], size, resample) for c in range(pixels.shape[2])]
        return np.stack(planes, axis=-1)
    wide = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(size[::-1], how))
    rounded: Pixels = np.rint(wide).clip(0, 65535).astype(np.uint16)
    return rounded


def scaled_size(pixels: Pixels, size: tuple[int, int], fit: str) -> tuple[int, int]:
    """Height and width to which Pillow scales an image to cover a size, or to fit in it."""
    outline = Image.new("1", pixels.shape[1::-1])
    scale = ImageOps.cover if fit == "cover" else ImageOps.contain
    try:
        width, height = scale(outline, size[::-1]).size
    except ValueError:  # a side would be 0: here it is 1
        width, height = (0, size[0]) if outline.height > outline.width else (size[1], 0)
    return max(1, height), max(1, width)


def fitted(pixels: Pixels, size: tuple[int, int], wanted: Wanted) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    if wanted.fit == "resize":
        return resized(pixels, size, wanted.resample)
    if wanted.fit in ("cover", "contain"):
        pixels = resized(pixels, scaled_size(pixels, size, wanted.fit), wanted.resample)
    height, width = pixels.shape[:2]
    if wanted.fit in ("crop", "cover"):
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return pixels[top:, left:][: size[0], : size[1]]
    assert wanted.fit in ("pad", "contain")
    extra = [(0, size[0] - height), (0, size[1] - width), (0, 0)]
    return np.pad(pixels, extra[: pixels.ndim], constant_values=wanted.pad_value)


def fit_together(samples: Sequence[Sample], wanted: Wanted, *, reduce_depth: bool) -> bool:
    """Whether the images can be stored as the options have it."""
    groups: dict[str, list[Pixels]] = {}
    for sample in samples:
        if sample.pixels is not None:
            groups.setdefault(sample.group if wanted.grouped else "", []).append(sample.pixels)
    return all(_fit_in_a_group(every, wanted, reduce_depth) for every in groups.values())


def _fit_in_a_group(every: Sequence[Pixels], wanted: Wanted, reduce_depth: bool) -> bool:
    depths = {pixels.dtype.name for pixels in every}
    if wanted.dtype == "auto" and wanted.layout in ("stack", "ragged") and len(depths) > 1:
        return False
    if wanted.dtype == "uint8" and "uint16" in depths and not reduce_depth:
        return False
    if wanted.layout != "stack":
        return True
    sizes = [pixels.shape[:2] for pixels in every]
    (height, width), _, dtype = kind_of_stack(every, wanted)
    if wanted.fit in ("pad", "contain"):
        held = wanted.pad_value <= np.iinfo(dtype).max
        fits = wanted.fit == "contain" or all(h <= height and w <= width for h, w in sizes)
        return bool(held) and fits
    if wanted.fit == "crop":
        return all(h >= height and w >= width for h, w in sizes)
    return wanted.fit in ("resize", "cover") or all(size == (height, width) for size in sizes)


def could_replace(older: Sample, now: Sequence[Sample], wanted: Wanted) -> bool:
    """Whether an image of an earlier run could be in a stack that is made for others now."""
    mine = [s.pixels for s in now if not wanted.grouped or s.group == older.group]
    size, *_ = kind_of_stack([pixels for pixels in mine if pixels is not None], wanted)
    return fit_together([older], replace(wanted, size=size), reduce_depth=True)


def kind_of_stack(every: Sequence[Pixels], wanted: Wanted) -> tuple[tuple[int, int], int, str]:
    """Size, channels and type of a group of images."""
    named = {"gray": 1, "rgb": 3, "rgba": 4}
    if not every:
        dtype = "uint8" if wanted.dtype == "auto" else wanted.dtype
        return wanted.size or (1, 1), named.get(wanted.channels, 1), dtype
    needed = {channels_of(pixels) for pixels in every}
    fewest = (3 if needed & {3, 4} else 1) + bool(needed & {2, 4})
    sizes = [pixels.shape[:2] for pixels in every]
    largest = max(h for h, _ in sizes), max(w for _, w in sizes)
    commonest = max(sizes, key=lambda size: (sizes.count(size), size))
    size = wanted.size or (commonest if wanted.fit in ("crop", "cover", "contain") else largest)
    dtype = every[0].dtype.name if wanted.dtype == "auto" else wanted.dtype
    return (size[0], size[1]), named.get(wanted.channels, fewest), dtype


def group_path(name: str) -> str:
    """The HDF5 group for a name, from what interface and docs say."""
    if name == "":
        return "%"
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return "".join(
        c
        if c.isprintable() and c not in "%/"
        else "".join(f"%{byte:02X}" for byte in os.fsencode(c))
        for c in name
    )


def checksum(values: Pixels | bytes) -> int:
    if isinstance(values, bytes):
        return xxh3_64_intdigest(values)
    little = values.astype(values.dtype.newbyteorder("<"))
    return xxh3_64_intdigest(np.ascontiguousarray(little).tobytes())


def expected(
    samples: Sequence[Sample], wanted: Wanted, *, now: Sequence[Sample] | None = None
) -> dict[str, Any]:
    """Name -> values of every dataset; a tree's images under the names that they must have.

    `now`: what the files are as the last run found them, which decides what a stack's images
    become; other samples may have been stored by an earlier run. None: the same samples.
    """
    groups = sorted({s.group for s in samples}, key=os.fsencode) if wanted.grouped else [""]
    labels = [s.label for s in samples]
    classes = None if all(map(_INTEGER.fullmatch, labels)) else sorted(set(labels), key=os.fsencode)
    columns = _column([s.group for s in samples])
    arrays: dict[str, Any] = {}
    for name in groups:
        mine = [i for i, s in enumerate(samples) if not wanted.grouped or s.group == name]
        rows = [samples[i] for i in mine]
        prefix = f"{group_path(name)}/" if wanted.grouped else ""
        found = _PIXELS[wanted.layout](rows, wanted, [(now or samples)[i] for i in mine])
        good = [s.pixels is not None and not s.broken for s in rows]
        found["status"] = np.where(good, 1, 2)
        found["paths"] = _texts(s.path for s in rows)
        found["columns/group"] = columns[mine]
        if any(labels) and classes is None:
            found["labels"] = np.array([int(s.label) for s in rows])
        elif classes is not None and any(labels):
            found["labels"] = np.array([classes.index(s.label) for s in rows])
            found["label_names"] = _texts(classes)
        if wanted.grouped:
            found["samples"] = np.array(mine)
        arrays |= {prefix + key: values for key, values in found.items()}
    return arrays


_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def _column(cells: Sequence[str]) -> NDArray[Any]:
    """Integers, floats where some are missing, or text; other floats are not among the samples."""
    known = [cell for cell in cells if cell]
    if not known or not all(map(_INTEGER.fullmatch, known)):
        return _texts(cells)
    if len(known) == len(cells):
        return np.array([int(cell) for cell in cells])
    return np.array([float(cell or "nan") for cell in cells])


def _texts(values: Any) -> NDArray[Any]:
    return np.array([os.fsencode(value) for value in values], object)


def _stack(rows: Sequence[Sample], wanted: Wanted, now: Sequence[Sample]) -> dict[str, Any]:
    known = [s.pixels for s in now if s.pixels is not None]
    size, channels, dtype = kind_of_stack(known, wanted)
    shape = (*size, channels) if channels > 1 else size
    images = np.zeros((len(rows), *shape), dtype)
    sizes = np.tile(np.array(size), (len(rows), 1))
    for row, sample in enumerate(rows):
        if sample.pixels is not None and not sample.broken:
            images[row] = fitted(converted(sample.pixels, channels, dtype, wanted), size, wanted)
            sizes[row] = sample.pixels.shape[:2]
            if wanted.fit == "contain":
                sizes[row] = scaled_size(sample.pixels, size, wanted.fit)
    found = {
        "images": images,
        "checksums": np.array([checksum(image) for image in images], np.uint64),
    }
    return found | ({"sizes": sizes} if wanted.fit in ("pad", "contain") else {})


def converted(pixels: Pixels, channels: int, dtype: str, wanted: Wanted) -> Pixels:
    return with_channels(with_dtype(pixels, dtype, wanted), channels, wanted)


def _each(rows: Sequence[Sample], wanted: Wanted) -> list[Pixels]:
    """Images that keep their sizes; zeros for what fails, nothing without even a size."""
    named = {"gray": 1, "rgb": 3, "rgba": 4}
    each = []
    for sample in rows:
        if sample.pixels is None:
            each.append(np.zeros((0, 0), "uint8" if wanted.dtype == "auto" else wanted.dtype))
            continue
        channels = named.get(wanted.channels, channels_of(sample.pixels))
        dtype = sample.pixels.dtype.name if wanted.dtype == "auto" else wanted.dtype
        throwaway = Wanted(raw=wanted.raw) if sample.broken else wanted
        pixels = converted(sample.pixels, channels, dtype, throwaway)
        each.append(np.zeros_like(pixels) if sample.broken else pixels)
    return each


def _ragged(rows: Sequence[Sample], wanted: Wanted, _: Sequence[Sample]) -> dict[str, Any]:
    each = _each(rows, wanted)
    shapes = [
        (*pixels.shape[:2], channels_of(pixels)) if pixels.size else (0, 0, 0) for pixels in each
    ]
    real = [pixels.reshape(-1) for pixels in each if pixels.size]
    return {
        "images/pixels": np.concatenate(real) if real else each[0].reshape(-1),
        "images/offsets": np.cumsum([0, *(pixels.size for pixels in each)]),
        "images/shapes": np.array(shapes),
        "checksums": np.array([checksum(pixels) for pixels in each], np.uint64),
    }


def _encoded(rows: Sequence[Sample], wanted: Wanted, _: Sequence[Sample]) -> dict[str, Any]:
    each, shapes = [], []
    for sample in rows:
        data = b"" if sample.pixels is None else sample.data or b""
        each.append(bytes(len(data)) if sample.broken else data)
        known = sample.pixels
        shapes.append((0, 0, 0) if known is None else (*known.shape[:2], channels_of(known)))
    return {
        "images/data": np.frombuffer(b"".join(each), np.uint8),
        "images/offsets": np.cumsum([0, *map(len, each)]),
        "images/shapes": np.array(shapes),
        "checksums": np.array([checksum(data) for data in each], np.uint64),
    }


def _tree(rows: Sequence[Sample], wanted: Wanted, _: Sequence[Sample]) -> dict[str, Any]:
    each = _each(rows, wanted)
    names = tree_names(rows, wanted)
    prefix = f"/{group_path(rows[0].group)}" if wanted.grouped else ""
    return {
        **dict(zip(names, each, strict=True)),
        "datasets": _texts(f"{prefix}/{name}" for name in names),
        "checksums": np.array([checksum(pixels) for pixels in each], np.uint64),
    }


RESERVED = (
    "checksums",
    "chunk_checksums",
    "columns",
    "datasets",
    "label_names",
    "labels",
    "paths",
    "samples",
    "status",
)


def tree_names(rows: Sequence[Sample], wanted: Wanted) -> list[str]:
    """Path of each image within its group of the file."""
    taken, names = set(RESERVED), []
    folders: dict[str, str] = {}
    for sample in rows:
        folder = ""
        if sample.label and not wanted.grouped:
            if sample.label not in folders:
                own = group_path(sample.label)
                while own in taken:
                    own += "_1"
                folders[sample.label] = own
                taken.add(own)
            folder = folders[sample.label] + "/"
        stem = folder + group_path(os.path.splitext(os.path.basename(sample.path))[0])
        name, number = stem, 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names.append(name)
    return names


_PIXELS: dict[str, Callable[[Sequence[Sample], Wanted, Sequence[Sample]], dict[str, Any]]] = {
    "stack": _stack, "ragged": _ragged, "encoded": _encoded, "tree": _tree,
}  # fmt: skip


def write_samples(folder: Path, samples: Sequence[Sample], name: str = "manifest.tsv") -> Path:
    """Write the files and a manifest of path, label, group; return the manifest."""
    labelled = any(sample.label for sample in samples)
    lines = ["path\tlabel\tgroup\n" if labelled else "path\tgroup\n"]
    for sample in samples:
        file = folder / sample.path
        file.parent.mkdir(parents=True, exist_ok=True)
        if sample.data is not None:
            file.write_bytes(sample.data)
        cells = [sample.path, *([sample.label] if labelled else []), sample.group]
        lines.append("\t".join(cells) + "\n")
    manifest = folder / name
    manifest.write_bytes(os.fsencode("".join(lines)))
    return manifest


def assert_holds(stored: Stored, arrays: dict[str, Any]) -> None:
    """Compare every dataset, names included."""
    assert stored.arrays.keys() == arrays.keys(), stored.arrays.keys() ^ arrays.keys()
    for name in arrays:
        found, values = stored.arrays[name], arrays[name]
        assert found.shape == values.shape, (name, found.shape, values.shape)
        if name.rpartition("/")[2] not in _BESIDE:
            assert found.dtype == values.dtype, name
        np.testing.assert_array_equal(found, values, name)


_BESIDE = {*RESERVED, "group", "offsets", "shapes", "sizes"}
