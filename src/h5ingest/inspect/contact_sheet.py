"""Pictures of what is in a file: a contact sheet by class, and the channels of one image.

What is shown is meant for eyes: 16 bits are stretched to what a screen has, and a line says so;
transparency lies over a checkerboard; small images grow by whole factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.errors import UsageError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.lists import Lists
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.units import counted
from h5ingest.inspect import canvas
from h5ingest.inspect.canvas import DIM, INK, Scale
from h5ingest.inspect.in_words import of_kind
from h5ingest.reading.selection import flat
from h5ingest.reading.store import ImageStore

MAX_CLASSES: Final = 20
IN_A_LINE: Final = 10
MIN_LINES: Final = 8
"""Lines that a sheet has at least, if there are enough images: few classes get several each."""

_THUMB: Final = 112
"""Pixels of the longer side of a thumbnail, at most; likewise:"""
_PANEL: Final = 448
_GAP, _MARGIN, _TITLE = 6, 20, 58
_NAME_WIDTH, _TITLE_WIDTH = 220, 1600
_CHANNELS: Final = {1: ["gray"], 2: ["gray", "alpha"], 3: ["red", "green", "blue"],
                    4: ["red", "green", "blue", "alpha"]}  # fmt: skip


def sheet(store: ImageStore, file: Path) -> None:
    """Write a PNG with samples of each of up to 20 classes, evenly spaced in the file.

    The store is opened with `failed="skip"`.

    Raises:
        UsageError: there are no images.
        OutputError: the file cannot be written.
    """
    if not len(store):
        raise UsageError(f"{store.path}: no images to show")
    lines = _chosen(store)
    thumbs, note = _thumbnails(store, lines)
    cell_w = max(thumb.width for row in thumbs for thumb in row) + _GAP
    cell_h = max(thumb.height for row in thumbs for thumb in row) + _GAP
    names = [canvas.text_width(line.name, 16) for line in lines if line.name]
    left = _MARGIN + (max(60, *(min(_NAME_WIDTH, width) for width in names)) + 16 if names else 0)
    paper, top = _titled(
        Path(store.path).name + (f" · {store.group}" if store.group else ""),
        [*_about(store), *note],
        (left - _MARGIN + cell_w * max(map(len, thumbs)) - _GAP, cell_h * len(lines) - _GAP),
    )
    for row, (line, pictures) in enumerate(zip(lines, thumbs, strict=True)):
        y = top + row * cell_h
        if line.name:
            middle = y + (cell_h - _GAP) // 2
            name = canvas.cut(line.name, _NAME_WIDTH, 16)
            canvas.write(paper, (_MARGIN, middle - 20), name, 16, INK)
            canvas.write(paper, (_MARGIN, middle + 2), f"{line.n_images:,}", 13, DIM)
        for column, picture in enumerate(pictures):
            x = left + column * cell_w
            canvas.place(paper, picture, x, y, cell_w - _GAP, cell_h - _GAP)
    canvas.save(paper, file)


def layers(store: ImageStore, index: int, file: Path) -> None:
    """Write a PNG with the channels of one image side by side, the image itself first.

    The store is opened with `failed="include"`: the index of a sample is its row.

    Raises:
        UsageError: there is no such sample.
        OutputError: the file cannot be written.
    """
    try:
        image, label = store[index]
    except IndexError as error:
        raise UsageError(f"{store.path}: {error}") from None
    if isinstance(image, dict):
        image = image[schema.IMAGES.name]
    if not image.size:
        raise UsageError(f"{store.path}: sample {index} failed: it has no pixels")
    index %= len(store)
    scale = Scale.of(image)
    panels = _panels(image, scale)
    cell_w = panels[0][1].width + 2 * _GAP
    about = [str(ImageSpec.of(image.shape, image.dtype)), *[str(scale)] * scale.stretched]
    if label is not None:
        names = store.label_names
        each = label.tolist() if isinstance(label, np.ndarray) else [label]
        words = [f"{one}" + (f" {names[one]}" if names else "") for one in each]
        about.insert(0, f"label {', '.join(words) or 'none'}")
    if store.status[index] != STATUS_OK:
        about.insert(0, "FAILED")
    paper, top = _titled(
        f"sample {index} · {store.paths[index]}",
        about,
        (cell_w * len(panels) - 2 * _GAP, panels[0][1].height + 26),
    )
    for column, (title, picture) in enumerate(panels):
        x = _MARGIN + column * cell_w
        canvas.write(paper, (x, top), title, 14, INK)
        canvas.place(paper, picture, x, top + 26, picture.width, picture.height)
    canvas.save(paper, file)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A row of a sheet."""

    name: str
    """Of the class; empty: there is none, or it is above."""
    n_images: int
    """Images of the class in the whole file."""
    samples: NDArray[np.intp]
    """The samples shown in this line."""


def _chosen(store: ImageStore) -> list[_Line]:
    """Return the lines of a sheet."""
    labels = store.labels
    if labels is None:
        return _lines("", np.arange(len(store)), MIN_LINES)
    classes = np.unique(flat(labels))[:MAX_CLASSES].tolist()
    names = store.label_names
    lines = []
    for label in classes:
        name = names[label] if names else str(label)
        of_class = labels.having(label) if isinstance(labels, Lists) else labels == label
        lines += _lines(name, np.flatnonzero(of_class), MIN_LINES // len(classes) or 1)
    return lines


def _lines(name: str, samples: NDArray[np.intp], most: int) -> list[_Line]:
    """Return up to `most` lines of samples of a class."""
    places = np.linspace(0, len(samples) - 1, min(most * IN_A_LINE, len(samples)))
    shown = samples[places.astype(np.intp)]
    return [
        _Line(
            name=name if start == 0 else "",
            n_images=len(samples),
            samples=shown[start : start + IN_A_LINE],
        )
        for start in range(0, len(shown), IN_A_LINE)
    ]


def _thumbnails(store: ImageStore, lines: list[_Line]) -> tuple[list[list[Any]], list[str]]:
    """Return the pictures of each line, and what has to be said about them."""
    if store.dtype is None and isinstance(store[int(lines[0].samples[0])][0], dict):
        return [[_side_by_side(store[sample][0]) for sample in line.samples] for line in lines], []
    images = [[_small(store[sample][0]) for sample in line.samples] for line in lines]
    everything = [image for row in images for image in row]
    deep = any(image.dtype != np.uint8 for image in everything)
    common = Scale.of(*everything)
    thumbs = [
        [
            canvas.fitted((Scale.of(image) if deep else common).to_screen(image), _THUMB)
            for image in row
        ]
        for row in images
    ]
    if deep:  # of different sources, often: on one scale, most of them would be black
        return thumbs, ["each image shown from its own darkest to its brightest"]
    return thumbs, [str(common)] * common.stretched


def _side_by_side(images: dict[str, NDArray[Any]]) -> Any:
    """Return a picture of the images of one row, each on a scale of its own."""
    small = [_small(image) for image in images.values()]
    pictures = [canvas.fitted(Scale.of(image).to_screen(image), _THUMB) for image in small]
    paper = canvas.canvas(
        sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    )
    x = 0
    for picture in pictures:
        paper.paste(picture, (x, 0))
        x += picture.width
    return paper


def _small(image: NDArray[Any]) -> NDArray[Any]:
    """Return every so many-th pixel of a large image: a sheet of them must fit into memory."""
    step = max(1, max(image.shape[:2]) // (4 * _THUMB))
    return image[::step, ::step].copy() if step > 1 else image


def _panels(image: NDArray[Any], scale: Scale) -> list[tuple[str, Any]]:
    """Return title and picture of the composite and of each channel."""
    channels = image if image.ndim == 3 else image[..., np.newaxis]
    shown = [("composite", scale.to_screen(image))] if channels.shape[2] > 1 else []
    for number, name in enumerate(_CHANNELS[channels.shape[2]]):
        values = channels[..., number]
        own = Scale.full(image.dtype) if name == "alpha" else scale
        shown.append((f"{name}: {values.min():,} to {values.max():,}", own.to_screen(values)))
    return [(title, canvas.fitted(picture, _PANEL)) for title, picture in shown]


def _titled(title: str, about: list[str], size: tuple[int, int]) -> tuple[Any, int]:
    """Return paper with a title, and where below it the rest begins, of `size` pixels."""
    title, line = canvas.cut(title, _TITLE_WIDTH, 22), " · ".join(about)
    widths = size[0], canvas.text_width(title, 22), canvas.text_width(line, 14)
    paper = canvas.canvas(2 * _MARGIN + max(widths), 2 * _MARGIN + _TITLE + size[1])
    canvas.write(paper, (_MARGIN, _MARGIN - 4), title, 22, INK)
    canvas.write(paper, (_MARGIN, _MARGIN + 26), line, 14, DIM)
    return paper, _MARGIN + _TITLE


def _about(store: ImageStore) -> list[str]:
    """Return what the file has and the sheet shows."""
    with ImageStore(store.files, group=store.group, verify="never") as every:
        n_failed = int((every.status != STATUS_OK).sum())
    failed = f", {n_failed:,} failed" if n_failed else ""
    said = [f"{counted(len(store) + n_failed, 'images')}{of_kind(store)}{failed}"]
    if store.labels is not None:
        n_classes = len(np.unique(flat(store.labels)))
        shown = f"{MAX_CLASSES} of " if n_classes > MAX_CLASSES else ""
        said.append(f"{shown}{counted(n_classes, 'classes')}")
    return said
