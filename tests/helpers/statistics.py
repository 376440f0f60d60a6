"""What a file says of its pixels is what NumPy makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.moments import Kind

EXACT = 1e-12


def in_numpy(images: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each channel over all pixels."""
    channels = images[0].shape[2] if images[0].ndim == 3 else 1
    pixels = np.concatenate([image.reshape(-1, channels) for image in images]).astype(np.float64)
    return pixels.mean(axis=0), pixels.std(axis=0)


def assert_as_in_numpy(path: Path, group: str | None = None, image: str | None = None) -> None:
    """Of every kind of image in the file."""
    store = ImageStore(path, group=group, image=image, failed="skip")
    by_kind: dict[Kind, list[NDArray[Any]]] = {}
    for pixels, _ in store:
        kind = Kind(pixels.shape[2] if pixels.ndim == 3 else 1, pixels.dtype.name)
        by_kind.setdefault(kind, []).append(pixels)
    found = store.stats.kinds
    assert found.keys() == by_kind.keys()
    for kind, images in by_kind.items():
        mean, std = in_numpy(images)
        np.testing.assert_allclose(found[kind].mean, mean, rtol=EXACT)
        np.testing.assert_allclose(found[kind].std, std, rtol=EXACT)
        assert found[kind].n_images == len(images)
    if len(by_kind) == 1:
        np.testing.assert_allclose(store.stats.mean, mean, rtol=EXACT)
        np.testing.assert_allclose(store.stats.std, std, rtol=EXACT)
