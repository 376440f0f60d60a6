"""The manifest: from text to columns, a byte range at a time.

A manifest is UTF-8 text with one sample a line: `path`, or `path<TAB>label`, or a table whose
first line names its columns (see `manifest_dialect`). Nothing here holds the whole file: a rank
parses the lines that begin in its own byte range, and rank 0 streams all of it again at the end.

May not: open an image, decide on shapes, know a communicator.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.column_types import Seen, all_integers, kinds_seen
from h5ingest.core.image_columns import FIRST
from h5ingest.core.manifest_dialect import LONGEST_LINE, Dialect, LineError, parse
from h5ingest.core.packed_strings import PackedStrings

BLOCK_BYTES: Final = 1024**2
"""Bytes parsed at a time: as Python objects they take some twenty times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What all ranks know of a manifest that has been read: everything except its rows."""

    path: Path
    """The file."""
    dialect: Dialect
    """How to read it."""
    sha256: str
    """Digest of the file at the beginning of the run, in hexadecimal."""
    n_rows: int
    """Samples."""
    class_names: tuple[bytes, ...] | None
    """Sorted names, where labels are not integers, or are several a row."""
    column_kinds: Mapping[str, str]
    """What each extra column is (see `column_types.resolve`)."""
    group_by: str | None
    """The column whose cells are groups."""
    group_names: tuple[bytes, ...]
    """Sorted cells of that column; one empty name where there is no such column."""
    group_rows: tuple[int, ...]
    """Samples in each group."""
    images: tuple[str, ...] = (FIRST,)
    """The columns that name images: each line is a row of so many."""
    listed: Path | None = None
    """What a job has made it of; None: the user has written it, and knows its lines."""
    first: int = 0
    """Index of its first sample: so many come before, which the file has already."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.listed or self.path)

    @property
    def n_images(self) -> int:
        """Images of all samples."""
        return self.n_rows * len(self.images)

    @property
    def parts(self) -> tuple[tuple[bytes, str], ...]:
        """(group, column of images) of each group of the layout, in their order."""
        return tuple(product(self.group_names, self.images))

    @property
    def part_names(self) -> tuple[str, ...]:
        """What messages call these."""
        if len(self.images) == 1:
            return tuple(map(os.fsdecode, self.group_names))
        names = ((os.fsdecode(group), column) for group, column in self.parts)
        return tuple(f"{group}, {column}" if group else column for group, column in names)

    def lines_of(self, indices: Sequence[int]) -> dict[int, int]:
        """Return the 1-based line of each of these samples, for messages.

        Reads the manifest up to the last of them, some million lines a second. Samples that it
        does not have, or no longer, are left out, and so are all of one that the user has not
        written.
        """
        found: dict[int, int] = {}
        if self.listed is not None:
            return found
        wanted = sorted({index for index in indices if index >= self.first}, reverse=True)
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(self.dialect.body_start)
            index = self.first - 1
            for number, line in enumerate(file, self.dialect.body_line):
                index += not line.isspace()
                if wanted and index == wanted[-1]:
                    found[wanted.pop()] = number
                if not wanted:
                    break
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestPart:
    """What one byte range of the manifest says; by default, an empty one."""

    paths: PackedStrings = PackedStrings.pack([])  # noqa: RUF009 - immutable
    """A path for each image of a row, row by row."""
    n_lines: int = 0
    """Lines in the range, blank ones included."""
    integer_labels: bool = True
    """Whether every label in the range is an integer."""
    seen: tuple[Seen, ...] = ()
    """For each extra column, the kinds of cells in it."""
    names: tuple[bytes, ...] = ()
    """Distinct cells of the column asked for, in order of appearance."""
    codes: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """(n,) for each row the position of its cell in `names`; (0,) if no column was asked for."""


def share(path: Path, dialect: Dialect, part: int, n_parts: int) -> tuple[int, int]:
    """Return the byte range (start, stop) of part `part` of `n_parts`, aligned to line ends.

    The body is divided into equal shares of bytes, and a line belongs to the share in which it
    begins: so the parts are disjoint, in order, and together the whole body. A part may be empty.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        length = max(0, end - dialect.body_start)

        def aligned(offset: int) -> int:
            if offset <= dialect.body_start or offset >= end:
                return min(max(offset, dialect.body_start), end)
            file.seek(offset - 1)
            file.readline()
            return file.tell()

        start, stop = (
            aligned(dialect.body_start + length * k // n_parts) for k in (part, part + 1)
        )
    return start, max(start, stop)


def blocks(file: BinaryIO, start: int, stop: int, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the bytes of the range in blocks of whole lines.

    Raises:
        LineError: a line longer than `LONGEST_LINE` (numbered from `start`).
    """
    file.seek(start)
    n_lines = 0
    rest = b""
    while start < stop:
        data = file.read(min(size, stop - start))
        if not data:
            break
        start += len(data)
        cut = data.rfind(b"\n") + 1
        if not cut and len(rest) + len(data) > LONGEST_LINE and start < stop:
            raise LineError(n_lines, f"expected lines of text, found one of over {len(data)} bytes")
        if cut:
            block = rest + data[:cut]
            n_lines += block.count(b"\n")
            yield block
            rest = data[cut:]
        else:
            rest += data
    if rest:
        yield rest


def read_part(
    path: Path,
    dialect: Dialect,
    byte_range: tuple[int, int],
    coded: str | None = None,
    images: Sequence[str] = (FIRST,),
) -> ManifestPart:
    """Return what the lines of one byte range say.

    Args:
        path: the manifest.
        dialect: how to read it.
        byte_range: start and stop, see `share`.
        coded: the column whose cells are wanted for each row.
        images: the columns whose cells are paths.

    Raises:
        LineError: a line cannot be read (numbered from the start of the range).
    """
    packed: list[PackedStrings] = []
    n_lines = 0
    integer_labels = True
    seen: tuple[Seen, ...] = (frozenset(),) * len(dialect.extra_columns)
    names: dict[bytes, int] = {}
    codes = [np.zeros(0, np.int32)]
    for columns, block_lines in _parsed_blocks(path, dialect, byte_range):
        n_lines += block_lines
        paths = columns[FIRST]
        if len(images) > 1:
            rows = zip(*(columns[name] for name in images), strict=True)
            paths = list(chain.from_iterable(rows))
        packed.append(PackedStrings.pack(paths))
        if "label" in columns:
            integer_labels = integer_labels and all_integers(columns["label"])
        cells = (columns[name] for name in dialect.extra_columns)
        seen = tuple(s | kinds_seen(c) for s, c in zip(seen, cells, strict=True))
        if coded is not None:
            wanted = columns[coded]
            numbers = (names.setdefault(cell, len(names)) for cell in wanted)
            codes.append(np.fromiter(numbers, np.int32, len(wanted)))
    return ManifestPart(
        paths=PackedStrings.concatenate(packed),
        n_lines=n_lines,
        integer_labels=integer_labels,
        seen=seen,
        names=tuple(names),
        codes=np.concatenate(codes),
    )


def read_class_names(path: Path, dialect: Dialect, byte_range: tuple[int, int]) -> frozenset[bytes]:
    """Return the distinct classes in one byte range."""
    names: set[bytes] = set()
    for columns, _ in _parsed_blocks(path, dialect, byte_range):
        labels = set(columns["label"])
        if dialect.separator:
            labels = set(chain.from_iterable(map(dialect.classes_of, labels)))
        names |= labels
    return frozenset(names)


def stream(
    path: Path, dialect: Dialect, feed: Callable[[bytes], object] = lambda _: None
) -> Iterator[dict[str, Sequence[bytes]]]:
    """Yield all rows in blocks, as columns by name, and feed the whole file to a function.

    Memory does not grow with the file.
    """
    with path.open("rb") as file:
        feed(file.read(dialect.body_start))
        for block in blocks(file, dialect.body_start, os.fstat(file.fileno()).st_size):
            feed(block)
            yield dict(zip(dialect.columns, parse(block, dialect), strict=True))


def _parsed_blocks(
    path: Path, dialect: Dialect, byte_range: tuple[int, int]
) -> Iterator[tuple[dict[str, Sequence[bytes]], int]]:
    n_lines = 0
    with path.open("rb") as file:
        for block in blocks(file, *byte_range):
            try:
                columns = parse(block, dialect)
            except LineError as error:
                raise LineError(n_lines + error.line, error.problem) from None
            n_lines += block.count(b"\n")
            yield dict(zip(dialect.columns, columns, strict=True)), block.count(b"\n")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file, in hexadecimal."""
    import hashlib  # one rank needs it

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
