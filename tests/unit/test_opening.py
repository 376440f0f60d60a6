"""Opening a store: what HDF5 is asked for, and that what it says is what h5py makes of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import make_pixels, write_manifest, write_png

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest
from h5ingest.reading.attributes import Attributes, NoValue
from h5ingest.reading.dataset_rule import StoredDataset
from h5ingest.reading.open_file import find


def write_all(folder: Path, images: dict[str, Any]) -> None:
    for name, image in images.items():
        write_png(folder / name, image)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of all objects that HDF5 is made to open."""
    names: list[bytes] = []
    real = h5py.h5o.open

    def counted(where: Any, name: bytes, **how: Any) -> Any:
        names.append(name)
        return real(where, name, **how)

    monkeypatch.setattr(h5py.h5o, "open", counted)
    return names


@pytest.mark.parametrize("layout", ["stack", "ragged", "tree", "encoded"])
def test_a_store_opens_each_dataset_once_and_none_that_few_want(
    layout: str, tmp_path: Path, opened: list[bytes]
) -> None:
    images = {f"{k}.png": image for k, image in enumerate(make_pixels(6, (5, 4)))}
    write_all(tmp_path, images)
    rows = [(name, "ab"[k % 2], k) for k, name in enumerate(images)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "label", "age"), *rows])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout=layout))
    opened.clear()
    with ImageStore(tmp_path / "out.h5") as store:
        assert set(Counter(opened).values()) == {1}, opened
        assert {b"/status", b"/labels", b"/label_names"} < set(opened)
        assert not {b"/paths", b"/columns", b"/checksums", b"/chunk_checksums"} & set(opened)
        assert list(store.paths) == list(images)
        assert list(store.paths[:2]) == ["0.png", "1.png"]
        assert opened.count(b"/paths") == 1
        assert store.columns["age"].tolist() == list(range(6))  # type: ignore[union-attr]
        assert "none" not in store.columns


def test_paths_are_refused_when_they_are_asked_for(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", make_pixels(1, (5, 4))[0])
    ingest(write_manifest(tmp_path / "m.csv", [("path",), ("a.png",)]), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        del file["paths"]
        file["paths"] = h5py.ExternalLink("other.h5", "/paths")
    with ImageStore(tmp_path / "out.h5") as store:
        assert store[0][0].shape == (5, 4)
        with pytest.raises(OutputError, match=r"/paths: expected an object of this file"):
            _ = store.paths


def test_attributes_and_datasets_are_what_h5py_makes_of_them(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "text": "café", "empty": "", "ascii": np.bytes_(b"abc"), "int": 3, "big": np.uint64(2**63),
        "real": 0.5, "order": np.array(7, ">i4"), "bool": True,
    }  # fmt: skip
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in values.items():
            file.attrs[name] = value
        file.attrs.create("not UTF-8", b"caf\xe9", dtype=h5py.string_dtype())
        file.attrs["list"], file.attrs["nothing"] = [1, 2], h5py.Empty("f4")
        file.attrs["pair"] = np.zeros((), np.dtype((np.int32, (2,))))
        file.attrs["record"] = np.array((1, 2.0), [("a", "i4"), ("b", "f8")])
        file.create_dataset("plain", data=np.zeros((3, 2), ">u2"))
        file.create_dataset("chunked", (5, 4), "u1", chunks=(2, 4), compression=1, shuffle=True)
        file.create_dataset("texts", data=["a", "b"], dtype=h5py.string_dtype())
        file["group/inner"], file["type"], file["null"] = 1, np.dtype("u1"), h5py.Empty("i4")
    with h5py.File(tmp_path / "a.h5") as file:
        found = Attributes(file)
        for name in (*values, "not UTF-8", "record"):
            expected = file.attrs[name]
            assert type(found[name]) is type(expected), name
            assert found[name] == expected, name
        for name in ("list", "nothing", "pair"):
            assert isinstance(found[name], NoValue), name
        assert "text" in found
        assert "none" not in found
        assert found.get("none") is None
        assert set(found) == set(file.attrs)
        for name in ("plain", "chunked", "texts", "group/inner", "null"):
            dataset, expected = find(file, name), file[name]
            assert isinstance(dataset, StoredDataset), name
            for what in ("shape", "dtype", "chunks", "name", "size", "ndim", "compression"):
                assert getattr(dataset, what) == getattr(expected, what), (name, what)
        chunked = find(file, "chunked")
        assert isinstance(chunked, StoredDataset)
        assert chunked.filters == (2, 1)
        np.testing.assert_array_equal(chunked[1:], file["chunked"][1:])
        assert isinstance(find(file, "group"), h5py.Group)
        assert isinstance(find(file, "type"), h5py.Datatype)
        assert find(file, "none") is None


def test_small_encoded_images_that_are_alike_are_decoded_together(tmp_path: Path) -> None:
    """Whatever else is among them, the images are those of reading one by one."""
    dice = random.Random(3)
    images: dict[str, Any] = {f"{k}.png": image for k, image in enumerate(make_pixels(150, (9, 7)))}
    images |= {f"rgb-{k}.png": make_pixels(2, (9, 7, 3))[k] for k in range(2)}
    images |= {
        "16.png": make_pixels(1, (9, 7), "uint16")[0],
        "large.png": make_pixels(1, (90, 70))[0],
    }
    write_all(tmp_path, images)
    names = [*images, "missing.png"]
    dice.shuffle(names)
    manifest = write_manifest(tmp_path / "m.csv", [("path",), *((name,) for name in names)])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="encoded", on_error="blank"))
    alike = [
        row for row, name in enumerate(names) if name.split(".")[0].isdigit() and name != "16.png"
    ]
    small = [row for row, name in enumerate(names) if name != "large.png"]
    with ImageStore(tmp_path / "out.h5") as store:
        for rows in (alike, small, [small[0]], [*alike[:5], *alike[:5]], range(len(names)), []):
            rows = list(rows)
            found = store[np.array(rows, np.intp)][0]
            assert len(found) == len(rows)
            for row, image in zip(rows, found, strict=True):
                one = store[row][0]
                assert image.dtype == one.dtype
                np.testing.assert_array_equal(image, one, str(row))
                if names[row] in images:
                    np.testing.assert_array_equal(image, images[names[row]])
        first, second = store[alike[:2]][0]
        assert first.base is second.base
        assert first.base is not None
        first[...] = 77  # a copy
        np.testing.assert_array_equal(store[alike[0]][0], images[names[alike[0]]])


def test_only_what_lies_in_one_piece_of_this_file_has_an_offset(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    (tmp_path / "elsewhere").write_bytes(values.tobytes())
    virtual = h5py.VirtualLayout((6, 8), np.uint8)
    virtual[:] = h5py.VirtualSource(tmp_path / "b.h5", "flat", (6, 8))
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"] = values
        file.create_dataset("chunks", data=values, chunks=(6, 8))
        file.create_dataset("gzip", data=values, compression="gzip")
        file.create_dataset(
            "external", (6, 8), np.uint8, external=[(str(tmp_path / "elsewhere"), 0, 48)]
        )
        file.create_virtual_dataset("virtual", virtual)
        space = h5py.h5s.create_simple((6, 8))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_UINT8, space, compact)
        file.create_dataset("unwritten", (6, 8), np.uint8)
    with h5py.File(tmp_path / "a.h5") as file:
        found = {name: StoredDataset(file[name].id) for name in file}
        offsets = {name: dataset.offset for name, dataset in found.items()}
        flat = offsets.pop("flat")
        assert flat is not None
        assert (tmp_path / "a.h5").read_bytes()[flat : flat + 48] == values.tobytes()
        assert set(offsets.values()) == {None}
        assert found["gzip"].filters == (1,)
        assert (found["flat"].filters, found["flat"].chunks) == ((), None)


def test_a_damaged_name_of_an_image_is_a_finding_of_verify(tmp_path: Path) -> None:
    write_all(tmp_path, {f"{k}.png": image for k, image in enumerate(make_pixels(6, (5, 4)))})
    manifest = write_manifest(tmp_path / "m.csv", [("path",), *((f"{k}.png",) for k in range(6))])
    out = tmp_path / "out.h5"
    ingest(manifest, out, IngestOptions(layout="tree"))
    with h5py.File(out) as file:
        references = file["datasets"].id.get_offset()
    data = bytearray(out.read_bytes())
    data[references + 3 * 16 + 5] ^= 0x40  # of row 3, in the address of what holds its text
    out.write_bytes(data)
    report = verify(out)
    assert [bad.row for bad in report.bad] == [3], report
    assert any("/datasets" in problem for problem in [*report.problems, report.bad[0].reason])
