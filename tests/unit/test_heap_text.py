"""Strings read from the global heap without HDF5, against what h5py reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from h5ingest.core.errors import OutputError
from h5ingest.reading.forksafe_file import FileBytes, identity_of
from h5ingest.reading.heap_text import HeapText

TEXT = h5py.string_dtype("utf-8")


def opened(path: Path) -> FileBytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return FileBytes(str(path), identity_of(fd))
    finally:
        os.close(fd)


def drawn(random: np.random.Generator, n: int) -> list[bytes]:
    """Texts of all lengths, empty ones among them, and one that fills collections by itself."""
    kinds = random.choice([0, 1, 8, 40, 300, 5000], n, p=[0.1, 0.2, 0.2, 0.4, 0.09, 0.01])
    lengths = random.integers(0, kinds + 1)
    texts = [bytes(random.integers(1, 256, length, np.uint8)) for length in lengths]
    texts[n // 2] = b"x" * 200_000
    return texts


@pytest.mark.parametrize("seed", range(8))
def test_texts_are_those_that_hdf5_reads(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    path, n = tmp_path / "a.h5", 2500
    how: Any = [{}, {"libver": "v110"}, {"userblock_size": 1024}, {"libver": "latest"}][seed % 4]
    names = ("first", "second")
    with h5py.File(path, "w", **how) as file:
        for name in names:
            file.create_dataset(name, (n,), TEXT)
        if seed % 2:  # written in one piece each
            for name in names:
                file[name][...] = drawn(random, n)
        else:  # by turns, in pieces, some of them twice
            for start in [*random.permutation(np.arange(0, n, 50)).tolist(), 100, 700]:
                for name in names:
                    file[name][start : start + 50] = drawn(random, 50)
                file.attrs[f"a text between {start}"] = "x" * 30
    with h5py.File(path) as file:
        for name in names:
            expected = file[name][:].tolist()
            texts = HeapText.of(opened(path), file[name], file.id.get_create_plist())
            assert texts is not None
            assert texts.read(np.arange(n)) == expected
            for _ in range(30):
                rows = random.integers(0, n, random.integers(1, 40))
                assert texts.read(rows) == [expected[row] for row in rows]
            for row in random.integers(0, n, 30).tolist():
                assert texts.read(np.array([row])) == [expected[row]]
                start = max(0, row - 70)
                assert texts.read(np.arange(start, row + 1)) == expected[start : row + 1]


def test_what_is_stored_otherwise_is_left_to_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("chunked", data=["a", "b"], dtype=TEXT, chunks=(1,))
        file.create_dataset("nothing yet", (3,), TEXT)
        file.flush()
        for name in file:
            assert (
                HeapText.of(opened(tmp_path / "a.h5"), file[name], file.id.get_create_plist())
                is None
            )


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_an_error_or_another_text(seed: int, tmp_path: Path) -> None:
    """Whatever byte is wrong: no crash, no other error, no text longer than it can be."""
    random = np.random.default_rng(seed)
    path = tmp_path / "a.h5"
    n = 60
    with h5py.File(path, "w") as file:
        texts = [b"text %d" % row * 5 for row in range(n)]
        file.create_dataset("texts", data=texts, dtype=TEXT)
        offset = file["texts"].id.get_offset()
    lengths = set(map(len, texts))
    sound = path.read_bytes()
    heap = int.from_bytes(sound[offset + 4 : offset + 12], "little")
    refused: list[str] = []
    for _ in range(300):
        data = bytearray(sound)
        first, n_bytes = [(offset, n * 16), (heap, 4000)][random.integers(2)]
        place = first + int(random.integers(n_bytes))
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            found = HeapText(opened(path), "texts", offset, n, 0).read(np.arange(n))
        except OutputError as error:
            refused.append(str(error))
            continue
        assert {len(text) for text in found} <= {0, *lengths}
    assert len(refused) > 100
    assert all("texts cannot be read" in error for error in refused)
