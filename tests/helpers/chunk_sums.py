"""The checksums of stored chunks, compared by plain h5py; nothing of h5ingest."""

from __future__ import annotations

import json
from typing import Any

import h5py
from xxhash import xxh3_64_intdigest

NAME = "chunk_checksums"


def wrong_chunks(file: h5py.File) -> list[str]:
    """What is wrong with them in a finished file; they must be there where pixels are filtered."""
    groups, images = (json.loads(file.attrs.get(name, "[]")) for name in ("groups", "images"))
    found = []
    prefixes = [f"/{name}" for name in groups] or [""]
    for prefix in [*prefixes, *(f"{each}/{name}" for each in prefixes for name in images)]:
        stored = _stored(file, prefix)
        sums = file.get(f"{prefix}/{NAME}")
        has_sums = sums is not None and "chunking" in sums.attrs
        if has_sums != (stored is not None):
            found.append(f"{prefix}/{NAME}: {'unexpected' if has_sums else 'missing'}")
        elif stored is not None and sums[()].tolist() != stored:
            bad = [k for k, (a, b) in enumerate(zip(sums[()], stored, strict=False)) if a != b]
            found.append(f"{prefix}/{NAME}: {sums.shape}, {len(stored)} chunks, wrong: {bad[:9]}")
    return found


def _stored(file: h5py.File, prefix: str) -> list[int] | None:
    """The checksums that a group must have; None: none."""
    if f"{prefix}/datasets" in file:
        images = [file[name] for name in file[f"{prefix}/datasets"][()]]
        of_tree = file.get(f"{prefix}/{NAME}")
        if of_tree is None and not any(image.chunks for image in images):
            return None  # (images of a few values are never filtered: they do not tell)
        return [xxh3_64_intdigest(stored(image, 0)) for image in images]
    pixels = file[f"{prefix}/images"]
    if isinstance(pixels, h5py.Group):
        pixels = pixels["pixels" if "pixels" in pixels else "data"]
    if not pixels.id.get_create_plist().get_nfilters():
        return None
    n_chunks = -(-len(pixels) // pixels.chunks[0])
    return [xxh3_64_intdigest(stored(pixels, chunk)) for chunk in range(n_chunks)]


def stored(dataset: Any, chunk: int) -> bytes:
    """The bytes of a chunk in the file; of an unfiltered dataset, all."""
    if not dataset.chunks:
        return bytes(dataset[()].tobytes())
    at = (chunk * dataset.chunks[0], *(0,) * (dataset.ndim - 1))
    return bytes(dataset.id.read_direct_chunk(at)[1])
