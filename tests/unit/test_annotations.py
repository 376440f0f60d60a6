"""`h5ingest manifest --coco` and `--yolo`: classes and boxes of annotation files in a manifest."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.support import Flavour, explain, make_pixels, write_images
from helpers.threads import on_ranks

from h5ingest.core.errors import ManifestError, UsageError
from h5ingest.images.scan import ScanOptions
from h5ingest.images.scan_summary import describe
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest
from h5ingest.reading.store import ImageStore


def annotation(id_: int, image: int, category: int, box: list[float], **more: Any) -> Any:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": box, **more}


COCO: dict[str, Any] = {
    "images": [
        {"id": 30, "file_name": "a/0000.png"},
        {"id": 10, "file_name": "a/0001.png"},
        {"id": 20, "file_name": "a/0002.png"},
        {"id": 40, "file_name": "gone.png"},
    ],
    "categories": [{"id": 7, "name": "traffic light, red"}, {"id": 1, "name": "person"}],
    "annotations": [
        annotation(100, 30, 7, [1, 2, 3.5, 4], iscrowd=0, area=14.0, segmentation=[[1, 2, 3]]),
        annotation(101, 10, 1, [0, 0, 1, 1], iscrowd=1, area=1),
        annotation(102, 30, 1, [5, 6, 7, 8], area=56),
        annotation(103, 30, 7, [9, 9, 9, 9], area=81),
        annotation(104, 99, 7, [9, 9, 9, 9], area=81),
        annotation(105, 20, 8, [9, 9, 9, 9], area=81),
        annotation(106, 40, 1, [9, 9, 9, 9], area=81),
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "a", make_pixels(4, (5, 4)))
    return tmp_path / "images"


def as_file(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_a_coco_file_becomes_a_manifest_that_is_ingested(
    mpich: Flavour, folder: Path, tmp_path: Path
) -> None:
    file = as_file(tmp_path / "instances.json", COCO)
    out = tmp_path / "m.csv"
    done = mpich.forked("manifest", folder, "-o", out, "--coco", file)
    assert done.returncode == 0, explain(done)
    assert out.read_text().splitlines() == [
        "path,label[|],image_id,bbox,category_id,iscrowd,annotation_id,area",
        'images/a/0000.png,"traffic light, red|person|traffic light, red",30,'
        '"[[1, 2, 3.5, 4], [5, 6, 7, 8], [9, 9, 9, 9]]","[7, 1, 7]","[0, 0, 0]",'
        '"[100, 102, 103]","[14.0, 56, 81]"',
        'images/a/0001.png,person,10,"[[0, 0, 1, 1]]",[1],[1],[101],[1]',
        "images/a/0002.png,,20,[],[],[],[],[]",
    ]
    for said in (
        "1 x annotation of an image that instances.json does not have\n    'annotations[4]'",
        "1 x annotation of a category that instances.json does not have\n    'annotations[5]'",
        "1 x image of instances.json that is not there, with annotations\n    'gone.png'",
        "1 x image that instances.json does not name\n    'a/0003.png'",
        "segmentation of 1 annotations, left out",
    ):
        assert said in done.stderr, explain(done)
    ingest(out, tmp_path / "out.h5")
    with ImageStore(tmp_path / "out.h5") as store:
        assert store.label_names == ("person", "traffic light, red")
        assert store[0][1].tolist() == [1, 0, 1], "of each box its class"
        boxes: Any = store.columns["bbox"]
        assert boxes.tolist()[:2] == [[[1, 2, 3.5, 4], [5, 6, 7, 8], [9, 9, 9, 9]], [[0, 0, 1, 1]]]
        assert store.columns["image_id"].tolist() == [30, 10, 20]  # type: ignore[union-attr]


def test_one_class_each_is_a_plain_label_on_any_number_of_ranks(
    folder: Path, tmp_path: Path
) -> None:
    content = deepcopy(COCO)
    content["annotations"] = [
        annotation(k, image, 7, [0, 0, 1, 1], keypoints=[k, 2, 3])
        for k, image in ((0, 30), (1, 10))
    ] + [annotation(2, 20, 1, [0, 0, 1, 1], keypoints=[7, 8, 9])]
    options = ScanOptions(coco=as_file(tmp_path / "c.json", content), split="a:0.5,b:0.5")
    found = []
    for n in (1, 3):
        out = tmp_path / f"{n}.csv"
        on_ranks(n, partial(write_manifest, folder, out, options))
        found.append(out.read_text())
    assert found[0] == found[1]
    lines = found[0].splitlines()
    assert lines[0] == "path,label,image_id,bbox,category_id,iscrowd,annotation_id,keypoints,split"
    assert '"[[0, 2, 3]]"' in lines[1]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("annotations", 0, "bbox"), [1, 2, 3], r"annotations\[0\].bbox: expected \[x, y, width"),
        (("annotations", 0, "bbox"), [1, 2, 3, None], r"annotations\[0\].bbox: expected"),
        (("annotations", 0, "bbox"), [1, 2, 3, True], r"annotations\[0\].bbox: expected"),
        (("annotations", 0, "bbox"), [1, 2, 3, float("nan")], r"annotations\[0\].bbox: expected"),
        (("annotations", 1, "iscrowd"), 2, r"annotations\[1\].iscrowd: expected 0 or 1"),
        (("annotations", 1, "image_id"), "10", r"annotations\[1\].image_id: expected an integer"),
        (("images", 0, "file_name"), 3, r"images\[0\].file_name: expected a path"),
        (("images", 0, "file_name"), "a/./0001.png", r"images\[1\].file_name: expected each file"),
        (("images", 0, "id"), 10, "images of different id"),
        (("categories", 0, "id"), 1, "categories of different id"),
        (("categories", 0, "name"), "", r"categories\[0\].name: expected the name of a class"),
        (("categories", 0, "name"), "a\nb", r"categories\[0\].name: expected the name of a class"),
        (("categories",), None, "a list of objects 'categories'"),
        (("images",), [], "says nothing about the images"),
        ((), [1], "a list of objects 'images'"),
    ],
)
def test_a_damaged_coco_file_is_refused_by_name(
    folder: Path, tmp_path: Path, where: tuple[Any, ...], value: Any, said: str
) -> None:
    content: Any = deepcopy(COCO)
    inside = content
    for step in where[:-1]:
        inside = inside[step]
    if where:
        inside[where[-1]] = value
    else:
        content = value
    options = ScanOptions(coco=as_file(tmp_path / "c.json", content))
    with pytest.raises(ManifestError, match=said):
        write_manifest(folder, tmp_path / "m.csv", options)
    assert not (tmp_path / "m.csv").exists()


def test_what_is_no_json_and_what_does_not_go_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"images": [')
    with pytest.raises(ManifestError, match=r"c\.json: expected JSON of COCO, found no JSON"):
        write_manifest(folder, tmp_path / "m.csv", ScanOptions(coco=str(tmp_path / "c.json")))
    with pytest.raises(ManifestError, match=r"none\.json: cannot be read: No such file"):
        write_manifest(folder, tmp_path / "m.csv", ScanOptions(coco=str(tmp_path / "none.json")))
    with pytest.raises(UsageError, match="one of them"):
        ScanOptions(coco="a", yolo="b")
    with pytest.raises(UsageError, match="one folder of images, got 2"):
        write_manifest([folder, folder], tmp_path / "m.csv", ScanOptions(coco="a"))


def test_yolo_label_files_become_a_manifest_that_is_ingested(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    (labels / "a").mkdir(parents=True)
    (labels / "a" / "0000.txt").write_text("1 0.5 0.25 1 0.125\n\n0 0.1 0.2 0.3 .4\n")
    (labels / "a" / "0001.txt").write_text("")
    (labels / "a" / "0002.txt").write_text("7 0.5 0.5 0.5 0.5\n")
    (labels / "a" / "alone.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    options = ScanOptions(yolo=str(labels))
    tally = write_manifest(folder, tmp_path / "m.tsv", options)
    assert (tmp_path / "m.tsv").read_text().splitlines() == [
        "path\tlabel[|]\tbbox\tclass_id",
        "images/a/0000.png\t1|0\t[[0.5, 0.25, 1.0, 0.125], [0.1, 0.2, 0.3, 0.4]]\t[1, 0]",
        "images/a/0001.png\t\t[]\t[]",
        "images/a/0002.png\t7\t[[0.5, 0.5, 0.5, 0.5]]\t[7]",
        "images/a/0003.png\t\t[]\t[]",
    ]
    said = describe(tally)
    assert "names of classes that are not read: write them to classes.txt, one a line" in said
    assert "1 x image without a label file: no boxes\n    'a/0003.png'" in said
    assert "1 x label file without an image\n    'a/alone.txt'" in said
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    tally = write_manifest(folder, tmp_path / "n.csv", options)
    assert "1 x box of a class that classes.txt does not name\n    'a/0002.txt'" in describe(tally)
    ingest(tmp_path / "n.csv", tmp_path / "out.h5")
    with ImageStore(tmp_path / "out.h5") as store:
        assert store.label_names == ("cat", "dog")
        assert [store[row][1].tolist() for row in range(4)] == [[1, 0], [], [], []]
        boxes: Any = store.columns["bbox"]
        assert boxes[0].tolist() == [[0.5, 0.25, 1.0, 0.125], [0.1, 0.2, 0.3, 0.4]]


@pytest.mark.parametrize(
    "line",
    ["0 0.5 0.5 0.5", "0 1 2 3 4 5 6", "cat 1 2 3 4", "-1 1 2 3 4", "0 1 2 3 nan", "0 x 2 3 4"],
)
def test_a_damaged_label_file_is_refused_by_line(folder: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "labels" / "a").mkdir(parents=True)
    (tmp_path / "labels" / "a" / "0001.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    options = ScanOptions(yolo=str(tmp_path / "labels"))
    with pytest.raises(ManifestError, match=r"0001\.txt, line 2: expected a class and four"):
        write_manifest(folder, tmp_path / "m.csv", options)
