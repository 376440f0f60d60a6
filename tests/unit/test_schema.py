"""Whatever users call groups, columns, classes and images: nothing of it is taken for ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.chunk_sums import wrong_chunks
from helpers.support import write_manifest, write_png

from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions
from h5ingest.core.schema import CHUNK_CHECKSUMS, IMAGES, IN_TREES, known, known_datasets
from h5ingest.inspect import croissant, show
from h5ingest.inspect.verify import verify
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.run import ingest
from h5ingest.reading.store import ImageStore

OURS = (
    "sizes", "images", "data", "offsets", "pixels", "shapes", "label_names", "labels", "status",
    "checksums", "paths", "samples", "datasets", "columns",
)  # fmt: skip
N = len(OURS) ** 2
DIGESTS = {
    ("tree", None): "f49f37ebbb33213d", ("tree", "label"): "08f7d303d9e05b32",
    ("ragged", None): "c197d335e0ea87e4", ("ragged", "label"): "d8a1fac8ee3b39ad",
    ("encoded", None): "", ("encoded", "label"): "",
    ("stack", None): "5d448dd5b09d7a7f", ("stack", "label"): "2ea51ba3578625fa",
}  # fmt: skip
"""How the digests began when h5ingest knew no `schema`: the format is the same. None for `encoded`,
where the bytes of the PNG files enter, which depend on zlib."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image for each class and name of ours, as tall as a class has images."""
    folder = tmp_path_factory.mktemp("names")
    paths = [f"{label}/{name}.png" for label in OURS for name in OURS]
    for row, path in enumerate(paths):
        (folder / path).parent.mkdir(exist_ok=True)
        write_png(folder / path, np.full((len(OURS), 3 + row % 3), row, np.uint8))
    rows = [(path, path.partition("/")[0], *(row,) * len(OURS)) for row, path in enumerate(paths)]
    return write_manifest(folder / "m.csv", [("path", "label", *OURS), *rows])


@pytest.mark.parametrize(("layout", "group_by"), DIGESTS)
def test_names_of_ours_are_free_for_users(
    layout: str, group_by: str | None, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.h5"
    fit = "pad" if layout == "stack" else "error"
    report = ingest(manifest, out, IngestOptions(layout=layout, group_by=group_by, fit=fit))
    assert report.content_digest.startswith(DIGESTS[layout, group_by])
    checked = verify(out, SerialComm(), sources=True, root=manifest.parent)
    assert checked.ok, (checked.problems, checked.bad)
    assert (checked.n_samples, checked.n_sources) == (N, N)
    check_reader(out, grouped=group_by is not None)
    check_specs(out, layout, OURS if group_by else [""])
    show.tree(out)
    fields = {
        field["name"].partition("/")[2]
        for record_set in croissant.describe(out)["recordSet"]
        for field in record_set["field"]
    } - {"label", "name", "n_images"}
    columns = {f"columns/{name}" for name in OURS}
    assert columns <= fields
    assert fields - columns <= {name.partition("/")[0] for name in known(layout)}


def check_reader(out: Path, *, grouped: bool) -> None:
    """All images and columns are there, and nothing stands for what is not."""
    rows: list[int] = []
    for group in sorted(OURS) if grouped else [None]:
        with ImageStore(out, group=group) as store:
            mine = np.asarray(store.columns["data"])
            rows += mine.tolist()
            assert set(store.columns) == set(OURS)
            assert store.label_names == tuple(sorted(OURS))
            images = [image for image, _ in store]
            assert [int(image[0, 0]) for image in images] == [row % 256 for row in mine]
            widths = [3 + row % 3 for row in mine]
            if store.layout == "tree":
                assert store.sizes is None
                assert [image.shape for image in images] == [(len(OURS), w) for w in widths]
            else:
                assert store.sizes is not None
                assert np.asarray(store.sizes)[:, 1].tolist() == widths
    assert sorted(rows) == list(range(N))


def check_specs(out: Path, layout: str, groups: tuple[str, ...] | list[str]) -> None:
    """Types, shapes and dimension labels are those that the schema names."""
    with h5py.File(out) as file:
        for holder in (file[group or "/"] for group in groups):
            present = [spec for spec in known_datasets(layout) if spec.name in holder]
            assert len(present) >= 4
            for spec in present:
                name, dataset = spec.name, holder[spec.name]
                kind = "text" if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.name
                assert kind == (spec.dtype or "uint8"), name
                shape = (len(OURS), 5) if spec is IMAGES else spec.row_shape
                assert dataset.shape[1:] == shape, name
                assert tuple(dim.label for dim in dataset.dims) == spec.dims[: dataset.ndim], name


REFUSED: dict[str, tuple[dict[str, str] | None, str]] = {
    "nowhere": (None, "No such file or directory"),
    "text": (None, "not an HDF5 file"),
    "no schema": ({}, "an HDF5 file, but not one of h5ingest: it names no schema"),
    "another's": ({"schema": "h5other stack 1"}, "not one of h5ingest"),
    "a prefix": ({"schema": "h5ingestion stack 1"}, "not one of h5ingest"),
    "later": ({"schema": "h5ingest stack 3"}, "schema 'h5ingest stack 3' is not known to this"),
    "new layout": ({"schema": "h5ingest pyramid 1"}, "is not known to this version of h5ingest"),
    "no version": ({"schema": "h5ingest stack"}, "is not known to this version of h5ingest"),
    "groups": (
        {"schema": "h5ingest stack 1", "groups": "train"},
        "groups: expected JSON, found 'train'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_who_read_a_file_refuse_it_in_the_same_words(name: str, tmp_path: Path) -> None:
    attributes, said = REFUSED[name]
    path = tmp_path / "a.h5"
    if attributes is not None:
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
    elif name == "text":
        path.write_text("no HDF5")
    readers: tuple[Callable[[Path], object], ...] = (
        ImageStore, show.tree, croissant.describe, lambda path: verify(path, SerialComm()),
    )  # fmt: skip
    errors = []
    for read in readers:
        with pytest.raises(OutputError) as caught:
            read(path)
        errors.append(str(caught.value))
    assert len(set(errors)) == 1, errors
    assert errors[0].startswith(f"{path}: ")
    assert said in errors[0]


def test_what_is_damaged_is_still_found(manifest: Path, tmp_path: Path) -> None:
    """Looking at names of ours only, verify looks at all of those."""
    out = tmp_path / "a.h5"
    for layout in ("tree", "ragged", "encoded", "stack"):
        fit = "pad" if layout == "stack" else "error"
        ingest(manifest, out, IngestOptions(layout=layout, fit=fit, overwrite=True))
        with h5py.File(out) as file:
            present = [name for name in known(layout) if name in file] + ["columns/data"]
            schema = file.attrs["schema"]
        assert schema == f"h5ingest {layout} 2"
        assert "label_names" in present
        assert ("sizes" in present) == (layout == "stack")
        for name in present:
            with h5py.File(out, "r+") as file:
                file.move(name, "aside")
            checked = verify(out, SerialComm())
            assert not checked.ok, (layout, name)
            with h5py.File(out, "r+") as file:
                file.move("aside", name)
        assert verify(out, SerialComm()).ok


def test_a_tree_gives_no_image_a_name_of_ours(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    ingest(manifest, out, IngestOptions(layout="tree", group_by="label"))
    with h5py.File(out) as file:
        assert sorted(json.loads(file.attrs["groups"])) == sorted(file) == sorted(OURS)
        for label in OURS:
            images = {name.decode().rpartition("/")[2] for name in file[f"{label}/datasets"]}
            assert images == {f"{name}_1" if name in IN_TREES else name for name in OURS}


@pytest.mark.parametrize("layout", ["stack", "tree"])
def test_checksums_of_chunks_stand_beside_what_users_call_so(layout: str, tmp_path: Path) -> None:
    """They are no column with a value for each sample, and in a tree no image takes their name."""
    name, out = CHUNK_CHECKSUMS.name, tmp_path / "a.h5"
    pixels = np.arange(3 * 8 * 9, dtype=np.uint8).reshape(3, 8, 9)
    files = [f"{name}.png", "b.png", "c.png"]
    for file, image in zip(files, pixels, strict=True):
        write_png(tmp_path / file, image)
    rows = [("path", name), *((file, k * 7) for k, file in enumerate(files))]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    ingest(manifest, out, IngestOptions(layout=layout, compression="gzip:1"))
    assert verify(out, SerialComm(), sources=True).ok
    with ImageStore(out, verify="always") as store:
        np.testing.assert_array_equal([image for image, _ in store], pixels)
        assert np.asarray(store.columns[name]).tolist() == [0, 7, 14]
    with h5py.File(out) as file:
        assert file[name].shape == (3 if layout == "tree" else 1,)
        assert not wrong_chunks(file)
    (records,) = croissant.describe(out)["recordSet"]
    fields = {field["name"].partition("/")[2] for field in records["field"]}
    assert f"columns/{name}" in fields
    assert name not in fields
    assert fields >= {"status", "checksums", "paths"}
