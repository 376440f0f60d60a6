"""`ImageStore(verify=…)`: what is read is compared with its checksum, and refused if it differs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.chunk_sums import stored, wrong_chunks
from helpers.support import checkered, make_pixels, write_manifest, write_png
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest
from h5ingest.reading.checks import VERIFY, Checks, Verify

N = 12
CODECS = ("gzip:1", "zstd:1", "lzf", "bitshuffle:zstd:1", "bitshuffle:lz4", "blosc2:zstd:1", "szip")
"""Of those that h5ingest undoes itself, and of those that HDF5 does."""
COMPARING: tuple[Verify, ...] = ("auto", "first", "always")
"""Modes that compare chunks; all but the first compare images, too."""
SIDES = {"small": (11, 13, 3), "large": (160, 150, 3)}
"""Rows that are read from mapped memory, and with `pread`."""


@dataclass(frozen=True, slots=True)
class Made:
    """A file, and what is in it."""

    path: Path
    images: list[NDArray[Any]]
    layout: str

    def copy(self, name: str) -> Made:
        path = self.path.with_name(f"{name}.h5")
        shutil.copy(self.path, path)
        return Made(path, self.images, self.layout)

    def damage(self, row: int) -> None:
        """Change one byte of an image in the file."""
        with h5py.File(self.path, "r") as file:
            if self.layout == "tree":
                dataset, inside = file[file["datasets"][row]], 7
            elif self.layout == "stack":
                dataset, inside = file["images"], row * self.images[row].nbytes + 7
            else:
                dataset = file["images/pixels" if self.layout == "ragged" else "images/data"]
                inside = int(file["images/offsets"][row]) * dataset.dtype.itemsize + 7
            offset = dataset.id.get_offset()
            if offset is None:
                offset = dataset.id.get_chunk_info(0).byte_offset
        flip(self.path, offset + inside)


@contextlib.contextmanager
def unnoticed(path: Path) -> Iterator[None]:
    """Change a file as a failing disk does: its date stays."""
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path, at: int) -> None:
    with unnoticed(path), path.open("r+b") as raw:
        raw.seek(at)
        (byte,) = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte ^ 0x10]))


def make(folder: Path, layout: str, shape: tuple[int, ...] = SIDES["small"], **more: Any) -> Made:
    """N images, two to a chunk of a stack; the last one failed."""
    images = list(make_pixels(N, shape)) if layout == "stack" else []
    for k in range(N - len(images)):
        images.append(make_pixels(1, (shape[0] + k, *shape[1:]))[0])
    folder.mkdir(exist_ok=True)
    for k, image in enumerate(images):
        write_png(folder / f"{k}.png", image)
    broken = (folder / f"{N - 1}.png").read_bytes()
    (folder / f"{N - 1}.png").write_bytes(broken[:-30])
    images[-1] = np.zeros_like(images[-1])
    manifest = write_manifest(folder / "m.csv", ["path,label", *(f"{k}.png,{k}" for k in range(N))])
    if layout == "stack":
        more.setdefault("chunk_rows", 2)
    ingest(manifest, folder / "a.h5", IngestOptions(layout=layout, on_error="blank", **more))
    return Made(folder / "a.h5", images, layout)


def refused(store: ImageStore, index: Any, *said: str) -> None:
    with pytest.raises(OutputError) as caught:
        store[index]
    for text in ("is damaged: expected checksum ", ", found ", "`h5ingest verify`", *said):
        assert text in str(caught.value)


def assert_reads(store: ImageStore, made: Made, rows: list[int]) -> None:
    for image, row in zip(store[rows][0], rows, strict=True):
        np.testing.assert_array_equal(image, made.images[row])
        np.testing.assert_array_equal(store[row][0], made.images[row])


def assert_all_read(made: Made, rows: list[int] | None = None) -> None:
    """In each mode, from a new store."""
    for mode in VERIFY:
        with ImageStore(made.path, verify=mode) as store:
            assert_reads(store, made, list(range(N)) if rows is None else rows)


PLAIN = [
    *((layout, size) for layout in ("stack", "ragged", "tree") for size in SIDES),
    ("encoded", "small"),
]


@pytest.mark.parametrize(("layout", "size"), PLAIN)
def test_a_damaged_image_is_refused_by_every_way_to_read_it(
    layout: str, size: str, tmp_path: Path
) -> None:
    made = make(tmp_path, layout, SIDES[size])
    good = [row for row in range(N - (layout == "encoded")) if row != 5]
    assert_all_read(made, [*range(N - 1), *good])
    made.damage(5)
    for mode in VERIFY:
        store = ImageStore(made.path, verify=mode)
        refuses = mode in ("first", "always") or (mode == "auto" and layout in ("encoded", "tree"))
        for index in (
            5, 5 - N, slice(3, 8), slice(8, 3, -1), [0, 5 - N, 1], np.arange(N) == 5, np.int16(5),
            [5, 5], 5,
        ):  # fmt: skip
            if refuses:
                refused(store, index, str(made.path), "image 5")
            elif layout != "encoded":  # whose decoder finds it
                store[index]
        assert_reads(store, made, good)
        assert len(store[[]][0]) == len(store[3:3][0]) == 0
        with pytest.raises(IndexError):
            store[N]
        with pytest.raises(IndexError):
            store[[0, -N - 1]]
    skipping = ImageStore(made.path, failed="skip", verify="always")
    refused(skipping, 5, "image 5")
    assert_reads(skipping, made, good[:10])


@pytest.mark.parametrize(("layout", "codec"), checkered(["stack", "ragged", "tree"], CODECS))
def test_a_damaged_chunk_is_refused_before_it_is_decoded(
    layout: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h5ingest.core import group_datasets

    monkeypatch.setattr(group_datasets, "EXTENT_CHUNK_BYTES", 1000)
    made = make(tmp_path, layout, compression=codec)
    with h5py.File(made.path) as file:
        assert not wrong_chunks(file)
    assert_all_read(made)
    dice = np.random.default_rng(len(codec))
    for attempt in range(10):
        hurt = made.copy("hurt")
        with h5py.File(hurt.path) as file:
            if layout == "tree":
                dataset, chunk = file[file["datasets"][5]], 0
                part = "image 5"
            else:
                dataset, chunk = file["images" if layout == "stack" else "images/pixels"], 2
                start = chunk * dataset.chunks[0]
                what = "images" if layout == "stack" else "elements"
                part = f"chunk 2 ({what} {start:,} to {start + dataset.chunks[0] - 1:,})"
            at = (chunk * dataset.chunks[0], *(0,) * (dataset.ndim - 1))
            info = dataset.id.get_chunk_info_by_coord(at)
        flip(hurt.path, info.byte_offset + int(dice.integers(info.size)))
        row = 4 if layout == "stack" else 5
        for mode in COMPARING[attempt % 3 :]:
            store = ImageStore(hurt.path, verify=mode)
            for _ in range(2):
                if layout == "ragged":  # some images have a part in the chunk
                    refused(store, slice(None), str(hurt.path), part)
                else:
                    refused(store, row, str(hurt.path), part)
                    refused(store, [0, row], part)
            assert_reads(store, made, [0, N - 1])


def test_a_chunk_that_a_filter_declined_is_compared_as_it_is(tmp_path: Path) -> None:
    made = make(tmp_path, "stack", (50, 50, 3), compression="lzf")
    with h5py.File(made.path, "r+") as file:
        images = file["images"]
        masks = [images.id.get_chunk_info(k).filter_mask for k in range(N // 2)]
        assert any(masks), "no chunk was declined"
        assert not wrong_chunks(file)
    assert_reads(ImageStore(made.path), made, list(range(N)))


def test_a_chunk_that_is_gone_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path, "stack", compression="gzip:1")
    with h5py.File(made.path, "r+") as file:
        images = file["images"]
        kept = [(k, stored(images, k)) for k in range(N // 2) if k != 1]
        creation, space, kind = images.id.get_create_plist(), images.id.get_space(), images.id
        del file["images"]
        anew = h5py.h5d.create(file.id, b"images", kind.get_type(), space, creation)
        for chunk, data in kept:
            anew.write_direct_chunk((2 * chunk, 0, 0, 0), data)
    store = ImageStore(made.path)
    with pytest.raises(OutputError, match=r"chunk 1 \(images 2 to 3\) is damaged: it is not where"):
        store[2]
    assert_reads(store, made, [0, 1, 4, 5])


def test_first_compares_once_and_always_each_time(tmp_path: Path) -> None:
    """In one process: what changes after that is found by `always` alone."""
    made = make(tmp_path, "stack")
    stores = {mode: ImageStore(made.path, verify=mode) for mode in VERIFY}
    for store in stores.values():
        store[2:6], store[7]
    for row in (5, 7, 9):
        made.damage(row)
    for row in (5, 7):
        changed = made.images[row].ravel().copy()
        changed[7] ^= 0x10
        for store in (stores["auto"], stores["never"], stores["first"]):
            for image in (store[row][0], store[[row]][0][0]):
                np.testing.assert_array_equal(image.ravel(), changed)
        refused(stores["always"], row, f"image {row}")
        refused(stores["always"], [1, row], f"image {row}")
    for again in (pickle.loads(pickle.dumps(stores["first"])), stores["first"]):
        refused(again, 9, "image 9")
        refused(again, slice(8, None), "image 9")


def test_first_compares_a_chunk_once(tmp_path: Path) -> None:
    made = make(tmp_path, "stack", compression="gzip:1")
    stores = {mode: ImageStore(made.path, verify=mode, cache_bytes=0) for mode in VERIFY}
    for store in stores.values():
        store[4], store[0]
    with h5py.File(made.path) as file:
        info = file["images"].id.get_chunk_info(2)
    flip(made.path, info.byte_offset + 1)  # in the header of the zlib stream: libdeflate refuses
    for store in (stores["first"], stores["never"]):
        with pytest.raises(OutputError, match="chunk 2 is damaged"):
            store[4]
    for store in (stores["auto"], stores["always"]):
        refused(store, 4, "chunk 2 (images 4 to 5)")


@pytest.mark.parametrize("codec", ["zstd:1", "bitshuffle:lz4"])
def test_auto_compares_what_hdf5_decodes_once(codec: str, tmp_path: Path) -> None:
    for k in range(8):
        write_png(tmp_path / f"{k}.png", np.full((40, 40), 1 << k, np.uint8))
    manifest = write_manifest(tmp_path / "m.txt", [f"{k}.png" for k in range(8)])
    path = tmp_path / "a.h5"
    ingest(manifest, path, IngestOptions(layout="stack", chunk_rows=1, compression=codec))
    with h5py.File(path) as file:
        chunks = [file["images"].id.get_chunk_info(k) for k in range(8)]
        one, other = next(
            (i, k) for k in range(8) for i in range(k) if chunks[i].size == chunks[k].size
        )
        data = stored(file["images"], one)
    stores = {mode: ImageStore(path, verify=mode) for mode in VERIFY}
    for store in stores.values():
        assert store[other][0].min() == 1 << other
    with unnoticed(path), path.open("r+b") as raw:  # a good chunk, but another one
        raw.seek(chunks[other].byte_offset)
        raw.write(data)
    for mode, store in stores.items():
        if mode == "always" or (mode == "auto" and codec == "zstd:1"):
            refused(store, other, f"chunk {other} (images {other} to {other})")
        else:
            assert store[other][0].max() == 1 << one
    refused(ImageStore(path), other, f"chunk {other}")


def test_threads_and_forks_compare_too(tmp_path: Path) -> None:
    made = make(tmp_path, "ragged")
    made.damage(5)
    store = ImageStore(made.path, verify="first", threads=4)
    errors: list[str] = []

    def read() -> None:
        for row in [*range(N), *range(N)]:
            try:
                np.testing.assert_array_equal(store[row][0], made.images[row])
            except OutputError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert all("image 5 is damaged" in error for error in errors)
    child = multiprocessing.get_context("fork").Process(target=refused, args=(store, 5, "image 5"))
    child.start()
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("compression", [None, "gzip:1"])
@pytest.mark.parametrize("layout", ["stack", "ragged", "tree"])
def test_files_of_version_1_are_read_and_have_the_same_digest(
    layout: str, compression: str | None, tmp_path: Path
) -> None:
    made = make(tmp_path, layout, compression=compression)
    with h5py.File(made.path, "r+") as file:
        assert file.attrs["schema"] == f"h5ingest {layout} 2"
        assert ("chunk_checksums" in file) == (compression is not None)
        file.attrs["schema"] = f"h5ingest {layout} 1"
        del file.attrs["attributes_digest"]
        file.pop("chunk_checksums", None)
    report = verify(made.path)
    assert report.ok, (report.problems, report.bad)
    assert_all_read(made)
    with h5py.File(made.path, "r+") as file:
        file["checksums"][5] ^= np.uint64(1)
    for mode in COMPARING[1:]:
        store = ImageStore(made.path, verify=mode)
        refused(store, 5, "image 5")
        assert_reads(store, made, [0, 1])


@pytest.mark.parametrize("compression", ["gzip:1", "zstd:1"])
def test_every_checksum_of_a_tree_counts(compression: str, tmp_path: Path) -> None:
    """Also those of images that are too small to be filtered: here the first five."""
    made = make(tmp_path, "tree", (1, 3), compression=compression)
    assert verify(made.path).ok
    with h5py.File(made.path, "r+") as file:
        unfiltered = [file[name].chunks is None for name in file["datasets"]]
        assert unfiltered == [row < 5 for row in range(N)]
        file["chunk_checksums"][:] ^= np.uint64(1)
    report = verify(made.path)
    found = [*report.problems, *map(str, report.bad)]
    for row in range(N):
        assert any(f"chunk_checksums: chunk {row}: expected" in text for text in found), found


def test_an_image_of_an_old_tree_is_not_taken_for_checksums(tmp_path: Path) -> None:
    made = make(tmp_path, "tree", (N, 3))
    with h5py.File(made.path, "r+") as file:
        file.attrs["schema"] = "h5ingest tree 1"
        del file.attrs["attributes_digest"]
        name = file["datasets"][0]
        file.move(name, "/chunk_checksums")
        file["datasets"][0] = b"/chunk_checksums"
    assert_all_read(made)


@pytest.mark.parametrize("layout", ["stack", "ragged"])
def test_chunks_that_another_program_made_are_not_compared(layout: str, tmp_path: Path) -> None:
    """As `h5repack` does: every attribute and dataset stays, the filters are others."""
    made = make(tmp_path, layout, compression="gzip:1")
    with h5py.File(made.path, "r+") as file:
        name = "images" if layout == "stack" else "images/pixels"
        pixels, chunks = file[name][()], file[name].chunks
        del file[name]
        file.create_dataset(name, data=pixels, chunks=chunks, compression="gzip")
    assert_all_read(made)
    with h5py.File(made.path, "r+") as file:
        file[name][... if layout == "ragged" else 5] ^= 1
    refused(ImageStore(made.path, verify="first"), 5, "image 5")


def test_checksums_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = make(tmp_path, "stack", compression="gzip:1")
    with h5py.File(made.path, "r+") as file:
        about = file["chunk_checksums"].attrs["chunking"]
        del file["chunk_checksums"]
        file["chunk_checksums"] = np.zeros(3, np.uint64)
        file["chunk_checksums"].attrs["chunking"] = about
    with pytest.raises(OutputError, match=r"expected 6 checksums of chunks, found \(3,\)"):
        ImageStore(made.path)[0]
    assert_reads(ImageStore(made.path, verify="never"), made, [0])
    tree = make(tmp_path / "tree", "tree")
    with h5py.File(tree.path, "r+") as file:
        del file["checksums"]
        file["checksums"] = np.zeros(3, np.uint64)
    with pytest.raises(OutputError, match=r"/checksums: expected the shape \(12,\), found \(3,\)"):
        ImageStore(tree.path)[0]
    with pytest.raises(UsageError, match="verify: expected auto, never, first, always; got 'no'"):
        ImageStore(made.path, verify="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_many_at_once_are_compared_as_each_by_itself(once: bool, dtype: str) -> None:
    from xxhash import xxh3_64_intdigest

    values = make_pixels(9, (3, 5), dtype)
    sums = np.array([xxh3_64_intdigest(value) for value in values], np.uint64)
    checks = Checks("a.h5", lambda: sums, lambda number: f"part {number}", once=once)
    for numbers in ([0, 3, -1], [3, 3, 3], [], [8, 0]):
        rows = np.array(numbers, np.intp)
        checks.many(rows, values[rows])
        for row in numbers:
            checks.one(row, values[row])
    swapped = values[[1, 2, 4, 3]]
    with pytest.raises(OutputError, match=re.escape("a.h5: part 4 is damaged")):
        checks.one(-5, values[5])
    # Of parts that were right before, `once` looks at none.
    with pytest.raises(OutputError, match="part 4 is damaged" if once else "part 3 is damaged"):
        checks.many(np.array([1, 2, 3, 4 - 9]), swapped)
    checks.many(np.array([1]), values[[1]])
