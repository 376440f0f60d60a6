"""Reading ahead: the same files in the same order, whoever reads them, within bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.layout_runs import images
from helpers.oracle import Wanted, assert_holds, expected, write_samples
from helpers.support import checkered, make_pixels, read_file, write_images, write_manifest

from h5ingest.core.errors import SampleError, UsageError
from h5ingest.core.options import MAX_READERS, IngestOptions
from h5ingest.images import prefetch, source_files
from h5ingest.images.prefetch import Prefetcher
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline import look_at_images
from h5ingest.pipeline.run import ingest

Reader = Callable[[int | None], Prefetcher]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(200):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * (number * 37))
    return tmp_path


def names(*numbers: int) -> list[bytes]:
    return [b"%d.bin" % number for number in numbers]


def contents(files: Prefetcher, paths: list[bytes]) -> Iterator[bytes | tuple[str, str]]:
    for found in files.read(paths):
        yield (found.kind, found.reason) if isinstance(found, SampleError) else found[0]


class SlowSource:
    """A file system on which opening a file takes a while, and that knows who opens."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.threads: set[int] = set()
        self.readers: list[int] = []
        self.opened: list[bytes] = []

    def read(self, path: bytes, limit: int | None = None, **how: object) -> tuple[bytes, int]:
        self.threads.add(threading.get_ident())
        self.readers.append(threading.get_ident())
        self.opened.append(path)
        time.sleep(self.seconds)
        return source_files.read(path, limit, **how)  # type: ignore[arg-type]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowSource:
    found = SlowSource(0.002)
    monkeypatch.setattr(prefetch, "source_files", found)
    return found


@pytest.mark.parametrize("readers", [None, 0, 1, 3, 16])
def test_files_come_in_order_each_with_its_own_bytes_or_reason(
    folder: Path, readers: int | None
) -> None:
    numbers = [*range(200), 900, *range(199, 0, -3), 901, 5, 5]
    expected_ = [bytes([n]) * (n * 37) if n < 200 else ("missing", "no such file") for n in numbers]
    with Prefetcher(os.fsencode(folder), readers) as files:
        assert list(contents(files, names(*numbers))) == expected_
        assert list(contents(files, [])) == []
        assert list(contents(files, [os.fsencode(folder / "7.bin")])) == [bytes([7]) * 259]


@pytest.mark.parametrize("readers", [None, 0, 16])
def test_below_a_folder_that_is_missing_all_files_are_but_not_elsewhere(
    folder: Path, readers: int | None
) -> None:
    paths = [b"1.bin", os.fsencode(folder / "1.bin")]
    with Prefetcher(os.fsencode(folder / "none"), readers) as files:
        assert list(contents(files, paths)) == [("missing", "no such file"), b"\1" * 37]


def test_fast_files_are_read_by_nobody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = SlowSource(0)
    monkeypatch.setattr(prefetch, "source_files", fast)
    monkeypatch.setattr(prefetch, "SLOW_S", 10.0)  # however busy this machine is
    with Prefetcher(os.fsencode(folder)) as files:
        assert len(list(files.read(names(*range(200))))) == 200
    assert fast.threads == {threading.get_ident()}


def test_slow_files_are_read_by_many_until_they_are_fast_again(
    folder: Path, slow: SlowSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Prefetcher(os.fsencode(folder)) as files:
        found = files.read(names(*range(200)))
        for _ in range(100):
            next(found)
        assert len(slow.threads) > prefetch.READERS // 2
        slow.seconds = 0
        monkeypatch.setattr(prefetch, "SLOW_S", 10.0)
        for _ in range(99):
            next(found)
        slow.threads.clear()
        assert len(list(files.read(names(*range(200))))) == 200
        assert slow.threads == {threading.get_ident()}


def test_however_slow_files_are_threads_read_them_all(folder: Path, slow: SlowSource) -> None:
    slow.seconds = 2 * prefetch._SECONDS
    with Prefetcher(os.fsencode(folder), 8) as files:
        assert len(list(files.read(names(*range(60))))) == 60
    assert len(slow.opened) == 60
    assert threading.get_ident() not in slow.threads


def test_files_known_to_be_slow_are_read_by_many_from_the_first_on(
    folder: Path, slow: SlowSource
) -> None:
    with Prefetcher(os.fsencode(folder), slow=True) as files:
        assert len(list(files.read(names(*range(60))))) == 60
        assert files.slow
    assert threading.get_ident() not in slow.threads
    with Prefetcher(os.fsencode(folder), 0, slow=True) as files:
        assert len(list(files.read(names(*range(3))))) == 3
    assert slow.readers[60:] == 3 * [threading.get_ident()]


@pytest.mark.parametrize(("cache_bytes", "kept"), [(0, 0), (0, 2**20), (2**20, 0)])
def test_once_files_are_known_to_be_slow_no_later_pass_finds_it_out_again(
    cache_bytes: int, kept: int, slow: SlowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_at_images, "KEPT_BYTES", kept)
    slow.seconds = 2 * prefetch._SECONDS  # so that the first one is enough
    names = write_images(tmp_path / "images", make_pixels(100, (6, 5)))
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(cache_bytes=cache_bytes))
    assert len(slow.opened) == 100 + (0 if cache_bytes or kept else 13)
    assert slow.readers.count(threading.get_ident()) == 1


def test_without_readers_even_slow_files_are_read_by_nobody_else(
    folder: Path, slow: SlowSource
) -> None:
    with Prefetcher(os.fsencode(folder), 0) as files:
        assert len(list(files.read(names(*range(50))))) == 50
    assert slow.threads == {threading.get_ident()}


def test_no_more_is_read_ahead_than_fits(
    folder: Path, slow: SlowSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "AHEAD_BYTES", 4 * 100_000)
    for number in range(40):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 100_000)
    with Prefetcher(os.fsencode(folder), 2) as files:
        for number, found in enumerate(files.read(names(*range(40)))):
            assert not isinstance(found, SampleError)
            assert found == (bytes([number]) * 100_000, 100_000)
            assert len(slow.opened) - number <= 2 * 2 + 1  # a file for each task, and this one


def test_who_waits_for_a_slow_file_is_called_and_may_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "source_files", SlowSource(0.3))

    def waiting() -> None:
        raise StopRequested

    with Prefetcher(os.fsencode(folder), 4, waiting=waiting) as files, pytest.raises(StopRequested):
        next(files.read(names(*range(200))))


@pytest.mark.parametrize(
    ("readers", "layout"), checkered([None, 0, 1, 7], ["stack", "ragged", "tree", "encoded"])
)
def test_the_file_is_the_same_whoever_reads(
    layout: str, readers: int | None, slow: SlowSource, tmp_path: Path
) -> None:
    samples = images(30)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    for cache_bytes in (0, 700, 2**20):
        options = IngestOptions(
            layout=layout, readers=readers, cache_bytes=cache_bytes, overwrite=True
        )
        report = ingest(manifest, out, options)
        assert report.failures == ()
        assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))
    assert (slow.threads != {threading.get_ident()}) == (readers != 0)


@pytest.mark.parametrize("readers", [-1, MAX_READERS + 1])
def test_a_senseless_number_of_readers_is_refused(readers: int) -> None:
    with pytest.raises(UsageError, match=f"--readers: expected auto or 0 to .*, got {readers}"):
        IngestOptions(readers=readers)
