"""The file as HDF5 sees it: when nothing more can be written, HDF5 does not notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.support import FLAVOURS, WHEELS, Flavour, explain, run

from h5ingest.storage.raw_file import RawFile

FULL = """
import resource, signal, sys
from pathlib import Path
import h5py
from h5ingest.storage.raw_file import reopened

path = Path(sys.argv[1])
h5py.File(path, "w", libver=("v110", "v110")).close()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size,) * 2)
with reopened(path, "a pass") as file:
    for name in ("a", "b"):
        file.create_dataset(name, data=["text"] * 60, dtype=h5py.string_dtype())
        assert file[name][:].tolist() == [b""] * 60
    print("to the end", flush=True)
"""


def test_behind_the_end_of_the_file_lie_zeros(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    raw = RawFile(tmp_path / "file")
    for position, expected in [(4, b"ef\0\0"), (6, b"\0\0\0\0"), (100, b"\0\0\0\0"), (0, b"abcd")]:
        buffer = bytearray(b"left")  # by whatever was in this memory
        raw.seek(position)
        assert raw.readinto(buffer) == 4
        assert buffer == expected
        assert raw.tell() == position + 4
    raw.close()


def test_less_than_asked_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 2), at))
    raw, buffer = RawFile(tmp_path / "file"), bytearray(8)
    assert raw.readinto(buffer) == 8
    assert buffer == b"abcdef\0\0"
    raw.close()


@pytest.mark.parametrize("flavour", [FLAVOURS["mpich"], WHEELS], ids=lambda each: each.name)
def test_texts_on_a_full_disk_are_no_trouble_to_hdf5(flavour: Flavour, tmp_path: Path) -> None:
    """It reads what it has just filled a dataset with: 2.0 into memory that it has not cleared."""
    env = {"MALLOC_PERTURB_": "165"}  # such memory is never zeros
    python = flavour.checked().bin / "python"
    completed = run([python, "-c", FULL, tmp_path / "out.h5"], env=env)
    assert completed.stdout == "to the end\n", explain(completed)
    assert completed.returncode == 1, explain(completed)
    assert "StorageError: " in completed.stderr
    assert "a pass: [Errno 27] File too large" in completed.stderr
