"""`.npy` and `.npz`: stacks of NumPy, with the labels that lie in the same `.npz`.

Nothing is unpickled. Of a `.npz` that is compressed, the stack is unpacked once (`unpacked`).
"""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from dataclasses import replace
from typing import IO, Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError, one_line
from h5ingest.images.archive_table import read_all
from h5ingest.images.containers.container import Stack, StackContainer
from h5ingest.images.containers.pairs import Array, choose_stack, labels_of
from h5ingest.images.unpacked import Readable, Stream

_LOCAL_BYTES: Final = 30
_MOST_HEADER: Final = 64 * 1024
_DAMAGED: Final = (
    ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError,
    RuntimeError, MemoryError, OverflowError, tokenize.TokenError, SyntaxError,
)  # fmt: skip
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def _header(file: IO[bytes]) -> Header:
    """Read the header of an array: its shape, whether columns come first, its type."""
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0
    if version != (1, 0):
        read = npy_format.read_array_header_2_0
    found: Header = read(file)
    return found


def _arrays(archive: zipfile.ZipFile) -> dict[str, Array]:
    """Return the arrays in an archive, those of objects left out."""
    found = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            with archive.open(name) as file:
                shape, _, dtype = _header(file)
            if not dtype.hasobject:
                found[name.removesuffix(".npy")] = Array(shape, dtype)
    return found


def _chosen(archive: zipfile.ZipFile, inner: bytes) -> tuple[str, dict[str, Array]]:
    arrays = _arrays(archive)
    return choose_stack(arrays, os.fsdecode(inner)), arrays


def deflated(path: bytes, inner: bytes) -> Stream | None:
    """Return what unpacks the stack of a `.npz`; None: it is not compressed.

    Raises:
        SampleError, OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(os.fsdecode(path)) as archive:
            name = _chosen(archive, inner)[0] + ".npy"
            if archive.getinfo(name).compress_type == zipfile.ZIP_STORED:
                return None
    except _DAMAGED as error:
        raise SampleError("damaged", f"expected arrays of NumPy ({one_line(error)})") from None

    def stream(file: BinaryIO) -> Readable:
        return io.BufferedReader(zipfile.ZipFile(file).open(name))  # type: ignore[type-var]

    return stream


class Npy(StackContainer):
    """A stack in a file of NumPy: in a `.npy`, stored in a `.npz`, or unpacked from one."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        try:
            start = 0
            if os.pread(fd, 2, 0) == b"PK":
                start = self._start_in_zip()
            file = io.BytesIO(os.pread(fd, _MOST_HEADER, start))
            (self._shape, fortran, self._dtype), self._start = _header(file), start + file.tell()
        except _DAMAGED as error:
            raise SampleError("damaged", f"expected arrays of NumPy ({one_line(error)})") from None
        if fortran and len(self._shape) > 1:
            raise SampleError("unsupported", "expected a stack in C order, found Fortran's")

    def _start_in_zip(self) -> int:
        with open(os.dup(self._fd), "rb") as file, zipfile.ZipFile(file) as archive:
            info = archive.getinfo(_chosen(archive, self._inner)[0] + ".npy")
        head = read_all(self._fd, info.header_offset, _LOCAL_BYTES)
        names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        return info.header_offset + _LOCAL_BYTES + names

    def stack(self) -> Stack:
        stack = Stack(shape=self._shape, dtype=self._dtype)
        stack.check()
        n, problem = self._shape[0], ""
        whole = min(n, (self._size - self._start) // self._each)
        if whole < n:
            problem = f"ends within the stack: {whole:,} of {n:,} images are whole"
        columns = self._columns(whole) if self._path.lower().endswith(b".npz") else {}
        return replace(stack, shape=(whole, *self._shape[1:]), columns=columns, problem=problem)

    @property
    def _each(self) -> int:
        """Bytes of an image."""
        return int(np.prod(self._shape[1:], dtype=object)) * self._dtype.itemsize

    def _columns(self, n: int) -> dict[str, list[bytes]]:
        try:
            with zipfile.ZipFile(os.fsdecode(self._path)) as archive:
                stack, arrays = _chosen(archive, self._inner)

                def load(name: str) -> NDArray[Any]:
                    with archive.open(f"{name}.npy") as file:
                        found: NDArray[Any] = npy_format.read_array(file, allow_pickle=False)
                        return found

                return {name: cells[:n] for name, cells in labels_of(arrays, stack, load).items()}
        except _DAMAGED as error:
            raise SampleError("damaged", f"its labels cannot be read ({one_line(error)})") from None

    def pixels(self, k: int) -> NDArray[Any]:
        data = read_all(self._fd, self._start + k * self._each, self._each)
        return np.frombuffer(data, self._dtype).reshape(self._shape[1:])
