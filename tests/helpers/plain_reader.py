"""Compare HDF5 files with the pixels they must hold, by plain h5py and hdf5plugin alone.

    plain_reader.py FILES.json

with [{"file", "pixels": file of numpy.save, "filters": [id, ...]}, ...]; of numpy.savez, with an
array for each image, where they have several shapes.
Exit 1 and a line for each difference. Run by tests; never imported; knows nothing of h5ingest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers its filters
import numpy as np
from numpy.typing import NDArray


def differences(file: str, pixels: str, filters: list[int]) -> list[str]:
    wanted = np.load(pixels)
    found = []
    with h5py.File(file, "r") as opened:
        datasets = datasets_of(opened)
        if pixels.endswith(".npz"):
            found += [
                f"{dataset.name}: not {wanted[name].shape} {wanted[name].dtype} as it should be"
                for name, dataset in zip(wanted, datasets, strict=True)
                if not same(dataset[()], wanted[name])
            ]
            datasets = [dataset for dataset in datasets if dataset.chunks]  # tiny ones have none
        elif (stored := pixels_in(opened)).dtype != wanted.dtype or stored.shape != wanted.shape:
            found.append(f"expected {wanted.shape} {wanted.dtype}, got {stored.shape}")
        elif not np.array_equal(stored, wanted):
            bad = np.flatnonzero((stored != wanted).reshape(len(wanted), -1).any(axis=1))
            found.append(f"{len(bad)} of {len(wanted)} images differ, the first is {bad[0]}")
        for dataset in datasets:
            creation = dataset.id.get_create_plist()
            ids = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
            if ids != filters:
                found.append(f"expected the filters {filters}, got {ids} for {dataset.name}")
        if not (opened["status"][()] == 1).all():
            found.append("not every status is 1")
    return [f"{Path(file).name}: {line}" for line in found]


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def datasets_of(opened: h5py.File) -> list[Any]:
    """The datasets that have pixels, in any layout."""
    if "datasets" in opened:
        return [opened[name] for name in opened["datasets"][()]]
    images = opened["images"]
    return [images if isinstance(images, h5py.Dataset) else images["pixels"]]


def pixels_in(opened: h5py.File) -> NDArray[Any]:
    """(N, H, W[, C]): the images, which have one shape in all layouts."""
    found: list[NDArray[Any]] = [dataset[()] for dataset in datasets_of(opened)]
    if "datasets" in opened:
        return np.stack(found)
    if isinstance(opened["images"], h5py.Dataset):
        return found[0]
    [shape] = np.unique(opened["images/shapes"][()], axis=0).tolist()
    stacked = found[0].reshape(-1, *(shape if shape[2] > 1 else shape[:2]))
    n_values = stacked[0].size
    assert opened["images/offsets"][()].tolist() == [n_values * i for i in range(len(stacked) + 1)]
    return stacked


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    lines = [line for case in cases for line in differences(**case)]
    print("\n".join(lines))
    print(f"{len(cases)} files read with HDF5 {h5py.version.hdf5_version}", file=sys.stderr)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
