"""What is done with the lines of a manifest when all are known: their order, and a column `split`.

The order is that of the bytes of the paths, in which an image keeps its place whatever the numbers
of digits around it, and which needs no memory; or the natural one, in which z2 comes before z10:
it is made here, of all paths in memory, and the same for the same paths.

A split is chosen by a hash of a path, so that images that come later move none of those that are
there. With strata each of them is cut at exact shares, in the order of the hashes: then later
images may move some that are next to a cut.

May not: know ranks.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import ManifestError, UsageError
from h5ingest.core.manifest import blocks
from h5ingest.core.manifest_dialect import Dialect, parse

SPLIT: Final = "split"
FOLDER: Final = "folder"
"""What `--keep-together` takes besides columns."""
_DIGITS: Final = re.compile(rb"(\d+)")
_NAME: Final = re.compile(r"\w[\w.-]*")


def natural_key(path: bytes) -> tuple[Any, ...]:
    """Return what a path is sorted by, naturally: folder by folder, numbers by their values.

    >>> sorted([b"z10.png", b"z2.png", b"z02.png"], key=natural_key)
    [b'z02.png', b'z2.png', b'z10.png']
    """
    parts = (_DIGITS.split(part) for part in path.split(b"/"))
    return tuple(tuple(_key(each) for each in part) for part in parts), path


def _key(part: bytes) -> tuple[int, bytes]:
    """Return what is compared of a number, at odd places, or of what is between two."""
    digits = part.lstrip(b"0") if part.isdigit() else b""
    return (len(digits), digits) if part.isdigit() else (0, part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How images are divided; see `--split`."""

    names: tuple[str, ...]
    ends: tuple[float, ...]
    """Where the share of each ends, from 0 to 1."""
    seed: int = 0
    stratify: str | None = None
    keep_together: str | None = None

    @classmethod
    def parse(cls, text: str, **more: Any) -> Split:
        """Return what a text means.

        Raises:
            UsageError: nothing.

        >>> Split.parse("train:0.8,test:0.2").ends
        (0.8, 1.0)
        """
        names, shares = [], []
        for part in text.split(","):
            name, _, share = part.strip().partition(":")
            try:
                value = float(share)
            except ValueError:
                value = math.nan
            if not _NAME.fullmatch(name) or not 0 < value <= 1 or name in names:
                raise UsageError(
                    f"--split: expected different names and shares, as in train:0.8,test:0.2; got "
                    f"{part!r}"
                )
            names.append(name)
            shares.append(value)
        if abs(sum(shares) - 1) > 1e-6:
            raise UsageError(f"--split: expected shares that add up to 1, got {sum(shares):g}")
        ends = tuple(round(end, 12) for end in itertools.accumulate(shares))
        return cls(names=tuple(names), ends=(*ends[:-1], 1.0), **more)


def arrange(
    lines: BinaryIO,
    records: BinaryIO,
    targets: tuple[BinaryIO, BinaryIO],
    columns: Sequence[str],
    prefixes: Sequence[bytes],
    *,
    comma: bool,
    natural: bool,
    split: Split | None,
    beat: Callable[[], None],
) -> None:
    """Write the lines of a manifest and their records anew.

    Args:
        lines: the manifest, with a heading.
        records: as many bytes for each line; none at all.
        targets: where both go.
        columns: of the manifest.
        prefixes: what paths in the manifest begin with that does not count.
        comma: whether columns are separated by commas, else by tabs.
        natural: whether lines are sorted; else their order stays.
        split: the column to add; None: none.
        beat: called now and then.

    Raises:
        UsageError: there is no such column.
        ManifestError: a column is there already, or images cannot be kept together.
    """
    separator = b"," if comma else b"\t"
    lines.seek(0)
    heading = lines.readline()
    dialect = Dialect(name="", delimiter=separator, columns=tuple(columns), has_header=True,
                      body_start=len(heading), body_line=2)  # fmt: skip
    table = _Table(lines, dialect, prefixes, beat)
    order = np.arange(len(table.lines))
    if natural:
        order = np.array(
            sorted(range(len(order)), key=lambda k: natural_key(table.paths[k])), np.int64
        )
    added: Sequence[bytes] = ()
    if split is not None:
        if SPLIT in columns:
            raise ManifestError(f"--split: there is a column {SPLIT!r} already")
        added = _splits(table, split)
        heading = heading[:-1] + separator + SPLIT.encode() + b"\n"
    targets[0].write(heading)
    for k in order.tolist():
        line = table.lines[k]
        targets[0].write(line[:-1] + separator + added[k] + b"\n" if added else line)
    _reorder(records, targets[1], order)


class _Table:
    """All lines of a manifest, in memory."""

    def __init__(
        self,
        file: BinaryIO,
        dialect: Dialect,
        prefixes: Sequence[bytes],
        beat: Callable[[], None],
    ) -> None:
        self.lines: list[bytes] = []
        self.columns: dict[str, list[bytes]] = {name: [] for name in dialect.columns}
        end = file.seek(0, 2)
        for block in blocks(file, dialect.body_start, end):
            beat()
            self.lines += [line + b"\n" for line in block.split(b"\n")[:-1]]
            for cells, more in zip(self.columns.values(), parse(block, dialect), strict=True):
                cells += more
        known = sorted(prefixes, key=len, reverse=True)
        self.paths = [_without(path, known) for path in self.columns["path"]]

    def column(self, flag: str, name: str) -> list[bytes]:
        """Return the cells of a column.

        Raises:
            UsageError: there is none.
        """
        if name not in self.columns and name == FOLDER:
            return [path.rpartition(b"/")[0] for path in self.paths]
        if name not in self.columns or name == "path":
            there = ", ".join([*(each for each in self.columns if each != "path"), FOLDER])
            raise UsageError(f"{flag}: expected one of {there}, got {name!r}")
        return self.columns[name]


def _without(path: bytes, prefixes: Sequence[bytes]) -> bytes:
    return next((path[len(each) :] for each in prefixes if path.startswith(each)), path)


def _splits(table: _Table, split: Split) -> list[bytes]:
    """Return the split of each line."""
    units = table.paths
    if split.keep_together is not None:
        units = table.column("--keep-together", split.keep_together)
    distinct = list(dict.fromkeys(units))
    seed = b"%d\0" % split.seed
    drawn = np.array([xxh3_64_intdigest(seed + unit) for unit in distinct], np.uint64)
    ends = np.array(split.ends)
    chosen = np.searchsorted(ends, drawn / 2.0**64, side="right")
    if split.stratify is not None:
        strata = _strata(table.column("--stratify", split.stratify), units, split)
        for stratum in dict.fromkeys(strata.values()):
            some = np.array([k for k, unit in enumerate(distinct) if strata[unit] == stratum])
            in_order = some[np.lexsort((some, drawn[some]))]
            places = (np.arange(len(some)) + 0.5) / len(some)
            chosen[in_order] = np.searchsorted(ends, places, side="right")
    names = [name.encode() for name in split.names]
    of_unit = {
        unit: names[min(int(k), len(names) - 1)] for unit, k in zip(distinct, chosen, strict=True)
    }
    return [of_unit[unit] for unit in units]


def _strata(cells: Sequence[bytes], units: Sequence[bytes], split: Split) -> dict[bytes, bytes]:
    """Return the stratum of each unit.

    Raises:
        ManifestError: a unit is in several.
    """
    found: dict[bytes, bytes] = {}
    for unit, cell in zip(units, cells, strict=True):
        if found.setdefault(unit, cell) != cell:
            raise ManifestError(
                f"--stratify {split.stratify}: expected one value for all that is kept together, "
                f"found {found[unit]!r} and {cell!r} where {split.keep_together or 'path'} is "
                f"{unit!r}"
            )
    return found


def _reorder(records: BinaryIO, target: BinaryIO, order: NDArray[np.int64]) -> None:
    records.seek(0)
    data = records.read()
    if data and len(order):
        each = np.frombuffer(data, np.dtype(f"V{len(data) // len(order)}"))
        target.write(each[order].tobytes())
