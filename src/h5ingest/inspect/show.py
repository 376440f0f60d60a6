"""`h5ingest show`: what is in a file, as a tree for people.

May not: write the file.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from h5ingest.core import schema
from h5ingest.core.errors import UsageError
from h5ingest.core.schema import STATUS_MISSING, STATUS_OK, Attribute
from h5ingest.core.units import counted, size
from h5ingest.inspect.in_words import about_images, classes, failed, images
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.dataset_rule import naming
from h5ingest.reading.open_file import datasets, open_checked, open_dataset, open_group
from h5ingest.reading.selection import flat
from h5ingest.reading.store import ImageStore

MAX_CLASSES: Final = 20
MAX_FAILED: Final = 5
_BRIEF_CLASSES, _BRIEF_GROUPS, _BRIEF_FAILED = 8, 12, 3
"""So many are shown unless all is asked for: together with the rest they fit on a screen."""
_MOST_COLUMNS: Final = 100
_BAR: Final = 24
_MOST_LETTERS: Final = 10_000
"""Of an attribute."""
_WIDTH: Final = 200
"""Letters in a line where there is no terminal: a digest that is cut is of no use."""


def show(path: str | os.PathLike[str], *, group: str | None = None, every: bool = False) -> None:
    """Print what is in the file, or in one group of it; `every`: all that `tree` knows.

    Raises:
        OutputError: the file cannot be read, or is not one of h5ingest.
        UsageError: there is no such group.
    """
    width = None if sys.stdout.isatty() else _WIDTH
    shown = tree(path, group, every=every)
    Console(width=width, highlight=False, markup=False, emoji=False).print(shown)


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
            if not 0 <= layers < len(store):
                raise UsageError(
                    f"--layers {layers}: expected 0 to {len(store) - 1:,}, as {path} has"
                )
            pictures.layers(store, layers, target)
        made.append(target)
    return made


def tree(path: str | os.PathLike[str], group: str | None = None, *, every: bool = True) -> Any:
    """Return a `rich.tree.Tree` of what is in the file, or in one group of it.

    `every`: all groups, datasets and attributes; else what fits on a screen.

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
        names: list[str | None] = [group] if group is not None else [*header.groups] or [None]
        n_images = n_failed = 0
        for name in names:
            status = open_dataset(file, schema.STATUS, header.prefix(name))
            if status is not None:
                with naming(file, status.name):
                    values = status[:]
                n_images += len(values)
                n_failed += int((values != STATUS_OK).sum())
        if len(names) > 1:
            total = f"{counted(n_images, 'images')} in {counted(len(names), 'groups')}"
            _add(trunk, [(f"{total}, {failed(n_failed)}", "")])
        brief = not every and len(names) > 1
        for name in names[: _BRIEF_GROUPS if brief else None]:
            with ImageStore(path, group=name, verify="never") as store:
                if brief:
                    _add(trunk, [(f"{name}: {images(store)}{classes(store)}", "")])
                    continue
                branch = trunk if name is None else trunk.add(Text(printable(name), "bold"))
                prefix = header.prefix(name)
                of_images = zip(
                    (schema.IMAGES.name, *header.images), header.images_of(prefix), strict=True
                )
                for image, where in of_images:
                    with ImageStore(path, group=name, image=image, verify="never") as one:
                        about = about_images(one, file, where, header.options.get("recode"))
                        named = branch.add(Text(image, "bold")) if header.images else branch
                        _add(named, about)
                if every:
                    lines = _datasets(open_group(file, prefix), header.layout)
                    _add(branch.add(Text("datasets", "bold")), lines)
                _add_classes(branch, store, MAX_CLASSES if every else _BRIEF_CLASSES)
                _add_failed(branch, store, MAX_FAILED if every else _BRIEF_FAILED)
        if brief and len(names) > _BRIEF_GROUPS:
            trunk.add(Text(f"… and {counted(len(names) - _BRIEF_GROUPS, 'groups')} more", "dim"))
        files = counted(n_images * (1 + len(header.images)), "files")
        _add(trunk, [(f"1 file of {size(n_bytes)} instead of {files}", "")])
        lines = _provenance(file)
        if every:
            _add(trunk.add(Text("provenance", "bold")), lines)
        else:
            _add(trunk, ((_BRIEF[name], text) for name, text in lines if name in _BRIEF))
            rest = "datasets, options and libraries"
            if brief:
                rest = "everything, --group NAME one group"
            trunk.add(Text(f"--all shows {rest}", "dim"))
    return trunk


def _add(branch: Any, lines: Iterable[tuple[str, str]]) -> None:
    """Add lines of (name, text), the names aligned."""
    pairs = [(printable(name), printable(text)) for name, text in lines]
    width = max((len(name) for name, _text in pairs), default=0)
    for name, text in pairs:
        branch.add(Text.assemble(f"{name:<{width}}  ", (text, "dim")) if text else Text(name))


def _datasets(group: h5py.Group, layout: str) -> Iterator[tuple[str, str]]:
    """Yield the datasets of a group, apart from the images of a tree."""
    most = len(schema.known(layout)) + _MOST_COLUMNS
    for name, dataset in itertools.islice(datasets(group, layout), most):
        kind = "string" if dataset.dtype.kind == "O" else dataset.dtype.name
        yield name, f"{dataset.shape} {kind}"


def _add_classes(branch: Any, store: ImageStore, most: int) -> None:
    """Add how many images each class has, for the first ones."""
    if store.labels is None or not len(store):
        return
    labels, counts = np.unique(flat(store.labels), return_counts=True)
    if not len(labels):
        return
    n_classes = len(labels)
    listed = branch.add(Text(counted(n_classes, "classes"), "bold"))
    names = store.label_names
    shown = [
        (str(label), printable(names[label]) if names and 0 <= label < len(names) else "", count)
        for label, count in zip(labels[:most].tolist(), counts.tolist(), strict=False)
    ]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    longest = max(row[2] for row in shown)
    digits = len(f"{longest:,}")
    block = "▇" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    for label, name, count in shown:
        line = Text(f"{label:>{widths[0]}}  " + f"{name:<{widths[1]}}  " * bool(widths[1]))
        line.append(f"{count:>{digits},}  ").append(block * max(1, count * _BAR // longest), "cyan")
        listed.add(line)
    if n_classes > most:
        rest = counts[most:]
        few, many = int(rest.min()), int(rest.max())
        each = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        listed.add(Text(f"… and {len(rest):,} more of {each} images", "dim"))


def _add_failed(branch: Any, store: ImageStore, most: int) -> None:
    """Add the first failed rows by name."""
    rows = np.flatnonzero(store.status != STATUS_OK)
    if not len(rows):
        return
    share = len(rows) / len(store)
    named = branch.add(Text(f"{len(rows):,} failed ({share:.2%} of all)", "bold red"))
    for row, path in zip(rows[:most].tolist(), store.paths.many(rows[:most]), strict=True):
        missing = " (never stored)" if store.status[row] == STATUS_MISSING else ""
        named.add(Text(f"row {row:,}  {printable(path)}{missing}"))
    if len(rows) > most:
        named.add(Text(f"… and {len(rows) - most:,} more: status in the file", "dim"))


_SHOWN_ABOVE: Final = (
    Attribute.SCHEMA, Attribute.GROUPS, Attribute.N_SAMPLES, Attribute.N_FAILED, Attribute.STATUS,
)  # fmt: skip

_BRIEF: Final[dict[str, str]] = {
    Attribute.CREATED: "created", Attribute.COMMAND: "command", Attribute.CONTENT_DIGEST: "digest",
}  # fmt: skip
"""What is shown of them without --all, and how it is called: a digest then fits into 80 columns."""


def _provenance(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield the attributes of the file that are not shown above."""
    for name, value in Attributes(file).items():
        if name in _SHOWN_ABOVE:
            continue
        text = str(value)
        if not text:
            continue
        if name in (Attribute.OPTIONS, Attribute.LIBRARIES, Attribute.JOB, Attribute.SCAN):
            text = _pairs(text)
        yield name, text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} …"


def provenance_of(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Return (name, text) of the attributes that say where a file comes from.

    Raises:
        OutputError: the file cannot be read, or is not one of h5ingest.
    """
    file, _ = open_checked(path)
    with file:
        return list(_provenance(file))


def _pairs(text: str) -> str:
    """Return the pairs of a JSON object in words; what is no object as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict):
        return text
    words = ", ".join(f"{key} {value}" for key, value in found.items() if value not in (None, ""))
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
