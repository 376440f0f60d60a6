"""Processes that decode by Pillow, one that writes with h5py. Prints the seconds of work.

python pool_h5py.py MANIFEST OUT.h5 PROCESSES
"""

import sys
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(path: str) -> NDArray[Any]:
    """Return the pixels, (H, W) or (H, W, C)."""
    with Image.open(path) as image:
        return np.asarray(image)


def main(manifest: str, out: str, n_processes: str) -> None:
    """Store all images of the manifest."""
    started_s = time.perf_counter()
    paths = Path(manifest).read_text().splitlines()
    first = decode(paths[0])
    with h5py.File(out, "w") as file, Pool(int(n_processes)) as pool:
        images = file.create_dataset("images", (len(paths), *first.shape), first.dtype)
        for row, image in enumerate(pool.imap(decode, paths, chunksize=16)):
            images[row] = image
        pool.close()
        pool.join()
    print(time.perf_counter() - started_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
