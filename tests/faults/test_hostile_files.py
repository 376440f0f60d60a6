"""Files of h5ingest made by an enemy: refused with a reason, at no cost; no other file is read."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.hostile import BESIDE, OTHER, SECRET, spoil, write_beside
from helpers.peak import peak_bytes
from helpers.pictures import by_pillow
from helpers.support import make_pixels, write_images, write_manifest, write_png

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, SetupError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect import show
from h5ingest.inspect.judge_process import keeping_judges
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest

N = 12
LAYOUTS: dict[str, dict[str, Any]] = {
    "stack": {}, "stack gzip": {"compression": "gzip", "chunk_rows": 4},
    "stack groups": {"group_by": "label"}, "ragged": {"layout": "ragged"},
    "ragged groups": {"layout": "ragged", "group_by": "label", "compression": "gzip"},
    "encoded": {"layout": "encoded"}, "tree": {"layout": "tree"},
    "tree groups": {"layout": "tree", "group_by": "kind"},
}  # fmt: skip
REFUSALS = (OutputError, UsageError, SetupError)
MOST_S, MOST_BYTES = 3.0, 500e6
"""Seconds of CPU: on an idle core it would be one; threads that share a busy core count more."""


def read_all(path: Path) -> Iterator[Any]:
    """All that `ImageStore` gives of a file."""
    with ImageStore(path) as store:
        groups = store.groups
    for group in groups or (None,):
        with ImageStore(path, group=group) as store:
            n = len(store)
            yield store.labels, store.label_names, store.status, store.sizes, store.rows
            yield [store.shape, store.dtype, repr(store)]
            assert store.blocks[-1] == n
            yield store[0][0]
            yield store[-1][0]
            yield store[:3][0]
            yield store[[0, n - 1, 0]][0]
            yield from (image for (image, _label), _ in zip(store, range(20), strict=False))
            yield list(store.paths[:20])
            yield from (column[:20] for column in store.columns.values())
        with ImageStore(path, group=group, failed="skip") as store:
            yield store[:2][0]


def shown(path: Path) -> Iterator[Any]:
    """All that `show` prints of a file."""
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            show.show(path)
    finally:
        yield out.getvalue()


def verified(path: Path) -> Iterator[Any]:
    """All that `verify` finds wrong with a file; raised, as it is an error of the command."""
    report = verify(path)
    found = [f"{bad.dataset} {bad.row} {bad.path} {bad.reason}" for bad in report.bad]
    found += report.problems
    yield found
    if found:
        raise OutputError(f"{path}: {found}")


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "ImageStore": read_all, "show": shown, "verify": verified,
}  # fmt: skip


def holds_secret(found: Any) -> bool:
    """Whether bytes of the files beside are in what was read."""
    if isinstance(found, np.ndarray):
        data = found.tobytes()
    elif isinstance(found, (list, tuple)):
        return any(map(holds_secret, found))
    else:
        data = str(found).encode("utf-8", "surrogateescape")
    return len(data) >= 4 and (data in SECRET or SECRET[:16] in data)


@dataclass(frozen=True, slots=True)
class Case:
    layout: str
    seed: int


def judge(path: Path, reader: str) -> dict[str, Any]:
    """What a reader made of a file."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start_s = peak_bytes(), time.process_time()  # not that of others
    outcome, said, secret = "read", "", False
    try:
        for found in READERS[reader](path):
            secret |= holds_secret(found)
    except REFUSALS as error:
        outcome, said = type(error).__name__, str(error)
    except BaseException as error:
        import traceback

        outcome, said = f"crash: {type(error).__name__}", traceback.format_exc()
    seconds = time.process_time() - start_s
    return {
        "outcome": outcome, "said": said[-4000:], "secret": secret, "seconds": seconds,
        "bytes": peak_bytes() - before,
    }  # fmt: skip


def judge_all(folder: Path, good: dict[str, Path], cases: list[Case], out: Path) -> None:
    """Make each file, have it read, and write a line for each reader."""
    os.chdir(folder)
    with out.open("w") as log, keeping_judges():
        for case in cases:
            path = folder / "spoiled.h5"
            shutil.copy(good[case.layout], path)
            shutil.copy(good[case.layout].with_name(f"{case.layout} {OTHER}"), folder / OTHER)
            with h5py.File(path) as file:
                groups = json.loads(file.attrs.get("groups", "[]"))
            prefix = f"/{groups[0]}" if groups else ""
            way = spoil(path, case.layout.split()[0], prefix, case.seed // len(LAYOUTS), case.seed)
            for reader in READERS:
                told = {"layout": case.layout, "seed": case.seed, "way": way, "reader": reader}
                print(json.dumps({**told, "begun": True}), file=log, flush=True)
                told |= judge(path, reader)
                print(json.dumps(told), file=log, flush=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good file of each layout, and one with the secret in its place."""
    folder = tmp_path_factory.mktemp("good")
    names = write_images(folder, make_pixels(N, (9, 7, 3)))
    sized = []
    for row in range(N):
        write_png(folder / f"sized{row}.png", make_pixels(1, (5 + row, 7, 3))[0])
        sized.append(f"sized{row}.png")
    for layout, how in LAYOUTS.items():
        files = names if layout.startswith("stack") else sized
        rows = [
            (file, "ab"[row % 2], row * 10, f"note {row}", "xy"[row // 6])
            for row, file in enumerate(files)
        ]
        header = ("path", "label", "age", "note", "kind")
        manifest = write_manifest(folder / "m.csv", [header, *rows])
        ingest(manifest, folder / f"{layout}.h5", IngestOptions(**how))
        write_beside(folder, folder / f"{layout}.h5")
        (folder / OTHER).rename(folder / f"{layout} {OTHER}")
    return {layout: folder / f"{layout}.h5" for layout in LAYOUTS}


def run(good: dict[str, Path], cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """Judge in a process of its own: a crash of a library is then a finding."""
    shutil.copy(good["stack"].with_name(BESIDE), folder / BESIDE)
    log = folder / "log"
    child = multiprocessing.get_context("fork").Process(
        target=judge_all, args=(folder, good, cases, log)
    )
    child.start()
    child.join(600)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert child.exitcode == 0, (child.exitcode, lines[-1])
    return [line for line in lines if "begun" not in line]


def cases_of(seeds: range) -> list[Case]:
    """Every way with every layout, in turn."""
    names = list(LAYOUTS)
    return [Case(names[seed % len(names)], seed) for seed in seeds]


def check(found: list[dict[str, Any]]) -> None:
    for line in found:
        assert not line["outcome"].startswith("crash"), line
        assert not line["secret"], line
        assert line["seconds"] < MOST_S, line
        assert line["bytes"] < MOST_BYTES, line
        if line["outcome"] != "read":
            assert "spoiled.h5: " in line["said"], line
        else:
            harmless = line["way"] == "a_filter_that_is_absent"  # HDF5 had not used it
            assert line["reader"] == "show" or (line["reader"] == "verify" and harmless), line


@pytest.mark.long
@pytest.mark.parametrize(
    "seeds", [range(192), pytest.param(range(192, 692), marks=pytest.mark.soak)]
)
def test_hostile_files_are_refused(good: dict[str, Path], seeds: range, tmp_path: Path) -> None:
    check(run(good, cases_of(seeds), tmp_path))


def test_a_file_in_a_store_is_an_image_or_refused_by_name(tmp_path: Path) -> None:
    """Files that were good when they were stored, and one that was only good to be probed."""
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (20, 30, 3), np.uint8)
    kinds = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM")
    for kind in kinds:
        (tmp_path / kind).write_bytes(by_pillow(pixels, kind))
    (tmp_path / "half").write_bytes((tmp_path / "PNG").read_bytes()[:-200])
    manifest = write_manifest(tmp_path / "m.txt", [(name,) for name in (*kinds, "half")])
    out, path = tmp_path / "out.h5", tmp_path / "damaged.h5"
    ingest(manifest, out, IngestOptions(layout="encoded", on_error="blank"))
    with ImageStore(out) as store:
        assert store.status.tolist() == [1] * len(kinds) + [2]
        np.testing.assert_array_equal(store[len(kinds)][0], np.zeros_like(pixels))
    with h5py.File(out) as file:
        offsets, good = file["images/offsets"][()], file["images/data"][()]
    refused: list[tuple[int, str]] = []
    for turn in range(40):
        data = good.copy()
        for start, stop in pairwise(offsets[: len(kinds) + 1]):
            data[random.integers(start, stop, 3)] = random.integers(0, 256, 3)
            if turn % 3 == 0:
                cut = random.integers(start, stop)
                data[cut:stop] = random.integers(0, 256, stop - cut)
        shutil.copy(out, path)
        with h5py.File(path, "r+") as file:
            file["images/data"][...] = data
        with ImageStore(path, verify="never") as store:
            for row in range(len(kinds)):
                try:
                    image, _ = store[row]
                    assert image.dtype in (np.uint8, np.uint16)
                except OutputError as error:
                    refused.append((row, str(error)))
    assert len(refused) > 40  # each PNG, and others
    for row, said in refused:
        assert said.startswith(f"{path}: image {row}: ")


# --- odd, but right ------------------------------------------------------------------------------


def rewrite(file: h5py.File, **how: Any) -> None:
    """Store every dataset in another way."""
    for name in names_of(file):
        old = file[name]
        values, attributes, dtype = old[()], dict(old.attrs), old.dtype
        del file[name]
        chunks = tuple(max(1, n // 2) for n in values.shape)
        more = how if dtype.kind != "O" else {}
        made = file.create_dataset(name, data=values, dtype=dtype, chunks=chunks, **more)
        made.attrs.update(attributes)


def names_of(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if hasattr(node, "shape") else None)
    return found


def compact(file: h5py.File) -> None:
    for name in names_of(file):
        old = file[name]
        values, kind = old[()], old.id.get_type()
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        del file[name]
        space = h5py.h5s.create_simple(values.shape)
        raw = name.encode("utf-8", "surrogateescape")
        made = h5py.h5d.create(file.id, raw, kind, space, creation)
        h5py.Dataset(made)[...] = values


def with_more(file: h5py.File) -> None:
    """What users add: attributes, datasets, links to anywhere, cycles."""
    file.attrs["mine"] = np.arange(5)
    file.attrs["texts"] = ["a", "b"]
    file.attrs["nothing"] = h5py.Empty("f4")
    file["my/floats"] = np.zeros((3, 4), "f2")
    file["my/link"] = h5py.SoftLink("/status")
    file["my/far"] = h5py.ExternalLink("elsewhere.h5", "/x")
    file["my/virtual"] = h5py.Empty("i8")
    file["my/again"] = file["my"]
    file["loop"] = h5py.SoftLink("/loop")
    file["a type"] = np.dtype("u1")


ODD: dict[str, Callable[[h5py.File], None]] = {
    "chunked": rewrite, "gzip": lambda file: rewrite(file, compression="gzip", shuffle=True),
    "lzf": lambda file: rewrite(file, compression="lzf", fletcher32=True),
    "extendible": lambda file: rewrite(file, maxshape=None), "compact": compact,
    "with more": with_more,
}  # fmt: skip
REPACKED: tuple[list[str], ...] = (
    [],
    ["-f", "GZIP=5"],
    ["-f", "SHUF", "-f", "GZIP=1"],
    ["-l", "CONTI"],
    ["-L"],
)


def told(path: Path) -> list[object]:
    """What `ImageStore` gives, to be compared."""

    def plain(found: Any) -> object:
        if isinstance(found, np.ndarray):
            return found.dtype, found.shape, found.tobytes()
        if isinstance(found, (list, tuple)):
            return [plain(one) for one in found]
        return str(found).replace(str(path), "")

    return [plain(found) for found in read_all(path)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_odd_but_right_is_read(good: dict[str, Path], layout: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    expected = told(good[layout])
    for way, change in ODD.items():
        shutil.copy(good[layout], path)
        with h5py.File(path, "r+") as file:
            change(file)
        assert told(path) == expected, way
        list(shown(path))
    for how in REPACKED if shutil.which("h5repack") else ():
        path.unlink()
        subprocess.run(["h5repack", *how, good[layout], path], check=True, timeout=60)
        assert told(path) == expected, how
        list(shown(path))
