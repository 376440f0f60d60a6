"""Turn CIFAR-10's "python version" into PNG files with a manifest for h5ingest.

    tar xzf cifar-10-python.tar.gz
    python cifar10_to_png.py cifar-10-batches-py cifar10
    h5ingest cifar10/manifest.csv cifar10.h5 --group-by split

The batches are pickles, and a pickle is a program: loading one calls whatever functions it names.
So this does not load them with `pickle.load`, but admits the three names that these files need and
puts harmless classes of its own in their place. Everything else is refused, by name, uncalled.
"""

import argparse
import csv
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

BATCHES = {f"data_batch_{i}": "train" for i in range(1, 6)} | {"test_batch": "test"}
META = "batches.meta"


class Dtype:
    """In the place of `numpy.dtype`: only its name matters."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Take no notice of the byte order: single bytes have none."""


class Array:
    """In the place of a NumPy array: made empty, then given its content."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], Dtype, bool, bytes]) -> None:
        """Take the content: version, shape, dtype, whether in Fortran's order, bytes."""
        _, shape, dtype, fortran, data = state
        if dtype.name not in ("u1", b"u1"):
            raise ValueError(f"expected an array of uint8 (u1), found {dtype.name!r}")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): Array,  # called to make an array ...
    ("numpy._core.multiarray", "_reconstruct"): Array,  # (its name since NumPy 2)
    ("numpy", "ndarray"): Array,  # ... with this as an argument
    ("numpy", "dtype"): Dtype,
}


class Unpickler(pickle.Unpickler):
    """Knows the names in `ADMITTED` and no other."""

    def find_class(self, module: str, name: str) -> type:
        """Return what stands for a name: here is where a pickle would get hold of a function."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"refused: it asks for {module}.{name}")
        return ADMITTED[module, name]


def fail(path: Path, problem: object) -> NoReturn:
    """End with a message."""
    raise SystemExit(f"{path}: not as CIFAR-10 has it: {problem}")


def load(path: Path) -> dict[bytes, Any]:
    """Return the dictionary in a file; text in it is bytes, as Python 2 wrote it."""
    try:
        with path.open("rb") as file:
            content = Unpickler(file, fix_imports=False, encoding="bytes").load()
    except FileNotFoundError:
        raise SystemExit(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle may raise anything
        fail(path, error)
    if not isinstance(content, dict):
        fail(path, f"expected a dictionary, found {type(content).__name__}")
    return content


def load_names(path: Path) -> list[str]:
    """Return the names of the classes."""
    names = load(path).get(b"label_names")
    # They become names of folders: ../ must not be one.
    if not isinstance(names, list) or not all(
        isinstance(name, bytes) and re.fullmatch(rb"[A-Za-z0-9_-]+", name) for name in names
    ):
        fail(path, f"expected names of classes, found {names!r}")
    return [name.decode() for name in names]


def load_batch(path: Path, n_classes: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Return images, (n, 32, 32, 3) uint8, and their labels."""
    batch = load(path)
    data, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(data, Array) or data.values.shape[1:] != (3 * 32 * 32,):
        fail(path, "expected data of 3072 bytes an image")
    if not isinstance(labels, list) or len(labels) != len(data.values):
        fail(path, "expected one label for each image")
    if not all(isinstance(label, int) and 0 <= label < n_classes for label in labels):
        fail(path, f"expected labels from 0 to {n_classes - 1}")
    # A row is all of red, then all of green, then all of blue; an image has them pixel by pixel.
    return data.values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def convert(source: Path, dest: Path) -> int:
    """Write DEST/<split>/<class>/<number>.png and DEST/manifest.csv; return the number of images.

    Numbers go through the batches in order, for train and test apart. The manifest comes last, so
    that one that exists names only files that exist.
    """
    names = load_names(source / META)
    counts = {"train": 0, "test": 0}
    rows: list[tuple[str, str, str]] = []
    for batch, split in BATCHES.items():
        images, labels = load_batch(source / batch, len(names))
        for image, label in zip(images, labels, strict=True):
            path = Path(split, names[label], f"{counts[split]:05}.png")
            (dest / path.parent).mkdir(parents=True, exist_ok=True)
            iio.imwrite(dest / path, image)
            rows.append((path.as_posix(), names[label], split))
            counts[split] += 1
    with (dest / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="cifar-10-batches-py")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder for the images")
    args = parser.parse_args()
    print(f"{convert(args.source, args.dest):,} images in {args.dest}")
