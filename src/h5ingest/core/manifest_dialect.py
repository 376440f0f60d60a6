"""The lines of a manifest: how a line is taken apart; for the first one see `manifest_heading`.

May not: read more than the first line of a file, know how many rows there are.
"""

from __future__ import annotations

import codecs
import csv
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.core.errors import NO_COMMENTS, ManifestError
from h5ingest.core.manifest_heading import (
    PATH_COLUMNS,
    check_header,
    find_labels,
    path_column,
    show,
)

STDIN: Final = "-"
"""What the user gives as manifest to mean standard input."""

_QUOTES: Final = (
    "expected closed double quotes (a quote inside is doubled, a line end cannot be quoted)"
)

LONGEST_LINE: Final = 1024**2
"""Bytes. PATH_MAX is 4,096 on Linux; a 'line' beyond this is a file that is not a manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the lines of one manifest are to be read; the same on every rank."""

    name: str
    """The manifest as the user named it, for messages."""
    delimiter: bytes
    """One byte between columns."""
    columns: tuple[str, ...]
    """Column names in order; one is `path`, a label column is named `label`."""
    has_header: bool
    """Whether the first line gave those names."""
    body_start: int
    """Byte offset of the first data line."""
    body_line: int
    """Its 1-based line number."""
    separator: bytes = b""
    """One byte between the classes of a label; empty: a label is one class."""

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the columns beyond path and label."""
        return tuple(name for name in self.columns if name not in ("path", "label"))

    @property
    def has_one_label(self) -> bool:
        """Whether each image is of one class."""
        return "label" in self.columns and not self.separator

    def classes_of(self, label: bytes) -> list[bytes]:
        """Return the classes that a label names, in its order: of an empty one none."""
        if not self.separator:
            return [label]
        return label.split(self.separator) if label else []

    @property
    def quoted(self) -> bool:
        """Whether double quotes enclose cells (RFC 4180): in tables that tabs do not separate."""
        return self.delimiter != b"\t" and self.has_header


class LineError(Exception):
    """A line cannot be read. Local: its line number counts from the start of a byte range."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line = line
        """0-based, counted from the first line of the byte range."""
        self.problem = problem
        """What was expected, what was found, what to do."""


def sniff(
    path: Path,
    delimiter: str | None = None,
    name: str | None = None,
    *,
    label_column: str | None = None,
    multi_label: bool = False,
) -> Dialect:
    """Return how to read the manifest `path`, judged by its name and its first line.

    Args:
        path: the file.
        delimiter: between columns, if the user has said so.
        name: what the user calls it, if not by its path.
        label_column: that has the labels; None: the one that is called `label`.
        multi_label: whether labels name several classes, also if the heading does not say so.

    Raises:
        ManifestError: unreadable, empty, not text, or a header that cannot be.
    """
    name = name or str(path)
    start = number = 0
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # as of <(COMMAND): it can be read once only
            raise ManifestError(
                f"{name}: expected a file, found a pipe; give the list through standard input: "
                f"COMMAND | h5ingest {STDIN} OUT"
            )
        with path.open("rb") as file:
            head, line = file.read(1024), b"\n"
            file.seek(0)
            while line.isspace():  # blank lines may come first
                start, number = file.tell(), number + 1
                line = file.readline(LONGEST_LINE)
                if start == 0 and line.startswith(codecs.BOM_UTF8):
                    start, line = 3, line[3:]
    except IsADirectoryError:
        raise ManifestError(
            f"{name}: expected a list of images, found a folder; list its images: h5ingest "
            f"manifest {name} -o LIST.csv"
        ) from None
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not line:
        raise ManifestError(f"{name}: expected one image path per line, found nothing")
    if (found := _binary(head)) or b"\0" in line:
        raise ManifestError(
            f"{name}: expected a text file, found {found or f'a NUL byte in line {number}'}"
        )
    comma = path.suffix.lower() == ".csv" or (name == STDIN and _is_table(line))
    separator = delimiter.encode() if delimiter else (b"," if comma else b"\t")
    first = line.rstrip(b"\r\n")
    where = f"{name}, line {number}"
    if other := _other_separator(first, separator):
        typed = "tab" if other == "\t" else f"'{other}'"
        raise ManifestError(
            f"{where}: expected {separator.decode()!r} between columns, found {other!r}: "
            f"{show(first)}. Add --delimiter {typed}"
        )
    try:
        cells = _split_line(first, separator, quoted=separator != b"\t")
    except csv.Error:
        raise ManifestError(f"{where}: {_QUOTES}, found {show(first)}") from None
    names = [cell.decode("utf-8", "surrogateescape").strip() for cell in cells]
    at = path_column(names, may_lack_header=not comma)
    if at is not None:
        columns = check_header(names, at, where)
        columns, mark = find_labels(columns, label_column, separator, where, several=multi_label)
        return Dialect(name=name, delimiter=separator, columns=columns, has_header=True,
                       body_start=start + len(line), body_line=number + 1,
                       separator=mark)  # fmt: skip
    if first.startswith(b"#") and (comma or delimiter is not None):
        raise ManifestError(f"{where}: {NO_COMMENTS}; found {show(first)}")
    if comma and delimiter is None:
        raise ManifestError(
            f"{where}: expected the names of the columns, one of them "
            f"{', '.join(PATH_COLUMNS[:-1])} or {PATH_COLUMNS[-1]}; found {show(first)}. Make the "
            f"first line name the columns, or name the file .txt and separate path and label by a "
            f"tab."
        )
    cells = first.split(separator)  # quotes mean something in tables only
    if len(cells) > 2:
        raise ManifestError(
            f"{where}: expected 'path' or 'path<TAB>label', or a first line of column names, one "
            f"of them path; found {len(cells)} columns: {show(first)}"
        )
    columns = ("path", "label")[: len(cells)]
    columns, mark = find_labels(columns, label_column, separator, where, several=multi_label)
    return Dialect(name=name, delimiter=separator, columns=columns, has_header=False,
                   body_start=start, body_line=number, separator=mark)  # fmt: skip


def _is_table(line: bytes, separator: str = ",") -> bool:
    """Return whether a line is a header with commas, or whatever the separator is."""
    names = os.fsdecode(line.strip()).split(separator)
    return len(names) > 1 and path_column(names, may_lack_header=False) is not None


def _other_separator(line: bytes, separator: bytes) -> str | None:
    """Return what separates the names of columns in a first line, if that is something else."""
    if separator in line or b"." in line or b"/" in line:  # it may be a sample
        return None
    return next((other for other in ",;\t|" if _is_table(line.replace(b'"', b""), other)), None)


def _binary(head: bytes) -> str:
    """Return what a file is that is no text, and what to do with it; empty: that is not known."""
    from h5ingest.core.signatures import format_of, other_format_of  # on one rank

    if b"\0" not in head:  # a path may begin like an image
        return ""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16; save it as UTF-8, or: iconv -f UTF-16 -t UTF-8 OLD > NEW"
    if found := format_of(head):
        return f"an image ({found}); give the folder that it lies in, or a list of such files"
    if (other := other_format_of(head)) == "an HDF5 file":
        return f"{other}; h5ingest show, verify, export and recompress take what h5ingest has made"
    return other or ""


def parse(block: bytes, dialect: Dialect) -> list[Sequence[bytes]]:
    """Return the block's rows as columns, in the order of `dialect.columns`; blank lines skipped.

    Raises:
        LineError: wrong number of cells, an empty path or label (numbered within the block).
    """
    lines = block.split(b"\n")
    if b"\r" in block:
        lines = [line.removesuffix(b"\r") for line in lines]
    kept = lines[:-1] if not lines[-1] else lines
    if b"" in kept or any(map(bytes.isspace, kept)):
        kept = [line for line in kept if line and not line.isspace()]
    n_columns, delimiter = len(dialect.columns), dialect.delimiter
    quoted = dialect.quoted and b'"' in block
    if n_columns == 1 and not quoted and delimiter not in block and b"\0" not in block:
        return [kept]
    try:
        if quoted:
            rows = [_split_line(line, delimiter, quoted=True) for line in kept]
        else:
            rows = [line.split(delimiter) for line in kept]
    except csv.Error:
        raise _find_problem(lines, dialect) from None
    columns: list[Sequence[bytes]] = list(zip(*rows, strict=False)) if rows else [()] * n_columns
    if any(len(row) != n_columns for row in rows) or b"\0" in block or _has_wrong(columns, dialect):
        raise _find_problem(lines, dialect)
    return columns


def _has_wrong(columns: list[Sequence[bytes]], dialect: Dialect) -> bool:
    needed = ("path", "label") if dialect.has_one_label else ("path",)
    if any(b"" in columns[dialect.columns.index(name)] for name in needed):
        return True
    if not dialect.separator:
        return False
    labels = columns[dialect.columns.index("label")]
    return any(b"" in dialect.classes_of(label) for label in {*labels})


def _split_line(line: bytes, delimiter: bytes, *, quoted: bool) -> list[bytes]:
    if not (quoted and b'"' in line):
        return line.split(delimiter)
    text = line.decode("utf-8", "surrogateescape")
    limit = csv.field_size_limit(LONGEST_LINE)  # 128 KiB, for the whole process
    try:
        cells = next(csv.reader([text], delimiter=delimiter.decode(), strict=True))
    finally:
        csv.field_size_limit(limit)
    return [cell.encode("utf-8", "surrogateescape") for cell in cells]


def _find_problem(lines: list[bytes], dialect: Dialect) -> LineError:
    expected = len(dialect.columns)
    for number, line in enumerate(lines):
        if not line or line.isspace():
            continue
        if b"\0" in line:
            return LineError(number, f"expected text, found a NUL byte in {show(line)}")
        try:
            cells = _split_line(line, dialect.delimiter, quoted=dialect.quoted)
        except csv.Error:
            return LineError(number, f"{_QUOTES}, found {show(line)}")
        if len(cells) != expected:
            names = ", ".join(dialect.columns)
            return LineError(
                number,
                f"expected {expected} column{'s' * (expected > 1)} ({names}), as the first line "
                f"has, found {len(cells)}: {show(line)}",
            )
        for column, cell in zip(dialect.columns, cells, strict=True):
            is_needed = column == "path" or (column == "label" and dialect.has_one_label)
            if is_needed and not cell:
                return LineError(number, f"expected a {column}, found none: {show(line)}")
            if column == "label" and dialect.separator and b"" in dialect.classes_of(cell):
                mark = dialect.separator.decode()
                return LineError(
                    number, f"expected a class on both sides of each {mark!r}, found {show(cell)}"
                )
    raise AssertionError("a block was refused and no line of it explains why")
