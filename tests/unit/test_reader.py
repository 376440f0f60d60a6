"""`ImageStore` against what was written by plain h5py, in every layout; forked and pickled."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from helpers.support import make_pixels, write_images, write_manifest, write_png
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.reading.chunked_rows import ChunkedRows
from h5ingest.reading.rows import FlatRows, PlainRows

TEXT = h5py.string_dtype("utf-8")
LABELS = np.array([2, 0, 1, 2, 1, 0, 2, 2, 0, 1, 0], np.int64)
N = len(LABELS)
STATUS = h5py.enum_dtype({"missing": 0, "ok": 1, "failed": 2}, "u1")

CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "shuffle": {"shuffle": True},
    "gzip": {"compression": "gzip"},
    "gzip+shuffle": {"compression": "gzip", "shuffle": True},
    "gzip+fletcher32": {"compression": "gzip", "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "lzf+shuffle": {"compression": "lzf", "shuffle": True},
    "szip": {"compression": "szip"},
    "zstd": {**hdf5plugin.Zstd(clevel=3)},
    "zstd+shuffle": {**hdf5plugin.Zstd(clevel=3), "shuffle": True},
    "lz4": {**hdf5plugin.LZ4()},
    "bzip2": {**hdf5plugin.BZip2()},
    "blosc": {**hdf5plugin.Blosc()},
    "blosc:zstd:bitshuffle": {**hdf5plugin.Blosc("zstd", 5, 2)},
    "blosc2": {**hdf5plugin.Blosc2()},
    "bitshuffle": {**hdf5plugin.Bitshuffle()},
    "bitshuffle:zstd": {**hdf5plugin.Bitshuffle(cname="zstd")},
}


def write_beside(group: h5py.Group, *, labels: bool = True, failed: tuple[int, ...] = ()) -> None:
    """Write what every layout has beside its images."""
    if labels:
        group["labels"] = LABELS
        group.create_dataset("label_names", data=[b"ape", b"bee", "caf\xe9".encode()], dtype=TEXT)
    paths = [b"dir/%d.png" % row for row in range(N)]
    paths[4] = b"caf\xe9.png"  # not UTF-8
    group.create_dataset("paths", data=paths, dtype=TEXT)
    status = np.ones(N, np.uint8)
    status[list(failed)] = 2
    group.create_dataset("status", data=status, dtype=STATUS)
    group["checksums"] = np.zeros(N, np.uint64)
    group["columns/age"] = np.arange(N) * 10
    group.create_dataset("columns/note", data=[f"note {row}" for row in range(N)], dtype=TEXT)


def write_attributes(file: h5py.File, layout: str, **more: str) -> None:
    for name, value in {
        "schema": f"h5ingest {layout} 1", "status": "complete", "content_digest": "abc",
        "n_samples": N, "n_failed": 0, "options": "{}", "libraries": "{}",
        "created": "2026-01-01T00:00:00Z", "command": "h5ingest a b", **more,
    }.items():  # fmt: skip
        file.attrs[name] = value


def write_stack(path: Path, pixels: NDArray[Any], failed: tuple[int, ...] = (), **how: Any) -> Path:
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        write_attributes(file, "stack")
        write_beside(file, failed=failed)
        file.create_dataset("images", data=pixels, **how)
    return path


def rows_of(store: ImageStore) -> object:
    """The object that reads the images of a stack."""
    return store._contents.images._rows  # type: ignore[attr-defined]


def check_all(store: ImageStore, images: Any, labels: NDArray[Any] | None) -> None:
    """Every way to index, against the arrays that were written."""
    n = len(images)
    assert len(store) == n
    for row in [*range(-n, n), np.int64(1), np.uint8(2), np.array(3)]:
        image, label = store[row]
        np.testing.assert_array_equal(image, images[int(row)])
        assert image.dtype == images[int(row)].dtype
        assert label is None if labels is None else label == labels[int(row)]
        assert image.flags.writeable
        image[...] = 77  # a copy: must not show in what is read next
    everything = range(n)
    for rows in (slice(None), slice(2, 7), slice(7, 2), slice(-3, None), slice(9, None, -2),
                 slice(0, 100, 3), slice(5, 5)):  # fmt: skip
        check_batch(store[rows], images, labels, list(everything[rows]))
    for places in ([], [3], [5, 0, 5, 5, n - 1, -1, -n], list(range(n)) * 2):
        check_batch(store[places], images, labels, places)
        check_batch(store[np.array(places, np.int32)], images, labels, places)
    mask = np.arange(n) % 3 == 1
    check_batch(store[mask], images, labels, np.flatnonzero(mask).tolist())
    check_batch(store[mask.tolist()], images, labels, np.flatnonzero(mask).tolist())
    for sample, (image, _label) in enumerate(store):
        np.testing.assert_array_equal(image, images[sample])


def check_batch(batch: Any, images: Any, labels: NDArray[Any] | None, rows: list[int]) -> None:
    found, found_labels = batch
    if isinstance(images, np.ndarray):
        np.testing.assert_array_equal(found, images[rows] if rows else images[:0])
        assert found.dtype == images.dtype
        assert found.flags.writeable
        found[...] = 77
    else:
        assert len(found) == len(rows)
        for row, image in zip(rows, found, strict=True):
            np.testing.assert_array_equal(image, images[row])
            image[...] = 77
    if labels is None:
        assert found_labels is None
    else:
        assert found_labels.tolist() == [int(labels[row]) for row in rows]
        found_labels[...] = -5


# --- stacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3), (200, 180, 3)])
@pytest.mark.parametrize("chunk", [None, 1, 4, N])
def test_an_ingested_stack_is_read_from_its_place_in_the_file(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, chunk: int | None
) -> None:
    pixels = make_pixels(N, shape, dtype)
    names = write_images(tmp_path, pixels)
    lines = zip(names, LABELS, strict=True)
    manifest = write_manifest(tmp_path / "m.txt", lines)
    ingest(manifest, tmp_path / "out.h5", IngestOptions(chunk_rows=chunk))
    with ImageStore(tmp_path / "out.h5") as store:
        assert isinstance(rows_of(store), FlatRows)
        assert store.shape == (N, *shape)
        assert store.dtype == np.dtype(dtype)
        assert list(store.paths) == names
        check_all(store, pixels, LABELS)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_filtered_chunks_of_every_codec(
    tmp_path: Path, codec: str, dtype: str, chunk: int, cache_bytes: int
) -> None:
    pixels = (make_pixels(N, (16, 9, 3), dtype) // 50).astype(dtype)
    path = write_stack(tmp_path / "a.h5", pixels, chunks=(chunk, 16, 9, 3), **CODECS[codec])
    store = ImageStore(path, cache_bytes=cache_bytes)
    assert isinstance(rows_of(store), ChunkedRows) or codec == "none"
    check_all(store, pixels, LABELS)


NATIVE = ("gzip", "gzip+shuffle", "lzf", "zstd", "zstd+shuffle", "lz4", "bzip2", "blosc",
          "blosc:zstd:bitshuffle", "shuffle")  # fmt: skip


@pytest.mark.parametrize("codec", NATIVE)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@settings(max_examples=15)
@given(data=st.data())
def test_codecs_undone_without_hdf5_are_exact(codec: str, dtype: str, data: Any) -> None:
    from h5ingest.reading.dataset_rule import StoredDataset
    from h5ingest.reading.unfilter import FilterPipeline

    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 4)))
    step = data.draw(st.integers(0, 300))  # 0: constant; small: smooth; large: noise
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    values = np.cumsum(random.integers(0, step + 1, shape), axis=1).astype(dtype)
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("d", data=values, chunks=shape, **CODECS[codec])
        file.flush()
        mask, stored = dataset.id.read_direct_chunk((0, 0, 0))
        out = np.empty(shape, dtype)
        dataset = StoredDataset(dataset.id)
        pipeline = FilterPipeline(dataset.chunks, dataset.dtype, dataset.filters)
        assert pipeline.native
        pipeline.decode_into(mask, stored, out)
    np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("codec", ["zstd", "blosc2"])
@pytest.mark.parametrize("threads", [1, 3, None])
def test_a_batch_of_many_chunks_is_decoded_by_threads(
    tmp_path: Path, codec: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = (make_pixels(N, (800, 400)) // 30).astype(np.uint8)
    path = write_stack(tmp_path / "a.h5", pixels, chunks=(2, 800, 400), **CODECS[codec])
    started: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr("threading.Thread.start", counted)
    store = ImageStore(path, threads=threads, cache_bytes=700_000)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, N, 30)
        np.testing.assert_array_equal(store[rows][0], pixels[rows])
    assert bool(started) == (threads == 3 or (threads is None and not one_processor()))
    assert not any("h5ingest" in thread.name for thread in threading.enumerate())
    with pytest.raises(UsageError, match="threads"):
        ImageStore(path, threads=0)


def one_processor() -> bool:
    return len(os.sched_getaffinity(0)) == 1


def test_the_filter_mask_of_each_chunk_is_honoured(tmp_path: Path) -> None:
    import zlib

    pixels = make_pixels(N, (6, 4), "uint16")
    path = write_stack(tmp_path / "a.h5", pixels)
    with h5py.File(path, "r+") as file:
        del file["images"]
        images = file.create_dataset(
            "images", pixels.shape, "u2", chunks=(2, 6, 4), compression="gzip", shuffle=True
        )
        images[6:] = pixels[6:]
        images.id.write_direct_chunk((0, 0, 0), pixels[:2].tobytes(), 0b11)
        images.id.write_direct_chunk((2, 0, 0), zlib.compress(pixels[2:4].tobytes()), 0b01)
        shuffled = pixels[4:6].view(np.uint8).reshape(-1, 2).T.tobytes()
        images.id.write_direct_chunk((4, 0, 0), shuffled, 0b10)
        np.testing.assert_array_equal(images[()], pixels)
    check_all(ImageStore(path), pixels, LABELS)


@pytest.mark.parametrize("codec", ["gzip", "blosc2"])
def test_a_chunk_that_was_never_written_reads_as_zeros(tmp_path: Path, codec: str) -> None:
    pixels = make_pixels(N, (6, 4))
    path = write_stack(tmp_path / "a.h5", pixels)
    with h5py.File(path, "r+") as file:
        del file["images"]
        made = file.create_dataset("images", (N, 6, 4), "u1", chunks=(4, 6, 4), **CODECS[codec])
        made[8:] = pixels[8:]
    pixels[:8] = 0
    check_all(ImageStore(path), pixels, LABELS)


def test_chunks_that_do_not_lie_in_order_are_not_taken_for_one_block(tmp_path: Path) -> None:
    pixels = make_pixels(N, (6, 4))
    path = write_stack(tmp_path / "a.h5", pixels)
    with h5py.File(path, "r+") as file:
        del file["images"]
        made = file.create_dataset("images", (N, 6, 4), "u1", chunks=(2, 6, 4), maxshape=(99, 6, 4))
        for row in (4, 0, 10, 2, 8, 6):
            made[row : row + 2] = pixels[row : row + 2]
            file.flush()
    store = ImageStore(path)
    assert not isinstance(rows_of(store), FlatRows)
    check_all(store, pixels, LABELS)


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": (3, 2, 4)},
        {"chunks": (3, 2, 4), "compression": "gzip"},
        {"chunks": (3, 6, 4), "maxshape": (None, 6, 4)},
        {},
    ],
)
def test_other_ways_to_store_a_stack(tmp_path: Path, how: dict[str, Any]) -> None:
    pixels = make_pixels(N, (6, 4), "uint16")
    store = ImageStore(write_stack(tmp_path / "a.h5", pixels, **how))
    assert isinstance(rows_of(store), PlainRows) == (how.get("chunks") == (3, 2, 4))
    assert isinstance(rows_of(store), FlatRows) or how
    check_all(store, pixels, LABELS)


def test_a_file_with_a_user_block_is_read_right(tmp_path: Path) -> None:
    pixels = make_pixels(N, (6, 4))
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        write_attributes(file, "stack")
        write_beside(file)
        file.create_dataset("images", data=pixels, chunks=(2, 6, 4))
    check_all(ImageStore(tmp_path / "a.h5"), pixels, LABELS)


def test_without_labels_none_stands_for_them(tmp_path: Path) -> None:
    pixels = make_pixels(N, (6, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, "stack")
        write_beside(file, labels=False)
        file["images"] = pixels
    store = ImageStore(tmp_path / "a.h5")
    assert store.labels is None
    assert store.label_names is None
    check_all(store, pixels, None)
    with pytest.raises(UsageError, match="mask"):
        ImageStore(tmp_path / "a.h5", failed="mask")


def test_what_is_beside_the_images(tmp_path: Path) -> None:
    store = ImageStore(write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)), failed=(3,)))
    assert isinstance(store.labels, np.ndarray)
    assert store.labels.tolist() == LABELS.tolist()
    assert not store.labels.flags.writeable
    assert store.label_names == ("ape", "bee", "café")
    assert store.status.tolist() == [1, 1, 1, 2, *[1] * (N - 4)]
    assert store.paths[4] == "caf\udce9.png"
    assert store.paths[-1] == f"dir/{N - 1}.png"
    assert store.paths[:3] == ["dir/0.png", "dir/1.png", "dir/2.png"]
    assert len(store.paths) == len(list(store.paths)) == N
    with pytest.raises(IndexError):
        store.paths[N]
    assert sorted(store.columns) == ["age", "note"]
    assert list(store.columns["age"]) == [row * 10 for row in range(N)]
    assert store.columns["note"][2] == "note 2"
    with pytest.raises(KeyError):
        store.columns["weight"]
    assert store.sizes is None
    assert store.groups == ()
    assert store.layout == "stack"
    assert "11 samples" in repr(store)


def test_the_true_sizes_of_padded_images(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)))
    sizes = np.stack([np.arange(N) % 6 + 1, np.arange(N) % 4 + 1], axis=1).astype(np.uint32)
    with h5py.File(path, "r+") as file:
        file["sizes"] = sizes
    np.testing.assert_array_equal(np.asarray(ImageStore(path).sizes), sizes)


BEYOND: list[Any] = [
    N, -N - 1, [0, N], [-N - 1], np.array([0, 10**12]), 2**70, -(2**63) - 1, np.uint64(2**64 - 1),
    np.uint64(2**63), np.array(2**64 - 1), np.array([0, 2**64 - 1], np.uint64),
]  # fmt: skip


@pytest.mark.parametrize("index", BEYOND)
@pytest.mark.parametrize("how", [{}, {"chunks": (4, 6, 4), "compression": "lzf"},
                                 {"chunks": (4, 3, 2)}])  # fmt: skip
def test_beyond_the_end_is_an_index_error(tmp_path: Path, index: Any, how: dict[str, Any]) -> None:
    path = write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)), failed=(3,), **how)
    with pytest.raises(IndexError, match="11"):
        ImageStore(path)[index]
    with pytest.raises(IndexError, match="10"):
        ImageStore(path, failed="skip")[index]


NO_INDEX: list[Any] = [
    1.0, "1", [0.5], None, [[1, 2]], (1, 2, 3.0), np.array(2.5), np.float32(2), np.array([1.0]),
    True, np.True_, np.array(True), np.array([[1]]), ["1"], np.array("1"), np.array([2**70]), 1j,
    np.array([[True] * N]), {1}, np.datetime64(1, "s"), ..., (slice(1), 2),
]  # fmt: skip


@pytest.mark.parametrize("index", NO_INDEX)
def test_what_is_no_index_is_a_type_error(tmp_path: Path, index: Any) -> None:
    store = ImageStore(write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4))))
    with pytest.raises(TypeError):
        store[index]
    with pytest.raises(IndexError, match="mask of 3"):
        store[np.ones(3, bool)]


# --- other layouts -----------------------------------------------------------------------------

SIZES = [(1, 1), (5, 7), (7, 5), (30, 20), (2, 90), (64, 64), (3, 3), (300, 301), (9, 9), (4, 4)]


def ragged_images(dtype: str, channels: int = 3) -> list[NDArray[Any]]:
    """Images of different sizes, the last one failed: no pixels at all."""
    shapes = [size if channels == 1 else (*size, channels) for size in SIZES]
    return [*(make_pixels(1, shape, dtype)[0] for shape in shapes), np.zeros((0, 0), dtype)]


def shapes_of(images: list[NDArray[Any]]) -> NDArray[np.int32]:
    return np.array([(*i.shape, 1)[:3] if i.size else (0, 0, 0) for i in images], np.int32)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "how", [{}, {"chunks": (1000,)}, {"chunks": (1000,), "compression": "gzip", "shuffle": True},
            {"chunks": (77,), **hdf5plugin.Bitshuffle()}]
)  # fmt: skip
def test_ragged_images(tmp_path: Path, dtype: str, channels: int, how: dict[str, Any]) -> None:
    images = ragged_images(dtype, channels)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, "ragged")
        write_beside(file, failed=(N - 1,))
        pixels = np.concatenate([image.ravel() for image in images])
        file.create_dataset("images/pixels", data=pixels, **how)
        file["images/offsets"] = np.cumsum([0, *[image.size for image in images]])
        file["images/shapes"] = shapes_of(images)
    store = ImageStore(tmp_path / "a.h5", cache_bytes=3000)
    check_all(store, images, LABELS)
    assert store.dtype == np.dtype(dtype)
    assert store.shape == (N,)
    assert np.asarray(store.sizes)[:3].tolist() == [[1, 1], [5, 7], [7, 5]]
    good = ImageStore(tmp_path / "a.h5", failed="skip")
    check_all(good, images[:-1], LABELS[:-1])


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[Path, list[NDArray[Any]]]:
    images = [
        make_pixels(1, (*size, 3) if k % 2 else size, "uint16" if k % 3 else "uint8")[0]
        for k, size in enumerate(SIZES)
    ]
    files = []
    for image in images:
        write_png(tmp_path / "one.png", image)
        files.append((tmp_path / "one.png").read_bytes())
    files.append(b"")
    images.append(np.zeros((0, 0), np.uint8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, "encoded")
        write_beside(file, failed=(N - 1,))
        file["images/data"] = np.frombuffer(b"".join(files), np.uint8)
        file["images/offsets"] = np.cumsum([0, *map(len, files)])
        file["images/shapes"] = shapes_of(images)
        file["checksums"][...] = [xxh3_64_intdigest(data) for data in files]
    return tmp_path / "a.h5", images


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_slice_of_many_megabytes_is_an_array_like_any_other(tmp_path: Path, dtype: str) -> None:
    pixels = make_pixels(N, (900, 701), dtype)
    with ImageStore(write_stack(tmp_path / "a.h5", pixels)) as store:
        for first in range(3):
            images, _ = store[first:]
            np.testing.assert_array_equal(images, pixels[first:])
            assert isinstance(images, np.ndarray)
            assert images.flags.carray
            assert images.flags.writeable


@pytest.mark.parametrize("threads", [None, 1, 4])
def test_encoded_images_are_decoded_on_access(
    encoded: tuple[Path, list[NDArray[Any]]], threads: int | None
) -> None:
    path, images = encoded
    store = ImageStore(path, threads=threads)
    check_all(store, images, LABELS)
    many = [7] * 20 + [0] * 3  # enough to be shared out
    check_batch(store[many], images, LABELS, many)
    assert store.dtype is None


def test_a_damaged_file_inside_names_its_row(encoded: tuple[Path, list[NDArray[Any]]]) -> None:
    path, _images = encoded
    with h5py.File(path, "r+") as file:
        file["images/data"][file["images/offsets"][4] - 20] ^= 1
    store = ImageStore(path)
    assert store[2][1] == LABELS[2]
    with pytest.raises(OutputError, match=r"a\.h5: /images: image 3 is damaged: "):
        store[3]
    with pytest.raises(OutputError, match=r"a\.h5: image 3: "):
        ImageStore(path, verify="never")[3]


def test_large_files_inside_are_read_and_one_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    dice = np.random.default_rng(2)
    images = [dice.integers(0, 256, (side, side, 3), np.uint8) for side in (100, 300, 200)]
    manifest = write_manifest(tmp_path / "m.txt", write_images(tmp_path, images))
    out = tmp_path / "out.h5"
    ingest(manifest, out, IngestOptions(layout="encoded"))
    with ImageStore(out) as store:
        for row, image in enumerate(images):
            np.testing.assert_array_equal(store[row][0], image)
        for image, found in zip(images, store[:][0], strict=True):
            np.testing.assert_array_equal(found, image)
        offset = store._contents.images._elements._byte(store._contents.images._offsets[1] + 9)  # type: ignore[attr-defined]
        os.truncate(out, offset)
        for index in (1, slice(0, 3)):
            with pytest.raises(OutputError, match="was replaced or changed"):
                store[index]


@pytest.mark.parametrize("user_block", [0, 512])
def test_a_tree_of_datasets(tmp_path: Path, user_block: int) -> None:
    images = ragged_images("uint16")
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=user_block) as file:
        write_attributes(file, "tree")
        write_beside(file, failed=(N - 1,))
        names = [f"/{'abc'[row % 3]}/img {row}".encode() for row in range(N - 1)]
        names[4] = b"/a/caf\xe9"  # not UTF-8
        for row, (name, image) in enumerate(zip(names, images, strict=False)):
            how = {"chunks": True, "compression": "gzip"} if row % 2 else {}
            file.create_dataset(name, data=image, **how)
        file.create_dataset("datasets", data=[*names, b""], dtype=TEXT)
        file["checksums"][:-1] = [xxh3_64_intdigest(image.tobytes()) for image in images[:-1]]
    images[-1] = np.zeros((0, 0), np.uint8)
    check_all(ImageStore(tmp_path / "a.h5"), images, LABELS)


@pytest.mark.parametrize("compression", [None, "gzip:1"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_batch_of_a_tree_asks_few_times_whose_file_it_is(
    compression: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [make_pixels(1, (90 + row % 3, 40, 3))[0] ^ np.uint8(row) for row in range(150)]
    manifest = write_manifest(tmp_path / "m.txt", write_images(tmp_path, images))
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="tree", compression=compression))
    asked, fstat = [], os.fstat

    def counted(fd: int) -> os.stat_result:
        asked.append(fd)
        return fstat(fd)

    with ImageStore(tmp_path / "out.h5", threads=threads) as store:
        order = np.random.default_rng(1).permutation(150)
        monkeypatch.setattr(os, "fstat", counted)
        found, _ = store[order]
        monkeypatch.undo()
        for row, image in zip(order, found, strict=True):
            np.testing.assert_array_equal(image, images[row])
            assert image.flags.writeable
    assert 2 <= len(asked) < 75


@pytest.mark.parametrize("compression", [None, "gzip:1"])
def test_an_image_of_a_tree_that_failed_is_empty(compression: str | None, tmp_path: Path) -> None:
    """Its header could not be read: an ingest makes a dataset of nothing."""
    images = make_pixels(3, (6, 4))
    names = write_images(tmp_path, images)
    (tmp_path / names[1]).write_bytes(b"no image")
    options = IngestOptions(layout="tree", on_error="blank", compression=compression)
    ingest(write_manifest(tmp_path / "m.txt", names), tmp_path / "out.h5", options)
    for verify in ("auto", "always"):
        with ImageStore(tmp_path / "out.h5", verify=verify) as store:
            assert store[1][0].shape == (0, 0)
            for row, found in enumerate(store[:][0]):
                np.testing.assert_array_equal(found, images[row] if row != 1 else found)


def test_groups_are_read_one_at_a_time(tmp_path: Path) -> None:
    train, test = make_pixels(N, (6, 4)), make_pixels(N, (3, 3, 3), "uint16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_attributes(file, "stack", groups=json.dumps(["train", "test"]))
        write_beside(file.create_group("train"))
        file.create_dataset("train/images", data=train, chunks=(4, 6, 4), compression="gzip")
        write_beside(file.create_group("test"))
        file["test/images"] = test
    store = ImageStore(tmp_path / "a.h5")
    assert store.groups == ("train", "test")
    assert "groups train, test" in repr(store)
    for use in (lambda: len(store), lambda: store[0], lambda: store.labels):
        with pytest.raises(UsageError, match="one of train, test"):
            use()
    check_all(ImageStore(tmp_path / "a.h5", group="train"), train, LABELS)
    check_all(ImageStore(tmp_path / "a.h5", group="test"), test, LABELS)
    assert ImageStore(tmp_path / "a.h5", group="test").paths[1] == "dir/1.png"
    assert ImageStore(tmp_path / "a.h5", group="test").label_names == ("ape", "bee", "café")
    with pytest.raises(UsageError, match="validation"):
        ImageStore(tmp_path / "a.h5", group="validation")
    plain = write_stack(tmp_path / "b.h5", train)
    with pytest.raises(UsageError, match="expected no group"):
        ImageStore(plain, group="train")


# --- failed rows -------------------------------------------------------------------------------

FAILED = (0, 4, 5)


@pytest.mark.parametrize("how", [{}, {"chunks": (2, 6, 4), "compression": "lzf"}])
def test_failed_rows_are_included_skipped_or_masked(tmp_path: Path, how: dict[str, Any]) -> None:
    pixels = make_pixels(N, (6, 4))
    pixels[list(FAILED)] = 0
    path = write_stack(tmp_path / "a.h5", pixels, failed=FAILED, **how)
    good = np.setdiff1d(np.arange(N), FAILED)

    check_all(ImageStore(path), pixels, LABELS)

    skipping = ImageStore(path, failed="skip")
    check_all(skipping, pixels[good], LABELS[good])
    assert skipping.rows.tolist() == good.tolist()
    assert list(skipping.paths)[1:4] == ["dir/2.png", "dir/3.png", "dir/6.png"]
    assert list(skipping.columns["age"]) == (good * 10).tolist()
    assert skipping.columns["note"][-1] == f"note {N - 1}"
    assert set(skipping.status.tolist()) == {1}
    assert np.asarray(skipping.labels).tolist() == LABELS[good].tolist()
    assert skipping.shape == (N - 3, 6, 4)

    masked = LABELS.copy()
    masked[list(FAILED)] = -100
    check_all(ImageStore(path, failed="mask", masked_label=-100), pixels, masked)

    with pytest.raises(UsageError, match="include, skip or mask"):
        ImageStore(path, failed="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [{}, {"chunks": (4, 6, 4), "compression": "lzf"}])
def test_blocks_are_the_chunks_as_far_as_they_count(tmp_path: Path, how: dict[str, Any]) -> None:
    path = write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)), failed=(0, 4, 5, 6, 7), **how)
    assert ImageStore(path).blocks.tolist() == ([0, 4, 8, N] if how else [0, N])
    assert ImageStore(path, failed="skip").blocks.tolist() == ([0, 3, 6] if how else [0, 6])


# --- errors ------------------------------------------------------------------------------------


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        ImageStore(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(OutputError, match="not an HDF5 file"):
        ImageStore(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(OutputError, match="not one of h5ingest"):
        ImageStore(tmp_path / "other.h5")
    with h5py.File(tmp_path / "later.h5", "w") as file:
        file.attrs["schema"] = "h5ingest stack 3"
    with pytest.raises(OutputError, match="'h5ingest stack 3' is not known"):
        ImageStore(tmp_path / "later.h5")
    with h5py.File(tmp_path / "torso.h5", "w") as file:
        write_attributes(file, "stack")
    with pytest.raises(OutputError, match="status is missing"):
        ImageStore(tmp_path / "torso.h5")
    with h5py.File(tmp_path / "torso.h5", "r+") as file:
        write_beside(file)
        file["images"] = np.zeros((3, 2, 2), np.uint8)
    with pytest.raises(OutputError, match="expected 11 images, found 3"):
        ImageStore(tmp_path / "torso.h5")


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc2"])
def test_a_damaged_chunk_is_an_error(tmp_path: Path, codec: str) -> None:
    pixels = make_pixels(N, (16, 9))
    path = write_stack(tmp_path / "a.h5", pixels, chunks=(4, 16, 9), **CODECS[codec])
    with h5py.File(path, "r+") as file:
        _, stored = file["images"].id.read_direct_chunk((4, 0, 0))
        file["images"].id.write_direct_chunk((4, 0, 0), stored[:40] + b"\xff" * 40, 0)
    store = ImageStore(path)
    np.testing.assert_array_equal(store[3][0], pixels[3])
    with pytest.raises(OutputError, match=r"a\.h5"):
        store[4]
    np.testing.assert_array_equal(store[8][0], pixels[8])


def test_a_store_that_cannot_be_made_leaves_no_file_open(tmp_path: Path) -> None:
    """HDF5 does not have it open any more, though the error is kept; then nobody has."""
    path = write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)))
    before, kept = sorted(os.listdir("/proc/self/fd")), list[Exception]()

    def refused(kind: type[Exception], **how: Any) -> str:
        try:
            ImageStore(path, **how)
        except kind as error:
            kept.append(error)
        return str(kept[-1])

    gc.disable()
    try:
        assert "expected no group" in refused(UsageError, group="train")
        with h5py.File(path, "r+") as file:
            del file["checksums"]
            file["checksums"] = np.zeros(N)
        assert "found float64" in refused(OutputError, verify="always")
        with h5py.File(path, "r+") as file:
            del file["status"]
        assert "status is missing" in refused(OutputError)
        with h5py.File(path, "r+") as file:
            del file.attrs["schema"]
        assert "names no schema" in refused(OutputError)
        kept.clear()
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_closed_store_says_so_and_leaves_arrays_good(tmp_path: Path) -> None:
    pixels = make_pixels(N, (6, 4))
    with ImageStore(write_stack(tmp_path / "a.h5", pixels)) as store:
        labels, image = store.labels, store[1][0]
    assert np.asarray(labels).tolist() == LABELS.tolist()
    np.testing.assert_array_equal(image, pixels[1])
    with pytest.raises(ValueError, match="closed"):
        store[0]
    assert "closed" in repr(store)


# --- processes and threads ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    path: Path
    pixels: NDArray[Any]


@pytest.fixture(params=["none", "zstd", "bitshuffle"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    pixels = make_pixels(N, (60, 31))
    path = tmp_path / "a.h5"
    return Written(write_stack(path, pixels, chunks=(2, 60, 31), **CODECS[request.param]), pixels)


def read_in_child(store: ImageStore, out: Path) -> None:
    images, labels = store[np.arange(N)[::-1]]
    assert isinstance(labels, np.ndarray)
    paths = np.array([path.encode("utf-8", "surrogateescape") for path in store.paths])
    np.savez(out, images=images, one=store[3][0], labels=labels, paths=paths)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_that_was_read_from_works_in_a_new_process(
    written: Written, tmp_path: Path, method: Any
) -> None:
    store = ImageStore(written.path)
    np.testing.assert_array_equal(store[5][0], written.pixels[5])
    context = multiprocessing.get_context(method)
    children = [
        context.Process(target=read_in_child, args=(store, tmp_path / f"{k}.npz")) for k in range(2)
    ]
    for child in children:
        child.start()
    check_all(store, written.pixels, LABELS)  # meanwhile, in the parent
    for k, child in enumerate(children):
        child.join(60)
        assert child.exitcode == 0
        found = np.load(tmp_path / f"{k}.npz")
        np.testing.assert_array_equal(found["images"], written.pixels[::-1])
        np.testing.assert_array_equal(found["one"], written.pixels[3])
        assert found["labels"].tolist() == LABELS[::-1].tolist()
        assert found["paths"][4] == b"caf\xe9.png"


def test_no_hdf5_handle_survives_a_fork(written: Written) -> None:
    store = ImageStore(written.path)
    list(store.paths)
    store[0]
    assert store._open is not None
    (handle,) = store._open.handles
    with handle:
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) > 0
    read, write = os.pipe()
    child = os.fork()
    if not child:
        open_files = handle._file is not None
        os.write(write, b"%d" % open_files)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"0"
    os.close(read)
    os.close(write)


def test_forks_while_threads_read(written: Written) -> None:
    store = ImageStore(written.path, cache_bytes=0)
    stop = threading.Event()
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not stop.is_set():
            rows = random.integers(0, N, 5)
            if not np.array_equal(store[rows][0], written.pixels[rows]):
                wrong.append(seed)
            assert store.paths[int(rows[0])]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for row in range(8):
            child = os.fork()
            if not child:
                good = np.array_equal(store[row][0], written.pixels[row]) and store.paths[row]
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_pickle_holds_no_data_and_opens_the_file_itself(written: Written) -> None:
    store = ImageStore(written.path, failed="skip")
    store[0]
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again._found is None
    check_all(again, written.pixels, LABELS)
    assert pickle.loads(pickle.dumps(again))[2][1] == LABELS[2]


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.h5", make_pixels(N, (6, 4)), chunks=(2, 6, 4), **CODECS["lzf"])
    store = ImageStore(path)
    data = pickle.dumps(store)
    other = write_stack(tmp_path / "b.h5", make_pixels(N, (6, 4)), chunks=(3, 6, 4))
    with h5py.File(other, "r+") as file:
        file.attrs["content_digest"] = "def"
    other.replace(path)
    with pytest.raises(OutputError, match="not the file that the store was made for"):
        pickle.loads(data)[0]
    assert store._open is not None
    store[0]  # the old file is still open
    store._open.close()  # as before a fork
    with pytest.raises(OutputError, match="replaced"):
        store[0], store[N - 1]


# --- imports -----------------------------------------------------------------------------------


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_itself_imports_nothing_heavy(written: Written) -> None:
    assert not imported_by("import h5ingest") & {"h5py", "numpy", "mpi4py"}
    assert "ImageStore" in __import__("h5ingest").__all__
    with pytest.raises(AttributeError, match="Shop"):
        __import__("h5ingest").Shop  # noqa: B018


def test_reading_brings_no_codec_that_it_does_not_need(written: Written) -> None:
    modules = imported_by(f"from h5ingest import ImageStore; ImageStore({str(written.path)!r})[0]")
    assert not modules & {"typer", "rich", "imageio", "PIL", "h5ingest.mpi.comm"}
    with h5py.File(written.path) as file:
        filtered = file["images"].id.get_create_plist().get_nfilters()
    assert ("imagecodecs" in modules or "hdf5plugin" in modules) == bool(filtered)


@pytest.fixture(scope="module")
def mnist(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a file of the first so many MNIST images."""
    folder = tmp_path_factory.mktemp("mnist")

    def make(n: int) -> Path:
        lines = (corpora / "mnist/train.csv").read_text().splitlines()[: n + 1]
        manifest = folder / "m.csv"
        manifest.write_text("\n".join(lines) + "\n")
        ingest(manifest, folder / "m.h5", IngestOptions(root=corpora / "mnist", overwrite=True))
        return folder / "m.h5"

    return make


def test_mnist_is_what_h5py_says_it_is(mnist: Callable[..., Path]) -> None:
    path = mnist(3000)
    with h5py.File(path) as file:
        images, labels = file["images"][()], file["labels"][()]
    store = ImageStore(path)
    rows = np.random.default_rng(1).integers(0, len(labels), 5000)
    found, found_labels = store[rows]
    np.testing.assert_array_equal(found, images[rows])
    np.testing.assert_array_equal(found_labels, labels[rows])
