"""The readers of `bench read`, and the files they read, which are made beforehand.

May not: measure.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.bench.backends import FileReader, LmdbFiles, LmdbRaw, Reader, Samples
from h5ingest.bench.corpus import Corpus, fast, gather
from h5ingest.bench.hdf5 import DatasetPerImage, Ingested, Stacked, StackReader, StoreReader
from h5ingest.bench.machine import memory_available
from h5ingest.bench.readers import (
    DataLoaderReader,
    FileDataset,
    InProcessReader,
    MeasuredReader,
    Order,
)
from h5ingest.core.errors import UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB, size
from h5ingest.reading.store import ImageStore

CODEC: Final = "zstd:3"
_SLICE: Final = 1024


def from_manifest(
    manifest: Path, options: IngestOptions, n_wanted: int, work: Path
) -> tuple[Corpus, int, list[tuple[str, str, Path]]]:
    """Return some images of a manifest, how many it has, and files of h5ingest made from them.

    Each file is (key, name, path).
    """
    corpus, n_images = gather(manifest, options, lambda n: min(n, n_wanted))
    stores = []
    for codec, key in ((None, "raw"), (CODEC, "zstd")):
        path = work / f"{key}.h5"
        Ingested(codec, uniform=corpus.uniform).store(corpus, path)
        stores.append((f"h5ingest-{key}", f"ImageStore, {codec or 'uncompressed'}", path))
    return replace(corpus, decoded=True), n_images, stores


def from_file(
    out: Path, group: str | None, n_wanted: int, work: Path
) -> tuple[Corpus, int, list[tuple[str, str, Path]]]:
    """Return what `from_manifest` does, of a file of h5ingest: its first images, and the file.

    The images become PNG files too.
    """
    import imagecodecs

    pixels: list[NDArray[Any]] = []
    with ImageStore(out, group=group) as store:
        n_images, labels = len(store), store.labels
        n = min(n_images, n_wanted)
        limit, taken = memory_available() // 4, 0
        for start in range(0, n, _SLICE):
            pixels.extend(store[start : min(start + _SLICE, n)][0])
            taken += sum(image.nbytes for image in pixels[start:])
            if taken > limit:
                raise UsageError(f"--images: the pixels of {len(pixels):,} take {size(taken)}")
    folder = work / "png"
    folder.mkdir()
    files = tuple(folder / f"{row}.png" for row in range(n))
    for file, image in zip(files, pixels, strict=True):
        file.write_bytes(imagecodecs.png_encode(image))
    corpus = Corpus(
        files=files, pixels=tuple(pixels), decoded=True,
        labels=None if labels is None else tuple(labels[:n].tolist()),
    )  # fmt: skip
    return corpus, n_images, [("h5ingest-file", f"ImageStore, {out.name}", out)]


def lineup(
    corpus: Corpus, stores: list[tuple[str, str, Path]], group: str | None, work: Path
) -> Iterator[MeasuredReader]:
    """Make the files that each reader needs, and yield the readers, from slow to fast."""
    order = Order.of(len(corpus))
    exact_by_pillow = all(i.dtype == np.uint8 or i.ndim == 2 for i in corpus.pixels)
    files = [str(file) for file in corpus.files]
    labels = corpus.label_array()
    what = "PNG files" if all(file.lower().endswith(".png") for file in files) else "image files"
    if exact_by_pillow:
        yield InProcessReader(
            "png", f"{what}, Pillow", "Image.open and np.array",
            lambda: FileReader(files.__getitem__, labels, None), order,
        )  # fmt: skip
    yield InProcessReader(
        "png-fast", f"{what}, fast decoder", "read, decoded by imagecodecs as h5ingest does",
        lambda: FileReader(files.__getitem__, labels, fast), order,
    )  # fmt: skip
    for key, name, backend in (
        ("lmdb-files", "LMDB, files' bytes, fast decoder", LmdbFiles(fast)),
        ("lmdb-raw", LmdbRaw.name, LmdbRaw()),
        ("hdf5-loop", "h5py by hand, a dataset per image", DatasetPerImage()),
        ("hdf5-stack", "h5py by hand, one dataset", Stacked()),
    ):
        if corpus.uniform or key != "hdf5-stack":
            place = work / key
            backend.store(corpus, place)
            yield InProcessReader(key, name, backend.how, partial(backend.open, place), order)
    for key, name, path in stores:
        yield from _of_store(key, name, path, group, corpus, order)
    if importlib.util.find_spec("torch") is not None:
        yield from _loaders(stores[0], group, corpus, order, what if exact_by_pillow else "")


def _of_store(
    key: str, name: str, path: Path, group: str | None, corpus: Corpus, order: Order
) -> Iterator[MeasuredReader]:
    """Yield the readers of a file of h5ingest: h5py's own indexing, a memory map, `ImageStore`."""
    prefix = f"{group}/" if group else ""
    what = name.removeprefix("ImageStore, ")
    with h5py.File(path, "r") as file:
        stacked = isinstance(file[f"{prefix}images"], h5py.Dataset)
        filtered = stacked and file[f"{prefix}images"].id.get_create_plist().get_nfilters() > 0
        offset = _offset(file[f"{prefix}images"]) if stacked and not filtered else None
    if stacked and filtered:
        yield InProcessReader(
            f"h5py-{key}", f"h5py's own indexing, {what}",
            "dataset[row] with h5py's default cache, of the chunks that h5ingest wrote",
            lambda: StackReader(path, prefix), order,
        )  # fmt: skip
    if offset is not None:
        bare = InProcessReader(
            "memmap", "numpy.memmap, bare", "the pixels at their offset in the file, no labels",
            lambda: _MapReader(path, offset, corpus), order,
        )  # fmt: skip
        bare.labelled = False
        yield bare
    yield InProcessReader(
        key, name, f"a file of h5ingest ({what})", lambda: StoreReader(path, group=group), order
    )
    if filtered:
        most = max(corpus.pixel_bytes // 8, MIB // 2)
        yield InProcessReader(
            f"{key}-small", f"{name}, cache of an eighth",
            f"with cache_bytes={size(most)}, an eighth of the pixels, as where memory is short",
            lambda: StoreReader(path, group=group, cache_bytes=most), order,
        )  # fmt: skip


def _loaders(
    store: tuple[str, str, Path], group: str | None, corpus: Corpus, order: Order,
    what: str,
) -> Iterator[MeasuredReader]:  # fmt: skip
    from h5ingest.torch import ImageDataset

    if what:
        files = [str(file) for file in corpus.files]
        reader = FileReader(files.__getitem__, corpus.label_array(), None)
        dataset = FileDataset(reader, len(corpus), uniform=corpus.uniform)
        yield DataLoaderReader(
            "loader-png", f"DataLoader, 2 processes, {what}", "Pillow, image by image",
            order, dataset, whole_batches=False,
        )  # fmt: skip
    _, name, path = store
    if corpus.labels is not None:
        yield DataLoaderReader(
            "loader-store", f"DataLoader, 2 processes, {name}", "ImageDataset, whole batches",
            order, ImageDataset(ImageStore(path, group=group)), whole_batches=True,
        )  # fmt: skip


def _offset(dataset: Any) -> int | None:
    """Return the byte offset of the pixels if they are contiguous in the file, else None."""
    if dataset.chunks is None:
        found: int | None = dataset.id.get_offset()
        return found
    row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    chunks = [dataset.id.get_chunk_info(place) for place in range(dataset.id.get_num_chunks())]
    starts = {chunk.byte_offset - chunk.chunk_offset[0] * row_bytes for chunk in chunks}
    return starts.pop() if len(starts) == 1 and dataset.chunks[1:] == dataset.shape[1:] else None


class _MapReader(Reader):
    """Pixels by numpy alone: the upper limit of what a reader can reach."""

    def __init__(self, path: Path, offset: int, corpus: Corpus) -> None:
        first = corpus.pixels[0]
        shape = (len(corpus), *first.shape)
        self._map: NDArray[Any] = np.memmap(path, first.dtype, "r", offset, shape)

    def one(self, row: int) -> tuple[NDArray[Any], Any]:
        return self._map[row].copy(), None

    def many(self, rows: NDArray[np.intp]) -> Samples:
        return self._map[rows], None

    def span(self, start: int, stop: int) -> Samples:
        return self._map[start:stop].copy(), None
