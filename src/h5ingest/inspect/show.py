"""`h5ingest show`: what is in a file, as a tree for people.

May not: write the file.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from h5ingest.core import schema
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS, LayoutKind
from h5ingest.core.schema import STATUS_MISSING, STATUS_OK, Attribute
from h5ingest.core.units import size
from h5ingest.inspect.filter_names import filter_names
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.open_file import (
    datasets,
    open_checked,
    open_dataset,
    open_group,
)
from h5ingest.reading.store import ImageStore

QUOTAS: Final = (150_000, 200_000)
"""Inodes that typical sites give with each TiB."""

MAX_CLASSES: Final = 20
MAX_FAILED: Final = 5
_MOST_COLUMNS: Final = 100
_BAR: Final = 24
_MOST_LETTERS: Final = 10_000
"""Of an attribute."""
_WIDTH: Final = 200
"""Letters in a line where there is no terminal: a digest that is cut is of no use."""


def show(path: str | os.PathLike[str], *, group: str | None = None) -> None:
    """Print what is in the file, or in one group of it.

    Raises:
        OutputError: the file cannot be read, or is not one of h5ingest.
        UsageError: there is no such group.
    """
    width = None if sys.stdout.isatty() else _WIDTH
    Console(width=width, highlight=False, markup=False, emoji=False).print(tree(path, group))


def draw(
    path: str | os.PathLike[str],
    *,
    group: str | None = None,
    sheet: Path | None = None,
    layers: int | None = None,
    layers_to: Path | None = None,
) -> list[Path]:
    """Draw the pictures that are asked for and return where they are.

    Args:
        path: of the file.
        group: name of the group, for a file that has groups.
        sheet: where a contact sheet goes.
        layers: the sample whose channels are drawn.
        layers_to: where; None: a name made from that of the file, in the working directory.

    Raises:
        OutputError: the file cannot be read, or a picture not be written.
        UsageError: there is no such group or sample.
    """
    from h5ingest.inspect import contact_sheet as pictures

    made = []
    if sheet is not None:
        with ImageStore(path, group=group, failed="skip") as store:
            pictures.sheet(store, sheet)
        made.append(sheet)
    if layers is not None:
        target = layers_to or Path(f"{Path(path).stem}-layers-{layers}.png")
        with ImageStore(path, group=group) as store:
            pictures.layers(store, layers, target)
        made.append(target)
    return made


def tree(path: str | os.PathLike[str], group: str | None = None) -> Any:
    """Return a `rich.tree.Tree` of what is in the file, or in one group of it.

    Raises:
        OutputError: the file cannot be read, or is not one of h5ingest.
        UsageError: there is no such group.
    """
    file, header = open_checked(path)
    with file:
        n_bytes = os.path.getsize(path)
        title = Text(printable(os.fspath(path)), "bold")
        title.append(f"   {size(n_bytes)}, {header.schema}", "not bold dim")
        trunk = Tree(title, guide_style="dim")
        n_images = 0
        for name in [group] if group is not None else header.groups or [None]:
            with ImageStore(path, group=name, verify="never") as store:
                n_images += len(store)
                branch = trunk if name is None else trunk.add(Text(printable(name), "bold"))
                prefix = header.prefix(name)
                of_images = zip(
                    (schema.IMAGES.name, *header.images), header.images_of(prefix), strict=True
                )
                for image, where in of_images:
                    with ImageStore(path, group=name, image=image, verify="never") as one:
                        about = _about_images(one, file, where, header.options.get("recode"))
                        named = branch.add(Text(image, "bold")) if header.images else branch
                        _add(named, about)
                lines = _datasets(open_group(file, prefix), header.layout)
                _add(branch.add(Text("datasets", "bold")), lines)
                _add_classes(branch, store)
                _add_failed(branch, store)
        n_files = n_images * (1 + len(header.images))
        _add(trunk.add(Text("inodes", "bold")), _inodes(n_files, n_bytes))
        _add(trunk.add(Text("provenance", "bold")), _provenance(file))
    return trunk


def _add(branch: Any, lines: Iterator[tuple[str, str]]) -> None:
    """Add lines of (name, text), the names aligned."""
    pairs = [(printable(name), printable(text)) for name, text in lines]
    width = max((len(name) for name, _text in pairs), default=0)
    for name, text in pairs:
        branch.add(Text.assemble(f"{name:<{width}}  ", (text, "dim")) if text else Text(name))


def _about_images(
    store: ImageStore, file: h5py.File, prefix: str, recode: object
) -> Iterator[tuple[str, str]]:
    """Yield how many images there are and of what kind, and how they are stored."""
    n_failed = int((store.status != STATUS_OK).sum())
    shape = store.shape[1:]
    each = f" of {ImageSpec.of(shape, store.dtype)}" if shape and store.dtype is not None else ""
    failed = f", {n_failed:,} failed" if n_failed else ", none failed"
    yield f"{len(store):,} images{each}{failed}", ""
    if store.sizes is not None and len(store):
        low, high = np.asarray(store.sizes).min(axis=0), np.asarray(store.sizes).max(axis=0)
        yield f"heights {low[0]:,} to {high[0]:,}, widths {low[1]:,} to {high[1]:,}", ""
    if KINDS[store.layout].dataset_per_image:
        labels = store.labels
        classes = "" if labels is None else f", {len(np.unique(labels)):,} classes"
        yield f"one dataset each{classes}", ""
        return
    pixels = open_dataset(file, schema.PIXELS[store.layout], prefix)
    assert pixels is not None, "the store has looked"
    yield _storage(pixels, KINDS[store.layout], recode), ""


def _storage(dataset: h5py.Dataset, kind: LayoutKind, recode: object) -> str:
    """Return chunks, filters, bytes and ratio of the dataset with the pixels.

    Args:
        dataset: all of them.
        kind: the layout.
        recode: the option that the file was made with.
    """
    pixels, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    parts = ["contiguous"]
    if dataset.chunks:
        rows = dataset.chunks[0]
        n_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        what = ("image" if kind.uniform else "element") + "s" * (rows > 1)
        parts = [f"{-(-dataset.shape[0] // rows):,} chunks of {rows:,} {what} ({size(n_bytes)})"]
    filters = filter_names(dataset)
    parts.append(" + ".join(filters) if filters else "no filter")
    if kind.keeps_files:
        what = f"{size(pixels)} of image files"
        parts.append(
            f"{what}, recoded as {recode} where that is smaller"
            if recode
            else f"{what} as they were"
        )
    elif filters:
        ratio = f", {pixels / stored:.1f} times smaller" if stored else ""
        parts.append(f"{size(pixels)} of pixels in {size(stored)}{ratio}")
    else:
        parts.append(f"{size(pixels)} of pixels")
    return ", ".join(parts)


def _datasets(group: h5py.Group, layout: str) -> Iterator[tuple[str, str]]:
    """Yield the datasets of a group, apart from the images of a tree."""
    most = len(schema.known(layout)) + _MOST_COLUMNS
    for name, dataset in itertools.islice(datasets(group, layout), most):
        kind = "string" if dataset.dtype.kind == "O" else dataset.dtype.name
        yield name, f"{dataset.shape} {kind}"


def _add_classes(branch: Any, store: ImageStore) -> None:
    """Add how many images each class has."""
    if store.labels is None or not len(store):
        return
    labels, counts = np.unique(store.labels, return_counts=True)
    n_classes = len(labels)
    classes = branch.add(Text(f"{n_classes:,} class{'es' * (n_classes > 1)}", "bold"))
    names = store.label_names
    shown = [
        (str(label), printable(names[label]) if names and 0 <= label < len(names) else "", count)
        for label, count in zip(labels[:MAX_CLASSES].tolist(), counts.tolist(), strict=False)
    ]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    digits, most = len(f"{max(row[2] for row in shown):,}"), max(row[2] for row in shown)
    for label, name, count in shown:
        line = Text(f"{label:>{widths[0]}}  " + f"{name:<{widths[1]}}  " * bool(widths[1]))
        line.append(f"{count:>{digits},}  ").append("▇" * max(1, count * _BAR // most), "cyan")
        classes.add(line)
    if n_classes > MAX_CLASSES:
        rest = counts[MAX_CLASSES:]
        few, many = int(rest.min()), int(rest.max())
        each = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        classes.add(Text(f"… and {len(rest):,} more of {each} images", "dim"))


def _add_failed(branch: Any, store: ImageStore) -> None:
    """Add the first failed rows by name."""
    rows = np.flatnonzero(store.status != STATUS_OK)
    if not len(rows):
        return
    share = len(rows) / len(store)
    failed = branch.add(Text(f"{len(rows):,} failed ({share:.2%} of all)", "bold red"))
    for row, path in zip(
        rows[:MAX_FAILED].tolist(), store.paths.many(rows[:MAX_FAILED]), strict=True
    ):
        missing = " (never stored)" if store.status[row] == STATUS_MISSING else ""
        failed.add(Text(f"row {row:,}  {printable(path)}{missing}"))
    if len(rows) > MAX_FAILED:
        failed.add(Text(f"… and {len(rows) - MAX_FAILED:,} more: status in the file", "dim"))


def _inodes(n_images: int, n_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield what the images would take of a quota as files, and what this file takes."""
    yield f"1 file of {size(n_bytes)} instead of {n_images:,} files", ""
    for quota in QUOTAS:
        share = size(n_images / quota * 1024**4)
        yield f"{n_images:,} inodes are what comes with {share} at {quota:,} per TiB", ""


_SHOWN_ABOVE: Final = (
    Attribute.SCHEMA, Attribute.GROUPS, Attribute.N_SAMPLES, Attribute.N_FAILED, Attribute.STATUS,
)  # fmt: skip


def _provenance(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield the attributes of the file that are not shown above."""
    for name, value in Attributes(file).items():
        if name in _SHOWN_ABOVE:
            continue
        text = str(value)
        if name in (Attribute.OPTIONS, Attribute.LIBRARIES, Attribute.JOB, Attribute.SCAN):
            text = _pairs(text)
        yield name, text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"


def _pairs(text: str) -> str:
    """Return the pairs of a JSON object in words; what is no object as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict):
        return text
    words = ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)
    return " ".join(words.split())  # an MPI's version string has tabs and line feeds


def printable(text: str) -> str:
    r"""Return the text with what would not print, or steer a terminal, as escapes.

    >>> print(printable("caf\udce9 \x1b[1m"))
    caf\udce9 \x1b[1m
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
