"""Several images a row: image and mask, each in datasets of its own, fitted alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest
from helpers.chunk_sums import wrong_chunks
from helpers.layout_runs import extent_chunks, ingest_on
from helpers.oracle import Wanted, fitted
from helpers.statistics import assert_as_in_numpy
from helpers.street import CLASSES, Street, draw_street
from helpers.support import damage, write_manifest
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.errors import ManifestError, OutputError, SamplesFailedError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect import contact_sheet
from h5ingest.inspect import show as showing
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest
from h5ingest.reading.store import ImageStore

PAIRS = IngestOptions(image=("mask:raw",), batch_bytes=4096)
LAYOUTS = {
    "cover": replace(PAIRS, fit="cover", size=(32, 32), chunk_rows=3),
    "cover zstd": replace(PAIRS, fit="cover", size=(32, 32), chunk_rows=3, compression="zstd:1"),
    "contain": replace(PAIRS, image=("mask:raw:pad=255",), fit="contain", size=(24, 40)),
    "resize groups": replace(PAIRS, fit="resize", size=(20, 30), group_by="split"),
    "ragged": replace(PAIRS, layout="ragged"),
    "ragged gzip groups": replace(PAIRS, layout="ragged", compression="gzip:1", group_by="split"),
    "ragged longest": replace(PAIRS, layout="ragged", longest=30),
    "tree gzip": replace(PAIRS, layout="tree", compression="gzip:1"),
    "tree auto": replace(PAIRS, layout="tree", compression="auto"),
    "encoded": replace(PAIRS, layout="encoded"),
    "encoded jxl": replace(PAIRS, image=("mask",), layout="encoded", recode="jxl:1"),
}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return draw_street(tmp_path_factory.mktemp("street"))


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with extent_chunks(3000):
        yield


def wanted(street: Street, options: IngestOptions, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image and mask of a row as they must be stored, by Pillow's own steps."""
    image, mask = street.images[row], street.masks[row]
    if options.fit != "error":
        assert options.size is not None
        how = Wanted(fit=options.fit)
        pad = 255 if options.fit == "contain" else 0
        return (
            fitted(image, options.size, how),
            fitted(mask, options.size, replace(how, resample="nearest", pad_value=pad)),
        )
    if options.longest:
        height, width = mask.shape
        size = tuple(max(1, round(n / max(height, width) * options.longest)) for n in mask.shape)
        return (
            np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)),
            np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)),
        )
    if options.recode:  # colours, as any viewer shows them
        return image, np.asarray(Image.open(street.path(row, "mask")).convert("RGB"))
    return image, mask


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs(layout: str, street: Street, tmp_path: Path) -> None:
    options = LAYOUTS[layout]
    out = tmp_path / "1.h5"
    reports = [ingest_on(n, street.manifest, tmp_path / f"{n}.h5", options) for n in (1, 3)]
    assert len({report.content_digest for report in reports}) == 1
    said = "rows of 2 images (images of 32x32 RGB uint8, mask of 32x32 gray uint8)"
    assert (reports[0].image == said) == layout.startswith("cover")
    assert (reports[0].n_samples, reports[0].to_json()["files_before"]) == (12, 24)
    checked = verify(tmp_path / "3.h5", sources=True, root=street.manifest.parent)
    assert checked.ok, checked
    assert (checked.n_samples, checked.n_sources) == (24, 24)
    with h5py.File(out) as file:
        assert not wrong_chunks(file)
        prefixes = ["/train", "/test"] if options.group_by else [""]
        for prefix in prefixes:
            assert file[f"{prefix}/mask/status"][:].tolist() == file[f"{prefix}/status"][:].tolist()
            assert all(b"masks/" in path for path in file[f"{prefix}/mask/paths"][:])
            assert "mask" not in file.get(f"{prefix}/columns", {})
            assert "labels" in file[prefix or "/"]
            assert "labels" not in file[f"{prefix}/mask"]
        assert json.loads(file.attrs["images"]) == ["mask"]
    rows = list(range(12))
    for group in ("train", "test") if options.group_by else (None,):
        if group is not None:
            rows = [row for row in range(12) if (row % 4 == 3) == (group == "test")]
        with ImageStore(out, group=group) as store:
            assert len(store) == len(rows)
            images: Any
            images, labels = store[:]
            assert labels is not None
            assert images.keys() == {"images", "mask"}
            for place, row in enumerate(rows):
                image, mask = wanted(street, options, row)
                one: Any
                one, label = store[place]
                assert label == labels[place] == (row % 3 == 0)
                for found in (one, {name: batch[place] for name, batch in images.items()}):
                    np.testing.assert_array_equal(found["images"], image)
                    np.testing.assert_array_equal(found["mask"], mask)
                if not options.recode:
                    assert set(np.unique(one["mask"])) <= set(CLASSES)
        with ImageStore(out, group=group, image="mask") as store:
            np.testing.assert_array_equal(store[0][0], wanted(street, options, rows[0])[1])


def test_a_mask_keeps_its_palette_and_its_path(street: Street, tmp_path: Path) -> None:
    ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["cover"])
    with h5py.File(tmp_path / "out.h5") as file:
        palette = np.array(Image.open(street.path(0, "mask")).getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(file["mask/images"].attrs["palette"][: len(palette)], palette)
        assert "palette" not in file["images"].attrs
        assert file["mask/paths"][0] == b"masks/0.png"


@pytest.mark.parametrize("layout", ["cover", "cover zstd", "ragged gzip groups", "tree gzip",
                                    "contain", "encoded"])  # fmt: skip
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_a_row_with_a_bad_image_fails_as_a_whole(layout: str, n_ranks: int, tmp_path: Path) -> None:
    street = draw_street(tmp_path / "street")
    damage(street.path(2, "mask"))
    damage(street.path(4))
    street.path(7, "mask").unlink()
    street.path(9).unlink()
    street.path(9, "mask").write_bytes(b"no image")
    bad = {2, 4, 7, 9}
    options = LAYOUTS[layout]
    with pytest.raises(SamplesFailedError) as caught:
        ingest_on(n_ranks, street.manifest, tmp_path / "out.h5", options)
    assert not (tmp_path / "out.h5").exists()
    assert "masks/7.png" in str(caught.value)
    blank = replace(options, on_error="blank")
    report = ingest_on(n_ranks, street.manifest, tmp_path / "out.h5", blank)
    assert {failure.index for failure in report.failures} == bad
    said = {failure.index: f"{failure.path}: {failure.reason}" for failure in report.failures}
    for row in bad:
        assert f"masks/{row}.png" in said[row]
        assert f"images/{row}." in said[row]
    checked = verify(tmp_path / "out.h5", sources=True, root=street.manifest.parent)
    assert checked.ok, checked
    assert (checked.n_failed, checked.n_sources) == (8, 16)
    with h5py.File(tmp_path / "out.h5") as file:
        assert not wrong_chunks(file)
        assert file.attrs["n_failed"] == 4
    groups = ("train", "test") if options.group_by else (None,)
    for group, image in product(groups, ("images", "mask")):
        assert_as_in_numpy(tmp_path / "out.h5", group, image)
    n_good = 0
    for group in groups:
        with ImageStore(tmp_path / "out.h5", group=group, failed="skip") as store:
            n_good += len(store)
            for sample in range(len(store)):
                path = store.paths[sample]
                row = int(path.split("/")[1].split(".")[0])
                assert row not in bad
                np.testing.assert_array_equal(
                    store[sample][0]["mask"], wanted(street, options, row)[1]
                )
        with ImageStore(tmp_path / "out.h5", group=group) as store:
            for sample in np.flatnonzero(store.status == 2).tolist():
                images: Any = store[sample][0]
                assert not any(image.any() for image in images.values())
    assert n_good == 8


def test_images_of_other_sizes_in_a_row_are_refused(tmp_path: Path) -> None:
    street = draw_street(tmp_path / "street")
    Image.open(street.path(3, "mask")).resize((11, 13)).save(street.path(3, "mask"))
    with pytest.raises(SamplesFailedError, match="expected images of one size, to fit them alike"):
        ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["cover"])
    report = ingest(
        street.manifest, tmp_path / "out.h5", replace(LAYOUTS["cover"], on_error="blank")
    )
    (failure,) = report.failures
    assert (failure.index, failure.kind) == (3, "sizes")
    assert "images/3.jpg" in failure.reason
    assert "masks/3.png 13x11" in failure.reason
    with ImageStore(tmp_path / "out.h5") as store:
        assert np.flatnonzero(store.status == 2).tolist() == [3]
        images: Any = store[3][0]
        assert not any(image.any() for image in images.values())
    ragged = ingest(street.manifest, tmp_path / "ragged.h5", LAYOUTS["ragged"])
    assert not ragged.failures  # nothing is fitted there


def test_three_images_a_row_each_with_its_own_type(street: Street, tmp_path: Path) -> None:
    depth = np.random.default_rng(3).integers(0, 2**16, (12, 9, 7), np.uint16)
    rows = [("path", "mask", "depth")]
    for row in range(12):
        Image.fromarray(depth[row]).save(tmp_path / f"depth{row}.png")
        rows.append((str(street.path(row)), str(street.path(row, "mask")), f"depth{row}.png"))
    manifest = write_manifest(tmp_path / "three.csv", rows)
    options = replace(PAIRS, image=("path:gray", "mask:raw", "depth"), layout="ragged")
    ingest_on(2, manifest, tmp_path / "out.h5", options)
    assert verify(tmp_path / "out.h5", sources=True).ok
    with ImageStore(tmp_path / "out.h5") as store:
        images, labels = store[5]
        assert labels is None
        gray = np.asarray(Image.fromarray(street.images[5]).convert("L"))
        np.testing.assert_array_equal(images["images"], gray)
        np.testing.assert_array_equal(images["mask"], street.masks[5])
        np.testing.assert_array_equal(images["depth"], depth[5])
        assert images["depth"].dtype == np.uint16


def test_several_files_of_pairs_are_read_as_one(street: Street, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.h5" for n in range(2)]
    for file in files:
        ingest(street.manifest, file, LAYOUTS["ragged"])
    with ImageStore(files) as store:
        assert len(store) == 24
        np.testing.assert_array_equal(store[13][0]["mask"], street.masks[1])
    ingest(street.manifest, tmp_path / "alone.h5", IngestOptions(layout="ragged"))
    with pytest.raises(OutputError, match="expected rows of the same images"):
        ImageStore([files[0], tmp_path / "alone.h5"])


def test_what_cannot_be_is_said(street: Street, tmp_path: Path) -> None:
    for image, said in (
        (("masks:raw",), "expected a column 'masks' of images, found path, mask, label, split"),
        (("split",), "expected to group by no column of images"),
    ):
        with pytest.raises(ManifestError, match=said):
            ingest(
                street.manifest, tmp_path / "out.h5",
                IngestOptions(image=image, layout="ragged", group_by="split"),
            )  # fmt: skip
    ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["ragged"])
    with pytest.raises(UsageError, match="image: expected one of images, mask, got 'masks'"):
        ImageStore(tmp_path / "out.h5", image="masks")


def test_rows_of_another_status_are_found(street: Street, tmp_path: Path) -> None:
    ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["ragged"])
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        file["mask/status"][4] = 2
    report = verify(tmp_path / "out.h5")
    assert any("expected the status of /status in each row" in line for line in report.problems)


def test_a_column_that_names_images_is_noticed(street: Street, tmp_path: Path) -> None:
    report = ingest(
        street.manifest, tmp_path / "out.h5", IngestOptions(layout="ragged", dry_run=True)
    )
    (hint,) = report.warnings
    assert "--image mask:raw" in hint
    lines = street.manifest.read_text().replace("label", "class", 1)
    (street.manifest.parent / "class.csv").write_text(lines)
    options = IngestOptions(layout="ragged", dry_run=True, image=("mask",))
    report = ingest(street.manifest.parent / "class.csv", tmp_path / "out.h5", options)
    assert report.warnings == (
        "no column is named label: 'class' is stored as columns/class, not as labels: "
        "--label-column class",
    )


def test_a_sheet_shows_each_mask_beside_its_image(street: Street, tmp_path: Path) -> None:
    ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["cover"])
    made = showing.draw(
        tmp_path / "out.h5", sheet=tmp_path / "sheet.png", layers=2, layers_to=tmp_path / "2.png"
    )
    with ImageStore(tmp_path / "out.h5", image="images") as alone:
        contact_sheet.sheet(alone, tmp_path / "alone.png")
    sheet, without = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("sheet", "alone"))
    assert sheet.shape[1] > 1.6 * without.shape[1]
    assert made == [tmp_path / "sheet.png", tmp_path / "2.png"]
    images: Any = ImageStore(tmp_path / "out.h5")[0][0]
    pair = contact_sheet._side_by_side(images)
    assert pair.size == (2 * 96, 96)
    np.testing.assert_array_equal(
        np.asarray(pair)[:, :96], np.repeat(np.repeat(images["images"], 3, 0), 3, 1)
    )


def test_show_tells_of_each_image(
    street: Street, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(street.manifest, tmp_path / "out.h5", LAYOUTS["resize groups"])
    showing.show(tmp_path / "out.h5", every=True)
    shown = capsys.readouterr().out
    assert "9 images of 20x30 RGB uint8, none failed" in shown
    assert "9 images of 20x30 gray uint8, none failed" in shown
    assert "instead of 24 files" in shown


def test_a_class_of_a_tree_may_be_called_like_the_mask(tmp_path: Path) -> None:
    street = draw_street(tmp_path / "street", 4)
    manifest = street.manifest.parent / "masks.csv"
    manifest.write_text(street.manifest.read_text().replace("day", "mask"))
    ingest(manifest, tmp_path / "out.h5", LAYOUTS["tree gzip"])
    assert verify(tmp_path / "out.h5", sources=True, root=manifest.parent).ok
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["datasets"][1] == b"/mask_1/1"
        assert file["mask/datasets"][1] == b"/mask/mask/1"
