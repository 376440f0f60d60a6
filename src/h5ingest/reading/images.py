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
from h5ingest.reading.checks import Checks, StoredChunk
from h5ingest.reading.chunked_rows import stored_chunk
from h5ingest.reading.dataset_rule import most_bytes
from h5ingest.reading.rows import FlatRows, Indices, Rows, all_normal, normal
from h5ingest.reading.threads import Threads

Batch = NDArray[Any] | list[NDArray[Any]]
"""(n, H, W) or (n, H, W, C) where all images have one shape; else n arrays."""

_NO_LIMIT: Final = 2**62
"""Pixels of a stored image: the limit was applied when it was stored."""
_SMALL_BYTES: Final = 4096
"""Bytes of an image up to which calls of decoders take longer than what they do."""
_TOGETHER_BYTES: Final = 48 * 1024
"""Of the pixels of small images that are decoded in one go; their arrays share memory. With more,
each of them takes memory anew from the system, page by page."""
_MOST_ZEROS: Final = 2**32
"""Bytes of an image that is not there; they cost memory only where they are written to."""


class Images(Protocol):
    """The images of a file. `one` and `many` return copies and raise IndexError beyond the end."""

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

    def stored(self, chunk: int) -> StoredChunk | None:
        """See `StoredGroup.stored`."""
        return stored_chunk(self._rows, chunk)

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

    def stored(self, chunk: int) -> StoredChunk | None:
        """See `StoredGroup.stored`."""
        return stored_chunk(self._elements, chunk)

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
    _raw: bool = False
    """Whether palette indices and low-bit gray are images as they are."""

    def keep_indices(self) -> None:
        """Read palette indices and low-bit gray as they are from now on."""
        self._raw, self._kinds = True, decode.Prober(max_pixels=_NO_LIMIT, raw=True)

    def one(self, row: int) -> NDArray[Any]:
        """Return the image."""
        row = normal(row, len(self._shapes))
        return self.decoded(row, self._file(row))

    def many(self, rows: Indices | slice) -> list[NDArray[Any]]:
        """Return the images, read in the order in which they lie in the file.

        Small ones that are alike are decoded some at a time, which takes half of their time.
        """
        rows = self._normal(rows)
        n_bytes = self._to_decode(rows)
        if len(rows) < 2 or n_bytes > _SMALL_BYTES * len(rows):
            return super().many(rows)
        order = np.argsort(rows, kind="stable").tolist()
        step = _TOGETHER_BYTES * len(rows) // max(1, n_bytes)
        parts = [order[start : start + step] for start in range(0, len(order), step)]
        found: dict[int, NDArray[Any]] = {}

        def read(part: int) -> None:
            found.update(zip(parts[part], self._together(rows[parts[part]].tolist()), strict=True))

        self._threads.each(read, range(len(parts)), n_bytes)
        return [found[place] for place in range(len(rows))]

    def _together(self, rows: list[int]) -> list[NDArray[Any]]:
        """Return the images of some rows, decoded in one go if they are alike."""
        files = [self._file(row) for row in rows]
        try:
            spec = self._kinds(files[0])
        except SampleError:
            spec = None
        if spec is not None and spec.n_bytes <= _SMALL_BYTES:
            out = np.empty((len(rows), *spec.shape), spec.dtype)
            if self._kinds.decode_alike(files, out):
                return list(out)
        return [self.decoded(row, data) for row, data in zip(rows, files, strict=True)]

    def _file(self, row: int) -> bytes:
        """Return the file of a row, compared."""
        start, stop = self._offsets[row], self._offsets[row + 1]
        if isinstance(self._elements, FlatRows):
            data = self._elements.raw(start, stop)
        else:
            data = self._elements.span(slice(start, stop)).tobytes()
        if self._checks is not None:
            self._checks.one(row, data)
        return data

    def _to_decode(self, rows: Indices) -> int:
        return int(self._shapes[rows].prod(axis=1, dtype=np.int64).sum())

    def decoded(self, row: int, data: bytes) -> NDArray[Any]:
        """Return the image in a file; zeros of the stored shape where none could be stored."""
        try:
            spec = self._kinds(data)
            assert spec is not None, "the whole file tells"
            if spec.n_bytes > self._file_bytes:
                self._check_size(row, spec.n_bytes, most_bytes(self._file_bytes, len(data)))
            intact = self._checks is not None
            if intact and htj2k.is_lossless(data) and coded_images.is_available():
                out = np.empty(spec.shape, spec.dtype)
                coded_images.decode_into(data, out)
                return out
            return decode.decode(data, spec, raw=self._raw)
        except ValueError as error:
            raise OutputError(f"{self._path}: image {row}: {error}") from None
        except SampleError as error:
            if data.count(0) == len(data):  # a failed row: no bytes, or zeros
                shape = self._shape(row)
                self._check_size(row, math.prod(shape), _MOST_ZEROS)
                return np.zeros(shape, np.uint8)
            raise OutputError(f"{self._path}: image {row}: {error.reason}") from None

    def _check_size(self, row: int, n_bytes: int, most: int) -> None:
        if n_bytes > most:
            raise OutputError(
                f"{self._path}: image {row}: expected at most {most:,} bytes of pixels, found "
                f"{n_bytes:,}"
            )
