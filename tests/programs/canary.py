"""What placed chunks rely on in h5py and HDF5, each as a check that fails loudly.

    canary.py                each {"check", "folder"} in a process of its own, see `helpers.forking`
    canary.py CHECK FOLDER   one of them

Run by tests with each h5py there is; never imported. It takes no part in MPI.
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.forking import Job, serve
from helpers.stacks import stack

from h5ingest.core.layout import DatasetSpec
from h5ingest.mpi.comm import SerialComm
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.compress import Compressor
from h5ingest.storage.datasets import create, file_access, file_creation
from h5ingest.storage.filters import available, filter_pipeline
from h5ingest.storage.job_files import reserve
from h5ingest.storage.journal_records import Begins, Placement, Record
from h5ingest.storage.mpio_writer import MpioWriter

SPECS = (
    "gzip:4", "gzip:9", "lzf", "szip", "zstd:3", "lz4", "bzip2:9", "blosc:lz4:5", "blosc:zstd:1",
    "blosc:blosclz:9:noshuffle", "blosc2:zstd:5:bitshuffle", "blosc2:lz4", "bitshuffle:lz4",
    "bitshuffle:zstd", "bitshuffle:none", "none",
)  # fmt: skip


class Recorder(io.RawIOBase):
    """A file in memory that notes every write: where, how long, and whether it is the payload."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.position = 0
        self.writes: list[tuple[int, int, bytes]] = []

    def seek(self, position: int, whence: int = 0) -> int:
        self.position = position + (len(self.data) if whence == 2 else 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        piece = self.data[self.position : self.position + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def write(self, piece: Any) -> int:
        self.writes.append((self.position, len(piece), bytes(piece[:32])))
        end = self.position + len(piece)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[self.position : end] = piece
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        assert size is not None
        self.data[size:] = bytes(max(0, size - len(self.data)))
        return size

    def flush(self) -> None:
        pass


def the_payload_comes_in_one_piece_before_the_call_returns(folder: Path) -> None:
    recorder = Recorder()
    access = file_access()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, recorder)
    file = h5py.h5f.create(b"recorded", h5py.h5f.ACC_TRUNC, file_creation(), access)
    spec = DatasetSpec(
        name="/x", shape=(64, 2**20), dtype="uint8", chunk_rows=1,
        filters=filter_pipeline("gzip:1", shuffle=False),
    )  # fmt: skip
    dataset = create(file, spec)
    for chunk, length in enumerate((1, 31, 32, 33, 2047, 2048, 4096, 65_537, 3 * 2**20)):
        payload = np.frombuffer(os.urandom(length), np.uint8)
        before = len(recorder.writes)
        dataset.write_direct_chunk((chunk, 0), payload, 0)
        head = payload[:32].tobytes()
        mine = [w for w in recorder.writes[before:] if w[1] == length and w[2] == head]
        assert len(mine) == 1, (length, recorder.writes[before:])
        offset, mask = mine[0][0], 0
        told = dataset.get_chunk_info_by_coord((chunk, 0))
        assert (told.byte_offset, told.size, told.filter_mask) == (offset, length, mask), told


def place(path: Path, sizes: list[int], filter_mask: int = 0) -> list[Placement]:
    """Chunks placed in a shuffled order, nobody's bytes written."""
    placer = ChunkPlacer(path, stack(len(sizes)))
    order = np.random.default_rng(5).permutation(len(sizes)).tolist()
    placements = [placer.place(0, chunk, sizes[chunk], filter_mask) for chunk in order]
    placer.close()
    return placements


def sizes_of(n: int) -> list[int]:
    sizes: list[int] = np.random.default_rng(6).integers(1, 5000, n).tolist()
    return sizes


def places_do_not_overlap_and_lie_within_the_file(folder: Path) -> None:
    placements = place(folder / "a.h5", sizes_of(20_000))
    end = 0
    for p in sorted(placements, key=lambda p: p.offset):
        assert p.offset >= end, (p, end)
        end = p.offset + p.n_bytes
    assert end <= (folder / "a.h5").stat().st_size
    # Chunks placed one after the other mostly lie so: that is what makes large writes of them.
    joined = sum(a.offset + a.n_bytes == b.offset for a, b in pairwise(placements))
    assert joined > 0.7 * len(placements), joined


def the_same_placements_come_to_the_same_offsets(folder: Path) -> None:
    sizes = sizes_of(20_000)
    first = place(folder / "a.h5", sizes)
    assert place(folder / "b.h5", sizes) == first
    assert (folder / "a.h5").read_bytes() == (folder / "b.h5").read_bytes()


def metadata_that_is_evicted_meanwhile_reaches_the_file(folder: Path) -> None:
    """50,000 chunks: the index is larger than HDF5's cache of metadata."""
    n = 50_000
    layout = stack(n)
    chunks, places = [], []
    placer = ChunkPlacer(folder / "many.h5", layout)
    metadata = vars(placer)["_metadata"]
    written: list[int] = []
    write = metadata.write

    def noting_write(data: Any) -> Any:
        written.append(len(data))
        return write(data)

    metadata.write = noting_write
    for chunk in range(n):
        data = zlib.compress(pixels_of(chunk).data, 1)
        chunks.append(data)
        places.append(placer.place(0, chunk, len(data), 0))
    n_evicted = len(written) - n
    placer.close()
    with (folder / "many.h5").open("r+b") as file:
        for p, data in zip(places, chunks, strict=True):
            os.pwrite(file.fileno(), data, p.offset)
    assert n_evicted > 0, "nothing was evicted: this test no longer tests what it says"
    with h5py.File(folder / "many.h5") as opened:
        for start in range(0, n, 10_000):
            found = opened["images"][start : start + 10_000]
            wanted = np.concatenate([pixels_of(c) for c in range(start, start + 10_000)])
            assert np.array_equal(found, wanted), start


def pixels_of(chunk: int) -> Any:
    """(1, 4, 4) pixels that tell which chunk they belong to, of a few different lengths."""
    raw = np.zeros(16, np.uint8)
    raw[:4] = np.frombuffer(np.uint32(chunk).tobytes(), np.uint8)
    raw[4 : 4 + chunk % 12] = np.arange(chunk % 12) * 37 + chunk % 251
    return raw.reshape(1, 4, 4)


class Written:
    """What the owners of chunks and rows have written: random bytes, and where they must stay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks: dict[int, tuple[Placement, bytes]] = {}
        self.rows: list[tuple[int, bytes]] = []
        self.n_rows = 300
        """Of `stack`: as many chunks."""

    def chunk(self, placement: Placement) -> None:
        data = os.urandom(placement.n_bytes)
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), data, placement.offset)
        self.chunks[placement.chunk] = placement, data

    def all_rows(self, begins: list[Begins]) -> None:
        """Fill `/status`, `/checksums` and `/chunk_checksums`."""
        assert len(begins) == 3
        for start, n_bytes in zip((b.offset for b in begins), (1, 8, 8), strict=True):
            data = os.urandom(n_bytes * self.n_rows)
            with self.path.open("r+b") as file:
                os.pwrite(file.fileno(), data, start)
            self.rows.append((start, data))

    def check(self) -> None:
        raw = self.path.read_bytes()
        lost = [c for c, (p, data) in self.chunks.items() if raw[p.offset :][: len(data)] != data]
        assert not lost, f"{len(lost)} of {len(self.chunks)} chunks are overwritten: {lost[:9]}"
        assert all(raw[start : start + len(data)] == data for start, data in self.rows)

    def check_index(self) -> None:
        with h5py.File(self.path) as file:
            images = file["images"].id
            for chunk, (p, data) in self.chunks.items():
                told = images.get_chunk_info_by_coord((chunk, 0, 0))
                found = told.byte_offset, told.size, told.filter_mask
                assert found == (p.offset, p.n_bytes, p.filter_mask), (p, found)
                assert images.read_direct_chunk((chunk, 0, 0)) == (p.filter_mask, data)


def a_replay_keeps_what_has_been_written(folder: Path) -> None:
    """Also a replay on a file that lost, in a crash, all of HDF5's own bytes."""
    written = Written(folder / "a.h5")
    placer = ChunkPlacer(written.path, stack(written.n_rows))
    known: list[Record] = [*placer.begins()]
    written.all_rows(placer.begins())
    for chunk, n_bytes in enumerate(sizes_of(200)):
        placement = placer.place(0, chunk, n_bytes, chunk % 2)
        known.append(placement)
        written.chunk(placement)
    placer.close()
    bare = Written(folder / "bare.h5")
    bare.chunks, bare.rows = dict(written.chunks), written.rows
    with bare.path.open("wb") as file:
        for p, data in bare.chunks.values():
            os.pwrite(file.fileno(), data, p.offset)
        for start, data in bare.rows:
            os.pwrite(file.fileno(), data, start)
    for again in (written, bare):
        placer = ChunkPlacer(again.path, stack(again.n_rows), known)
        placer.replay()
        again.check()
        for chunk, n_bytes in enumerate(sizes_of(100), 200):
            again.chunk(placer.place(0, chunk, n_bytes, 0))
        placer.close()
        again.check()
        again.check_index()


def a_replay_keeps_what_a_job_that_was_taken_up_before_has_written(folder: Path) -> None:
    """Each run places chunks anew that had a place but were not done, in whatever is free then."""
    written = Written(folder / "a.h5")
    noise = np.random.default_rng(8)
    known: list[Record] = []
    for run in range(4):
        placer = ChunkPlacer(written.path, stack(written.n_rows), known)
        placer.replay()
        written.check()
        if not known:
            known += placer.begins()
            written.all_rows(placer.begins())
        left = [chunk for chunk in range(written.n_rows) if chunk not in written.chunks]
        for chunk in noise.permutation(left).tolist()[: None if run == 3 else 120]:
            # some as long as before, with another mask
            before = [k for k in known if isinstance(k, Placement) and k.chunk == chunk]
            n_bytes = before[-1].n_bytes if before and chunk % 4 == 0 else noise.integers(1, 900)
            placement = placer.place(0, chunk, int(n_bytes), int(noise.integers(0, 2)))
            known.append(placement)
            if run == 3 or noise.random() < 0.5:  # the others were killed before they wrote
                written.chunk(placement)
        written.check()
    placer.close()
    n_anew = sum(isinstance(k, Placement) for k in known) - written.n_rows
    assert n_anew > 50, n_anew
    written.check()
    written.check_index()


def unfiltered_chunks_lie_back_to_back(folder: Path) -> None:
    placer = ChunkPlacer(folder / "a.h5", stack(1000, chunk_rows=7, compression="none"))
    offsets = placer.offsets
    placer.close()
    with h5py.File(folder / "a.h5") as file:
        images = file["images"].id
        assert images.get_num_chunks() == 143
        for chunk in range(143):
            told = images.get_chunk_info_by_coord((chunk * 7, 0, 0))
            assert told.byte_offset == (offsets[0] or 0) + chunk * 7 * 16, (chunk, told)
        assert offsets[1:] == [file[name].id.get_offset() for name in ("status", "checksums")]
        assert all(offsets)


def unfiltered_rows_are_in_the_file_as_soon_as_they_are_written(folder: Path) -> None:
    """And not in a buffer of HDF5's: a checkpoint that follows says that they are safe."""
    path = folder / "a.h5"
    reserve(path)
    comm = SerialComm()
    checkpoints = Checkpoints(comm, path, None, None, 1000)
    writer = MpioWriter(path, stack(1000, chunk_rows=7, compression="none"), comm, checkpoints)
    for start in range(0, 994, 14):
        rows = range(start, start + 14)
        for name, values in (
            ("/images", np.frombuffer(os.urandom(14 * 16), np.uint8).reshape(14, 4, 4)),
            ("/checksums", np.frombuffer(os.urandom(14 * 8), np.uint64)),
            ("/status", np.frombuffer(os.urandom(14), np.uint8)),
        ):
            writer.write(name, rows, values)
            assert values.tobytes() in path.read_bytes(), (name, rows)
    writer.close()


def one_chunk_in_memory_is_what_an_ordinary_file_stores(folder: Path) -> None:
    specs = {spec.partition(":")[0] for spec in SPECS} - {"none"}
    assert set(available()) == specs | {"htj2k"}  # which is coded outside HDF5
    noise = np.random.default_rng(7)
    n_declined = 0
    for dtype in ("uint8", "uint16"):
        for text in SPECS:
            for shuffle in (False, True):
                filters = filter_pipeline(text, shuffle=shuffle)
                if not filters:
                    continue
                spec = DatasetSpec(
                    name="/x", shape=(11, 40, 30, 3), dtype=dtype, chunk_rows=4, filters=filters
                )
                pixels = np.zeros(spec.shape, dtype)
                pixels[:4] = np.arange(40)[:, None, None] * 5
                pixels[4:] = noise.integers(0, np.iinfo(dtype).max, pixels[4:].shape, dtype)
                n_declined += ordinary(folder / "ordinary.h5", spec, pixels)
    assert n_declined > 10, "no filter declined random pixels: masks are not tested any more"


def ordinary(path: Path, spec: DatasetSpec, pixels: Any) -> int:
    """Compare each chunk; return how many a filter declined. h5py's high-level calls alone."""
    compressor = Compressor(spec)
    n_declined = 0
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((4, *spec.shape[1:]))
        for f in spec.filters:
            creation.set_filter(f.id, h5py.h5z.FLAG_OPTIONAL, f.options)
        space = h5py.h5s.create_simple(spec.shape)
        dataset = h5py.Dataset(
            h5py.h5d.create(file.id, b"x", h5py.h5t.py_create(pixels.dtype), space, creation)
        )
        dataset[...] = pixels
        file.flush()
        for start in (0, 4, 8):
            mask, data = dataset.id.read_direct_chunk((start, 0, 0, 0))
            mine = compressor.compress(pixels[start : start + 4])
            assert mine == (mask, data), (spec, start, mask, mine[0], len(data), len(mine[1]))
            n_declined += mask != 0
    return n_declined


CHECKS = {
    check.__name__: check
    for check in (
        the_payload_comes_in_one_piece_before_the_call_returns,
        places_do_not_overlap_and_lie_within_the_file,
        the_same_placements_come_to_the_same_offsets,
        metadata_that_is_evicted_meanwhile_reaches_the_file,
        a_replay_keeps_what_has_been_written,
        a_replay_keeps_what_a_job_that_was_taken_up_before_has_written,
        unfiltered_chunks_lie_back_to_back,
        unfiltered_rows_are_in_the_file_as_soon_as_they_are_written,
        one_chunk_in_memory_is_what_an_ordinary_file_stores,
    )
}


def do(job: Job) -> int:
    print(f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}")
    CHECKS[job["check"]](Path(job["folder"]))
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve(do)
    else:
        do({"check": sys.argv[1], "folder": sys.argv[2]})
