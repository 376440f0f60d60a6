"""Direct I/O: every byte where it belongs, none beside it changed, whoever writes next to it."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.faults import ALL_FLAVOURS, FAULTS, Fault
from helpers.support import (
    Completed,
    Flavour,
    error_lines,
    explain,
    make_pixels,
    need_direct_io,
    need_space_to_be_taken,
    read_file,
    run,
    write_images,
    write_manifest,
)
from numpy.typing import NDArray

from h5ingest.core.errors import StorageError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.storage.direct_io import DirectFile
from h5ingest.storage.lock import Lock

SMALL = ["--batch-bytes", "50000", "--checkpoint", "0.0001", "--progress", "off"]
"""Many pieces of a dozen blocks, and a checkpoint as often as can be."""
LAYOUTS = {
    "stack": ["--chunk", "2"],
    "stack 16 bits": ["--dtype", "uint16"],
    "groups": ["--group-by", "split"],
    "padded": ["--fit", "pad", "--size", "97x101"],
    "ragged": ["--layout", "ragged"],
    "encoded": ["--layout", "encoded"],
}


@pytest.fixture(autouse=True)
def _direct_io(tmp_path: Path) -> None:
    need_direct_io(tmp_path)


@contextmanager
def opened(path: Path) -> Iterator[DirectFile]:
    fd = os.open(path, os.O_RDWR)
    file = DirectFile(path, fd)
    try:
        yield file
    finally:
        file.close()
        os.close(fd)


def put(file: DirectFile, data: NDArray[Any], offset: int) -> Any:
    get_buffer = file.get_buffer(data.shape, data.dtype.name, offset)
    get_buffer[...] = data
    return file.write(get_buffer.data, offset)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_size_at_any_offset(seed: int, tmp_path: Path) -> None:
    """By two writers at the same time, in any order, so that blocks are shared."""
    dice = random.Random(seed)
    offset, expected = dice.randrange(5000), np.zeros(2_000_000, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(expected.tobytes())
    pieces: list[tuple[int, NDArray[np.uint8]]] = []
    while offset < len(expected):
        n = min(len(expected) - offset, dice.choice((1, 100, 4095, 4096, 4097, 20_000, 70_001)))
        values = np.random.default_rng(offset).integers(1, 256, n, np.uint8)
        expected[offset : offset + n] = values
        pieces.append((offset, values))
        offset += n + dice.choice((0, 0, 0, 1, 3000, 4096))
    dice.shuffle(pieces)
    with opened(path) as first, opened(path) as second:
        written = []
        for offset, values in pieces:
            file = dice.choice((first, second))
            if dice.choice((True, True, False)):
                written.append(put(file, values, offset))
            else:
                written.append(file.write_copy(values.data, offset))
        for result in written:
            result.result()
    np.testing.assert_array_equal(np.fromfile(path, np.uint8), expected)


def test_what_is_written_directly_does_not_stay_in_memory(tmp_path: Path) -> None:
    """So it is direct indeed: of 8 MiB only the first and the last block may be in the cache."""
    need_space_to_be_taken(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(bytes(9 * 2**20))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    with opened(path) as file:
        put(file, np.full(2**23, 7, np.uint8), 1000).result()
    n_kib = sum(
        int(line.split()[0]) for line in run(["fincore", "-nbo", "RES", path]).stdout.splitlines()
    ) // 1024  # fmt: skip
    assert n_kib <= 64
    assert path.read_bytes() == bytes(1000) + b"\7" * 2**23 + bytes(2**20 - 1000)


HARDLY: dict[str, Callable[[int], int]] = {
    "too small a block": lambda _: -errno.EINVAL,
    "nothing of it": lambda _: 0,
    "a part of it": lambda n: n // 3,
}


@pytest.mark.parametrize("how", HARDLY)
def test_what_the_disk_does_not_take_directly_goes_through_the_cache(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    values = np.arange(90_001).astype(np.uint8)
    with opened(path) as file:
        n_asked = strike(monkeypatch, file, HARDLY[how])
        put(file, values, 777).result()
    assert n_asked == [86_016]  # 21 blocks
    assert path.read_bytes() == bytes(777) + values.tobytes() + bytes(100_000 - 777 - 90_001)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_disk_is_the_result(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    with opened(path) as file:
        strike(monkeypatch, file, lambda _: -code)
        written = put(file, np.ones(90_000, np.uint8), 777)
        with pytest.raises(OSError, match=os.strerror(code)):
            written.result()


def strike(
    monkeypatch: pytest.MonkeyPatch, file: DirectFile, answer: Callable[[int], int]
) -> list[int]:
    """Let direct writes answer so; return a list that gets the bytes of each."""
    pwritev, n_asked = os.pwritev, []

    def write(fd: int, views: Any, offset: int) -> int:
        if fd != file._direct_fd:
            return pwritev(fd, views, offset)
        assert not offset % mmap.PAGESIZE
        assert all(np.frombuffer(view, np.uint8).ctypes.data % mmap.PAGESIZE == 0 for view in views)
        n_asked.append(sum(map(len, views)))
        n_taken = answer(n_asked[-1])
        if n_taken < 0:
            raise OSError(-n_taken, os.strerror(-n_taken))
        return pwritev(fd, [views[0][: n_taken // mmap.PAGESIZE * mmap.PAGESIZE]], offset)

    monkeypatch.setattr(os, "pwritev", write)
    return n_asked


def test_after_an_error_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that the lock is free for another job, which may know better pixels."""
    names = write_images(tmp_path, make_pixels(40, (200, 200)))
    manifest = write_manifest(tmp_path / "manifest.txt", names)
    begun: list[float] = []
    ended: list[float] = []
    write, release = DirectFile._write, Lock.release

    def slow(file: DirectFile, data: memoryview, offset: int) -> None:
        begun.append(time.monotonic())
        time.sleep(0.1)
        write(file, data, offset)
        ended.append(time.monotonic())
        if len(ended) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def noting(lock: Lock) -> None:
        begun.append(-1)
        assert len(ended) == len(begun) - 1, "a write goes on"
        release(lock)

    monkeypatch.setattr(DirectFile, "_write", slow)
    monkeypatch.setattr(Lock, "release", noting)
    options = IngestOptions(direct_io="on", batch_bytes=200_000)
    with pytest.raises(StorageError, match=os.strerror(errno.EIO)):
        ingest(manifest, tmp_path / "out.h5", options)
    assert begun[-1] == -1
    n_begun = len(begun)
    time.sleep(0.3)
    assert len(begun) == n_begun, "a write began after the end of the job"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("direct")]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of 97x101x3, 29,391 bytes each: no multiple of anything."""
    folder = tmp_path_factory.mktemp("images")
    names = write_images(folder, make_pixels(80, (97, 101, 3)))
    rows = [(name, "ab"[row > 50]) for row, name in enumerate(names)]
    return write_manifest(folder / "manifest.csv", [("path", "split"), *rows])


def launch(
    flavour: Flavour, n_ranks: int, manifest: Path, out: Path, *options: str,
    faults: Sequence[Fault] = (),
) -> Completed:  # fmt: skip
    command: list[str | Path] = [
        flavour.bin / "python",
        FAULTS,
        "run",
        json.dumps(list(faults)),
        manifest,
        out,
    ]
    return flavour.launch(n_ranks, *command, *SMALL, "--report", f"{out}.json", *options)


def writer_of(out: Path) -> str:
    return str(json.loads(out.with_name(out.name + ".json").read_text())["writer"])


def assert_same(out: Path, other: Path) -> None:
    found, expected = read_file(out), read_file(other)
    assert found.attrs["content_digest"] == expected.attrs["content_digest"]
    assert found.arrays.keys() == expected.arrays.keys()
    for name, values in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values, err_msg=name)


@pytest.fixture(
    scope="module", params=[("mpich", 1), ("openmpi", 3), ("wheels", 2)], ids="{0[0]}-{0[1]}".format
)
def both_ways(
    request: pytest.FixtureRequest, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of what one launch makes of each layout, with direct I/O and without."""
    name, n_ranks = request.param
    folder = tmp_path_factory.mktemp("both")
    need_direct_io(folder)
    jobs = [
        (manifest, out, *SMALL, "--report", f"{out}.json", "--direct-io", how, *options)
        for layout, options in LAYOUTS.items()
        for how in ("on", "off")
        for out in [folder / f"{layout} {how}.h5"]
    ]
    flavour = ALL_FLAVOURS[name].checked()
    for done in flavour.run_many(n_ranks, jobs, folder / "told", small_chunks=True):
        assert done.returncode == 0, explain(done)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_is_the_same_with_and_without(both_ways: Path, layout: str) -> None:
    on, off = (both_ways / f"{layout} {how}.h5" for how in ("on", "off"))
    assert "direct I/O" in writer_of(on)
    assert "direct I/O" not in writer_of(off)
    assert_same(on, off)


@pytest.mark.parametrize(
    "how",
    [{}, {"dtype": "uint16"}, {"group_by": "split"}, {"layout": "ragged"}, {"layout": "encoded"}],
    ids=str,
)
def test_nearly_all_pixels_are_written_directly(
    how: dict[str, Any], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever HDF5 has put them: 16-bit pixels may well begin at an odd byte."""
    pwritev, n_bytes = os.pwritev, [0, 0]

    def count(fd: int, views: Any, offset: int) -> int:
        n_written = pwritev(fd, views, offset)
        n_bytes[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT != 0] += n_written
        return n_written

    monkeypatch.setattr(os, "pwritev", count)
    options = IngestOptions(direct_io="on", batch_bytes=200_000, **how)
    report = ingest(manifest, tmp_path / "out.h5", options)
    assert report.writer == "placed rows (direct I/O)"
    assert n_bytes[1] > 0.9 * sum(n_bytes) > 0.8 * report.bytes_images


def test_where_there_is_no_direct_io_it_is_said(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_open = os.open

    def refuse(path: Any, flags: int, *more: Any, **how: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return system_open(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"--direct-io off does without .*Invalid argument"):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(direct_io="on"))
    ingest(manifest, tmp_path / "out.h5", IngestOptions())


@pytest.mark.parametrize(
    "kills",
    [
        [("on", "direct", "off"), ("off", "mark", "on")],
        pytest.param([("on", "mark", "off"), ("on", "direct", "on")], marks=pytest.mark.long),
    ],
    ids=["the other way", "either way"],
)
def test_a_job_that_is_killed_goes_on_in_either_way(
    kills: list[tuple[str, str, str]], mpich: Flavour, manifest: Path, tmp_path: Path
) -> None:
    """A part of the pixels is safe then, and nobody has said that the others are."""
    jobs: list[list[str | Path]] = []
    for before, site, after in kills:
        out = tmp_path / f"{before} {site} {after}.h5"
        faults: list[Fault] = [
            {"act": "nap:0.03", "site": "write", "rank": 1, "call": 0},  # time for checkpoints
            {"act": "kill-all", "site": site, "rank": 1, "call": 12},
        ]
        killed = launch(mpich, 2, manifest, out, "--direct-io", before, faults=faults)
        assert killed.returncode != 0, explain(killed)
        assert not out.exists()
        jobs.append([manifest, out, *SMALL, "--report", f"{out}.json", "--direct-io", after])
    for job, completed in zip(
        jobs, mpich.run_many(3, jobs, tmp_path / "told", small_chunks=True), strict=True
    ):
        assert completed.returncode == 0, explain(completed)
        report = json.loads(Path(f"{job[1]}.json").read_text())
        assert 0 < report["n_resumed"] < 80
        with h5py.File(job[1]) as file:
            np.testing.assert_array_equal(file["images"][:], make_pixels(80, (97, 101, 3)))


def test_it_is_chosen_from_16_mib_on_where_it_pays(mpich: Flavour, tmp_path: Path) -> None:
    need_space_to_be_taken(tmp_path)
    pixels = make_pixels(2, (1200, 1200, 3))
    names = write_images(tmp_path, pixels)
    cases: list[tuple[int, list[str], bool]] = [
        (6, [], True), (2, [], False), (6, ["--direct-io", "off"], False),
    ]  # fmt: skip
    jobs: list[list[str | Path]] = []
    outs = [tmp_path / f"{number}.h5" for number in range(len(cases))]
    for out, (n_images, options, _) in zip(outs, cases, strict=True):
        manifest = write_manifest(out.with_suffix(".txt"), (names * 3)[:n_images])
        jobs.append([manifest, out, *SMALL, "--report", f"{out}.json", *options])
    done = mpich.run_many(2, jobs, tmp_path / "told", small_chunks=True)
    for completed, out, (_, _, direct) in zip(done, outs, cases, strict=True):
        assert completed.returncode == 0, explain(completed)
        assert ("direct I/O" in writer_of(out)) is direct
        np.testing.assert_array_equal(read_file(out).arrays["images"][:2], pixels)


def test_a_hint_for_mpi_io_is_followed_instead(mpich: Flavour, tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(2, (1200, 1200, 3)))
    manifest = write_manifest(tmp_path / "manifest.txt", names * 3)
    completed = launch(mpich, 2, manifest, tmp_path / "out.h5", "--hint", "cb_nodes=1")
    assert completed.returncode == 0, explain(completed)
    assert "MPI-IO" in writer_of(tmp_path / "out.h5")
    assert not error_lines(completed)


@pytest.mark.parametrize("option", [{"layout": "tree"}, {"compression": "lzf"}, {"shuffle": True}])
def test_where_it_would_do_nothing_it_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--direct-io on is for uncompressed"):
        IngestOptions(direct_io="on", **option)
