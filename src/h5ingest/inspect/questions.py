"""What a judge can be asked: each method of `Questions` is one."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py

from h5ingest.core import schema
from h5ingest.core.digest import ContentDigest, Parts
from h5ingest.core.errors import OutputError
from h5ingest.core.image_columns import content_of_image
from h5ingest.core.lists import offsets_of, values_of
from h5ingest.core.schema import FileHeader
from h5ingest.inspect.findings import Checked, Facts, Gap, Hashed, Sign, Unread
from h5ingest.inspect.group_checks import group_problems
from h5ingest.inspect.header_checks import digest_problem, known_attributes, lenient_header
from h5ingest.inspect.readable import Readable, attempt
from h5ingest.inspect.row_checks import check_rows, path_of
from h5ingest.inspect.scale_checks import scale_problems
from h5ingest.reading.open_file import open_file

if TYPE_CHECKING:
    from h5ingest.inspect.sources import Sources

_BLOCK_ROWS: Final = 256 * 1024


class Questions:
    """Questions about the file that was opened last; each answer can be pickled.

    An answer never raises over a damaged file: what cannot be read is a value.
    """

    def __init__(self, sign: Sign) -> None:
        """Open nothing yet."""
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401 - registers its filters with HDF5
        self._sign = sign

    def close(self) -> None:
        """Close the file."""
        attempt(self._file.close)
        del self._file, self._readable

    def open(
        self, path: str, absolute: str, source_folder: str | None
    ) -> tuple[FileHeader, list[str]]:
        """Open the file; return its header, and what is wrong with its attributes.

        Args:
            path: as it was given, for messages.
            absolute: the same, absolute.
            source_folder: what relative paths of sources are relative to; None: not needed.

        Raises:
            OutputError: it cannot be opened, or is not a file of h5ingest.
        """
        try:
            self._file = open_file(absolute)
        except OutputError as error:
            raise type(error)(path + str(error).removeprefix(absolute)) from None
        self._source_folder = source_folder
        self._attributes, self._unread = found = known_attributes(self._file)
        self._header, problems = lenient_header(self._file, path, *found)
        self._readable = Readable(self._file, self._header)
        return self._header, problems

    def attributes(self) -> list[str]:
        """Return what is wrong with the attributes by their digest."""
        if self._unread:  # which has been said
            return []
        found = attempt(partial(digest_problem, self._file, self._header, self._attributes))
        if isinstance(found, Unread):
            return [f"attributes: cannot be read: {found.reason}"]
        return [found] if found is not None else []

    def sources_problem(self) -> str | None:
        """Return why the file's options do not say what sources become, if so."""
        made = attempt(lambda: [self._sources(prefix) for prefix in self._header.prefixes])
        if not isinstance(made, Unread):
            return None
        return f"options: expected those of an ingest, so sources are not compared: {made.reason}"

    def _sources(self, prefix: str) -> Sources:
        from h5ingest.inspect.sources import Sources

        number = self._header.prefixes.index(prefix) % (1 + len(self._header.images))
        options = content_of_image(self._header.options, number)
        return Sources(options, Path(self._source_folder or ""))

    def facts(self, prefix: str, names: list[str]) -> dict[str, Facts | Unread | None]:
        """Return what datasets of a group say of themselves; None for one that is not there."""
        found: dict[str, Facts | Unread | None] = {}
        for name in names:
            self._sign.beat()
            full = f"{prefix}/{name}"
            if name == schema.LABELS.name and self._is_group(full):  # of lists
                found[name] = None
            else:
                found[name] = self._readable.facts(full)
        return found

    def _is_group(self, name: str) -> bool:
        return attempt(lambda: self._file.get(name, getclass=True) is h5py.Group) is True

    def dims(self, prefix: str, names: list[str]) -> dict[str, tuple[str, ...] | Unread]:
        """Return the labels of the dimensions of datasets of a group."""
        return {name: self._readable.dims(f"{prefix}/{name}") for name in names}

    def scales(self, prefix: str, names: list[str]) -> list[str] | Unread:
        """Return what is wrong with the scales of the dimensions of datasets of a group."""
        return attempt(partial(scale_problems, self._file, self._readable, prefix, names))

    def columns(self, prefix: str) -> list[str] | Unread:
        """Return the names of the datasets of a group's columns, below the group's."""

        def listed() -> list[str]:
            where = f"{prefix}/{schema.COLUMNS}"
            if where not in self._file:
                return []
            group = self._file[where]
            found = []
            for name in group if isinstance(group, h5py.Group) else ():
                column = f"{schema.COLUMNS}/{name}"
                is_list = self._is_group(f"{prefix}/{column}")
                found += [values_of(column), offsets_of(column)] if is_list else [column]
            return found

        return attempt(listed)

    def last(self, name: str) -> int | Unread:
        """Return the last value of a dataset of integers."""
        return self._readable.last(name)

    def rows(self, prefix: str, rows: range, n_bytes: int, again: bool) -> Checked:
        """Judge rows of a group, whole chunks; `again`: decode their sources again as well.

        `n_bytes` are read together, at most.
        """
        self._sign.allow(n_bytes)
        sources = self._sources(prefix) if again else None
        return check_rows(self._readable, self._header, prefix, rows, sources, self._sign)

    def paths(self, prefix: str, rows: range) -> list[str]:
        """Return the paths of these rows' sources, for messages."""
        return [path_of(self._readable, prefix, row) for row in rows]

    def hashes(self, names: list[str]) -> Hashed:
        """Return the digests of the values of datasets, and what of them cannot be read."""
        digest = ContentDigest("")
        gaps = [gap for name in names for gap in self._hash(name, digest)]
        return Hashed(parts=digest.parts(), gaps=gaps)

    def hash_rows(self, name: str, rows: range) -> Hashed:
        """Return the digest of these rows of a dataset, and what of them cannot be read."""
        digest = ContentDigest("")
        gaps = self._hash(name, digest, rows)
        return Hashed(parts=digest.parts(), gaps=gaps)

    def _hash(self, name: str, digest: ContentDigest, rows: range | None = None) -> list[Gap]:
        dataset = attempt(lambda: self._readable.open(name))
        if isinstance(dataset, Unread):
            return [Gap(name, rows or range(0), f"cannot be read: {dataset.reason}")]
        rows = range(len(dataset)) if rows is None else rows
        text = h5py.check_string_dtype(dataset.dtype) is not None
        gaps = []
        for start in range(rows.start, rows.stop, _BLOCK_ROWS):
            self._sign.beat()
            block = range(start, min(start + _BLOCK_ROWS, rows.stop))
            for part, values in self._readable.pieces(name, block):
                if isinstance(values, Unread):
                    gaps.append(Gap(name, part, f"cannot be read: {values.reason}"))
                elif text:
                    digest.add_strings(name, values)
                else:
                    digest.add_numbers(name, values)
        return gaps

    def tree_kinds(self, prefix: str) -> Parts:
        """Return what the types and shapes of a tree's images are in the content digest."""
        names = schema.TREE_NAMES.at(prefix)
        digest = ContentDigest("")
        n_rows = len(self._readable.open(names))
        for start in range(0, n_rows, _BLOCK_ROWS):
            block = range(start, min(start + _BLOCK_ROWS, n_rows))
            digest.add_pixels(names, map(self._kind, self._readable.column(names, block)))
        return digest.parts()

    def _kind(self, name: Any) -> str:
        """Return type and shape of an image; empty without one: its row has been named."""
        if isinstance(name, Unread):
            return ""

        def kind() -> str:
            dataset = self._readable.open(name)
            return f"{dataset.dtype.name}{dataset.shape}"

        self._sign.beat()
        found = attempt(kind)
        return "" if isinstance(found, Unread) else found

    def groups(self) -> list[str]:
        """Return what is wrong with the division of the samples into groups."""
        found = attempt(lambda: group_problems(self._file, self._header, self._sign.beat))
        if isinstance(found, Unread):
            return [f"groups: whether each sample is in one cannot be checked: {found.reason}"]
        return found
