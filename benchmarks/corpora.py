"""The three corpora of `make bench`: small gray images, small colour images, photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from h5ingest.bench.synthetic import parse_shape, write_images
from h5ingest.core.sampling import evenly

N_LISTED: Final = 10
"""Times that each photograph is listed."""
_SIDE: Final = 32
_STEP: Final = 16
"""Tiles of photographs: their side, and from one to the next, so that they overlap by half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Image files, all of one size, and a manifest."""

    name: str
    manifest: Path
    """A path a line."""
    about: str
    """What the images are."""
    paths: tuple[Path, ...]
    """As in the manifest."""
    file_bytes: int
    """Of the files as listed."""


def prepare(data: Path | None, work: Path, n_small: int) -> list[Corpus]:
    """Return the corpora; what `data` does not have is drawn.

    Args:
        data: folder with `mnist`, `cifar`, `kodak`, each with PNG files at any depth.
        work: where manifests and images are made that are not there yet.
        n_small: images of MNIST, and of the size of CIFAR's.
    """
    work.mkdir(parents=True, exist_ok=True)
    photographs = _files(data, "kodak")
    return [
        _mnist(_files(data, "mnist"), n_small, work),
        _cifar(_files(data, "cifar"), photographs, n_small, work),
        _kodak(photographs, work),
    ]


def _mnist(files: list[Path], n: int, work: Path) -> Corpus:
    if not files:
        return _drawn("MNIST", "28x28x1", n, 1, work)
    taken = [files[row] for row in evenly(len(files), n)]
    return _corpus("MNIST", f"{len(taken):,} 28x28 gray images of MNIST", taken, work)


def _cifar(files: list[Path], photographs: list[Path], n: int, work: Path) -> Corpus:
    if files:
        taken = [files[row] for row in evenly(len(files), n)]
        about = f"{len(taken):,} 32x32 RGB images of {len(files):,} files called cifar"
        return _corpus("CIFAR-size", about, taken, work)
    if not photographs:
        return _drawn("CIFAR-size", "32x32x3", n, 1, work)
    cut = tiles(photographs, work / "tiles")
    listed = [cut[row % len(cut)] for row in range(n)]
    about = (
        f"{n:,} 32x32 RGB images: {len(cut):,} tiles of {len(photographs)} photographs reduced "
        f"to half their size, listed in turn"
    )
    return _corpus("CIFAR-size", about, listed, work)


def _kodak(photographs: list[Path], work: Path) -> Corpus:
    if not photographs:
        return _drawn("photographs", "512x768x3", 24 * N_LISTED, N_LISTED, work)
    sizes = Counter(size for path in photographs for size in [_size(path)])
    size, n = sizes.most_common(1)[0]
    upright = [path for path in photographs if _size(path) == size]
    about = (
        f"{n * N_LISTED} RGB photographs of {size[0]}x{size[1]}: the {n} of that size among "
        f"{len(photographs)} of Kodak, listed {N_LISTED} times"
    )
    return _corpus("photographs", about, upright * N_LISTED, work)


def _files(data: Path | None, name: str) -> list[Path]:
    return sorted((data / name).absolute().rglob("*.png")) if data is not None else []


def _size(path: Path) -> tuple[int, int]:
    """Return width and height."""
    with Image.open(path) as image:
        return image.size


def tiles(photographs: Iterable[Path], folder: Path) -> list[Path]:
    """Return small images cut out of photographs reduced to half their size; made if need be."""
    if not folder.exists():
        beside = folder.with_name("tiles.partial")
        beside.mkdir(exist_ok=True)
        for path in photographs:
            with Image.open(path) as image:
                half = image.convert("RGB").reduce(2)
            for y in range(0, half.height - _SIDE + 1, _STEP):
                for x in range(0, half.width - _SIDE + 1, _STEP):
                    tile = half.crop((x, y, x + _SIDE, y + _SIDE))
                    tile.save(beside / f"{path.stem}-{y}-{x}.png")
        beside.rename(folder)
    return sorted(folder.glob("*.png"))


def _drawn(name: str, size: str, n_images: int, n_listed: int, work: Path) -> Corpus:
    folder = work / f"drawn-{size}"
    n = n_images // n_listed
    if not folder.exists():
        beside = work / f"drawn-{size}.partial"
        write_images(beside, parse_shape(size), n)
        beside.rename(folder)
    files = sorted(folder.glob("*.png"))
    again = f", listed {n_listed} times" if n_listed > 1 else ""
    about = f"{n * n_listed:,} images of {size}: {len(files):,} drawn by h5ingest{again}"
    return _corpus(name, about, [files[row % len(files)] for row in range(n_images)], work)


def _corpus(name: str, about: str, paths: Sequence[Path], work: Path) -> Corpus:
    manifest = work.absolute() / f"{name}.txt"
    manifest.write_text("".join(f"{path.absolute()}\n" for path in paths))
    sizes = {path: path.stat().st_size for path in set(paths)}
    file_bytes = sum(sizes[path] for path in paths)
    about = f"{about}; {file_bytes / len(paths):,.0f} bytes a file"
    return Corpus(
        name=name,
        manifest=manifest,
        about=about,
        paths=tuple(path.absolute() for path in paths),
        file_bytes=file_bytes,
    )
