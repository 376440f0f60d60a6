"""Images for a machine without ../shared: in the same folders, of the same kinds, but fewer.

What scikit-image brings are real photographs; everything else is drawn, the same every time. The
references beside them are not by h5ingest: what was drawn, and what Pillow and pypng read.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

Pixels = NDArray[Any]

_SIZES: Final = ((1, 1), (1, 9), (3, 5), (8, 8), (9, 13), (32, 32))
_PNG_FORMATS: Final = ((0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2),
                       (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16))  # fmt: skip
"""(colour type, bit depth): all that PNG has."""
_FEW_PIXELS: Final = 50_000
"""That pypng, which is pure Python, decodes quickly."""
_PLANES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_TRANSPARENT: Final = ((0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 4), (3, 8))
_PHOTOGRAPHS: Final = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left", "rocket")
_COLUMNS: Final = ("path", "height", "width", "raw_status", "raw_planes", "raw_sha256",
                   "rgba8_sha256")  # fmt: skip


def draw(folder: Path) -> None:
    """Make all corpora in an empty folder: 5 seconds, 40 MB."""
    for make in (_conformance, _photographs, _depth, _pictures, _strokes, _masks, _icons, _digits):
        make(folder)


def _write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")


def _refer(folder: Path, known: dict[str, Pixels], corrupt: tuple[str, ...] = ()) -> None:
    """Write reference.csv; `known` has the samples of some files, (H, W, planes), unscaled."""
    with (folder / "reference.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, _COLUMNS)
        table.writeheader()
        for file in sorted(folder.rglob("*.png")):
            path = str(file.relative_to(folder))
            if path in corrupt:
                table.writerow({"path": path, "raw_status": "error"})
                continue
            with Image.open(file) as image:
                row: dict[str, Any] = {"path": path, "height": image.height, "width": image.width}
                row["rgba8_sha256"] = hashlib.sha256(image.convert("RGBA").tobytes()).hexdigest()
            if path in known:
                samples = known[path]
                little = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
                row |= {"raw_status": "ok", "raw_planes": samples.shape[2]}
                row["raw_sha256"] = hashlib.sha256(little).hexdigest()
            table.writerow(row)


# --- every kind of PNG, and files that are none -----------------------------------------------


def _conformance(corpora: Path) -> None:
    folder = corpora / "pngsuite"
    (folder / "png").mkdir(parents=True)
    (folder / "README.md").write_text("Drawn: every kind of PNG; those named x* are corrupt.\n")
    known: dict[str, Pixels] = {}
    random = np.random.default_rng(15)
    for number, (kind, interlace) in enumerate(_kinds()):
        size, colour, depth, transparent = kind
        samples = _samples(random, size, colour, depth)
        how: dict[str, Any] = {"greyscale": colour in (0, 4), "alpha": colour in (4, 6)}
        if colour == 3:
            entries = random.integers(0, 256, (2**depth, 4 if transparent else 3))
            how = {"palette": [tuple(map(int, entry)) for entry in entries]}
        elif transparent:
            clear = tuple(map(int, samples[0, 0]))
            how["transparent"] = clear[0] if colour == 0 else clear
        name = f"png/{'bi'[interlace]}{number:03}c{colour}d{depth}{'t' * transparent}.png"
        with (folder / name).open("wb") as stream:
            writer = png.Writer(size[1], size[0], bitdepth=depth, interlace=bool(interlace), **how)
            writer.write_array(stream, samples.ravel().tolist())
        known[name] = samples
    for name, data in _corrupt((folder / "png" / "b160c2d8.png").read_bytes()).items():
        (folder / "png" / f"{name}.png").write_bytes(data)
    corrupt = tuple(f"png/{file.name}" for file in (folder / "png").glob("x*"))
    _refer(folder, known, corrupt)


def _kinds() -> Iterator[tuple[tuple[tuple[int, int], int, int, bool], int]]:
    """((size, colour type, depth, with tRNS), interlaced)."""
    for size, (colour, depth), interlace in itertools.product(_SIZES, _PNG_FORMATS, (0, 1)):
        yield (size, colour, depth, False), interlace
    for (colour, depth), interlace in itertools.product(_TRANSPARENT, (0, 1)):
        yield ((9, 13), colour, depth, True), interlace


def _samples(random: np.random.Generator, size: tuple[int, int], colour: int, depth: int) -> Pixels:
    """(H, W, planes) smooth and noisy parts, of the whole range."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    ramp = (x * 3 + y * 5)[:, :, None] * np.arange(1, _PLANES[colour] + 1) * (2**depth // 16 + 1)
    noise = random.integers(0, 2**depth, ramp.shape)
    samples: Pixels = np.where((x < width // 2)[:, :, None], ramp, noise) % 2**depth
    return samples.astype(np.uint16 if depth == 16 else np.uint8)


def _corrupt(good: bytes) -> dict[str, bytes]:
    """What the PNG suite damages: its signature, its header, its pixels."""

    def header(at: int, value: int) -> bytes:
        ihdr = bytearray(good[12:29])
        ihdr[at] = value
        return good[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + good[33:]

    begin = good.index(b"IDAT") - 4
    end = begin + 12 + int.from_bytes(good[begin : begin + 4], "big")
    depth, colour = 12, 13
    return {
        "xs1": b"\x88" + good[1:],
        "xs2": good[:1] + b"Q" + good[2:],
        "xs4": good[:3] + b"g" + good[4:],
        "xs7": good[:7] + b"\x0b" + good[8:],
        "xcr": good.replace(b"\r\n", b"\r"),
        "xlf": good.replace(b"\r\n", b"\n"),
        "xhd": good[:29] + bytes(4) + good[33:],
        "xc1": header(colour, 1),
        "xc9": header(colour, 9),
        "xd0": header(depth, 0),
        "xd3": header(depth, 3),
        "xd9": header(depth, 99),
        "xdt": good[:begin] + good[end:],
        "xcs": good[: end - 4] + bytes(4) + good[end:],
    }


# --- photographs ------------------------------------------------------------------------------


def _of_scikit_image() -> list[Path]:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-image is not installed (extra 'test')")
    return sorted(Path(found.origin).with_name("data").glob("*.*"))


def _photographs(corpora: Path) -> None:
    """24 of 768x512 and 512x768, RGB: parts of those that scikit-image brings."""
    folder = corpora / "kodak"
    known = {}
    files = [file for file in _of_scikit_image() if file.stem in _PHOTOGRAPHS]
    assert len(files) == len(_PHOTOGRAPHS)
    for number, (file, part) in enumerate(itertools.product(files, range(4))):
        size = (512, 768) if number % 4 == 3 else (768, 512)
        with Image.open(file) as image:
            centre = (part % 2, part // 2)
            whole = ImageOps.fit(
                image.convert("RGB"), size, Image.Resampling.BICUBIC, bleed=0.1, centering=centre
            )
        _write(folder / f"{number:02}.png", whole)
        known[f"{number:02}.png"] = np.asarray(whole)
    _refer(folder, known)


def _pictures(corpora: Path) -> None:
    """What scikit-image brings as PNG: gray, RGB, RGBA, 8 and 16 bits, of many sizes."""
    folder = corpora / "scikit_image"
    folder.mkdir()
    known = {}
    for file in _of_scikit_image():
        if file.suffix == ".png":
            data = file.read_bytes()
            (folder / file.name).write_bytes(data)
            width, height, rows, info = png.Reader(bytes=data).read()
            if width * height <= _FEW_PIXELS:
                dtype = np.uint16 if info["bitdepth"] == 16 else np.uint8
                samples = np.array([list(row) for row in rows], dtype)
                known[file.name] = samples.reshape(height, width, -1)
    _refer(folder, known)


# --- drawn ------------------------------------------------------------------------------------


def _depth(corpora: Path) -> None:
    """Nine depth maps, 16-bit gray, 640x480, with holes; five others of 8 bits."""
    folder = corpora / "depth16_open3d"
    known = {}
    y, x = np.mgrid[:480, :640]
    for number in range(9):
        wave = np.sin(x / (40 + number)) + np.cos(y / 30 - number) + 2
        depth = (wave * 16_000 + x + y * 3).astype(np.uint16)
        depth[(x // 50 + y // 40 + number) % 7 == 0] = 0
        _write(folder / f"depth-{number}.png", Image.fromarray(depth))
        known[f"depth-{number}.png"] = depth[:, :, None]
    for number, planes in enumerate((1, 1, 3, 3, 4)):
        texture = (x[:, :, None] * (np.arange(planes) + 1) ^ y[:, :, None]).astype(np.uint8)
        _write(folder / f"texture-{number}.png", Image.fromarray(texture.squeeze()))
        known[f"texture-{number}.png"] = texture
    _refer(folder, known)


def _strokes(corpora: Path) -> None:
    """One bit, 105x105: what a pen draws."""
    folder = corpora / "omniglot"
    known = {}
    random = np.random.default_rng(16)
    for number in range(60):
        image = Image.new("1", (105, 105), 1)
        points = [tuple(map(int, point)) for point in random.integers(10, 95, (5, 2))]
        ImageDraw.Draw(image).line(points, fill=0, width=3)
        path = f"alphabet{number % 3}/{number:04}.png"
        _write(folder / path, image)
        known[path] = np.asarray(image)[:, :, None].astype(np.uint8)
    _refer(folder, known)


def _masks(corpora: Path) -> None:
    """Palettes: where things are in the frames of a film."""
    for number in range(8):
        image = Image.new("P", (854, 480), 0)
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        pen = ImageDraw.Draw(image)
        for thing in (1, 2, 3):
            left = 60 * thing + 20 * number
            pen.ellipse((left, 50 * thing, left + 150, 50 * thing + 200), fill=thing)
        _write(corpora / "davis_palette" / f"film{number % 2}" / f"{number:05}.png", image)


def _icons(corpora: Path) -> None:
    """RGBA, 32x32, with soft borders."""
    for number in range(60):
        large = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
        colour = (37 * number % 256, 91 * number % 256, 11 * number % 256, 255)
        ImageDraw.Draw(large).regular_polygon((64, 64, 60), 3 + number % 6, number, fill=colour)
        _write(corpora / "emoji32" / f"{number:02}.png", large.resize((32, 32)))


def _digits(corpora: Path) -> None:
    """28x28 gray: 300 of each digit, which fill tables of 10,000 and of 60,000 rows."""
    folder = corpora / "mnist"
    random = np.random.default_rng(17)
    rows = []
    for number in range(3000):
        digit = number % 10
        image = Image.new("L", (28, 28))
        ImageDraw.Draw(image).text((9, 3), str(digit), fill=255, font_size=20)
        turned = image.rotate(int(random.integers(-25, 25)), Image.Resampling.BILINEAR)
        noise = random.integers(0, 8, (28, 28), np.uint8)
        path = f"test/{digit}/{number:05}.png"
        _write(folder / path, Image.fromarray(np.maximum(np.asarray(turned), noise)))
        rows.append(f"{path},{digit}\n")
    for name, n_rows in (("test.csv", 10_000), ("train.csv", 60_000)):
        table = itertools.islice(itertools.cycle(rows), n_rows)
        (folder / name).write_text("filepath,label\n" + "".join(table))
