"""Annotations of a folder of YOLO's label files: a line for each box, in a file for each image."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

from h5ingest.core.errors import ManifestError
from h5ingest.images.annotated import Annotated, Annotations, check_class
from h5ingest.images.scan import Tally, note

_NAMES: Final = "classes.txt"
_CLASS_LIMIT: Final = 2**31


def read_yolo(folder: Path, tally: Tally) -> Annotations:
    """Prepare to read the label file of each image: of `a/7.jpg` it is `a/7.txt`.

    Each image has a class for each of its boxes: its name in `classes.txt`, which lies in the
    folder or the one above, else its number. Further columns, each with a value for each box:
    `bbox`, the centre's x and y, width and height as they are, from 0 to 1; and `class_id`. An
    image without a label file has no boxes, as for YOLO.

    Args:
        folder: of the label files.
        tally: is told what is left out: boxes of a class that has no name; files without an image.

    Raises:
        ManifestError: there is no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: expected a folder of YOLO's label files")
    names = _names(folder, tally)
    base, used = os.fsencode(folder), set[bytes]()

    def of(inside: bytes) -> Annotated:
        name = os.path.splitext(inside)[0] + b".txt"
        if name in used:
            raise ManifestError(
                f"{os.fsdecode(os.path.join(base, name))}: expected one image for it, found several"
            )
        used.add(name)
        rows = _boxes(os.path.join(base, name))
        if rows is None:
            note(tally.noted, "image without a label file: no boxes", inside)
            rows = []
        kept = [row for row in rows if names is None or row[0] < len(names)]
        for _ in range(len(rows) - len(kept)):
            note(tally.noted, f"box of a class that {_NAMES} does not name", name)
        return Annotated(
            classes=[str(number) if names is None else names[number] for number, _ in kept],
            cells=[[box for _, box in kept], [number for number, _ in kept]],
        )

    def finish() -> None:
        for where, _, files in os.walk(base):
            for file in files:
                name = os.path.relpath(os.path.join(where, file), base)
                if name.endswith(b".txt") and name not in used and file != _NAMES.encode():
                    note(tally.noted, "label file without an image", name)

    return Annotations(source=str(folder), columns=("bbox", "class_id"), of=of, finish=finish)


def _names(folder: Path, tally: Tally) -> list[str] | None:
    """Return the names of the classes; None: there is no file of them."""
    above = folder.absolute().parent
    for file in (folder / _NAMES, above / _NAMES):
        if file.is_file():
            text = _text(os.fsencode(file))
            lines = text.rstrip().splitlines()
            names = [check_class(x.strip(), f"{file}, line {k}") for k, x in enumerate(lines, 1)]
            if len({*names}) < len(names):
                raise ManifestError(f"{file}: expected each name once")
            return names
    for found in (*folder.glob("*.yaml"), *above.glob("*.yaml")):
        why = f"names of classes that are not read: write them to {_NAMES}, one a line"
        note(tally.noted, why, os.fsencode(found))
    return None


def _text(path: bytes) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise ManifestError(f"{os.fsdecode(path)}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{os.fsdecode(path)}: expected UTF-8") from None


def _boxes(path: bytes) -> list[tuple[int, list[float]]] | None:
    """Return class and box of each line; None: there is no such file."""
    if not os.path.exists(path):
        return None
    found = []
    for k, line in enumerate(_text(path).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            number, box = int(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError:
            number, box = -1, []
        if len(box) != 4 or not 0 <= number < _CLASS_LIMIT or not all(map(math.isfinite, box)):
            raise ManifestError(
                f"{os.fsdecode(path)}, line {k}: expected a class and four numbers (x, y, width, "
                f"height), found {line[:80]!r}"
            )
        found.append((number, box))
    return found
