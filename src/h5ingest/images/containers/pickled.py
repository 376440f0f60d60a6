"""Pickles of arrays: the batches of CIFAR, and a stack alone. Nothing in them is run."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.images.archive_table import read_all
from h5ingest.images.containers import safe_pickle
from h5ingest.images.containers.container import Stack, StackContainer, cells_of, text_of

_SIDE: Final = 32
_CIFAR: Final = 3 * _SIDE * _SIDE
_NAMES: Final = {
    "labels": ("batches.meta", "label_names"),
    "fine_labels": ("meta", "fine_label_names"),
    "coarse_labels": ("meta", "coarse_label_names"),
}
"""Labels of CIFAR -> the file beside a batch that names them, and its entry."""


def _load(fd: int, size: int) -> Any:
    if size > safe_pickle.MOST_BYTES:
        raise SampleError("too large", f"a pickle of {size:,} bytes: at most 2 GiB are read")
    try:
        return safe_pickle.load(read_all(fd, 0, size))
    except ValueError as error:
        raise SampleError("unsupported", str(error)) from None


class Pickled(StackContainer):
    """A batch, which is held in memory while it is open."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        found = _load(fd, size)
        self._batch: dict[str, Any] = found if isinstance(found, dict) else {"data": found}
        data = self._batch.get("data")
        if not isinstance(data, np.ndarray):
            raise SampleError("unsupported", "expected a batch with an array 'data', or an array")
        if data.ndim == 2 and data.shape[1] == _CIFAR:
            data = data.reshape(-1, 3, _SIDE, _SIDE)
        self._images: NDArray[Any] = data

    def stack(self) -> Stack:
        columns = {}
        for name in ("fine_labels", "coarse_labels", "labels"):
            values = self._batch.get(name)
            if isinstance(values, list | np.ndarray) and len(values) == len(self._images):
                column = "label" if "label" not in columns else name.removesuffix("s")
                columns[column] = self._named(name, values)
        return Stack(shape=self._images.shape, dtype=self._images.dtype, columns=columns)

    def _named(self, name: str, values: Any) -> list[bytes]:
        """Return labels by their names, if a file beside has them."""
        file, entry = _NAMES[name]
        path = os.path.join(os.path.dirname(self._path), file.encode())
        numbers = cells_of(np.asarray(values))
        if not os.path.isfile(path):
            return numbers
        with open(path, "rb") as beside:
            names = _load(beside.fileno(), os.path.getsize(path)).get(entry)
        if not isinstance(names, list) or not all(0 <= int(k) < len(names) for k in numbers):
            raise SampleError("damaged", f"{file}: expected the names of all labels in {entry!r}")
        return [text_of(names[int(k)]) for k in numbers]

    def pixels(self, k: int) -> NDArray[Any]:
        found: NDArray[Any] = self._images[k]
        return found
