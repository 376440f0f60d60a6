"""Bytes of a stored chunk to its values: HDF5's filters, undone without HDF5 where that is exact.

HDF5 decodes one chunk at a time, under one lock, through buffers that it copies. The common codecs
are plain streams that imagecodecs undoes without that lock, straight into the caller's array. All
else is left to HDF5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import HTJ2K
from h5ingest.reading import coded_images
from h5ingest.reading.dataset_rule import check_available
from h5ingest.reading.forksafe_file import plain_dtype

_SHUFFLE: Final = 2
_NATIVE: Final = {
    1: "deflate_decode",  # zlib stream; libdeflate
    307: "bz2_decode",
    32000: "lzf_decode",
    32001: "blosc_decode",  # blosc 1; a chunk of blosc 2 is a whole frame, which it does not take
    32004: "lz4h5_decode",  # HDF5's own framing of LZ4 blocks
    32015: "zstd_decode",
}
"""Registered filter number -> function of imagecodecs."""


class FilterPipeline:
    """The filters of datasets of one kind, undone."""

    def __init__(
        self, chunk_shape: tuple[int, ...], dtype: np.dtype[Any], filters: tuple[int, ...]
    ) -> None:
        """Look at the filters.

        Args:
            chunk_shape: of a chunk; of an image in a chunk of its own, as in a tree, (1, H, W) or
                (1, H, W, C).
            dtype: of its values.
            filters: their registered numbers, in order.

        Raises:
            SetupError: a filter is not available here.
        """
        self.chunk_shape, self.dtype, self.filters = chunk_shape, plain_dtype(dtype), filters
        self.chunk_bytes: Final = math.prod(chunk_shape) * dtype.itemsize
        """Bytes of a decoded chunk."""
        # [codec], [shuffle, codec], [shuffle] or nothing: then every size on the way is known.
        codecs = self.filters[1:] if self.filters[:1] == (_SHUFFLE,) else self.filters
        codes_images = self.filters == (HTJ2K,) and self.chunk_shape[0] == 1
        self._is_image = codes_images and coded_images.is_available()  # else HDF5's filter does it
        self.native = self._is_image or (len(codecs) <= 1 and all(id_ in _NATIVE for id_ in codecs))
        """Whether `decode_into` can be of use."""
        self.overlooks_damage = self._is_image
        """Whether it is only for chunks whose checksums are compared."""
        if not self.native:
            check_available(self.filters)

    def decode_into(self, mask: int, data: bytes, out: NDArray[Any]) -> None:
        """Undo the filters without HDF5; only if they are `native`.

        Args:
            mask: bit k set: filter k was not applied to this chunk.
            data: the chunk as stored.
            out: of the shape and dtype of a chunk, C-contiguous.

        Raises:
            ValueError: the chunk is damaged. (HDF5 does not always notice: its zstd filter then
                returns what happened to be in memory.)
        """
        flat = out.reshape(-1).view(np.uint8)
        used = [id_ for k, id_ in enumerate(self.filters) if not mask >> k & 1]
        if self._is_image and used:
            coded_images.decode_into(data, out[0])
            return
        shuffled = _SHUFFLE in used and self.dtype.itemsize > 1
        target = np.empty_like(flat) if shuffled else flat
        codecs = [id_ for id_ in used if id_ != _SHUFFLE]
        if codecs:
            try:
                n_bytes = _codec(codecs[0])(data, out=target).nbytes
            except RuntimeError as error:  # imagecodecs' errors are RuntimeErrors
                raise ValueError(str(error)) from None
        else:
            n_bytes = len(data)
            if n_bytes == target.nbytes:
                target[:] = np.frombuffer(data, np.uint8)
        if n_bytes != target.nbytes:
            raise ValueError(f"expected {target.nbytes:,} bytes, got {n_bytes:,}")
        if shuffled:  # first bytes of all elements, then all second bytes, …
            flat.reshape(-1, self.dtype.itemsize)[:] = target.reshape(self.dtype.itemsize, -1).T


@functools.cache
def _codec(id_: int) -> Callable[..., NDArray[np.uint8]]:
    import imagecodecs  # slow to import: only for filtered files

    found: Callable[..., NDArray[np.uint8]] = getattr(imagecodecs, _NATIVE[id_])
    return found
