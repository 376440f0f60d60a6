"""`Stored`: the finished file that is exported, and its images as image files.

May not: know ranks, write.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import OutputError, SampleError
from h5ingest.core.image_columns import columns_in
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.recoding import Recoding
from h5ingest.core.schema import FileHeader, read_header
from h5ingest.core.signatures import format_of
from h5ingest.exports.names import AS_IT_IS, JPEG, PNG
from h5ingest.images import encode
from h5ingest.images.scan import EXTENSIONS
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.checks import ADVICE
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.images import Ragged
from h5ingest.reading.stored_group import StoredGroup

HEAD_BYTES: Final = 64
"""Enough for `format_of`."""
_FORMATS: Final = {"jxl": "JPEG XL", "webp": "WebP", "htj2k": "JPEG 2000", "png": "PNG"}
"""Codec of `--recode` -> the format of what it makes."""


class Stored:
    """A finished file, only read; the images of one group of samples are open at a time.

    A group of images has a number: its position among the file's `prefixes`. Those of the further
    images of a row follow that of the first.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OutputError: it is no complete file of h5ingest.
        """
        self.path: Final = path
        self._handle: Final = ForkSafeFile(os.path.abspath(path))
        with self._handle as file:
            self.header: Final[FileHeader] = read_header(Attributes(file), path)
        if not (self.header.complete and self.header.content_digest):
            raise OutputError(f"{path}: expected a complete file of h5ingest, found another")
        self.image_columns: Final = columns_in(self.header)
        """Of the manifest, `path` first."""
        self.n_each: Final = len(self.image_columns)
        """Images of a row."""
        recode = self.header.options.get("recode")
        self._codec = Recoding.parse(recode).codec if isinstance(recode, str) else None
        self._opened: dict[int, StoredGroup] = {}
        self._palettes: dict[int, NDArray[np.uint8] | None] = {}

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return os.stat(self._handle.path).st_size

    @property
    def is_recoded(self) -> bool:
        """Whether images may have been coded anew: their forms are then not known by the layout."""
        return self._codec is not None and KINDS[self.header.layout].keeps_files

    def close(self) -> None:
        """Let go of the file."""
        self._opened.clear()
        self._handle.close()

    def group(self, number: int) -> StoredGroup:
        """Return a group of images by its number.

        Raises:
            OutputError: it is not what the format has there.
            SetupError: a filter is not available here.
        """
        if number not in self._opened:
            if {each // self.n_each for each in self._opened} != {number // self.n_each}:
                self._opened.clear()  # before the next one maps the file
            with self._handle as file:
                header = self.header
                found = StoredGroup(self._handle, file, header.prefixes[number], header.layout)
            self._opened[number] = found
        return self._opened[number]

    def inside(self) -> ForkSafeFile:
        """Return what to enter for methods of a group that do not do it themselves."""
        return self._handle

    def paths(self, number: int, rows: NDArray[np.int64]) -> dict[str, list[bytes]]:
        """Return the paths of all images of some rows, by the columns of the manifest.

        The group is that of their first images.
        """
        return {
            name: self.group(number + k).paths(rows) for k, name in enumerate(self.image_columns)
        }

    def form(self, number: int, row: int, path: bytes) -> str:
        """Return what becomes of an image with a source of this path: PNG, JPEG or AS_IT_IS.

        Of images that may have been coded anew, those that would have grown are as they were; and
        what has the name of the codec's own format was of it before, or shows the same pixels in
        it.

        Raises:
            SampleError: it is damaged.
        """
        if not KINDS[self.header.layout].keeps_files:
            return PNG
        if self._codec is None:
            return AS_IT_IS
        data, wanted = self._values(number, row), _FORMATS[self._codec]
        is_of_it = EXTENSIONS.get(os.path.splitext(path)[1].lower()) == wanted
        if is_of_it or format_of(data[:HEAD_BYTES]) != wanted:
            return AS_IT_IS
        return JPEG if encode.is_made_of_jpeg(data) else PNG

    def image_file(self, number: int, row: int, form: str) -> bytes:
        """Return an image as the bytes of a file, in the form that `form` says.

        Raises:
            SampleError: it is damaged.
            OutputError: the file is not what it was.
        """
        if form == PNG:
            return self.png(number, row)
        data = self._values(number, row)
        return encode.jpeg_of(data) if form == JPEG else data

    def png(self, number: int, row: int) -> bytes:
        """Return the pixels of an image as a PNG; of one that was padded, without the padding.

        Raises:
            SampleError: it is damaged.
            OutputError: the file is not what it was.
        """
        group = self.group(number)
        pixels: NDArray[Any] = self._read(group.images.one, row)
        if not KINDS[self.header.layout].keeps_files:  # else its bytes have been compared
            self._compare(group, row, pixels)
        if group.sizes is not None:
            height, width = group.sizes[row].tolist()
            if not (0 < height <= pixels.shape[0] and 0 < width <= pixels.shape[1]):
                raise SampleError("damaged", f"a size of {height}x{width} in {pixels.shape}")
            pixels = pixels[:height, :width]
        if not pixels.size:
            raise SampleError("damaged", f"an image of {pixels.shape}")
        palette = self._palette(number) if pixels.ndim == 2 and pixels.dtype == np.uint8 else None
        return encode.png(pixels, palette)

    def _values(self, number: int, row: int) -> bytes:
        group = self.group(number)
        assert isinstance(group.images, Ragged), "it keeps files"
        found: NDArray[np.uint8] = self._read(group.images.values, row)
        self._compare(group, row, found)
        return found.tobytes()

    def _read(self, read: Any, row: int) -> Any:
        try:
            return read(row)
        except OutputError as error:
            with self._handle:  # raises if it is due to a change of the file
                pass
            reason = str(error).removeprefix(f"{self._handle.path}: ").removesuffix(ADVICE)
            raise SampleError("damaged", reason) from None

    def _compare(self, group: StoredGroup, row: int, values: NDArray[Any]) -> None:
        wanted = int(group.checksums[row])
        found = xxh3_64_intdigest(np.ascontiguousarray(values))  # type: ignore[arg-type]  # a buffer
        if found != wanted:
            raise SampleError("damaged", f"expected the checksum {wanted:016x}, found {found:016x}")

    def _palette(self, number: int) -> NDArray[np.uint8] | None:
        if number not in self._palettes:
            group = self.group(number)
            with self._handle:
                self._palettes[number] = group.palette()
        return self._palettes[number]
