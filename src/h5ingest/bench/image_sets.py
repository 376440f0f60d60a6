"""The images of `bench scaling`: a user's or drawn ones, with manifests of all and of some of them.

May not: measure, start ranks.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from h5ingest.bench.scaling_report import Images
from h5ingest.bench.synthetic import Shape, write_images
from h5ingest.core.errors import OutputError
from h5ingest.core.manifest import blocks
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import size
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.read_manifest import read_manifest

_IMAGE_S: Final = 3e-5
_BYTE_S: Final = 1e-8
"""CPU seconds per image and per byte of pixels, roughly: for the default of --images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images, and manifests of all and of some of them."""

    images: Images
    root: Path
    manifests: dict[int, Path]
    """Number of images -> manifest."""
    digests: dict[int, str] = field(default_factory=dict)
    """Number of images -> content digest of their file, once it is known to be right."""


def image_sets(
    source: Path | Sequence[Shape],
    options: IngestOptions,
    work: Path,
    most_ranks: int,
    n_wanted: int | None,
    sizes: Callable[[int], Sequence[int]],
) -> Iterator[ImageSet]:
    """Yield the sets of images, with their manifests in `work`.

    Args:
        source: a manifest, or sizes of images to draw.
        options: for a manifest's `root` and `delimiter`.
        work: an existing folder.
        most_ranks: the largest number of ranks that will ingest them.
        n_wanted: images; None: all of a manifest, about a second's work per rank of drawn ones.
        sizes: from the images of a set to the numbers of images that manifests are needed for.

    Raises:
        IngestError: the manifest is wrong, or drawn images might not fit on the disk.
    """
    if isinstance(source, Path):
        manifest, _ = read_manifest(source, options, SerialComm())
        n = min(manifest.n_rows, n_wanted or manifest.n_rows)
        some = "" if n == manifest.n_rows else f", {n:,} of them taken evenly"
        about = f"{manifest.n_rows:,} images of a manifest{some}"
        root = Path(os.path.abspath(options.root or source.parent))
        start = manifest.dialect.body_start
        yield _set(source.name, about, source, start, manifest.n_rows, n, root, work, sizes)
        return
    for shape in source:
        cost_s = _IMAGE_S + _BYTE_S * shape.n_bytes
        n = n_wanted or _round(most_ranks / cost_s)
        _check_space(work, shape, n)
        manifest_path, n_files = write_images(work / f"images-{shape}", shape, n)
        again = f", listed again until they are {n:,}" if n_files < n else ""
        about = f"{n_files:,} drawn images{again}"
        yield _set(str(shape), about, manifest_path, 0, n, n, manifest_path.parent, work, sizes)


def _round(value: float) -> int:
    """Return a number rounded to two significant digits, at least 1.

    >>> _round(143_210.7), _round(7.3)
    (140000, 7)
    """
    return max(1, int(float(f"{value:.2g}")))


def _set(
    name: str, about: str, manifest: Path, start: int, n_rows: int, n: int, root: Path, work: Path,
    sizes: Callable[[int], Sequence[int]],
) -> ImageSet:  # fmt: skip
    """Prepare n of the images of a manifest, whose first line begins at byte `start`."""
    manifests = {}
    for k in sizes(n):
        manifests[k] = manifest
        if k < n_rows:
            manifests[k] = work / f"{name}-{k}{manifest.suffix}"
            write_some(manifest, start, n_rows, k, manifests[k])
    return ImageSet(
        images=Images(name=name, n_images=n, about=about), root=root, manifests=manifests
    )


def write_some(manifest: Path, start: int, n_rows: int, n_wanted: int, path: Path) -> None:
    """Write a manifest with some of the lines of another, taken evenly.

    Args:
        manifest: a valid one.
        start: byte offset of its first image.
        n_rows: images in it.
        n_wanted: lines to write; at most `n_rows`.
        path: the file to write, with the suffix of `manifest`, which decides how it is parsed.
    """
    stop = manifest.stat().st_size
    row = 0
    with manifest.open("rb") as file, path.open("wb") as some:
        some.write(file.read(start))
        for block in blocks(file, start, stop):
            for line in io.BytesIO(block):
                if not line.isspace():
                    if (row + 1) * n_wanted // n_rows > row * n_wanted // n_rows:
                        some.write(line)
                    row += 1


def _check_space(folder: Path, shape: Shape, n_images: int) -> None:
    free = shutil.disk_usage(folder).free
    needed = 2 * n_images * shape.n_bytes + 4096 * n_images
    if free < needed:
        raise OutputError(
            f"--out {folder.parent}: {size(free)} free, {size(needed)} might be needed for "
            f"{n_images:,} images of {shape}: fewer with --images"
        )
