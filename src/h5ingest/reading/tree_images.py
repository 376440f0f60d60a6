"""The images of a tree: `one(row)` and `many(rows)`, as in `images`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import OutputError
from h5ingest.reading.checks import Checks, StoredChunk, chunking_of, fit_image
from h5ingest.reading.dataset_rule import StoredDataset, as_text, naming
from h5ingest.reading.forksafe_file import FileBytes, ForkSafeFile, plain_dtype
from h5ingest.reading.open_file import open_dataset, open_image
from h5ingest.reading.rows import Indices, normal
from h5ingest.reading.text import Strings
from h5ingest.reading.threads import Threads
from h5ingest.reading.unfilter import FilterPipeline

_LARGE_BYTES: Final = 256 * 1024
"""Of an image that takes ten times as long to be decoded as to be looked up, or longer."""
_TOGETHER: Final = 64
"""Images that are looked up at once."""
_MOST_KINDS: Final = 256


class _Flat(NamedTuple):
    """Where the pixels of an image lie in one piece."""

    offset: int
    """Byte of the file."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Chunk(NamedTuple):
    """The only chunk of an image, still to be decoded."""

    name: bytes
    """HDF5 path of the image."""
    mask: int
    """See `FilterPipeline.decode_into`."""
    stored: bytes
    pipeline: FilterPipeline


_Place = _Flat | _Chunk


@dataclass(slots=True, eq=False)
class Tree:
    """One dataset per image: for viewers, not for speed."""

    _handle: ForkSafeFile
    _bytes: FileBytes | None
    """The same file; None: images do not lie in it where HDF5 says, but behind a user block."""
    _prefix: str
    """HDF5 path of the group of samples."""
    _names: Strings
    """Absolute HDF5 path of each row's dataset; empty where there is none."""
    _threads: Threads
    """For the images of a batch."""
    _checks: Checks | None = None
    """Compares the pixels of each image that is read."""
    _chunk_checks: Checks | None = None
    """Compares instead the bytes of an image's only chunk, before they are decoded."""
    _filters: str | None = None
    """Those of chunks that have checksums, see `fit_image`; None: they have not been looked up."""
    _groups: set[bytes] = field(default_factory=set)
    """Paths of groups that are of this file."""
    _pipeline: Callable[..., FilterPipeline] = field(
        default_factory=lambda: functools.lru_cache(_MOST_KINDS)(FilterPipeline)
    )
    """Makes that of a kind of images once."""

    def one(self, row: int) -> NDArray[Any]:
        """Return the image; (0, 0) where there is none."""
        return self.many(np.array([normal(row, len(self._names))], np.intp))[0]

    def many(self, rows: Indices | slice) -> list[NDArray[Any]]:
        """Return the images in the order asked."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self._names)), dtype=np.intp)
        asked = list(zip(rows.tolist(), self._names.raw(rows), strict=True))
        images: list[NDArray[Any]] = []
        for start in range(0, len(asked), _TOGETHER):
            images += self._some(asked[start : start + _TOGETHER])
        return images

    def stored(self, row: int) -> StoredChunk | None:
        """See `StoredGroup.stored`."""
        name = self._names.raw(np.array([row]))[0]
        with self._handle as file:
            dataset = open_image(file, name, self._groups)
            checks = self._checks_of_chunk(dataset)
            first = (0,) * len(dataset.shape)
            return None if checks is None else StoredChunk.read(dataset, first, row, checks)

    def _some(self, asked: list[tuple[int, bytes]]) -> list[NDArray[Any]]:
        """Return images by row and name, at least one.

        They are looked up at once, while other threads wait for HDF5. If they seem to be large and
        coded, each is looked up by the thread that decodes it: meanwhile the others decode theirs.
        """
        images: list[NDArray[Any]] = [np.empty(0)] * len(asked)
        with self._handle as file:
            first = self._look_up(file, *asked[0])
            found = [first]
            if not (isinstance(first, _Chunk) and first.pipeline.chunk_bytes >= _LARGE_BYTES):
                found += [self._look_up(file, *each) for each in asked[1:]]

        def load(place: int) -> None:
            if place < len(found):
                image = found[place]
            else:
                with self._handle as file:
                    image = self._look_up(file, *asked[place])
            images[place] = self._load(asked[place][0], image)

        n_bytes = sum(each.pipeline.chunk_bytes for each in found if isinstance(each, _Chunk))
        self._threads.each(load, range(len(asked)), n_bytes * len(asked) // len(found))
        return images

    def _look_up(self, file: h5py.File, row: int, name: bytes) -> NDArray[Any] | _Place:
        """Return where an image lies, or what only HDF5 can read of it."""
        if not name:
            return np.zeros((0, 0), np.uint8)
        dataset = open_image(file, name, self._groups)
        if dataset.offset is not None and self._bytes is not None:
            return _Flat(dataset.offset, dataset.shape, plain_dtype(dataset.dtype))
        with naming(file, name):
            checks = self._checks_of_chunk(dataset)
            if checks is None:
                pixels: NDArray[Any] = dataset[()]
                if self._checks is not None:
                    self._checks.one(row, pixels)
                return pixels
            mask, stored = dataset.id.read_direct_chunk((0,) * len(dataset.shape))
            pipeline = self._pipeline((1, *dataset.shape), dataset.dtype, dataset.filters)
            if not pipeline.native:
                checks.one(row, stored)
                return dataset[()]  # type: ignore[no-any-return]
            return _Chunk(name, mask, stored, pipeline)

    def _checks_of_chunk(self, image: StoredDataset) -> Checks | None:
        """Return what compares the only chunk of an image; None: it has none, or no checksum."""
        if self._chunk_checks is None:
            return None
        if self._filters is None:
            with self._handle as file:
                sums = open_dataset(file, schema.CHUNK_CHECKSUMS, self._prefix)
                self._filters = "" if sums is None else chunking_of(sums) or ""
        return self._chunk_checks if fit_image(self._filters, image) else None

    def _load(self, row: int, found: NDArray[Any] | _Place) -> NDArray[Any]:
        """Return an image that has been looked up."""
        if isinstance(found, _Flat):
            assert self._bytes is not None, "else it is read by HDF5"
            flat = self._bytes.read(found.offset, math.prod(found.shape), found.dtype)
            if self._checks is not None:
                self._checks.one(row, flat)
            return flat.reshape(found.shape)
        if not isinstance(found, _Chunk):
            return found
        assert self._chunk_checks is not None, "else it is read by HDF5"
        self._chunk_checks.one(row, found.stored)
        pixels = np.empty(found.pipeline.chunk_shape, found.pipeline.dtype)
        try:
            found.pipeline.decode_into(found.mask, found.stored, pixels)
        except ValueError as error:
            what = f"{self._handle.path}: {as_text(found.name)}"
            raise OutputError(f"{what} is damaged: {error}") from None
        return pixels[0]  # type: ignore[no-any-return]  # an array
