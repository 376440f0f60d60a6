"""Columns of lists, labels of several classes: stored, read, recompressed, extended, exported."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.layout_runs import ingest_on
from helpers.support import ROOT, make_pixels, write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from h5ingest.cli.summary import summary
from h5ingest.core import column_types, lists, manifest_heading
from h5ingest.core.column_types import convert, kinds_seen, resolve
from h5ingest.core.errors import ManifestError, OutputError, UsageError
from h5ingest.core.lists import Lists
from h5ingest.core.options import IngestOptions
from h5ingest.exports.options import ExportOptions
from h5ingest.exports.run import export
from h5ingest.inspect import croissant, show
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.extend import extend
from h5ingest.pipeline.run import ingest, recompress
from h5ingest.reading.store import ImageStore

HEADING = "path,label[|],bbox,kp,split,note"
LINES = [
    '0000.png,cat|dog,"[[1, 2, 3, 4], [5, 6, 7, 8]]","[1.5, 2]",train,"[1]"',
    "0001.png,,[],[],train,[1]",
    '0002.png,dog,"[[9,9,9,-9007199254740995]]",,test,x',
    "0003.png,bird|cat|cat,,[3],test,[1]",
    '0004.png,dog,"[[1,1,1,1]]","[4,5,-0]",train,[1]',
    "0005.png,bird,[],[Infinity],test,[1]",
]
BOXES = [
    [[1, 2, 3, 4], [5, 6, 7, 8]], [], [[9, 9, 9, -9007199254740995]], [], [[1, 1, 1, 1]], [],
]  # fmt: skip
POINTS = [[1.5, 2.0], [], [], [3.0], [4.0, 5.0, -0.0], [float("inf")]]
NAMES = ("bird", "cat", "dog")
CLASSES = [[1, 2], [], [2], [0, 1, 1], [2], [0]]
LAYOUTS = {
    "stack": IngestOptions(),
    "stack groups": IngestOptions(group_by="split"),
    "ragged": IngestOptions(layout="ragged", compression="gzip:1"),
    "tree groups": IngestOptions(layout="tree", group_by="split"),
    "tree": IngestOptions(layout="tree"),
    "encoded": IngestOptions(layout="encoded"),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_images(tmp_path, make_pixels(len(LINES), (5, 4)))
    return write(tmp_path / "m.csv", LINES)


def write(path: Path, lines: list[str], heading: str = HEADING) -> Path:
    path.write_text("\n".join([heading, *lines]) + "\n")
    return path


def rows_of(out: Path) -> dict[str, tuple[list[int], list[Any], list[float]]]:
    """Path -> classes, boxes and points, by plain h5py, as the page on the format says."""
    found = {}
    with h5py.File(out, "r") as file:
        for name in json.loads(file.attrs.get("groups", '["/"]')):
            group = file[name]

            def row(lists: str, k: int, group: h5py.Group = group) -> Any:
                first, end = group[lists]["offsets"][k : k + 2]
                return group[lists]["values"][first:end].tolist()

            for k, path in enumerate(group["paths"]):
                each = (row("labels", k), row("columns/bbox", k), row("columns/kp", k))
                found[path.decode()] = each
            assert group["columns/bbox/values"].dtype == np.int64
            assert group["columns/bbox/values"].shape[1:] == (4,)
            assert group["columns/kp/values"].dtype == np.float64
            assert group["labels/values"].dtype == np.int64
            assert [n.decode() for n in group["label_names"]] == [*NAMES]
    return found


WANTED = {
    f"{row:04}.png": (CLASSES[row], BOXES[row], POINTS[row]) for row in range(len(LINES))
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_the_same_by_any_number_of_ranks(
    manifest: Path, tmp_path: Path, layout: str
) -> None:
    options = LAYOUTS[layout]
    digests = set()
    for n_ranks in (1, 3):
        out = tmp_path / f"{n_ranks}.h5"
        digests.add(ingest_on(n_ranks, manifest, out, options).content_digest)
        assert rows_of(out) == WANTED
        assert verify(out).ok, verify(out)
    assert len(digests) == 1
    if options.layout != "encoded":
        again = recompress(out, tmp_path / "z.h5", IngestOptions(compression="zstd:1"))
        assert {again.content_digest} == digests
        assert rows_of(tmp_path / "z.h5") == WANTED
    if options.layout != "tree":  # whose images lie in folders of their classes, if of one
        tree = IngestOptions(layout="tree", compression="zstd:1")
        recompress(out, tmp_path / "tree.h5", tree, keep_layout=False)
        assert rows_of(tmp_path / "tree.h5") == WANTED
        assert verify(tmp_path / "tree.h5").ok
    report = ingest(manifest, tmp_path / "none.h5", replace(options, dry_run=True))
    said = summary(report)
    assert "column s" not in said
    assert "JSON arrays in columns bbox (int64[*, 4]), kp (float64[*]) are stored as lists" in said
    assert "'note' is stored as text, not as lists of numbers: line 4 does not fit, 'x'" in said


def test_read_by_the_store(manifest: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.h5"
    ingest(manifest, out)
    with ImageStore(out) as store:
        assert store.label_names == NAMES
        assert [store[row][1].tolist() for row in range(6)] == CLASSES
        for rows in ([5, 0, 0], slice(1, 4), np.arange(6) % 2 == 0):
            labels = store[rows][1]
            assert isinstance(labels, Lists)
            assert labels.tolist() == [CLASSES[k] for k in np.arange(6)[rows]]
        assert isinstance(store.labels, Lists)
        hot = store.labels.multi_hot(3)
        assert hot.tolist() == [[int(k in each) for k in range(3)] for each in CLASSES]
        boxes = store.columns["bbox"]
        assert isinstance(boxes, Lists)
        assert (boxes.tolist(), boxes[-2].tolist(), boxes[1].shape) == (BOXES, BOXES[4], (0, 4))
        with pytest.raises(ValueError, match="read-only"):
            boxes[0][0] = 7
        with pytest.raises(IndexError):
            boxes[6]
        with pytest.raises(UsageError, match="here each is a list"):
            ImageStore(out, failed="mask")
    show.show(out, every=True)
    said = capsys.readouterr().out
    assert "columns/bbox/values" in said
    assert "2  dog" in said
    about = croissant.describe(out)
    fields = {each["@id"]: each for each in about["recordSet"][0]["field"]}
    assert fields["samples/columns/bbox"]["arrayShape"] == "-1,4"
    assert fields["samples/labels"]["references"] == {"field": {"@id": "label_names/label"}}
    assert not any("offsets" in id_ for id_ in fields)


def test_a_reader_written_from_the_page_reads_several_classes(
    manifest: Path, tmp_path: Path
) -> None:
    ingest(manifest, tmp_path / "out.h5", IngestOptions(group_by="split"))
    page = (ROOT / "docs/format.md").read_text()
    code: dict[str, Any] = {}
    (reader,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(reader, "format.md", "exec"), code)
    found = {path.decode(): label for _, path, label, _ in code["read"](tmp_path / "out.h5")}
    assert found == {path: [NAMES[k] for k in row[0]] for path, row in WANTED.items()}
    with h5py.File(tmp_path / "out.h5", "r") as file:
        boxes = code["column_of"](file["train"], "columns/bbox")
    assert [each.tolist() for each in boxes] == [BOXES[row] for row in (0, 1, 4)]


def test_failed_rows_and_many_files(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "0001.png").write_bytes(b"no image")
    ingest(manifest, tmp_path / "a.h5", IngestOptions(on_error="blank"))
    other = ['0000.png,ant|cat,"[[0,0,0,0]]",[1.0],a,', "0002.png,,[],[],b,"]
    ingest(write(tmp_path / "o.csv", other), tmp_path / "b.h5")
    with ImageStore(tmp_path / "a.h5", failed="skip") as store:
        good = [row for row in range(6) if row != 1]
        assert store.labels is not None
        assert store.labels.tolist() == [CLASSES[row] for row in good]
        assert store.columns["bbox"].tolist() == [BOXES[row] for row in good]  # type: ignore[union-attr]
    with ImageStore([tmp_path / "a.h5", tmp_path / "b.h5"]) as store:
        assert store.label_names == (*NAMES, "ant")
        assert store[6][1].tolist() == [3, 1]
        assert store.columns["bbox"][6].tolist() == [[0, 0, 0, 0]]  # type: ignore[union-attr]
        assert len(store.columns["bbox"]) == 8
    write(tmp_path / "p.csv", ['0000.png,cat,"[1, 2]",[1.0],a,'])
    ingest(tmp_path / "p.csv", tmp_path / "c.h5")
    with pytest.raises(OutputError, match=r"bbox \(numbers\[\*, 4\]\).*bbox \(numbers\[\*\]\)"):
        ImageStore([tmp_path / "a.h5", tmp_path / "c.h5"])


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_torch_has_multi_hot_vectors_and_lists(manifest: Path, tmp_path: Path) -> None:
    import pickle

    import torch
    from torch.utils.data import DataLoader

    from h5ingest.torch import ImageDataset

    ingest(manifest, tmp_path / "out.h5")
    dataset = ImageDataset(tmp_path / "out.h5", columns=["bbox", "split"])
    hot = torch.tensor([[0.0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
    _, label, columns = dataset[0]
    assert torch.equal(label, hot[0])
    assert label.dtype == torch.float32
    assert columns["bbox"].tolist() == BOXES[0]
    assert columns["split"] == "train"
    _, labels, columns = pickle.loads(pickle.dumps(dataset))[[4, 1]]
    assert torch.equal(labels, hot[[4, 1]])
    assert [each.tolist() for each in columns["bbox"]] == [BOXES[4], BOXES[1]]
    batches = list(DataLoader(dataset, batch_size=4, collate_fn=dataset.collate))
    assert torch.equal(torch.cat([labels for _, labels, _ in batches]), hot)
    found = [box.tolist() for *_, columns in batches for box in columns["bbox"]]
    assert found == BOXES
    assert batches[1][0].shape == (2, 1, 5, 4)
    loss = torch.nn.BCEWithLogitsLoss()(torch.zeros(4, 3), batches[0][1])
    assert loss.isfinite()
    with pytest.raises(UsageError, match="expected columns of the file, bbox"):
        ImageDataset(tmp_path / "out.h5", columns=["box"])


def test_extended_as_if_ingested_together(manifest: Path, tmp_path: Path) -> None:
    for group_by in (None, "split"):
        options = IngestOptions(group_by=group_by)
        whole = ingest(manifest, tmp_path / "whole.h5", replace(options, overwrite=True))
        first = write(tmp_path / "first.csv", LINES[:4])
        ingest(first, tmp_path / "out.h5", replace(options, overwrite=True))
        report = extend(manifest, tmp_path / "out.h5")
        assert report.content_digest == whole.content_digest
        assert rows_of(tmp_path / "out.h5") == WANTED
        assert verify(tmp_path / "out.h5").ok
    plain = write(tmp_path / "plain.csv", ["x.png,owl,[],[],train,"], HEADING.replace("[|]", ""))
    with pytest.raises(ManifestError, match=r"any number of classes each.*--multi-label"):
        extend(plain, tmp_path / "out.h5")
    flat = write(tmp_path / "flat.csv", ['x.png,owl,"[1, 2]",[],train,'])
    with pytest.raises(ManifestError, match=r"'bbox': expected int64\[\*, 4\].*found int64\[\*\]"):
        extend(flat, tmp_path / "out.h5")


def test_whole_numbers_that_float64_cannot_hold_are_not_rounded(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(3, (5, 4)))
    for big, half in (("[9007199254740993]", "[0.5]"), ("9007199254740993", "0.5")):
        ingest(
            write(tmp_path / "a.csv", [f"0000.png,{big}"], "path,n"), tmp_path / "a.h5",
            IngestOptions(overwrite=True),
        )  # fmt: skip
        before = (tmp_path / "a.h5").read_bytes()
        with pytest.raises(ManifestError, match=r"beyond 2\*\*53"):
            extend(write(tmp_path / "b.csv", [f"0001.png,{half}"], "path,n"), tmp_path / "a.h5")
        assert (tmp_path / "a.h5").read_bytes() == before
        for left in tmp_path.glob("a.h5.*"):
            left.unlink()


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_an_export_is_ingested_as_it_was(manifest: Path, tmp_path: Path, form: str) -> None:
    text = manifest.read_text().replace("dog", "do|g").replace("|", ";").replace("do;g", "do|g")
    (tmp_path / "m.csv").write_text(text)
    report = ingest(manifest, tmp_path / "out.h5")
    out = tmp_path / ("x" if form == "folder" else "x.tar")
    export(tmp_path / "out.h5", out, ExportOptions())
    source = out / "manifest.csv" if form == "folder" else out
    if form == "folder":
        lines = source.read_text().splitlines()
        assert lines[0].startswith("path,label[;],bbox,kp")
        assert ingest(source, tmp_path / "y.h5").content_digest == report.content_digest
    chosen = tmp_path / "cats"
    export(tmp_path / "out.h5", chosen, ExportOptions(where=(("label", "cat"),)))
    assert len((chosen / "manifest.csv").read_text().splitlines()) == 3
    with pytest.raises(UsageError, match="expected a column of single values, found lists"):
        export(tmp_path / "out.h5", tmp_path / "no", ExportOptions(where=(("bbox", "1"),)))


def test_what_the_offsets_say_is_checked(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    ingest(manifest, out)
    good = out.read_bytes()
    for name, row, value, said in (
        ("columns/bbox/offsets", 2, -1, "offsets that ascend"),
        ("columns/bbox/offsets", 6, 9, "0 to 4"),
        ("labels/offsets", 0, 1, "0 to 8"),
        ("labels/values", 0, 3, "0 to 2, which have names"),
    ):
        out.write_bytes(good)
        with h5py.File(out, "r+") as file:
            file[name][row] = value
        found = verify(out)
        assert not found.ok
        with pytest.raises(OutputError, match=said), ImageStore(out) as store:
            store.columns["bbox"]
    out.write_bytes(good)
    with h5py.File(out, "r+") as file:
        del file["columns/bbox/values"]
    assert any("columns/bbox/values" in line for line in verify(out).problems)
    with pytest.raises(OutputError, match="columns/bbox/values is missing"):
        recompress(out, tmp_path / "z.h5", IngestOptions(compression="none"))
    out.write_bytes(good)
    with h5py.File(out, "r+") as file:  # the same bytes in another shape
        values = file["columns/bbox/values"][:]
        del file["columns/bbox/values"]
        made = file.create_dataset("columns/bbox/values", data=values.reshape(4, 2, 2))
        made.dims[0].label = "value"
    assert any("digest" in line for line in verify(out).problems)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([b"[1, 2]", b"", b"[]", b"[-3]"], "int64[*]"),
        ([b"[1]", b"[1.0]"], "float64[*]"),
        ([b"[[1,2],[3,4]]", b"[]", b"[[5,6]]"], "int64[*, 2]"),
        ([b"[[[1],[2]]]", b"[[[1.5],[2]]]"], "float64[*, 2, 1]"),
        ([b"[]", b""], "int64[*]"),
        ([b"[NaN, Infinity, -Infinity]"], "float64[*]"),
        ([b"[9223372036854775807]"], "int64[*]"),
        ([b"[9223372036854775808]"], "text"),
        ([b"[9007199254740993]", b"[0.5]"], "text"),
        ([b"[9007199254740993, 0.5]"], "text"),
        ([b"[-9223372036854775808]", b"[0.5]"], "text"),
        ([b"[1e400]"], "text"),
        ([b"[1e-400]"], "text"),
        ([b"[1]", b"7"], "text"),
        ([b"[1]", b"7.5"], "text"),
        ([b"[1]", b"cat"], "text"),
        ([b"[1, 2"], "text"),
        ([b"[1, 007]"], "text"),
        ([b"[true]"], "text"),
        ([b"[null]"], "text"),
        ([b'["1"]'], "text"),
        ([b"[[1,2],[3]]"], "text"),
        ([b"[[1,2],3]"], "text"),
        ([b"[[1,2]]", b"[[1,2,3]]"], "text"),
        ([b"[[1]]", b"[1]"], "text"),
        ([b"[[]]"], "text"),
        ([b"[" * 5000 + b"]" * 5000], "text"),
        ([b"[" + b"9" * 5000 + b"]"], "text"),
    ],
)
def test_what_makes_a_column_one_of_lists(cells: list[bytes], kind: str) -> None:
    assert resolve(kinds_seen(cells)) == kind
    each = frozenset().union(*(kinds_seen([cell]) for cell in cells))
    assert resolve(each) == kind, "however they are divided among ranks"


NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.just(-0.0))


@given(st.lists(st.lists(NUMBERS, max_size=4), min_size=1, max_size=5))
@settings(max_examples=300)
def test_no_number_of_a_list_is_changed(rows: list[list[float]]) -> None:
    cells = [json.dumps(row).encode() for row in rows]
    kind = resolve(kinds_seen(cells))
    found = convert(cells, kind).tolist()
    if kind == "text":
        assert found == cells
        assert any(type(x) is float for row in rows for x in row)
        assert any(type(x) is int and abs(x) > 2**53 for row in rows for x in row)
        return
    for row, values in zip(rows, found, strict=True):
        assert values == row or all(x == y or x != x for x, y in zip(row, values, strict=True))
        assert [np.signbit(x) for x in row if x == 0] == [np.signbit(x) for x in values if x == 0]


def test_labels_that_cannot_be_are_named_by_line(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(3, (5, 4)))
    for lines, heading, said in (
        (["0000.png,a", "0001.png,a||b"], "path,label[|]", r"line 3: .*both sides of each '\|'"),
        (["0000.png,a", "0001.png,a;"], "path,label[;]", r"line 3: .*both sides of each ';'"),
        (["0000.png,a,b"], "path,label[|],label", "line 1: expected one column of labels"),
        (["0000.png,a"], "path,label", "group by one class a row"),
        (["0000.png,a"], "path,class", "expected a column 'label' for --multi-label"),
    ):
        manifest = write(tmp_path / "m.csv", lines, heading)
        group_by = "label" if "group by" in said else None
        options = IngestOptions(multi_label="[" not in heading, group_by=group_by)
        with pytest.raises(ManifestError, match=said):
            ingest(manifest, tmp_path / "out.h5", options)
    with pytest.raises(ManifestError, match="expected a column 'x' of labels, found path, class"):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(label_column="x"))


def test_options_say_what_the_heading_does_not(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(3, (5, 4)))
    options = IngestOptions(multi_label=True, label_column="class")
    cells = ["10|9", "", "9"]
    lines = [f"{row:04}.png,{cell}" for row, cell in enumerate(cells)]
    one = ingest(write(tmp_path / "m.csv", lines, "path,class"), tmp_path / "out.h5", options)
    with ImageStore(tmp_path / "out.h5") as store:
        assert store.label_names == ("9", "10"), "numbers in their order"
        assert store.labels is not None
        assert store.labels.tolist() == [[1, 0], [], [0]]
        assert not store.columns
    other = ingest(write(tmp_path / "n.csv", lines, "path,label[|]"), tmp_path / "b.h5")
    assert one.content_digest == other.content_digest
    single = write(tmp_path / "s.csv", ["0000.png,cat"], "path,class")
    report = ingest(single, tmp_path / "c.h5", IngestOptions(label_column="class"))
    assert not report.warnings
    with ImageStore(tmp_path / "c.h5") as store:
        assert (store.label_names, store[0][1]) == (("cat",), 0)


def test_the_examples_are_true() -> None:
    for module in (lists, column_types, manifest_heading):
        assert doctest.testmod(module).failed == 0
