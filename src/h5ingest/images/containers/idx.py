"""idx: the files of MNIST, of its labels too, which lie beside those of the images."""

from __future__ import annotations

import gzip
import os
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.images.archive_table import read_all
from h5ingest.images.containers.container import Stack, StackContainer, cells_of

_UINT8: Final = 8
_MOST_LABELS: Final = 2**30


class Idx(StackContainer):
    """A stack in an idx file: big-endian numbers of each axis, then the pixels."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        head = os.pread(fd, 20, 0)
        self._shape, self._start = _shape(head)

    def stack(self) -> Stack:
        if len(self._shape) not in (3, 4):
            raise SampleError("unsupported", f"expected a stack of images, found {self._shape}")
        n, problem = self._shape[0], ""
        each = int(np.prod(self._shape[1:], dtype=object))
        whole = min(n, (self._size - self._start) // max(1, each))
        if self._size != self._start + n * each:
            problem = (
                f"expected {self._start + n * each:,} bytes, as its header says, found "
                f"{self._size:,}: {whole:,} of {n:,} images are whole"
            )
        labels = _labels_of(self._path)
        columns = {}
        if labels is not None:
            if len(labels) != n:
                raise SampleError(
                    "damaged", f"expected a label for each of {n:,} images, found {len(labels):,}"
                )
            columns["label"] = cells_of(labels[:whole])
        shape = whole, *self._shape[1:]
        return Stack(shape=shape, dtype=np.dtype(np.uint8), columns=columns, problem=problem)

    def pixels(self, k: int) -> NDArray[Any]:
        shape = self._shape[1:]
        each = int(np.prod(shape))
        data = read_all(self._fd, self._start + k * each, each)
        return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(head: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array, and where it begins."""
    if len(head) < 8 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4 or len(head) < 4 + 4 * head[3]:
        raise SampleError("damaged", "expected an idx file, found something else")
    if head[2] != _UINT8:
        raise SampleError("unsupported", "expected an idx file of unsigned bytes")
    return struct.unpack_from(f">{head[3]}I", head, 4), 4 + 4 * head[3]


def _labels_of(path: bytes) -> NDArray[np.uint8] | None:
    """Return the labels of the images in a file; None: there is no file of them."""
    folder, name = os.path.split(path)
    for old, new in ((b"images", b"labels"), (b"idx3", b"idx1"), (b"idx4", b"idx1")):
        name = name.replace(old, new)
    plain = name.removesuffix(b".gz")
    for each in (name, plain, plain + b".gz"):
        full = os.path.join(folder, each)
        if full != path and os.path.isfile(full):
            break
    else:
        return None
    where = f"its labels, {os.fsdecode(each)}"
    try:
        with gzip.open(full) if each.endswith(b".gz") else open(full, "rb") as file:
            data = file.read(_MOST_LABELS)
    except (OSError, EOFError, ValueError) as error:
        raise SampleError("damaged", f"{where}, cannot be read ({error})") from None
    try:
        (n,), start = _shape(data[:8])
    except (SampleError, ValueError):
        raise SampleError("damaged", f"{where}, are no idx file of them") from None
    if len(data) != start + n:
        raise SampleError("damaged", f"{where}, should be {n:,}, found {len(data) - start:,}")
    return np.frombuffer(data, np.uint8, offset=start)
