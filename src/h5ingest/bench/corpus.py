"""`Corpus`: the images of a benchmark, with the pixels that every backend must give back."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
from numpy.typing import NDArray

from h5ingest.bench.machine import memory_available
from h5ingest.core.errors import SampleError, SamplesFailedError, UsageError, describe_failures
from h5ingest.core.options import MAX_PIXELS, IngestOptions
from h5ingest.core.sampling import evenly
from h5ingest.core.units import counted, size
from h5ingest.images import source_files
from h5ingest.images.decode import decode_into, probe
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.read_manifest import read_manifest

_MEMORY_SHARE = 4
"""The pixels may take 1 / this of the available memory: readers hold a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Image files, their pixels and labels."""

    files: tuple[Path, ...]
    """Absolute."""
    pixels: tuple[NDArray[Any], ...]
    """(H, W) or (H, W, C) of each, by h5ingest's decoder."""
    labels: tuple[int, ...] | None
    """Label of each image; None if there are none."""
    decoded: bool = False
    """Whether `images` gives the pixels, instead of decoding the files."""

    def __len__(self) -> int:
        return len(self.files)

    def images(self) -> Iterator[NDArray[Any]]:
        """Yield the images as a script gets them: each file read by imageio."""
        if self.decoded:
            yield from self.pixels
            return
        for file in self.files:
            yield imageio.v3.imread(file)

    def label(self, row: int) -> int:
        """Return the label of an image; 0 if there are none."""
        return 0 if self.labels is None else self.labels[row]

    def label_array(self) -> NDArray[np.int64]:
        """Return all labels, (n,)."""
        return np.array([self.label(row) for row in range(len(self))], np.int64)

    def take(self, n: int) -> Corpus:
        """Return n of the images, evenly spaced; the label of the i-th is i.

        So an image that comes back in another one's place is noticed.
        """
        rows = evenly(len(self), n)
        return Corpus(
            files=tuple(self.files[row] for row in rows),
            pixels=tuple(self.pixels[row] for row in rows),
            labels=tuple(range(n)),
        )

    @property
    def uniform(self) -> bool:
        """Whether all images have one shape and type, so that they can be stacked."""
        return len({(image.shape, image.dtype) for image in self.pixels}) == 1

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of all images."""
        return sum(image.nbytes for image in self.pixels)

    @property
    def file_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def kinds(self) -> str:
        """Sizes and types of the images, in words."""
        found = {
            f"{image.shape[1]}x{image.shape[0]}"
            f"{f'x{image.shape[2]}' if image.ndim == 3 else ' gray'} {image.dtype}"
            for image in self.pixels
        }
        shown = ", ".join(sorted(found)[:3])
        return shown if len(found) <= 3 else f"{shown} and {len(found) - 3} other kinds"

    def write_manifest(self, path: Path) -> None:
        """Write the manifest that h5ingest takes."""
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label"))
            writer.writerows((str(file), self.label(row)) for row, file in enumerate(self.files))

    def check(self, rows: Sequence[int], images: Any, labels: Any, by: str) -> int:
        """Compare every pixel and label of rows that were read, and return how many these were.

        Raises:
            AssertionError: they differ: a bug in `by`, whose times do not count.
        """
        if not len(images) == len(rows):
            raise AssertionError(f"{by}: gave {len(images):,} images of {len(rows):,}")
        for place, row in enumerate(rows):
            label = None if labels is None else int(labels[place])
            self.check_one(row, images[place], label, by)
        return len(rows)

    def check_one(self, row: int, image: NDArray[Any], label: int | None, by: str) -> None:
        """Compare one image.

        Raises:
            AssertionError: it differs.
        """
        expected = self.pixels[row]
        if image.dtype != expected.dtype or not np.array_equal(image, expected):
            raise AssertionError(f"{by}: gave other pixels than are in {self.files[row]}")
        if self.labels is not None and label != self.labels[row]:
            raise AssertionError(f"{by}: gave another label than that of {self.files[row]}")


def fast(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode the bytes of an image file as h5ingest does.

    Raises:
        SampleError: it cannot be decoded.
    """
    spec = probe(data, max_pixels=max_pixels)
    assert spec is not None, "the whole file was given"
    pixels = np.empty(spec.shape, spec.dtype)
    decode_into(data, pixels)
    return pixels


def gather(
    manifest_path: Path, options: IngestOptions, n_wanted: Callable[[int], int]
) -> tuple[Corpus, int]:
    """Read evenly spaced images of a manifest; return them and how many the manifest has.

    Args:
        manifest_path: as for an ingest.
        options: for its `root`, `delimiter` and `max_pixels`.
        n_wanted: from the number of images in the manifest to the number wanted.

    Raises:
        ManifestError: as an ingest does.
        SamplesFailedError: images cannot be read, or imageio gives other pixels than they have.
        UsageError: they do not fit into memory.
    """
    manifest, held = read_manifest(manifest_path, options, SerialComm())
    root = os.fsencode(os.path.abspath(options.root or manifest_path.parent))
    rows = evenly(manifest.n_rows, n_wanted(manifest.n_rows))
    limit = memory_available() // _MEMORY_SHARE
    files, pixels, failures, n_bytes = [], [], [], 0
    for row in rows:
        path = os.path.join(root, held.paths[row])
        try:
            pixels.append(_decode(path, options.max_pixels))
        except SampleError as error:
            failures.append(error.at(row, held.paths[row]))
            continue
        files.append(Path(os.fsdecode(path)))
        n_bytes += pixels[-1].nbytes
        if n_bytes > limit:
            raise UsageError(
                f"{len(rows):,} images are too many for the memory that is left: the pixels of "
                f"{len(files):,} take {size(n_bytes)} already"
            )
    if failures:
        raise SamplesFailedError(
            f"{counted(len(failures), 'images')} cannot be read: "
            f"{describe_failures(failures, manifest.lines_of)}",
            failures,
        )
    corpus = Corpus(files=tuple(files), pixels=tuple(pixels), labels=tuple(range(len(files))))
    return corpus, manifest.n_rows


def _decode(path: bytes, max_pixels: int) -> NDArray[Any]:
    """Return the exact pixels, which are also those that a script gets from imageio.

    Raises:
        SampleError: the image cannot be read, or imageio gives others.
    """
    data, _ = source_files.read(path)
    pixels = fast(data, max_pixels)
    by_hand = imageio.v3.imread(data)
    if by_hand.dtype != pixels.dtype or not np.array_equal(by_hand, pixels):
        raise SampleError(
            "unsupported", "imageio gives other pixels than the file has: nothing to compare with"
        )
    return pixels
