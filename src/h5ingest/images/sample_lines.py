"""`SampleLines`: the lines of a manifest of the samples in several files.

May not: know ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from h5ingest.core.sample_table import without_ending
from h5ingest.images.archives import Archive
from h5ingest.images.containers.container import Listing
from h5ingest.images.folder_manifest import joined, label_and_group, matched
from h5ingest.images.scan import ScanOptions, Tally, note
from h5ingest.images.several import Several


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What has been found in one file."""

    archive: Archive
    listing: Listing
    of_files: bool
    """Whether names of folders say something: they are those of files, and nothing else is said."""
    tally: Tally
    """Counts of it."""

    def named(self, k: int, prefix: bytes) -> tuple[bytes, bytes]:
        """Return the path of a sample, and the path whose folders may name its label."""
        name = self.listing.names[k]
        own = self.listing.paths[k] if self.listing.paths else b""
        path = own or prefix + name
        return path, path if self.of_files else own or name


class SampleLines:
    """The lines of a manifest; its columns are known when all files have been looked through."""

    def __init__(
        self, several: Several, options: ScanOptions, outer: bytes | None, *, comma: bool
    ) -> None:
        self._outer = outer
        self._comma = comma
        breaks = b"\n\r\0" + (b"" if comma else b"\t")
        self._breaks = bytes.maketrans(breaks, b" " * len(breaks))
        self.tally = Tally()
        self._several = several
        self._options = options
        self._pattern = options.pattern
        self._found: dict[str, None] = {}
        self._has_folders = False

    def learn(self, block: Block) -> None:
        """Take in which columns the samples of a file have."""
        self.tally.add(block.tally)
        self._found |= dict.fromkeys(block.listing.columns)
        prefix = self._several.prefix(block.archive.path)
        paths = (block.named(k, prefix)[1] for k in range(len(block.listing.names)))
        self._has_folders = self._has_folders or any(b"/" in path for path in paths)

    @property
    def columns(self) -> list[str]:
        """Names of the columns behind the path: label and group come first."""
        options, found = self._options, dict(self._found)
        if options.label == "none":
            found.pop("label", None)
        elif self._pattern is not None:
            found |= dict.fromkeys(["label", *self._more])
        elif self._has_folders and not self._found.keys() - {"group"}:
            found["label"] = None
        if options.group_level is not None:
            found["group"] = None
        return sorted(found, key=lambda name: ("label", "group", name).index(name))  # stable

    @property
    def _more(self) -> list[str]:
        """Names of the columns that `--label-from` makes."""
        named = self._pattern.groupindex if self._pattern else {}
        return [name for name in named if name != "label"]

    def heading(self) -> bytes:
        """Return the first line."""
        return joined([b"path", *map(str.encode, self.columns)], comma=self._comma) + b"\n"

    def of(self, block: Block, prefix: bytes) -> bytes:
        """Return the lines of the samples in a file."""
        listing, columns = block.listing, self.columns
        blank = [b""] * len(listing.names)
        cells = [listing.columns.get(name, blank) for name in columns]
        lines = []
        for k in range(len(listing.names)):
            path, below = block.named(k, prefix)
            if self._outer is not None:
                path = self._outer + prefix + listing.names[k]
            row = {name: each[k] for name, each in zip(columns, cells, strict=True)}
            folder = b"/".join(map(without_ending, below.split(b"/")[:-1]))
            label, group = label_and_group(folder, b"", self._options)
            if self._pattern is not None:
                row["label"], more = matched(self._pattern, path)
                row |= zip(self._more, more, strict=True)
            elif "label" in row and "label" not in self._found:
                row["label"] = label or without_ending(os.path.basename(self._several.base))
            if self._options.group_level is not None and "group" not in self._found:
                row["group"] = group
            self._count(path, row)
            lines.append(self._line(path, row.values()))
        return b"".join(lines)

    def _count(self, path: bytes, row: Mapping[str, bytes]) -> None:
        tally = self.tally
        if (label := row.get("label")) is not None:
            tally.classes.add(label)
            if not label:
                note(tally.refused, "no label, though others have one", path)
        if (group := row.get("group")) is not None:
            tally.groups[group] += 1
            if not group:
                note(tally.refused, "no group, though others have one", path)
        if path.translate(self._breaks) != path:
            note(
                tally.refused,
                "a line end or tab in its name, which this manifest cannot hold",
                path,
            )

    def _line(self, path: bytes, cells: Iterable[bytes]) -> bytes:
        line = [b"./" + path if path.isspace() else path]
        for cell in cells:
            plain = cell.translate(self._breaks)
            if plain != cell:
                note(self.tally.noted, "text with line ends or tabs, which become blanks", path)
            line.append(plain)
        return joined(line, comma=self._comma) + b"\n"
