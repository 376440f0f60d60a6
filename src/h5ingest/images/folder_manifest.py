"""The manifest of a folder: a line for each image in it, and what is said of the rest.

May not: open an image, know ranks, print.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, Self

from h5ingest.core.errors import SampleError
from h5ingest.core.manifest_dialect import Dialect, parse
from h5ingest.core.sample_table import Within, without_ending
from h5ingest.images import decode
from h5ingest.images.folders import Folder, Kind, kind_of, look_into
from h5ingest.images.header_index import Recorder
from h5ingest.images.prefetch import Prefetcher, Reader
from h5ingest.images.scan import HEAD_BYTES, ScanOptions, Tally, note


def label_and_group(folder: bytes, own_name: bytes, options: ScanOptions) -> tuple[bytes, bytes]:
    """Return label and group of the images in a folder; each may be empty.

    Args:
        folder: path relative to the scanned folder; empty for the scanned folder itself.
        own_name: name of the scanned folder: the label of images that lie directly in it.
        options: how labels and groups are made.

    >>> options = ScanOptions(label="path", group_level=1)
    >>> label_and_group(b"train/Greek/alpha", b"data", options)
    (b'Greek/alpha', b'train')
    """
    names = folder.split(b"/") if folder else []
    level = options.group_level or 0
    group = names[level - 1] if 0 < level <= len(names) else b""
    if options.label == "none":
        return b"", group
    parent = names[-1] if names else own_name
    if options.label == "path":
        return b"/".join(names[: level - 1] + names[level:] if level else names) or parent, group
    return parent, group


def matched(pattern: re.Pattern[bytes], path: bytes) -> tuple[bytes, list[bytes]]:
    r"""Return what `--label-from` makes of a path: the label, empty if it does not match, and more.

    >>> matched(re.compile(rb"(?P<patient>\w+)_(?P<label>\w+)[.]"), b"a/p7_cat.png")
    (b'cat', [b'p7'])
    """
    match = pattern.search(path)
    names = [name for name in pattern.groupindex if name != "label"]
    if match is None:
        return b"", [b""] * len(names)
    label = match["label"] if "label" in pattern.groupindex else match[1 if match.re.groups else 0]
    return label or b"", [match[name] or b"" for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the lines of a manifest look like."""

    base: bytes
    """The scanned folder."""
    prefix: bytes
    """What its paths begin with in the manifest."""
    comma: bool
    """Whether columns are separated by commas (with quotes where needed), else by tabs."""
    options: ScanOptions

    @classmethod
    def of(cls, folder: Path, out: Path | None, options: ScanOptions) -> Form:
        """Return the form of a manifest; None: of one that goes to standard output."""
        base, home = os.fsencode(folder), os.fsencode(out.parent if out else Path())
        return cls(
            base=os.path.join(base, b""),
            prefix=_prefix(base, home, absolute=options.absolute),
            comma=out is not None and out.suffix.lower() == ".csv",
            options=options,
        )

    def heading(self) -> bytes:
        """Return the first line."""
        return joined(map(str.encode, self.options.columns), comma=self.comma) + b"\n"

    def table(self, lines: BinaryIO) -> dict[str, Sequence[bytes]]:
        """Return the columns of a manifest that begins with `heading`."""
        delimiter = b"," if self.comma else b"\t"
        lines.seek(0)
        columns = tuple(lines.readline().decode().rstrip("\n").split(delimiter.decode()))
        dialect = Dialect(name="", delimiter=delimiter, columns=columns, has_header=True,
                          body_start=0, body_line=2)  # fmt: skip
        return dict(zip(columns, parse(lines.read(), dialect), strict=True))


@dataclass(frozen=True, slots=True)
class Found:
    """The images among some files."""

    lines: bytes
    """Of the manifest."""
    records: bytes
    """Of its index, if it is to have one."""
    tally: Tally


class FolderScan:
    """What of a scan takes long: asking the system about many folders, names or files."""

    def __init__(self, form: Form, read: Reader | None = None) -> None:
        """Prepare; looks at nothing.

        Args:
            form: of the manifest.
            read: reads the files of an archive; None: the folder is one.
        """
        options = form.options
        self._form = form
        self._own_name = os.path.basename(os.path.abspath(form.base)) or b"/"
        if read is not None:
            self._own_name = without_ending(self._own_name)
        limit = decode.HEAD_BYTES if options.index else HEAD_BYTES
        self._files = Prefetcher(form.base, limit=limit, read=read)
        self._recorder = Recorder(self._files.read_whole) if options.index else None
        self._pattern = options.pattern
        # Images of a folder come together.
        self._chosen = functools.lru_cache(maxsize=1024)(self._label_and_group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(None, None, None)

    def folders(self, paths: list[bytes]) -> list[Folder]:
        """Return what is in each of these folders."""
        look = functools.partial(look_into, hidden=self._form.options.hidden)
        return self._files.each(look, paths)

    def names(self, paths: list[bytes]) -> list[Kind]:
        """Return what each of these names means."""
        return self._files.each(kind_of, paths)

    def files(self, files: list[bytes | Within]) -> Found:
        """Return the images among these files; paths are relative to the scanned folder."""
        tally = Tally()
        lines, records = [], []
        read = self._files.read(files) if self._form.options.sniff else repeat(None)
        for file, found in zip(files, read, strict=False):
            path = file if isinstance(file, bytes) else file[0]
            if tally.is_image(path, found):
                lines.append(self._line(path, tally))
                if self._recorder is not None:
                    head = (b"", 0) if found is None or isinstance(found, SampleError) else found
                    records.append(self._recorder.record(file, *head))
        return Found(b"".join(lines), b"".join(records), tally)

    def _label_and_group(self, folder: bytes) -> tuple[bytes, bytes]:
        return label_and_group(folder, self._own_name, self._form.options)

    def _line(self, path: bytes, tally: Tally) -> bytes:
        """Return the line of an image; what no line can hold goes to `tally.refused`."""
        form, options = self._form, self._form.options
        label, group = self._chosen(path.rpartition(b"/")[0])
        more: list[bytes] = []
        if self._pattern is not None:
            label, more = matched(self._pattern, path)
            if not label:
                note(tally.refused, "its path does not match --label-from", path)
        cells = [form.prefix + path]
        if cells[0].isspace():
            cells[0] = b"./" + cells[0]  # else a blank line
        if options.label != "none":
            tally.classes.add(label)
            cells.append(label)
        if options.group_level is not None:
            tally.groups[group] += 1
            cells.append(group)
            if not group:
                note(tally.refused, f"no folder of level {options.group_level}", path)
        cells += more
        line = joined(cells, comma=form.comma)
        if b"\n" in line or b"\r" in line:
            note(
                tally.refused,
                "a line end in the name or its folder's, which no manifest can hold",
                cells[0],
            )
        elif not form.comma and line.count(b"\t") >= len(cells):
            note(
                tally.refused,
                "a tab in the name or its folder's, which only a .csv manifest can hold",
                cells[0],
            )
        return line + b"\n"


def _prefix(folder: bytes, home: bytes, *, absolute: bool) -> bytes:
    """Return the path from `home` to `folder`, ending in a slash unless it is empty.

    Symbolic links are kept as the user named them, unless a `..` after one would lead elsewhere.
    """
    plain, real = os.path.abspath(folder), os.path.realpath(folder)
    if not absolute:
        plain = os.path.relpath(plain, os.path.abspath(home))
        real = os.path.relpath(real, os.path.realpath(home))
    with contextlib.suppress(OSError):
        if os.path.samefile(os.path.join(home, plain), folder):
            real = plain
    return b"" if real == b"." else os.path.join(real, b"")


def joined(cells: Iterable[bytes], *, comma: bool) -> bytes:
    """Return a line without its end: with commas, and quotes where necessary, or with tabs."""
    return b",".join(map(quoted, cells)) if comma else b"\t".join(cells)


def quoted(cell: bytes) -> bytes:
    """Return a cell as a table with commas has it: in quotes where that is necessary."""
    if b'"' in cell or b"," in cell:
        return b'"' + cell.replace(b'"', b'""') + b'"'
    return cell
