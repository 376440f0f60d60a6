"""Mean, deviation, classes and copies: what the file says is what NumPy makes of its pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.layout_runs import extent_chunks, ingest_on
from helpers.statistics import EXACT, assert_as_in_numpy, in_numpy
from helpers.support import (
    Flavour,
    damage,
    explain,
    make_pixels,
    write_images,
    write_manifest,
    write_png,
)
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core import copies
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.moments import Kind, PixelSums
from h5ingest.core.options import IngestOptions
from h5ingest.core.statistics import from_plain
from h5ingest.inspect.duplicates import duplicates
from h5ingest.pipeline.run import ingest, recompress
from h5ingest.storage.earlier_runs import done_spans, sums_before
from h5ingest.storage.journal_records import Done, Record, Run, Sums, Undone, sums_of


def told(path: Path, group: str = "/") -> dict[str, Any]:
    with h5py.File(path) as file:
        found: dict[str, Any] = json.loads(file[group].attrs["statistics"])
    return found


# --- sums of pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sums_are_those_of_whole_numbers(channels: int, dtype: str) -> None:
    highest = np.iinfo(np.dtype(dtype)).max
    rng = np.random.default_rng(channels)
    sums = PixelSums()
    for extreme in (False, True):
        every = []
        for n_pixels in (1, 255, 64_512, 64_513, 300_000):
            values = rng.integers(0, highest, n_pixels * channels, dtype, endpoint=True)
            values[:] = np.where(extreme, highest * (values > highest // 9), values)
            sums.add(values, channels, 1, n_pixels)
            every.append(values.reshape(-1, channels))
        found = (sums.take() or {})[Kind(channels, dtype)]
        exact = np.concatenate(every).astype(object)
        assert found.sums == tuple(exact.sum(axis=0))
        assert found.squares == tuple((exact * exact).sum(axis=0))
        assert (found.n_images, found.n_pixels) == (5, len(exact))
    assert sums.take() == {}


@pytest.mark.parametrize("value", [0, 255, 65_535])
def test_images_of_one_value_deviate_by_nothing(value: int) -> None:
    sums = PixelSums()
    for _ in range(3):
        sums.add(np.full(500_000, value, np.uint16 if value > 255 else np.uint8), 1, 1, 500_000)
    (found,) = (sums.take() or {}).values()
    assert (found.mean, found.std) == ([value], [0.0])


# --- what a run writes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one shape, and of many shapes, channels and depths; some are copies or damaged."""
    folder = tmp_path_factory.mktemp("sources")
    alike = make_pixels(60, (9, 7, 3))
    alike[[17, 41]] = alike[3]  # 3 and 17 in train, 41 in test
    alike[[8, 30]] = 0  # black, as 23 is that cannot be read
    write_images(folder / "alike", alike)
    damage(folder / "alike" / "0023.png")
    rows: list[object] = ["path,label,split"]
    rows += [f"alike/{k:04}.png,{'abc'[k % 3]},{'train' if k < 40 else 'test'}" for k in range(60)]
    write_manifest(folder / "alike.csv", rows)
    mixed: list[NDArray[Any]] = []
    rng = np.random.default_rng(1)
    for k in range(50):
        size = rng.integers(1, 30, 2).tolist()
        shape = size if k % 3 == 0 else (*size, (3, 4)[k % 2])
        mixed.append(rng.integers(0, 256, shape, np.uint8))
    mixed[5] = np.zeros((2, 8), np.uint8)  # the bytes of both are the same, and no copies
    mixed[6] = np.zeros((4, 4), np.uint8)
    mixed[9] = mixed[12]
    write_images(folder / "mixed", mixed)
    write_manifest(folder / "mixed.csv", ["path", *(f"mixed/{k:04}.png" for k in range(50))])
    deep = list(mixed)
    deep[20] = rng.integers(0, 65_536, (6, 5), np.uint16)
    deep[21] = np.zeros((4, 4), np.uint16)
    write_images(folder / "deep", deep)
    write_manifest(folder / "deep.csv", ["path", *(f"deep/{k:04}.png" for k in range(50))])
    return folder


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "stack": ("alike", {"chunk_rows": 2}),
    "stack zstd": ("alike", {"chunk_rows": 3, "compression": "zstd:1"}),
    "groups": ("alike", {"chunk_rows": 2, "group_by": "split"}),
    "padded": ("mixed", {"fit": "pad", "channels": "rgb", "chunk_rows": 2}),
    "ragged": ("mixed", {"layout": "ragged"}),
    "ragged gzip": ("mixed", {"layout": "ragged", "compression": "gzip:1"}),
    "tree": ("deep", {"layout": "tree"}),
    "encoded": ("deep", {"layout": "encoded"}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_they_are_those_of_numpy_on_any_number_of_ranks(
    sources: Path, tmp_path: Path, case: str
) -> None:
    name, how = CASES[case]
    options = IngestOptions(batch_bytes=900, on_error="blank", **how)
    groups = ["train", "test"] if case == "groups" else [None]
    texts = []
    for n_ranks in (1, 2, 5):
        out = tmp_path / f"{n_ranks}.h5"
        with extent_chunks(512):
            ingest_on(n_ranks, sources / f"{name}.csv", out, options)
        with h5py.File(out) as file:
            texts.append([file[f"/{group or ''}"].attrs["statistics"] for group in groups])
        for group in groups:
            assert_as_in_numpy(out, group)
    assert texts[0] == texts[1] == texts[2]
    assert ("pixels" in texts[0][0]) == (case != "encoded"), "else they are not decoded"
    if "compression" not in how and case != "encoded":
        again = tmp_path / "again.h5"
        recompress(tmp_path / "1.h5", again, IngestOptions(compression="gzip:1"))
        with h5py.File(again) as file:
            found = [file[f"/{group or ''}"].attrs["statistics"] for group in groups]
        assert found == texts[0]


def test_classes_and_copies_are_counted_without_failed_images(
    sources: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    options = IngestOptions(group_by="split", on_error="blank")
    report = ingest(sources / "alike.csv", out, options)
    train, test = told(out, "/train"), told(out, "/test")
    assert train["classes"] == {
        "labels": [0, 1, 2],
        "images": [14, 13, 12],  # without row 23
        "weights": [13 / 14, 1.0, 13 / 12],
    }
    assert test["classes"]["images"] == [6, 7, 7]
    counts = ("images", "copies", "in_other_groups")
    assert [train[each] for each in counts] == [39, 2, 2]
    assert [test[each] for each in counts] == [20, 0, 1]
    warning = report.warnings[-1]
    assert "2 images are exact copies of others in the same group" in warning
    assert "2 of train" in warning
    assert "1 of test" in warning
    stats = ImageStore(out, group="train").stats
    assert stats.n_images == 39
    assert (stats.n_copies, stats.n_elsewhere) == (2, 2)
    assert stats.class_counts is not None
    assert stats.class_weights is not None
    assert stats.class_counts.tolist() == [14, 13, 12]
    np.testing.assert_allclose(stats.class_weights @ stats.class_counts, 39)


@pytest.mark.parametrize(("case", "n_copies"), [("ragged", 1), ("tree", 1), ("encoded", 1)])
def test_the_same_bytes_in_another_shape_or_type_are_no_copies(
    sources: Path, tmp_path: Path, case: str, n_copies: int
) -> None:
    name, how = CASES[case]
    report = ingest(sources / f"{name}.csv", tmp_path / "out.h5", IngestOptions(**how))
    assert told(tmp_path / "out.h5")["copies"] == n_copies
    assert [text for text in report.warnings if "exact cop" in text]


def test_nothing_is_said_where_all_images_differ(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(5, (4, 4)))
    manifest = write_manifest(tmp_path / "m.txt", [f"{k:04}.png" for k in range(5)])
    report = ingest(manifest, tmp_path / "out.h5")
    assert report.warnings == ()
    assert told(tmp_path / "out.h5")["copies"] == 0


def test_several_kinds_have_no_common_mean(sources: Path, tmp_path: Path) -> None:
    ingest(sources / "mixed.csv", tmp_path / "out.h5", IngestOptions(layout="ragged"))
    stats = ImageStore(tmp_path / "out.h5").stats
    with pytest.raises(UsageError, match=r"1 of uint8, 3 of uint8, 4 of uint8: `kinds`"):
        _ = stats.mean


def test_a_file_of_old_is_read_for_them(tmp_path: Path) -> None:
    pixels = make_pixels(300, (5, 4, 3))
    write_images(tmp_path, pixels)
    manifest = write_manifest(tmp_path / "m.txt", [f"{k:04}.png" for k in range(300)])
    ingest(manifest, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        del file.attrs["statistics"]
        del file.attrs["attributes_digest"]
    stats = ImageStore(tmp_path / "out.h5").stats
    mean, std = in_numpy(list(pixels))
    np.testing.assert_allclose(stats.mean, mean, rtol=EXACT)
    np.testing.assert_allclose(stats.std, std, rtol=EXACT)
    assert stats.n_copies is None
    assert stats.class_counts is None
    both = ImageStore([tmp_path / "out.h5", tmp_path / "out.h5"]).stats
    np.testing.assert_allclose(both.std, std, rtol=EXACT)
    assert both.n_images == 600


@pytest.mark.parametrize(
    "value", ["nonsense", "{}", '{"images": -1, "copies": 0, "in_other_groups": 0}', 5]
)
def test_an_attribute_that_says_something_else_is_refused(tmp_path: Path, value: object) -> None:
    write_png(tmp_path / "a.png", make_pixels(1, (4, 4))[0])
    ingest(write_manifest(tmp_path / "m.txt", ["a.png"]), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        file.attrs["statistics"] = value
    with pytest.raises(OutputError, match="statistics"):
        _ = ImageStore(tmp_path / "out.h5").stats.mean


def test_sums_that_no_pixels_have_are_refused() -> None:
    one = {"channels": 1, "dtype": "uint8", "images": 1, "pixels": 4, "sums": [8]}
    plain = {"images": 1, "copies": 0, "in_other_groups": 0}
    assert from_plain({**plain, "pixels": [{**one, "sums_of_squares": [16]}]}).n_images == 1
    for wrong in ([15], [], [16, 0], [1.5]):
        with pytest.raises(ValueError, match=r"sums|whole"):
            from_plain({**plain, "pixels": [{**one, "sums_of_squares": wrong}]})


# --- a job that goes on ------------------------------------------------------------------------


def test_sums_count_once_whatever_was_undone_or_cut_off() -> None:
    def records(value: int, span: tuple[int, int], group: int = 0) -> list[Record]:
        sums = PixelSums()
        sums.add(np.full(4, value, np.uint8), 1, 1, 4)
        return [*sums_of(group, sums.take()), Done(group, *span)]

    cut_off: list[Record] = [Sums(0, 1, 7, 7)]  # of a span that never was entered
    every = [
        Run(1), *records(3, (0, 8)), *records(5, (8, 16)), *records(7, (0, 8), 1), *cut_off,
        Run(2), Undone(0, 4, 6), *records(9, (0, 8)),
    ]  # fmt: skip
    kind = Kind(1, "uint8")
    found = {group: (sums or {})[kind] for group, sums in sums_before(every).items()}
    assert found[0].sums == (4 * (5 + 9),)
    assert found[0].n_images == 2
    assert found[1].sums == (28,)
    assert sums_before([*every, Done(1, 8, 9)])[1] is None, "nobody knows those of the last"
    assert done_spans(every[:-2], 2) == [[range(8, 16)], [range(8)]]


# --- copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [3, 64, 10_000])
def test_all_planted_copies_are_found_and_none_else(most: int) -> None:
    rng = np.random.default_rng(7)
    keys = [rng.integers(0, 2**64, n, np.uint64) for n in (500, 400, 300)]
    keys[1][[3, 90, 200]] = keys[0][7]  # one image, four times in two groups
    keys[2][:2] = keys[2][5]
    keys[2][9] = keys[1][33]
    blocks = [
        copies.Keys(group, np.arange(first, first + 100), some[first : first + 100])
        for group, some in enumerate(keys)
        for first in range(0, len(some), 100)
    ]
    found = list(copies.find(lambda: iter(blocks), 1200, most))
    sets = [
        list(zip(part.groups[a:b].tolist(), part.rows[a:b].tolist(), strict=True))
        for part in found
        for a, b in zip(part.starts[:-1], part.starts[1:], strict=True)
    ]
    assert sorted(sets) == [
        [(0, 7), (1, 3), (1, 90), (1, 200)], [(1, 33), (2, 9)], [(2, 0), (2, 1), (2, 5)],
    ]  # fmt: skip
    within, elsewhere = copies.counted(found, 3)
    assert within.tolist() == [0, 2, 2]
    assert elsewhere.tolist() == [1, 4, 1]


def test_show_lists_them(sources: Path, tmp_path: Path, mpich: Flavour) -> None:
    out = tmp_path / "out.h5"
    ingest(sources / "alike.csv", out, IngestOptions(group_by="split", on_error="blank"))
    completed = mpich.forked("show", out, "--duplicates")
    assert completed.returncode == 0, explain(completed)
    black, planted = (
        "2 copies of one image\n  train row 8  alike/0008.png\n  train row 30  alike/0030.png\n",
        "3 copies of one image, in more than one group\n  test row 1  alike/0041.png\n"
        "  train row 3  alike/0003.png\n  train row 17  alike/0017.png\n",
    )
    said = "2 images occur more than once, 5 times in all; 1 of them in more than one group\n"
    assert completed.stdout in (black + planted + said, planted + black + said)
    completed = mpich.forked("show", out, "--duplicates", "--group", "test")
    assert completed.stdout == "no image occurs more than once\n"
    completed = mpich.forked("show", out, "--group", "train")
    assert "2 exact copies of others" in completed.stdout
    assert "mean " in completed.stdout


@pytest.mark.parametrize("case", list(CASES))
def test_the_list_has_those_that_were_counted(sources: Path, tmp_path: Path, case: str) -> None:
    name, how = CASES[case]
    out = tmp_path / "out.h5"
    ingest(sources / f"{name}.csv", out, IngestOptions(on_error="blank", **how))
    sets = list(duplicates(out))
    store = ImageStore(out) if case != "groups" else None
    for places in sets:
        images = [
            (store or ImageStore(out, group=place.group))[place.row][0] for place in places
        ]  # fmt: skip
        assert len({(image.shape, image.dtype, image.tobytes()) for image in images}) == 1
    counted = [told(out, f"/{group}") for group in (("train", "test") if not store else ("",))]
    within = sum(len(places) - len({place.group for place in places}) for places in sets)
    assert sum(each["copies"] for each in counted) == within > 0
