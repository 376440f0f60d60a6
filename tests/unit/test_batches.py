"""`ImageStore.batches`: each sample once, in an order that a seed decides, read by a thread."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import damage, make_pixels, write_images, write_manifest

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

N = 103


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    write_images(folder, make_pixels(N, (4, 3)))
    rows = [("path", "label"), *((f"{k:04}.png", k) for k in range(N))]
    manifest = write_manifest(folder / "m.csv", rows)
    ingest(manifest, folder / "out.h5", IngestOptions(chunk_rows=5, compression="gzip:1"))
    ingest(manifest, folder / "ragged.h5", IngestOptions(layout="ragged"))
    return folder / "out.h5"


def n_threads() -> int:
    return sum(thread.name.startswith("h5ingest batches") for thread in threading.enumerate())


def test_each_sample_comes_once_with_its_label(out: Path) -> None:
    pixels = make_pixels(N, (4, 3))
    store = ImageStore(out)
    orders = []
    for seed, epoch in ((None, 0), (0, 0), (0, 0), (0, 1), (1, 0)):
        seen: list[int] = []
        for images, labels in store.batches(16, shuffle=seed, epoch=epoch, window=4):
            assert labels is not None
            np.testing.assert_array_equal(images, pixels[labels])
            assert len(labels) == (16 if len(seen) < 96 else N - 96)
            seen += labels.tolist()
        assert sorted(seen) == list(range(N))
        orders.append(seen)
    assert orders[0] == list(range(N))
    assert orders[1] == orders[2]
    assert orders[1] != orders[0]
    assert orders[3] not in (orders[1], orders[4])
    (*_, last) = store.batches(16, shuffle=0, drop_last=True)
    assert len(last[0]) == 16
    assert n_threads() == 0


def test_the_first_thing_asked_of_an_unpickled_store_may_be_its_blocks(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(9, (4, 5)))
    damage(tmp_path / "0003.png")
    manifest = write_manifest(tmp_path / "m.txt", [f"{k:04}.png" for k in range(9)])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(chunk_rows=2, on_error="blank"))
    store = ImageStore(tmp_path / "out.h5", failed="skip")
    again = pickle.loads(pickle.dumps(store))
    assert again.blocks.tolist() == store.blocks.tolist() == [0, 2, 3, 5, 7, 8]


def test_images_of_any_size_come_as_lists(out: Path) -> None:
    pixels = make_pixels(N, (4, 3))
    for images, labels in ImageStore(out.with_name("ragged.h5")).batches(50, shuffle=3):
        assert labels is not None
        assert isinstance(images, list)
        np.testing.assert_array_equal(np.stack(images), pixels[labels])


def test_the_thread_ends_with_the_iterator(out: Path) -> None:
    batches = ImageStore(out).batches(4, shuffle=0)
    next(batches)
    assert n_threads() == 1
    batches.close()  # type: ignore[attr-defined]  # it is a generator
    assert n_threads() == 0


def test_an_error_of_the_thread_is_raised_where_the_batch_is_asked_for(
    out: Path, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(out.read_bytes())
    with h5py.File(path) as file:
        where = file["images"].id.get_chunk_info(15)  # rows 75 to 80
    with path.open("r+b") as raw:
        raw.seek(where.byte_offset + 4)
        raw.write(b"\0\1\2\3\4")
    batches = ImageStore(path).batches(20)
    assert sum(len(next(batches)[0]) for _ in range(3)) == 60
    with pytest.raises(OutputError, match="images"):
        next(batches)
    assert n_threads() == 0


@pytest.mark.parametrize("how", [{"size": 0}, {"shuffle": -1}, {"epoch": -1}, {"window": 0}])
def test_arguments_that_cannot_be_are_refused_at_once(out: Path, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected size >= 1"):
        ImageStore(out).batches(**{"size": 4, **how})
