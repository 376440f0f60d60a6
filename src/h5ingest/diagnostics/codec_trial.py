"""Whether each codec gives images back: three are compressed and decompressed by each.

May not: write a file; know ranks.
"""

from __future__ import annotations

from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import one_line
from h5ingest.reading.dataset_rule import StoredDataset
from h5ingest.reading.unfilter import FilterPipeline
from h5ingest.storage.auto_codec import CANDIDATES, Part
from h5ingest.storage.compress import compressor
from h5ingest.storage.datasets import create, file_access, open_dataset
from h5ingest.storage.filters import available, canonical, filter_pipeline

_ERRORS: Final = (OSError, RuntimeError, ValueError)
"""What h5py makes of an error of HDF5, and a codec of damage."""


def wrong_codecs() -> dict[str, list[str]]:
    """Try each codec that is available, and each that `auto` may choose. Not collective.

    Returns:
        Codec -> what is wrong with it; nothing for one that gives back every pixel.
    """
    names = dict.fromkeys([*map(canonical, available()), *CANDIDATES])
    tried = [name for name in names if name and name.partition(":")[0] in (*available(), "none")]
    return {name: _problems(name) for name in tried if name != "none"}


def _images() -> dict[str, NDArray[Any]]:
    """Return three images with odd sides: waves, under noise that fills the lower bits."""
    y, x = np.ogrid[:61, :83]
    wave = (np.sin(x / 9) + np.cos(y / 7)) / 4 + 0.5
    noise = np.random.default_rng(1).integers(0, 8, (61, 83, 3))
    gray = (wave * 247).astype(np.uint8) + noise[..., 0].astype(np.uint8)
    return {
        "gray of 8 bits": gray,
        "RGB of 8 bits": gray[..., None] // np.uint8(2) + noise.astype(np.uint8),
        "gray of 16 bits": (wave * 65000).astype(np.uint16) + noise[..., 0].astype(np.uint16),
    }


def _problems(codec: str) -> list[str]:
    """Return a line for each image that does not come back."""
    found = []
    for name, image in _images().items():
        try:
            decoders = _differing(codec, image[None])
        except _ERRORS as error:
            found.append(f"{name}: {one_line(error)}")
            continue
        found += [f"{name}: {decoder} returns other pixels" for decoder in decoders]
    return found


def _differing(codec: str, images: NDArray[Any]) -> list[str]:
    """Return the decoders that make something else of a chunk than (1, H, W[, C]) pixels."""
    spec = Part(images).spec(filter_pipeline(codec, shuffle=False))
    mask, data = compressor(spec)(images)
    access = file_access()
    access.set_fapl_core(2**16, False)  # in memory, no file
    file = h5py.h5f.create(b"/dev/null/h5ingest-trial", h5py.h5f.ACC_TRUNC, fapl=access)
    try:
        create(file, spec).write_direct_chunk((0,) * images.ndim, data, mask)
        # Opened anew: HDF5 1.10.8 forgets the filters of an only chunk that it did not make itself.
        dataset = StoredDataset(open_dataset(file, spec.name))
        found = {"HDF5's filter": dataset[()]}
        pipeline = FilterPipeline(dataset.chunks, dataset.dtype, dataset.filters)
        if pipeline.native:
            found["h5ingest's decoder"] = out = np.zeros_like(images)
            pipeline.decode_into(mask, data, out)
    finally:
        file.close()
    return [name for name, pixels in found.items() if not np.array_equal(pixels, images)]
