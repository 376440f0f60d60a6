"""`ImageStore` of several files: as one file that has all their rows."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import make_pixels, write_images, write_manifest
from numpy.typing import NDArray

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.errors import OutputError, UsageError

PARTS = [range(5), range(5, 17), range(17, 24)]
"""Rows of each file."""
WAYS: dict[str, dict[str, Any]] = {
    "stack": {"chunk_rows": 3},
    "zstd": {"chunk_rows": 3, "compression": "zstd:1"},
    "padded": {"fit": "pad", "size": (9, 9)},
    "ragged": {"layout": "ragged"},
    "tree": {"layout": "tree"},
    "encoded": {"layout": "encoded"},
}
LABELS = ["dog", "cat", "emu", "ant"]
BAD = (3, 8)
"""Rows whose images cannot be read."""
N = 24


def pixels_of(way: str) -> list[NDArray[Any]]:
    if way in ("stack", "zstd"):
        return [*make_pixels(N, (6, 5, 3))]
    return [make_pixels(1, (2 + row % 7, 3 + row % 5))[0] for row in range(N)]


def label_of(row: int) -> str:
    """In the first file there are other classes than in the second."""
    return LABELS[row % 2] if row < 5 else LABELS[1 + row % 3]


def make(base: Path, way: str, rows: range, name: str, **more: Any) -> Path:
    """A file of some of the images."""
    names = write_images(base / "im", pixels_of(way))
    for row in BAD:
        (base / "im" / names[row]).write_bytes(b"no image")
    table = [
        (f"im/{names[row]}", label_of(row), row / 2 if row > 6 else row, f"0{row}", "ab"[row % 2])
        for row in rows
    ]
    heading = ("path", "label", "age", "code", "split")
    manifest = write_manifest(base / f"{name}.csv", [heading, *table])
    options = IngestOptions(**{"on_error": "blank", **WAYS[way], **more})
    ingest(manifest, base / f"{name}.h5", options)
    return base / f"{name}.h5"


def make_parts(base: Path, way: str, **more: Any) -> list[Path]:
    return [make(base, way, rows, f"part{k}", **more) for k, rows in enumerate(PARTS)]


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(np.array_equal, found, wanted))
    return np.array_equal(found, wanted) and found.dtype == wanted.dtype


def assert_like(many: ImageStore, one: ImageStore) -> None:
    """Whatever is asked of a store, but for the numbers of labels."""
    n = len(one)
    assert len(many) == n
    assert (many.layout, many.shape, many.dtype) == (one.layout, one.shape, one.dtype)
    assert many.label_names is not None
    assert one.label_names is not None

    def named(store: ImageStore, labels: Any) -> list[str]:
        names = (*(store.label_names or ()), "masked")
        return [names[label] for label in labels]

    for row in (*range(n), -1, -n, np.int64(3)):
        assert same(many[row][0], one[row][0])
        assert named(many, [many[row][1]]) == named(one, [one[row][1]])
    mask = np.arange(n) % 3 == 1
    for index in (
        slice(None), slice(1, 4), slice(2, n - 2), slice(None, None, -2), slice(3, 3),
        [n - 1, 0, 5, 5, -2], np.arange(n)[::-1], mask, [],
    ):  # fmt: skip
        images, labels = many[index]
        wanted, wanted_labels = one[index]
        assert same(images, wanted), index
        assert named(many, labels) == named(one, wanted_labels)
    for wrong in (n, -n - 1, [0, n]):
        with pytest.raises(IndexError, match="out of range"):
            many[wrong]
    assert named(many, many.labels) == named(one, one.labels)
    assert [*many.paths] == [*one.paths]
    assert many.paths[-1] == one.paths[-1]
    assert many.paths[2:9:3] == one.paths[2:9:3]
    assert len(many.paths) == n
    assert many.status.tolist() == one.status.tolist()
    assert many.rows.tolist() == one.rows.tolist()
    assert (many.sizes is None) == (one.sizes is None)
    if one.sizes is not None:
        assert same(many.sizes, one.sizes)
    assert set(many.columns) == set(one.columns) == {"age", "code", "split"}
    assert same(many.columns["age"], one.columns["age"])
    assert [*many.columns["code"]] == [*one.columns["code"]]
    assert many.columns["code"][4] == one.columns["code"][4]
    with pytest.raises(KeyError):
        many.columns["none"]
    assert many.blocks[0] == 0
    assert many.blocks[-1] == n
    assert (np.diff(many.blocks) > 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_several_files_are_read_as_one(way: str, tmp_path: Path) -> None:
    parts, whole = make_parts(tmp_path, way), make(tmp_path, way, range(N), "whole")
    for failed in ("include", "skip", "mask"):
        with (
            ImageStore(parts, failed=failed) as many,
            ImageStore(whole, failed=failed) as one,
        ):
            assert many.files == tuple(map(str, parts))
            assert many.path == str(parts[0])
            assert (
                repr(many)
                == f"<ImageStore {many.path!r} and 2 more: {len(one)} samples, {one.layout}>"
            )
            assert many.label_names == ("cat", "dog", "ant", "emu"), "in order of appearance"
            assert_like(many, one)
        with pytest.raises(ValueError, match="closed"):
            many[0]
    with ImageStore(str(tmp_path / "part*.h5")) as many, ImageStore(whole) as one:
        assert_like(many, one)
    with ImageStore(parts[::-1]) as turned, ImageStore(parts[2]) as last:
        assert same(turned[0][0], last[0][0])
        assert turned.label_names == ("ant", "cat", "emu", "dog")
    with ImageStore(parts[:1]) as single, ImageStore(parts[0]) as one:
        assert_like(single, one) if len(one) > 5 else None
        assert repr(single) == repr(one)


def test_groups_of_several_files(tmp_path: Path) -> None:
    parts = make_parts(tmp_path, "stack", group_by="split")
    whole = make(tmp_path, "stack", range(N), "whole", group_by="split")
    store = ImageStore(parts)
    assert store.groups == ("a", "b")
    assert repr(store) == f"<ImageStore {store.path!r} and 2 more: groups a, b>"
    with pytest.raises(UsageError, match="expected a group, one of a, b; got none"):
        store[0]
    for group in "ab":
        with ImageStore(parts, group=group) as many, ImageStore(whole, group=group) as one:
            assert_like(many, one)
    plain = make(tmp_path, "stack", range(4), "plain")
    with pytest.raises(UsageError, match=r"part0.h5: expected a group"):
        ImageStore([plain, *parts])
    with pytest.raises(UsageError, match=r"plain.h5: expected no group"):
        ImageStore([*parts, plain], group="a")


def test_it_may_be_pickled_and_forked(tmp_path: Path) -> None:
    parts = make_parts(tmp_path, "zstd")
    store = ImageStore(parts, failed="skip", cache_bytes=0)
    images, labels = store[:]
    again = pickle.loads(pickle.dumps(store))
    assert same(again[:][0], images)
    assert again.label_names == store.label_names
    child = os.fork()
    if not child:
        fine = same(store[:][0], images) and same(store[:][1], labels) and len(store.paths[:]) == 22
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert same(store[[20, 1]][0], np.asarray(images)[[20, 1]])
    other = make(tmp_path, "zstd", range(2, 9), "other")
    data = pickle.dumps(store)
    os.replace(other, parts[1])
    with pytest.raises(OutputError, match=r"part1.h5: not the file that the store was made for"):
        pickle.loads(data)[0]
    with pytest.raises(OutputError, match=r"part1.h5: the file was replaced"):
        [look[0] for look in store]


def variant(base: Path, name: str, **how: Any) -> Callable[[], Path]:
    def make_it() -> Path:
        rows: list[tuple[object, ...]] = how.get("rows", [("path", "label", "age")])
        names = write_images(base / name, make_pixels(3, how.get("shape", (4, 3))))
        cells = how.get("cells", [("x", 1), ("y", 2), ("x", 3)])
        table = [(f"{name}/{path}", *cell) for path, cell in zip(names, cells, strict=True)]
        manifest = write_manifest(base / f"{name}.csv", [*rows, *table])
        ingest(manifest, base / f"{name}.h5", IngestOptions(**how.get("options", {})))
        return base / f"{name}.h5"

    return make_it


@pytest.mark.parametrize(
    ("says", "how"),
    [
        ("shape of the images: expected (4, 3), as {first} has, found (5, 3)", {"shape": (5, 3)}),
        ("type of the pixels: expected uint8, as {first} has, found uint16",
         {"options": {"dtype": "uint16"}}),
        ("expected layout stack, as {first} has, found ragged", {"options": {"layout": "ragged"}}),
        ("labels: expected names, as {first} has, found numbers",
         {"cells": [(1, 1), (2, 2), (3, 3)]}),
        ("labels: expected names, as {first} has, found none",
         {"rows": [("path", "age")], "cells": [(1,), (2,), (3,)]}),
        ("columns: expected age (numbers), as {first} has, found none",
         {"rows": [("path", "label")], "cells": [("x",), ("y",), ("x",)]}),
        ("columns: expected age (numbers), as {first} has, found age (text)",
         {"cells": [("x", "a"), ("y", "b"), ("x", "c")]}),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_named(
    says: str, how: dict[str, Any], tmp_path: Path
) -> None:
    first = variant(tmp_path, "first")()
    second = variant(tmp_path, "second", **how)()
    wanted = re.escape(f"{second}: {says.format(first=first)}")
    with pytest.raises(OutputError, match=wanted):
        ImageStore([first, first, second])


def test_integers_beside_fractions_are_exact_or_refused(tmp_path: Path) -> None:
    cells: dict[str, list[object]]
    cells = {"first": [1, 2, 3], "floats": [0.5, "", 2], "large": [2**53 + 1, 0, 0]}
    made = {
        name: variant(tmp_path, name, cells=[("x", value) for value in values])()
        for name, values in cells.items()
    }
    with ImageStore([made["first"], made["floats"]]) as store:
        np.testing.assert_array_equal(store.columns["age"], [1, 2, 3, 0.5, np.nan, 2])
    with ImageStore([made["first"], made["large"]]) as store:
        assert [*store.columns["age"]] == [1, 2, 3, 2**53 + 1, 0, 0]
    with ImageStore([made["floats"], made["large"]]) as store:
        assert len(store) == 6
        with pytest.raises(OutputError, match=r"column age: expected one type in all files"):
            store.columns["age"]


def test_which_files_are_meant(tmp_path: Path) -> None:
    first = variant(tmp_path, "a")()
    with pytest.raises(OutputError, match=r"expected files with names like that, found none"):
        ImageStore(str(tmp_path / "x*.h5"))
    with pytest.raises(UsageError, match="expected the path of a file, or of several, got none"):
        ImageStore([])
    with pytest.raises(OutputError, match=r"gone.h5"):
        ImageStore([first, tmp_path / "gone.h5"])
    odd = tmp_path / "a[1]*.h5"  # a pattern, and the name of a file
    first.rename(odd)
    with ImageStore(odd) as store:
        assert store.files == (str(odd),)
    other = variant(tmp_path, "b")()
    other.write_bytes(b"no file of h5ingest")
    with pytest.raises(OutputError, match=re.escape(str(other))):
        ImageStore([odd, other])
