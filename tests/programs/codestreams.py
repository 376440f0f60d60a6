"""Change HTJ2K codestreams in a file at random, and see what readers make of them.

    codestreams.py FOLDER FIRST COUNT      cases FIRST to FIRST + COUNT - 1, files in FOLDER

Readers: ImageStore of a stack and of a tree, by what is compared; plain h5py with hdf5plugin;
imagecodecs and hdf5plugin's filter alone, as if the checksum fitted. Each works in a child that may
die; the last line on stdout is JSON: reader -> outcome (right, wrong, error, or the signal that
ended the child) -> how often.

Launched by tests; never imported.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers its filters
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.pictures import drawn
from helpers.support import write_images, write_manifest

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.errors import OutputError
from h5ingest.images import htj2k
from h5ingest.reading import coded_images

SHAPES = (
    (64, 64, 1, "uint8"),
    (47, 50, 3, "uint8"),
    (41, 33, 1, "uint16"),
    (200, 150, 3, "uint16"),
)
"""Height, width, channels, type of the images."""
LONGEST_S = 20
"""A read that takes longer hangs."""
MOST_BYTES = 8 * 1024**3
"""That a child may have mapped."""
HEADERS = 120
"""Bytes in which a codestream's main header lies."""


def changed(intact: bytes, dice: np.random.Generator) -> bytes:
    """The codestream with some change, as long as it was."""
    data = bytearray(intact)
    most = HEADERS if dice.random() < 0.4 else len(data)
    at = int(dice.integers(min(most, len(data))))
    match dice.integers(5):
        case 0:  # one bit
            data[at] ^= 1 << int(dice.integers(8))
        case 1:  # some bytes
            for place in dice.integers(len(data), size=4):
                data[place] = int(dice.integers(256))
        case 2:  # one byte at its limits
            data[at] = int(dice.choice([0, 1, 127, 128, 255]))
        case 3:  # a run
            n = min(int(dice.integers(1, 65)), len(data) - at)
            data[at : at + n] = dice.bytes(n)
        case _:  # the end is missing
            data[at:] = bytes(len(data) - at)
    return bytes(data)


class Files:
    """A stack or a tree of each shape, whose first chunk is changed for a case, and put back."""

    def __init__(self, folder: Path) -> None:
        self.made: list[tuple[Path, int, bytes, NDArray[Any], str]] = []
        for number, shape in enumerate(SHAPES):
            waves = drawn(*shape, "waves")
            noise = np.random.default_rng(number).integers(0, 9, waves.shape, waves.dtype)
            images = [waves // 2 + noise, waves // 3 + noise]
            beside = folder / str(number)
            manifest = write_manifest(folder / f"{number}.txt", write_images(beside, images))
            for layout in ("stack", "tree"):
                out = folder / f"{number}-{layout}.h5"
                options = IngestOptions(root=beside, compression="htj2k", layout=layout)
                ingest(manifest, out, options)
                with h5py.File(out) as file:
                    dataset = file["images" if layout == "stack" else file["datasets"][0]]
                    info = dataset.id.get_chunk_info(0)
                assert info.filter_mask == 0, "it is coded"
                with out.open("rb") as raw:
                    raw.seek(info.byte_offset)
                    stored = raw.read(info.size)
                self.made.append((out, info.byte_offset, stored, images[0], layout))

    def case(self, number: int) -> tuple[Path, str, NDArray[Any], bytes]:
        """Change a file for this case, and put all others right."""
        dice = np.random.default_rng([2024, number])
        path, offset, intact, image, layout = self.made[number % len(self.made)]
        data = changed(intact, dice)
        self.put(path, offset, data)
        return path, layout, image, data

    def put_right(self, number: int) -> None:
        path, offset, intact, *_ = self.made[number % len(self.made)]
        self.put(path, offset, intact)

    @staticmethod
    def put(path: Path, offset: int, data: bytes) -> None:
        with path.open("r+b") as raw:
            raw.seek(offset)
            raw.write(data)


def by_store(verify: Any) -> Callable[[Path, str, NDArray[Any], bytes], NDArray[Any]]:
    def read(path: Path, layout: str, image: NDArray[Any], data: bytes) -> NDArray[Any]:
        with ImageStore(path, verify=verify) as store:
            found: NDArray[Any] = store[0][0]
            assert np.array_equal(found, store[[0, 1]][0][0])
            return found

    return read


def by_h5py(path: Path, layout: str, image: NDArray[Any], data: bytes) -> NDArray[Any]:
    with h5py.File(path) as file:
        found: NDArray[Any]
        found = file["images"][0] if layout == "stack" else file[file["datasets"][0]][()]
        return found


def by_imagecodecs(path: Path, layout: str, image: NDArray[Any], data: bytes) -> NDArray[Any]:
    out = np.zeros_like(image)
    htj2k.decode_into(data, out)
    return out


def by_the_filter(path: Path, layout: str, image: NDArray[Any], data: bytes) -> NDArray[Any]:
    out = np.zeros_like(image)
    coded_images.decode_into(data, out)
    return out


READERS = {
    "ImageStore, auto": by_store("auto"),
    "ImageStore, first": by_store("first"),
    "h5py with hdf5plugin": by_h5py,
    "imagecodecs": by_imagecodecs,
    "hdf5plugin's filter alone": by_the_filter,
}
ERRORS = (OutputError, OSError, RuntimeError, ValueError, MemoryError)
CODES = {"right": b"r", "wrong": b"w", "error": b"e"}


def outcomes(files: Files, reader: str, numbers: range) -> Counter[str]:
    """What one reader makes of these cases, in children of which each goes on as far as it can."""
    counts: Counter[str] = Counter()
    at = numbers.start
    while at < numbers.stop:
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(told)
            try:
                read_all(files, reader, range(at, numbers.stop), tell)
            finally:
                os._exit(0)
        os.close(tell)
        with os.fdopen(told, "rb") as stream:
            for code in stream.read().decode():
                counts[next(name for name, c in CODES.items() if c.decode() == code)] += 1
                at += 1
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            counts[signal.Signals(os.WTERMSIG(status)).name] += 1
            files.put_right(at)
            at += 1
    return counts


def read_all(files: Files, reader: str, numbers: range, tell: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for number in numbers:
        path, layout, image, data = files.case(number)
        signal.alarm(LONGEST_S)
        try:
            found = READERS[reader](path, layout, image, data)
            outcome = "right" if np.array_equal(found, image) else "wrong"
        except ERRORS:
            outcome = "error"
        signal.alarm(0)
        files.put_right(number)
        os.write(tell, CODES[outcome])


if __name__ == "__main__":
    made = Files(Path(sys.argv[1]))
    first, count = map(int, sys.argv[2:])
    print(json.dumps({name: outcomes(made, name, range(first, first + count)) for name in READERS}))
