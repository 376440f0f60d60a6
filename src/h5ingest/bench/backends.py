"""`Backend`: a way to store images and read them back; here as files and in LMDB, else see `hdf5`.

Each starts from the image files, as an ingest does, and gives image and label back. Those that are
not h5ingest do what scripts and notebooks do: imageio to read the files, Pillow to read PNG again.
They can also be read with h5ingest's fast decoder, to tell the storage's share from the decoder's.
"""

from __future__ import annotations

import io
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import lmdb
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from h5ingest.bench.corpus import Corpus
from h5ingest.bench.report import Described

Sample = tuple[NDArray[Any], Any]
"""An image and its label, None where there are none."""
Samples = tuple[Any, Any]
"""(n, H, W[, C]) or n arrays; n labels, or None."""
Decoder = Callable[[bytes], NDArray[Any]]
"""From the bytes of an image file to its pixels."""


class Reader:
    """Stored images, open for reading; several of them one by one, where nothing is faster."""

    def one(self, row: int) -> Sample:
        """Return an image and its label."""
        raise NotImplementedError

    def many(self, rows: NDArray[np.intp]) -> Samples:
        """Return the images of these rows, in this order."""
        return self._each(rows.tolist())

    def span(self, start: int, stop: int) -> Samples:
        """Return the images of rows `start` to `stop - 1`."""
        return self._each(range(start, stop))

    def close(self) -> None:
        """Close the file, if one is open."""

    def _each(self, rows: Iterable[int]) -> Samples:
        found = [self.one(row) for row in rows]
        return [image for image, _ in found], [label for _, label in found]


class Backend(Described, Protocol):
    """A way to store images."""

    @abstractmethod
    def store(self, corpus: Corpus, place: Path) -> None:
        """Store all images from their files; `place` does not exist yet."""

    @abstractmethod
    def open(self, place: Path) -> Reader:
        """Open what was stored."""


def by_pillow(data: bytes) -> NDArray[Any]:
    """Decode as most scripts do."""
    with Image.open(io.BytesIO(data)) as image:
        return _array(image)


def _array(image: Any) -> NDArray[Any]:
    """Return the pixels of a Pillow image; a palette becomes its colours."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return np.array(image.convert("L") if image.mode == "1" else image)


# --- files -------------------------------------------------------------------------------------


class PngFolder(Backend):
    """A folder of PNG files, and a table of labels."""

    key, name = "png", "PNG files"
    how = "imageio to read, a folder of PNG files written and read by Pillow, labels in an array"

    def store(self, corpus: Corpus, place: Path) -> None:
        place.mkdir()
        for row, image in enumerate(corpus.images()):
            Image.fromarray(image).save(place / f"{row}.png")
        np.save(place / "labels.npy", corpus.label_array())

    def open(self, place: Path) -> Reader:
        labels = np.load(place / "labels.npy")
        return FileReader(lambda row: f"{place}/{row}.png", labels, None)


class FileReader(Reader):
    """Image files, decoded one at a time."""

    def __init__(
        self, file: Callable[[int], str], labels: NDArray[np.int64], decoder: Decoder | None
    ) -> None:
        """Open nothing yet.

        Args:
            file: returns the path of a row's file.
            labels: (n,) int64.
            decoder: decodes the file's bytes; None: Pillow opens the file itself, as usual.
        """
        self._open, self._file, self._labels = Image.open, file, labels
        self._decoder = decoder

    def one(self, row: int) -> Sample:
        if self._decoder is None:
            with self._open(self._file(row)) as image:
                return _array(image), int(self._labels[row])
        with open(self._file(row), "rb") as file:
            return self._decoder(file.read()), int(self._labels[row])


# --- LMDB --------------------------------------------------------------------------------------

_KEY_BYTES: Final = 4
_HEADER: Final = struct.Struct("<IIiBB2x")
"""Header of a raw image: height, width, label, channels (0: no such axis), bytes per value.

16 bytes long, so that the pixels after it are aligned."""
_LABEL: Final = struct.Struct("<i")
"""Header of an image file: its label."""


class _Lmdb(Backend):
    """One LMDB value per image; a subclass says what is in it."""

    @abstractmethod
    def values(self, corpus: Corpus) -> Iterator[bytes]:
        """Yield the value of each image."""

    @abstractmethod
    def sample(self, value: memoryview) -> Sample:
        """Return what a value holds."""

    def store(self, corpus: Corpus, place: Path) -> None:
        place.mkdir()
        most = max(corpus.pixel_bytes, corpus.file_bytes) + len(corpus) * 8192
        with (
            # The file grows as it is filled; map_size is its limit.
            lmdb.open(str(place), map_size=2 * most + 2**24) as environment,
            environment.begin(write=True) as transaction,
        ):
            for row, value in enumerate(self.values(corpus)):
                transaction.put(row.to_bytes(_KEY_BYTES, "big"), value)

    def open(self, place: Path) -> Reader:
        return _LmdbReader(place, self.sample)


class LmdbRaw(_Lmdb):
    """Raw pixels after a small header."""

    key, name = "lmdb-raw", "LMDB, raw arrays"
    how = "one LMDB value per image: 16 bytes of shape, type and label, then the pixels"

    def values(self, corpus: Corpus) -> Iterator[bytes]:
        for row, pixels in enumerate(corpus.images()):
            channels = pixels.shape[2] if pixels.ndim == 3 else 0
            size = pixels.shape[:2]
            header = _HEADER.pack(*size, corpus.label(row), channels, pixels.itemsize)
            yield header + pixels.tobytes()

    def sample(self, value: memoryview) -> Sample:
        height, width, label, channels, itemsize = _HEADER.unpack_from(value)
        shape = (height, width, channels) if channels else (height, width)
        dtype = np.uint8 if itemsize == 1 else np.uint16
        pixels = np.frombuffer(value, dtype, offset=_HEADER.size)
        return pixels.reshape(shape).copy(), label


class LmdbFiles(_Lmdb):
    """The bytes of image files."""

    key, name = "lmdb-files", "LMDB, PNG bytes"
    how = "one LMDB value per image: label and the file's own bytes, decoded by Pillow"

    def __init__(self, decoder: Decoder = by_pillow) -> None:
        """Choose the decoder."""
        self._decoder = decoder

    def values(self, corpus: Corpus) -> Iterator[bytes]:
        for row, file in enumerate(corpus.files):
            yield _LABEL.pack(corpus.label(row)) + file.read_bytes()

    def sample(self, value: memoryview) -> Sample:
        return self._decoder(bytes(value[_LABEL.size :])), _LABEL.unpack_from(value)[0]


class _LmdbReader(Reader):
    """One read transaction, whose values are not copied."""

    def __init__(self, place: Path, sample: Callable[[memoryview], Sample]) -> None:
        self._environment = lmdb.open(str(place), readonly=True, lock=False)
        self._transaction = self._environment.begin(buffers=True)
        self._get, self._sample = self._transaction.get, sample

    def one(self, row: int) -> Sample:
        value = self._get(row.to_bytes(_KEY_BYTES, "big"))
        assert value is not None, "all rows were stored"
        return self._sample(value)

    def close(self) -> None:
        self._transaction.abort()
        self._environment.close()
