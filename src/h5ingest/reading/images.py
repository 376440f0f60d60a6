"""The images of a file in each layout: `one(row)` and `many(rows)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError, SampleError
from h5ingest.images import decode, htj2k
from h5ingest.reading import coded_images
from h5ingest.reading.checks import Checks, fit_image
from h5ingest.reading.dataset_rule import as_text, most_bytes, naming
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.open_file import open_image
from h5ingest.reading.rows import Indices, Rows, all_normal, normal
from h5ingest.reading.text import Strings
from h5ingest.reading.threads import Threads
from h5ingest.reading.unfilter import FilterPipeline

Batch = NDArray[Any] | list[NDArray[Any]]
"""(n, H, W) or (n, H, W, C) where all images have one shape; else n arrays."""

_NO_LIMIT: Final = 2**62
"""Pixels of a stored image: the limit was applied when it was stored."""
_SMALL_BYTES: Final = 2048
"""Bytes of an image up to which calls of decoders take longer than what they do."""
_TOGETHER: Final = 64
"""Small images that are decoded in one go; their arrays share memory."""
_MOST_ZEROS: Final = 2**32
"""Bytes of an image that is not there; they cost memory only where they are written to."""


class Images(Protocol):
    """The images of a file. Both methods return copies and raise IndexError beyond the end."""

    def one(self, row: int) -> NDArray[Any]:
        """Return the image, (H, W) or (H, W, C)."""

    def many(self, rows: Indices | slice) -> Batch:
        """Return the images in the order asked."""


class Stack:
    """Images of one shape in one dataset."""

    def __init__(self, rows: Rows, checks: Checks | None = None) -> None:
        """Read from `rows`, (N, H, W) or (N, H, W, C), and compare what is read."""
        self.one = rows.one if checks is None else self._checked
        self._rows, self._checks = rows, checks

    def many(self, rows: Indices | slice) -> NDArray[Any]:
        """Return (n, H, W) or (n, H, W, C)."""
        found = self._rows.span(rows) if isinstance(rows, slice) else self._rows.many(rows)
        if self._checks is not None:
            if isinstance(rows, slice):
                rows = np.arange(*rows.indices(self._rows.shape[0]), dtype=np.intp)
            self._checks.many(rows, found)
        return found

    def _checked(self, row: int) -> NDArray[Any]:
        found = self._rows.one(row)
        assert self._checks is not None, "else this is not called"
        self._checks.one(row, found)
        return found


@dataclass(slots=True, eq=False)
class Ragged:
    """Images of any size, one after the other in one dataset of elements."""

    _elements: Rows
    """(total,) pixels, or bytes of files."""
    _offsets: Sequence[int]
    """(N + 1,) in elements; ascending."""
    _shapes: NDArray[Any]
    """(N, 3) height, width, channels; not negative."""
    _threads: Threads
    """For the images of a batch."""
    _path: str
    """Path of the file, for messages."""
    _file_bytes: int
    """Size of the file."""
    _checks: Checks | None = None
    """Compares the elements of each image that is read."""

    def one(self, row: int) -> NDArray[Any]:
        """Return the image."""
        row = normal(row, len(self._shapes))
        return self._image(row, self.values(row))

    def many(self, rows: Indices | slice) -> list[NDArray[Any]]:
        """Return the images, read in the order in which they lie in the file."""
        rows = self._normal(rows)
        order = np.argsort(rows, kind="stable").tolist()
        found: dict[int, NDArray[Any]] = {}

        def read(place: int) -> None:
            found[place] = self.one(int(rows[place]))

        self._threads.each(read, order, self._to_decode(rows))
        return [found[place] for place in range(len(rows))]

    def _normal(self, rows: Indices | slice) -> Indices:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self._shapes)), dtype=np.intp)
        return all_normal(rows, len(self._shapes))

    def values(self, row: int) -> NDArray[Any]:
        """Return the elements of a row, compared."""
        values = self._elements.span(slice(self._offsets[row], self._offsets[row + 1]))
        if self._checks is not None:
            self._checks.one(row, values)
        return values

    def _to_decode(self, rows: Indices) -> int:
        """Return the bytes that are decoded to make these images, where threads may help."""
        return 0  # chunks of pixels are decoded one after the other

    def _shape(self, row: int) -> tuple[int, ...]:
        height, width, channels = self._shapes[row].tolist()
        return (height, width) if channels <= 1 else (height, width, channels)

    def _image(self, row: int, values: NDArray[Any]) -> NDArray[Any]:
        """Return the image made of the elements of a row.

        Raises:
            OutputError: they do not fit the shape that the file has for them.
        """
        shape = self._shape(row)
        if len(values) != math.prod(shape):
            raise OutputError(
                f"{self._path}: image {row} should have {shape} elements, found {len(values):,}"
            )
        return values.reshape(shape)


@dataclass(eq=False)
class Encoded(Ragged):
    """Image files as they were, decoded on access."""

    _kinds: decode.Prober = field(default_factory=partial(decode.Prober, max_pixels=_NO_LIMIT))
    """Knows the PNGs that are alike."""

    def many(self, rows: Indices | slice) -> list[NDArray[Any]]:
        """Return the images, read in the order in which they lie in the file.

        Small ones that are alike are decoded some at a time, which takes half of their time.
        """
        rows = self._normal(rows)
        if len(rows) < 2 or self._to_decode(rows) > _SMALL_BYTES * len(rows):
            return super().many(rows)
        order = np.argsort(rows, kind="stable").tolist()
        parts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
        found: dict[int, NDArray[Any]] = {}

        def read(part: int) -> None:
            found.update(zip(parts[part], self._together(rows[parts[part]].tolist()), strict=True))

        self._threads.each(read, range(len(parts)), self._to_decode(rows))
        return [found[place] for place in range(len(rows))]

    def _together(self, rows: list[int]) -> list[NDArray[Any]]:
        """Return the images of some rows, decoded in one go if they are alike."""
        values = [self.values(row) for row in rows]
        files = [each.tobytes() for each in values]
        try:
            spec = self._kinds(files[0])
        except SampleError:
            spec = None
        if spec is not None and spec.n_bytes <= _SMALL_BYTES:
            out = np.empty((len(rows), *spec.shape), spec.dtype)
            if self._kinds.decode_alike(files, out):
                return list(out)
        return [self._image(row, each) for row, each in zip(rows, values, strict=True)]

    def _to_decode(self, rows: Indices) -> int:
        return int(self._shapes[rows].prod(axis=1, dtype=np.int64).sum())

    def _image(self, row: int, values: NDArray[Any]) -> NDArray[Any]:
        """Return the decoded image; zeros of the stored shape where a file could not be stored."""
        data = values.tobytes()
        try:
            spec = decode.probe(data, max_pixels=_NO_LIMIT)
            assert spec is not None, "probe was given the whole file"
            self._check_size(row, spec.n_bytes, most_bytes(self._file_bytes, len(data)))
            out = np.empty(spec.shape, spec.dtype)
            intact = self._checks is not None
            if intact and htj2k.is_lossless(data) and coded_images.is_available():
                coded_images.decode_into(data, out)
            else:
                decode.decode_into(data, out, spec=spec)
        except ValueError as error:
            raise OutputError(f"{self._path}: image {row}: {error}") from None
        except SampleError as error:
            if not values.any():  # a failed row: no bytes, or zeros
                shape = self._shape(row)
                self._check_size(row, math.prod(shape), _MOST_ZEROS)
                return np.zeros(shape, np.uint8)
            raise OutputError(f"{self._path}: image {row}: {error.reason}") from None
        return out

    def _check_size(self, row: int, n_bytes: int, most: int) -> None:
        if n_bytes > most:
            raise OutputError(
                f"{self._path}: image {row}: expected at most {most:,} bytes of pixels, found "
                f"{n_bytes:,}"
            )


@dataclass(slots=True, eq=False)
class Tree:
    """One dataset per image: for viewers, not for speed."""

    _handle: ForkSafeFile
    _names: Strings
    """Absolute HDF5 path of each row's dataset; empty where there is none."""
    _threads: Threads
    """For the images of a batch."""
    _checks: Checks | None = None
    """Compares the pixels of each image that is read."""
    _chunk_checks: tuple[Checks, str] | None = None
    """Compares instead the bytes of an image's only chunk, before they are decoded; and which
    filters it has (`fit_image`)."""
    _groups: set[bytes] = field(default_factory=set)
    """Paths of groups that are of this file."""

    def one(self, row: int) -> NDArray[Any]:
        """Return the image; (0, 0) where there is none."""
        return self.many(np.array([normal(row, len(self._names))], np.intp))[0]

    def many(self, rows: Indices | slice) -> list[NDArray[Any]]:
        """Return the images in the order asked."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self._names)), dtype=np.intp)
        asked = list(zip(rows.tolist(), self._names.raw(rows), strict=True))
        places = range(len(asked))
        found: dict[int, NDArray[Any]] = {}

        def read(place: int) -> None:
            found[place] = self._read(*asked[place])

        self._threads.each(read, places[:1], 0)
        # Of what is not filtered nothing is decoded; else images are taken to be like the first.
        filtered = self._chunk_checks is not None and len(places) > 1
        n_bytes = found[0].nbytes * (len(places) - 1) if filtered else 0
        self._threads.each(read, places[1:], n_bytes)
        return [found[place] for place in places]

    def _read(self, row: int, name: bytes) -> NDArray[Any]:
        if not name:
            return np.zeros((0, 0), np.uint8)
        with self._handle as file:
            dataset = open_image(file, name, self._groups)
            with naming(file, name):
                if self._chunk_checks is None or not fit_image(self._chunk_checks[1], dataset):
                    pixels: NDArray[Any] = dataset[()]
                    if self._checks is not None:
                        self._checks.one(row, pixels)
                    return pixels
                mask, stored = dataset.id.read_direct_chunk((0,) * dataset.ndim)
                pipeline = FilterPipeline(dataset, one_image=True)
                if not pipeline.native:
                    self._chunk_checks[0].one(row, stored)
                    return dataset[()]  # type: ignore[no-any-return]
                pixels = np.empty(dataset.shape, pipeline.dtype)
        # Without HDF5's lock: other threads read meanwhile.
        self._chunk_checks[0].one(row, stored)
        try:
            pipeline.decode_into(mask, stored, pixels[None])
        except ValueError as error:
            what = f"{self._handle.path}: {as_text(name)}"
            raise OutputError(f"{what} is damaged: {error}") from None
        return pixels
