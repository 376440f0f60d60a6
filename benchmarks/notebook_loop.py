"""What notebooks do: imageio for each image, and a dataset for each. Prints the seconds of work.

python notebook_loop.py MANIFEST OUT.h5
"""

import sys
import time
from pathlib import Path

import h5py
import imageio.v3 as iio

manifest, out = sys.argv[1:]
started_s = time.perf_counter()
with h5py.File(out, "w") as file:
    for row, path in enumerate(Path(manifest).read_text().splitlines()):
        file.create_dataset(f"images/{row}", data=iio.imread(path))
print(time.perf_counter() - started_s)
