"""The lines of a manifest: which columns they have, and how a line is taken apart.

May not: read more than the first line of a file, know how many rows there are.
"""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.core.errors import ManifestError

PATH_COLUMNS: Final = ("path", "filepath", "file", "filename", "image")
"""Names, in any case, that make a first line a header (see `_path_column`)."""
STDIN: Final = "-"
"""What the user gives as manifest to mean standard input."""

_QUOTES: Final = (
    "expected closed double quotes (a quote inside is doubled, a line end cannot be quoted)"
)

LONGEST_LINE: Final = 1024**2
"""Bytes. PATH_MAX is 4,096 on Linux; a 'line' beyond this is a file that is not a manifest."""


LONGEST_NAME: Final = 1024
"""Bytes of the name of a column. An HDF5 name has to fit into 64 KiB with all that is beside it."""


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

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the columns beyond path and label."""
        return tuple(name for name in self.columns if name not in ("path", "label"))

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


def sniff(path: Path, delimiter: str | None = None, name: str | None = None) -> Dialect:
    """Return how to read the manifest `path`, judged by its name and its first line.

    Args:
        path: the file.
        delimiter: between columns, if the user has said so.
        name: what the user calls it, if not by its path.

    Raises:
        ManifestError: unreadable, empty, not text, or a header that cannot be.
    """
    name = name or str(path)
    start = number = 0
    try:
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
            f"{name}: expected a list of images, found a folder; make a list of it: "
            f"h5ingest manifest {name} -o LIST.csv"
        ) from None
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not line:
        raise ManifestError(f"{name}: expected one image path a line, found no line at all")
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
            f"{_show(first)}. Add --delimiter {typed}"
        )
    try:
        cells = _split_line(first, separator, quoted=separator != b"\t")
    except csv.Error:
        raise ManifestError(f"{where}: {_QUOTES}, found {_show(first)}") from None
    names = [cell.decode("utf-8", "surrogateescape").strip() for cell in cells]
    at = _path_column(names, may_lack_header=not comma)
    if at is not None:
        columns = _check_header(names, at, where)
        return Dialect(name=name, delimiter=separator, columns=columns, has_header=True,
                       body_start=start + len(line), body_line=number + 1)  # fmt: skip
    if comma and delimiter is None:
        raise ManifestError(
            f"{where}: expected the names of the columns, one of them "
            f"{', '.join(PATH_COLUMNS[:-1])} or {PATH_COLUMNS[-1]}; found {_show(first)}. Add such "
            f"a first line, or name the file .txt and separate path and label by a tab."
        )
    cells = first.split(separator)  # quotes mean something in tables only
    if len(cells) > 2:
        raise ManifestError(
            f"{where}: expected 'path' or 'path<TAB>label', or a first line of column names, one "
            f"of them path; found {len(cells)} columns: {_show(first)}"
        )
    return Dialect(name=name, delimiter=separator, columns=("path", "label")[: len(cells)],
                   has_header=False, body_start=start, body_line=number)  # fmt: skip


def _path_column(names: list[str], *, may_lack_header: bool) -> int | None:
    """Return where the column of the paths is, if the first line gives names; None: it does not.

    Such a name makes a header where it comes first. Elsewhere it may as well be a class that is
    called image: so nothing beside it may look like a file's name, and of two columns, where the
    first line may be a sample, the other has to be the label.
    """
    lower = [name.lower() for name in names]
    if lower[0] in PATH_COLUMNS:
        return 0
    known = [lower.index(name) for name in PATH_COLUMNS if name in lower]
    if not known or any("." in name or "/" in name for name in names):
        return None
    if may_lack_header and len(names) == 2 and lower[0] != "label":
        return None
    return known[0]


def _is_table(line: bytes, separator: str = ",") -> bool:
    """Return whether a line is a header with commas, or whatever the separator is."""
    names = os.fsdecode(line.strip()).split(separator)
    return len(names) > 1 and _path_column(names, may_lack_header=False) is not None


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


def _check_header(names: list[str], at: int, where: str) -> tuple[str, ...]:
    """Return the columns, of which the one at `at` has the paths."""
    columns = tuple(n.lower() if n.lower() in ("label", "group") else n for n in names)
    columns = (*columns[:at], "path", *columns[at + 1 :])
    for i, column in enumerate(columns):
        if not column or "/" in column or "\0" in column or column in (".", ".."):
            raise ManifestError(
                f"{where}: expected a name for each column, which becomes the name of a dataset; "
                f"column {i + 1} is {column!r}"
            )
        if not _is_text(column):
            raise ManifestError(
                f"{where}: expected names of columns in UTF-8, as they become names of datasets; "
                f"column {i + 1} is {_show(os.fsencode(column))}. Write this line in UTF-8; the "
                f"other lines may have any bytes"
            )
        if len(column.encode()) > LONGEST_NAME:
            raise ManifestError(
                f"{where}: expected names of columns of at most {LONGEST_NAME:,} bytes, column "
                f"{i + 1} has {len(column.encode()):,}"
            )
        if column in columns[:i]:
            raise ManifestError(f"{where}: expected distinct column names, found {column!r} twice")
    return columns


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that were none
        return False
    return True


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
    if any(len(row) != n_columns for row in rows) or b"\0" in block or _has_empty(columns, dialect):
        raise _find_problem(lines, dialect)
    return columns


def _has_empty(columns: list[Sequence[bytes]], dialect: Dialect) -> bool:
    needed = (name for name in ("path", "label") if name in dialect.columns)
    return any(b"" in columns[dialect.columns.index(name)] for name in needed)


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
            return LineError(number, f"expected text, found a NUL byte in {_show(line)}")
        try:
            cells = _split_line(line, dialect.delimiter, quoted=dialect.quoted)
        except csv.Error:
            return LineError(number, f"{_QUOTES}, found {_show(line)}")
        if len(cells) != expected:
            names = ", ".join(dialect.columns)
            return LineError(
                number,
                f"expected {expected} column{'s' * (expected > 1)} ({names}), as the first line "
                f"has, found {len(cells)}: {_show(line)}",
            )
        for column, cell in zip(dialect.columns, cells, strict=True):
            if column in ("path", "label") and not cell:
                return LineError(number, f"expected a {column}, found none: {_show(line)}")
    raise AssertionError("a block was refused and no line of it explains why")


def _show(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    return repr(text if len(text) <= 80 else text[:77] + "…")
