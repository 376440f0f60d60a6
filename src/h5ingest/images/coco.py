"""Annotations of a COCO file: `instances_train2017.json` and its like."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h5ingest.core.errors import ManifestError
from h5ingest.images.annotated import Annotated, Annotations, check_class
from h5ingest.images.scan import Tally, note

Json = dict[str, Any]


def read_coco(path: Path, tally: Tally) -> Annotations:
    """Read the file, as a whole.

    Each image has a class for each of its annotations. Further columns, each with a value for each
    annotation: `bbox` (x, y, width, height as they are), `category_id`, `iscrowd`,
    `annotation_id`; `area` and `keypoints`, if all have them; and `image_id`.

    Args:
        path: the file.
        tally: is told what is left out: annotations of an unknown image or category; images that
            are not there; polygons.

    Raises:
        ManifestError: it is no such file, or damaged.
    """
    images, annotations, categories = _parts(path)
    names = {}
    for k, each in enumerate(categories):
        id_ = _id(each, "id", f"{path}: categories[{k}]")
        names[id_] = check_class(each.get("name"), f"{path}: categories[{k}].name")
    if len(names) < len(categories):
        raise ManifestError(f"{path}: expected categories of different id, found one twice")
    by_file: dict[bytes, Any] = {}
    for k, each in enumerate(images):
        where = f"{path}: images[{k}]"
        file = each.get("file_name")
        if not isinstance(file, str) or not file:
            raise ManifestError(f"{where}.file_name: expected a path, found {file!r}")
        name = os.path.normpath(os.fsencode(file))
        if name in by_file:
            raise ManifestError(f"{where}.file_name: expected each file once, found {file!r} again")
        by_file[name] = _id(each, "id", where)
    if len({*by_file.values()}) < len(images):
        raise ManifestError(f"{path}: expected images of different id, found one twice")
    known_images, of_image = {*by_file.values()}, defaultdict[Any, list[Json]](list)
    for k, each in enumerate(annotations):
        where = f"{path}: annotations[{k}]"
        image, category = _id(each, "image_id", where), _id(each, "category_id", where)
        named = os.fsencode(f"annotations[{k}]")
        if image not in known_images:
            note(tally.noted, f"annotation of an image that {path.name} does not have", named)
        elif category not in names:
            note(tally.noted, f"annotation of a category that {path.name} does not have", named)
        else:
            _check_box(each, where)
            of_image[image].append(each)
    columns = _columns([each for found in of_image.values() for each in found], path, tally)
    left = dict(by_file)

    def of(inside: bytes) -> Annotated | None:
        image = left.pop(inside, None)
        if image is None:
            note(tally.noted, f"image that {path.name} does not name", inside)
            return None
        mine = of_image.get(image, [])
        return Annotated(
            classes=[names[each["category_id"]] for each in mine],
            cells=[image, *([get(each) for each in mine] for get in columns.values())],
        )

    def finish() -> None:
        for file, image in left.items():
            n = len(of_image.get(image, []))
            why = f"image of {path.name} that is not there" + ", with annotations" * bool(n)
            note(tally.noted, why, file)

    return Annotations(source=str(path), columns=("image_id", *columns), of=of, finish=finish)


def _parts(path: Path) -> tuple[list[Json], list[Json], list[Json]]:
    """Return images, annotations and categories."""
    try:
        with path.open("rb") as file:
            found = json.load(file)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: expected JSON of COCO, found no JSON: {error}") from None
    parts = []
    for name in ("images", "annotations", "categories"):
        part = found.get(name) if isinstance(found, dict) else None
        if not isinstance(part, list) or not all(isinstance(each, dict) for each in part):
            raise ManifestError(f"{path}: expected JSON of COCO, with a list of objects {name!r}")
        parts.append(part)
    return parts[0], parts[1], parts[2]


def _id(of: Json, key: str, where: str) -> Any:
    found = of.get(key)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ManifestError(f"{where}.{key}: expected an integer, found {found!r}")
    return found


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _check_box(of: Json, where: str) -> None:
    box = of.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ManifestError(f"{where}.bbox: expected [x, y, width, height], found {box!r}")
    crowd = of.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ManifestError(f"{where}.iscrowd: expected 0 or 1, found {crowd!r}")


def _columns(annotations: list[Json], path: Path, tally: Tally) -> dict[str, Callable[[Json], Any]]:
    """Return what is taken of each annotation, under the name of its column."""
    columns: dict[str, Callable[[Json], Any]] = {
        "bbox": lambda each: each["bbox"],
        "category_id": lambda each: each["category_id"],
        "iscrowd": lambda each: int(each.get("iscrowd", 0)),
    }

    def length(value: object) -> int:
        """Return how many numbers there are, 1 of a number; 0: it is something else."""
        if isinstance(value, list):
            return len(value) if all(map(_is_number, value)) else 0
        return int(_is_number(value))

    for name, column in ("id", "annotation_id"), ("area", "area"), ("keypoints", "keypoints"):
        found = {length(each.get(name)) for each in annotations}
        if len(found) == 1 and 0 not in found:
            columns[column] = lambda each, name=name: each[name]  # type: ignore[misc]
        elif any(name in each for each in annotations):
            note(
                tally.noted,
                f"{name}, left out: not all annotations have as many",
                path.name.encode(),
            )
    if n := sum(bool(each.get("segmentation")) for each in annotations):
        what = f"segmentation of {n:,} annotations, left out: polygons are no lists of one shape"
        note(tally.noted, what, path.name.encode())
    return columns
