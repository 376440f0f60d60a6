"""Many groups: time that grows with their number, not its square, and signs of life meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.support import write_manifest, write_png
from helpers.threads import ThreadComm, on_ranks

from h5ingest.core.group_datasets import stack_group
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.layout import ImageSpec, Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import Samples
from h5ingest.inspect.verify import verify
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.pipeline.redistribute import redistribute
from h5ingest.pipeline.run import ingest
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.placed_file import PlacedFile, RowWriter
from h5ingest.storage.writer import Image
from h5ingest.storage.writer_choice import choose_writer

SPEC = ImageSpec(height=6, width=7, channels=1, dtype="uint8")


def layout_of(n_groups: int) -> Layout:
    names = [f"g{group:06}" for group in range(n_groups)]
    groups = tuple(stack_group(name, group_prefix(name), 1, SPEC) for name in names)
    return Layout(kind="stack", groups=groups, grouped=True)


def run_of(group: int) -> Samples:
    return Samples(
        group=group, rows=range(1), indices=np.array([group]), paths=PackedStrings.pack([b"a.png"]),
        shapes=np.zeros((0, 4), np.int32), starts=np.zeros(0, np.int64),
        lengths=np.zeros(0, np.int64), folders=PackedStrings.pack([]),
    )  # fmt: skip


def test_dividing_20_000_groups_takes_no_time_for_each_pair_of_them() -> None:
    layout, n = layout_of(20_000), 20_000
    runs = [run_of(group) for group in range(n)]
    started_s = time.process_time()
    told = on_ranks(2, lambda comm: redistribute(comm, layout, runs if comm.rank == 0 else []))
    assert time.process_time() - started_s < 15  # a minute, if it looks at all runs for each group
    assert [len(shards) for shards in told] == [n // 2, n // 2]
    assert [p.group for shards in told for p in shards] == list(range(n))


class Waits:
    """A watchdog that only counts: the waits of a rank that have ended."""

    n = 0

    def begin(self) -> None:
        pass

    def end(self) -> None:
        self.n += 1


def test_a_rank_that_waits_for_rank_0_gets_signs_of_life() -> None:
    def work(comm: ThreadComm) -> int:
        vars(comm)["watch"] = waits = Waits()
        with while_rank_0_works(comm) as beat:
            until_s = time.monotonic() + 2
            while comm.rank == 0 and time.monotonic() < until_s:
                beat()
                time.sleep(0.01)
        return waits.n

    assert on_ranks(2, work)[1] >= 4  # one in 0.25 s


def test_rank_0_gives_signs_of_life_while_it_creates_datasets(tmp_path: Path) -> None:
    layout = layout_of(3000)

    def work(comm: ThreadComm) -> tuple[float, int]:
        vars(comm)["watch"] = waits = Waits()
        started_s = time.monotonic()
        checkpoints = Checkpoints(comm, tmp_path / "a.h5", None, None, 60)
        writer = RowWriter(PlacedFile(tmp_path / "a.h5", layout, comm, checkpoints))
        seconds = time.monotonic() - started_s
        writer.close()
        return seconds, waits.n

    (tmp_path / "a.h5").touch()
    (_, (seconds, n)) = on_ranks(2, work)
    assert n > 0, seconds
    assert n >= int(seconds) - 1


def test_each_dataset_and_each_image_of_a_tree_is_a_beat(tmp_path: Path) -> None:
    beats: list[int] = []
    layout = layout_of(5)
    placer = ChunkPlacer(tmp_path / "a.h5", layout, beat=lambda: beats.append(0))
    assert len(beats) == len(layout.datasets) == 15
    images = [Image(0, row, b"", b"%d" % row, (6, 7), "uint8") for row in range(4)]
    placer.create_images(images, lambda: beats.append(1))
    assert beats.count(1) == 4
    placer.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("n_ranks", "compression", "writer"),
    [(1, "none", "placed rows (many groups)"), (2, "none", "placed rows (many groups)"),
     (2, "gzip:1", "placed chunks (they are compressed)")],
)  # fmt: skip
def test_a_file_of_many_groups_is_whole(
    n_ranks: int, compression: str, writer: str, tmp_path: Path
) -> None:
    n = 400
    for k in range(3):
        write_png(tmp_path / f"{k}.png", np.full((6, 7), k, np.uint8))
    rows = [(f"{k % 3}.png", f"g{k % n}", k) for k in range(3 * n)]  # a group's are far apart
    manifest = write_manifest(tmp_path / "m.csv", [("path", "name", "k"), *rows])
    wanted = IngestOptions(group_by="name", compression=compression)
    told = on_ranks(n_ranks, lambda comm: ingest(manifest, tmp_path / "a.h5", wanted, comm))
    assert told[0].writer == writer
    with h5py.File(tmp_path / "a.h5") as file:
        for group in range(n):
            mine = [k for k in range(3 * n) if k % n == group]
            stored = file[f"g{group}"]
            assert stored["samples"][:].tolist() == stored["columns/k"][:].tolist() == mine
            assert stored["images"][:, 0, 0].tolist() == [k % 3 for k in mine]
            assert stored["paths"][:].tolist() == [b"%d.png" % (k % 3) for k in mine]
            assert stored.attrs["name"] == f"g{group}"
            assert stored["paths"].dims[0].label == stored["columns/k"].dims[0].label == "sample"
    assert on_ranks(1, lambda comm: verify(tmp_path / "a.h5", comm))[0].ok


def test_a_rank_may_hold_nothing_of_several_groups(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((6, 7), np.uint8))
    rows = [("path", "name"), ("a.png", "x"), ("a.png", "y")]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    wanted = IngestOptions(group_by="name")
    told = on_ranks(4, lambda comm: ingest(manifest, tmp_path / "a.h5", wanted, comm))
    assert told[0].n_samples == 2
    assert on_ranks(1, lambda comm: verify(tmp_path / "a.h5", comm))[0].ok


def test_few_datasets_are_written_as_before(tmp_path: Path) -> None:
    choice = on_ranks(
        1, lambda c: choose_writer(layout_of(3), c, tmp_path / "a.h5", IngestOptions())
    )[0]
    assert choice.why == "HDF5 (one process)"
