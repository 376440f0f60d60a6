"""Compare HDF5 files with the pixels they must hold, by plain h5py and hdf5plugin alone.

    plain_reader.py FILES.json

with [{"file", "pixels": file of numpy.save, "filters": [id, ...]}, ...].
Exit 1 and a line for each difference. Run by tests; never imported; knows nothing of h5ingest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers its filters
import numpy as np


def differences(file: str, pixels: str, filters: list[int]) -> list[str]:
    wanted = np.load(pixels)
    found = []
    with h5py.File(file, "r") as opened:
        images = opened["images"]
        stored = images[()]
        if stored.dtype != wanted.dtype or stored.shape != wanted.shape:
            found.append(f"expected {wanted.shape} {wanted.dtype}, got {stored.shape}")
        elif not np.array_equal(stored, wanted):
            bad = np.flatnonzero((stored != wanted).reshape(len(wanted), -1).any(axis=1))
            found.append(f"{len(bad)} of {len(wanted)} images differ, the first is {bad[0]}")
        creation = images.id.get_create_plist()
        ids = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
        if ids != filters:
            found.append(f"expected the filters {filters}, got {ids}")
        if not (opened["status"][()] == 1).all():
            found.append("not every status is 1")
    return [f"{Path(file).name}: {line}" for line in found]


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    lines = [line for case in cases for line in differences(**case)]
    print("\n".join(lines))
    print(f"{len(cases)} files read with HDF5 {h5py.version.hdf5_version}", file=sys.stderr)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
