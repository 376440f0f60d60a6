"""A stack in an HDF5 file that somebody else has made, with the labels beside it."""

from __future__ import annotations

import os
import threading
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError, cut_short, one_line
from h5ingest.core.schema import Attribute
from h5ingest.images.containers.container import Stack, StackContainer
from h5ingest.images.containers.pairs import Array, choose_stack, labels_of

_CACHE_BYTES: Final = 64 * 1024**2
"""Of the chunk cache: neighbours mostly lie in one chunk."""
_DAMAGED: Final = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)
"""What h5py raises."""


class Hdf5Stack(StackContainer):
    """A dataset whose first axis is that of the images."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        self._lock = threading.Lock()
        try:
            self._file = h5py.File(os.fsdecode(path), "r", rdcc_nbytes=_CACHE_BYTES)
            if Attribute.CONTENT_DIGEST in self._file.attrs:
                raise SampleError(
                    "unsupported",
                    "expected a text file with one image a line, or images; found an HDF5 file "
                    "that h5ingest has made: h5ingest show, verify, export and recompress take it",
                )
            self._name = choose_stack(self._arrays(), os.fsdecode(inner))
            self._images = self._file[self._name]
        except _DAMAGED as error:
            reason = cut_short(error) or f"HDF5 cannot read it ({one_line(error)})"
            raise SampleError("damaged", reason) from None
        if self._images.id.get_create_plist().get_nfilters():
            import hdf5plugin  # noqa: F401 - filters that HDF5 does not have

    def _arrays(self) -> dict[str, Array]:
        """Return all datasets, by their names."""
        found = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                found[name] = Array(item.shape, item.dtype)

        self._file.visititems(note)
        return found

    def stack(self) -> Stack:
        images = self._images
        try:
            columns = labels_of(self._arrays(), self._name, lambda name: self._file[name][()])
        except _DAMAGED as error:
            raise SampleError("damaged", f"its labels cannot be read ({one_line(error)})") from None
        return Stack(shape=images.shape, dtype=images.dtype, columns=columns)

    def pixels(self, k: int) -> NDArray[Any]:
        try:
            with self._lock:
                found: NDArray[np.generic] = self._images[k]
        except _DAMAGED as error:
            raise SampleError("damaged", f"HDF5 cannot read it ({one_line(error)})") from None
        return found
