"""Lines of a manifest with what COCO or YOLO files say of the images: classes and boxes.

Each box has a class in the label, in the same order: `cat|dog|cat` beside three boxes.

May not: touch a folder of images, know ranks, print.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from h5ingest.core import lists
from h5ingest.core.errors import ManifestError
from h5ingest.core.manifest_heading import separator_for
from h5ingest.images.annotated import Annotated, Annotations
from h5ingest.images.folder_manifest import Form, joined
from h5ingest.images.scan import Tally

_BEAT_LINES: Final = 1024


def annotate(
    lines: BinaryIO, target: BinaryIO, form: Form, tally: Tally, beat: Callable[[], None]
) -> tuple[str, ...]:
    """Write a line for each image of which something is known.

    Labels that the scan has made of folders are left out. `tally` is told what else is.

    Returns:
        The names of the columns.

    Raises:
        ManifestError: the annotations are damaged, or nothing fits together.
    """
    table = form.table(lines)
    table.pop("label", None)
    known = _open(form, tally)
    found: list[tuple[int, Annotated]] = []
    for row, path in enumerate(table["path"]):
        if row % _BEAT_LINES == 0:
            beat()
        inside = path.removeprefix(form.prefix)
        if (each := known.of(inside)) is not None:
            found.append((row, each))
    known.finish()
    if not found:
        raise ManifestError(
            f"{known.source}: says nothing about the images in {os.fsdecode(form.base)}: are its "
            "paths relative to that folder?"
        )
    tally.classes = {os.fsencode(name) for _, each in found for name in each.classes}
    is_one = all(len(each.classes) == 1 for _, each in found)
    separator = "" if is_one else separator_for(tally.classes).decode()
    label = f"label[{separator}]" if separator else "label"
    taken = {*known.columns} & {*table}
    if taken:
        raise ManifestError(f"--group-by-folder: expected no column {', '.join(sorted(taken))}")
    heading = (*table, label, *known.columns)
    target.write(_line(list(map(str.encode, heading)), form))
    for row, each in found:
        cells = [cells[row] for cells in table.values()]
        cells.append(separator.join(each.classes).encode("utf-8", "surrogateescape"))
        target.write(_line([*cells, *map(_as_cell, each.cells)], form))
    return heading


def _open(form: Form, tally: Tally) -> Annotations:
    options = form.options
    if options.coco is not None:
        from h5ingest.images.coco import read_coco

        return read_coco(Path(options.coco), tally)
    from h5ingest.images.yolo import read_yolo

    return read_yolo(Path(options.yolo or ""), tally)


def _as_cell(value: Any) -> bytes:
    if isinstance(value, list):
        return lists.as_cell(value)
    return str(value).encode("utf-8", "surrogateescape")


def _line(cells: list[bytes], form: Form) -> bytes:
    line = joined(cells, comma=form.comma)
    if {*b"\n\r\0"} & {*line} or (not form.comma and line.count(b"\t") >= len(cells)):
        raise ManifestError(f"expected names that a manifest can hold, found {cells!r}")
    return line + b"\n"
