"""Memory that is filled and written again and again."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Buffer:
    """As large as the largest array that was asked for; begins at a page."""

    def __init__(self) -> None:
        """Begin with a page."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def array(self, shape: tuple[int, ...], dtype: str, begin: int = 0) -> NDArray[Any]:
        """Return an array in it, `begin` bytes behind a page, its content undefined."""
        n_bytes = begin + math.prod(shape) * np.dtype(dtype).itemsize
        if n_bytes > len(self._memory):
            self._memory = mmap.mmap(-1, n_bytes)
        return np.ndarray(shape, dtype, self._memory, begin)
