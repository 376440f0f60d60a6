"""A file that is replaced, cut off or written to under an open store: an error, or what it was.

Everything is read in processes of their own, so that a signal is a finding.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import make_pixels, write_images, write_manifest

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

N = 10
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "small": ((28, 28), {}), "large": ((320, 300, 3), {}),
    "gzip": ((28, 28), {"compression": "gzip", "chunk_rows": 3}),
    "ragged": ((28, 28), {"layout": "ragged"}), "encoded": ((28, 28), {"layout": "encoded"}),
    "tree": ((28, 28), {"layout": "tree"}),
}  # fmt: skip
NOT_MAPPED = ("large", "gzip", "tree")
"""Nothing of these is read from a mapping, but by `pread` or through HDF5."""
PAUSE_S = 0.01
"""Longer than a store goes on without a look at its file."""


def renamed_over(path: Path, other: Path) -> None:
    shutil.copy(other, f"{path}.new")
    os.replace(f"{path}.new", path)


def copied_over(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def shorter_copied_over(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes()[: path.stat().st_size // 3])


def cut_off(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def overwritten(path: Path, other: Path) -> None:
    data = bytes(255 - byte for byte in path.read_bytes())
    with path.open("r+b") as file:
        file.seek(len(data) // 4)
        file.write(data[len(data) // 4 : len(data) // 4 * 3])


def unlinked(path: Path, other: Path) -> None:
    path.unlink()


DEEDS: tuple[Callable[[Path, Path], None], ...] = (
    renamed_over, copied_over, shorter_copied_over, cut_off, emptied, overwritten, unlinked,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each layout a file, and another of the same size, as far as that can be."""
    made = {}
    for layout, (shape, how) in LAYOUTS.items():
        both = []
        for flipped in (0, 255):
            folder = tmp_path_factory.mktemp("made") / "images"
            names = write_images(folder, make_pixels(N, shape) ^ flipped)
            rows = [(name, row % 3 if flipped else 2 - row % 3) for row, name in enumerate(names)]
            manifest = write_manifest(folder / "m.txt", rows)
            ingest(manifest, folder / "out.h5", IngestOptions(**how))
            both.append(folder / "out.h5")
        made[layout] = (both[0], both[1])
    return made


def looks(store: ImageStore) -> list[Callable[[], Any]]:
    """Every way to read."""
    n = len(store)
    return [
        *(lambda row=row: store[row] for row in range(n)),
        lambda: store[:], lambda: store[2:5], lambda: store[[7, 0, 7, n - 1]],
        lambda: store.labels, lambda: store.status, lambda: store.sizes, lambda: store.label_names,
        lambda: list(store.paths), lambda: store.paths[3],
    ]  # fmt: skip


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return all(map(same, found, expected)) and len(found) == len(expected)
    return bool(np.array_equal(found, expected))


@contextlib.contextmanager
def finding_nothing_wrong(method: Any, target: Any, *args: Any) -> Iterator[Any]:
    """Start a process and talk to it by a pipe; in the end it tells what is wrong: nothing."""
    context = multiprocessing.get_context(method)
    pipe, theirs = context.Pipe()
    child = context.Process(target=target, args=(*args, theirs))
    child.start()
    theirs.close()
    try:
        yield pipe
        assert pipe.poll(120), "it hangs"
        assert pipe.recv() == []
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()


def look_again(store: ImageStore, expected: list[Any], name: str, wrong: list[str]) -> None:
    """Read everything once more: an error, or what it was."""
    for number, look in enumerate(looks(store)):
        try:
            found = look()
        except OutputError as error:
            if f"{name}.h5: the file was replaced or changed while it was read" not in str(error):
                wrong.append(f"{name}: {error}")
            continue
        if not same(found, expected[number]):
            wrong.append(f"{name}: look {number} gave something else")


def read_before_and_after(stores: dict[str, ImageStore], n_threads: int, pipe: Any) -> None:
    """Read all, wait until something was done to the files, read all again; tell what is wrong."""
    expected = {name: [look() for look in looks(store)] for name, store in stores.items()}
    pipe.send("ready")
    pipe.recv()
    time.sleep(PAUSE_S)
    wrong: list[str] = []

    def work() -> None:
        for name, store in stores.items():
            look_again(store, expected[name], name, wrong)

    if n_threads:
        threads = [threading.Thread(target=work) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        work()
    pipe.send(wrong)


@pytest.mark.parametrize(
    ("method", "n_threads"), [("fork", 0), ("fork", 1), ("fork", 8), ("spawn", 0), ("spawn", 8)]
)
def test_what_becomes_of_the_file_is_noticed(
    files: dict[str, tuple[Path, Path]], method: Any, n_threads: int, tmp_path: Path
) -> None:
    stores, todo = {}, []
    for layout, (good, other) in files.items():
        for deed in DEEDS:
            path = tmp_path / f"{layout} {deed.__name__}.h5"
            shutil.copy(good, path)
            stores[path.stem] = ImageStore(path)
            stores[path.stem][0]  # as a script does before its DataLoader starts
            todo.append((deed, path, other))
    time.sleep(PAUSE_S)  # the clock of a file system ticks every few milliseconds
    with finding_nothing_wrong(method, read_before_and_after, stores, n_threads) as pipe:
        assert pipe.recv() == "ready"
        for deed, path, other in todo:
            deed(path, other)
        pipe.send("done")


def read_meanwhile(paths: list[Path], pipe: Any) -> None:
    """Read without a pause, by eight threads, while something is done to the files."""
    stores = {path.stem: ImageStore(path) for path in paths}
    expected = {name: [look() for look in looks(store)] for name, store in stores.items()}
    wrong: list[str] = []
    stop = threading.Event()

    def work(first: int) -> None:
        names = [*stores][first:] + [*stores][:first]
        while not stop.is_set():
            for name in names:
                look_again(stores[name], expected[name], name, wrong)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(sorted(set(wrong)))


def test_no_wrong_pixel_while_it_happens(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    todo = []
    for layout in NOT_MAPPED:
        good, other = files[layout]
        for deed in DEEDS:
            path = tmp_path / f"{layout} {deed.__name__}.h5"
            shutil.copy(good, path)
            todo.append((deed, path, other))
    time.sleep(PAUSE_S)
    with finding_nothing_wrong("fork", read_meanwhile, [path for _, path, _ in todo]) as pipe:
        assert pipe.recv() == "ready"
        for deed, path, other in todo:
            time.sleep(PAUSE_S)
            deed(path, other)
        time.sleep(0.2)
        pipe.send("done")


def test_what_is_damaged_by_a_change_is_said_to_be_changed(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """A text or an image that is read a moment after somebody has looked at the file."""
    for layout in LAYOUTS:
        path = tmp_path / f"{layout}.h5"
        shutil.copy(files[layout][0], path)
        with ImageStore(path, verify="always", cache_bytes=0) as store:
            every = looks(store)
            [look() for look in every]
            time.sleep(PAUSE_S)
            data = path.read_bytes()
            with path.open("r+b") as file:
                file.write(bytes(255 - byte for byte in data))
            for look in (*every[:N], lambda: store[:], lambda: store[[3, 1]], *every[-2:]):
                store._contents.check.__self__.sure_until_s = math.inf  # type: ignore[attr-defined]
                with pytest.raises(OutputError, match="replaced or changed while it was read"):
                    look()


def open_after(files: dict[str, tuple[Path, Path]], folder: Path, pipe: Any) -> None:
    """Open each file again after its change, while a store of what it was is still open."""
    wrong = []
    for layout, (good, other) in files.items():
        for deed in (renamed_over, copied_over):
            path = folder / f"{layout} {deed.__name__}.h5"
            shutil.copy(good, path)
            old = ImageStore(path)
            before = [look() for look in looks(old)]
            time.sleep(PAUSE_S)
            deed(path, other)
            with ImageStore(other) as store, ImageStore(path) as new:
                expected = [look() for look in looks(store)]
                if not same([look() for look in looks(new)], expected):
                    wrong.append(f"{path.stem}: the new store gave something else")
            time.sleep(PAUSE_S)
            look_again(old, before, path.stem, wrong)
    pipe.send(wrong)


def test_a_new_store_has_the_new_content(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """HDF5 shares what it remembers of an inode among all who have it open."""
    names = list(files)
    turned = {name: (files[name][0], files[names[k - 1]][1]) for k, name in enumerate(names)}
    for pairs in (files, turned):
        with finding_nothing_wrong("fork", open_after, pairs, tmp_path):
            pass


def test_what_changes_no_pixel_is_no_change(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(files["gzip"][0], path)
    with ImageStore(path, cache_bytes=0) as store:
        expected = store[:][0]
        path.chmod(0o400)
        os.link(path, tmp_path / "b.h5")
        path.rename(tmp_path / "c.h5")
        time.sleep(PAUSE_S)
        np.testing.assert_array_equal(store[::-1][0], expected[::-1])
