"""What is said of the images of a file: how many, of what kind, how they are stored."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from h5ingest.core import schema
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS, LayoutKind
from h5ingest.core.lists import Lists
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.units import counted, size
from h5ingest.inspect.filter_names import filter_names
from h5ingest.reading.open_file import open_dataset
from h5ingest.reading.selection import flat
from h5ingest.reading.store import ImageStore


def about_images(
    store: ImageStore, file: h5py.File, prefix: str, recode: object
) -> Iterator[tuple[str, str]]:
    """Yield how many images there are and of what kind, and how they are stored."""
    yield images(store), ""
    yield from ((line, "") for line in store.stats.in_words())
    if store.sizes is not None and len(store):
        low, high = np.asarray(store.sizes).min(axis=0), np.asarray(store.sizes).max(axis=0)
        yield f"heights {low[0]:,} to {high[0]:,}, widths {low[1]:,} to {high[1]:,}", ""
    if KINDS[store.layout].dataset_per_image:
        yield "one dataset each", ""
        return
    pixels = open_dataset(file, schema.PIXELS[store.layout], prefix)
    assert pixels is not None, "the store has looked"
    yield _storage(pixels, KINDS[store.layout], recode), ""


def images(store: ImageStore) -> str:
    """Return how many images there are, of what kind, and how many failed."""
    n_failed = int((store.status != STATUS_OK).sum())
    return f"{counted(len(store), 'images')}{of_kind(store)}, {failed(n_failed)}"


def of_kind(store: ImageStore) -> str:
    """Return what size and type all images have; empty: they differ."""
    shape, dtype = store.shape[1:], store.dtype
    return f" of {ImageSpec.of(shape, dtype)}" if shape and dtype is not None else ""


def failed(n: int) -> str:
    """Return how many failed."""
    return f"{n:,} failed" if n else "none failed"


def classes(store: ImageStore) -> str:
    """Return how many classes there are, after a comma; empty: there are no labels."""
    if store.labels is None:
        return ""
    each = " (any number each)" if isinstance(store.labels, Lists) else ""
    return f", {counted(len(np.unique(flat(store.labels))), 'classes')}{each}"


def _storage(dataset: h5py.Dataset, kind: LayoutKind, recode: object) -> str:
    """Return chunks, filters, bytes and ratio of the dataset with the pixels."""
    pixels, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    parts = ["contiguous"]
    if dataset.chunks:
        rows = dataset.chunks[0]
        n_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        each = counted(rows, "images" if kind.uniform else "elements")
        parts = [f"{counted(-(-dataset.shape[0] // rows), 'chunks')} of {each} ({size(n_bytes)})"]
    filters = filter_names(dataset)
    parts.append(" + ".join(filters) if filters else "no filter")
    if kind.keeps_files:
        what = f"{size(pixels)} of image files"
        how = f", recoded as {recode} where that is smaller" if recode else " as they were"
        parts.append(what + how)
    elif filters:
        ratio = f", {pixels / stored:.1f} times smaller" if stored else ""
        parts.append(f"{size(pixels)} of pixels in {size(stored)}{ratio}")
    else:
        parts.append(f"{size(pixels)} of pixels")
    return ", ".join(parts)
