"""`MoreColumns`: what goes with the rows of a file, and behind them that of a manifest.

May not: know ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from h5ingest.core.errors import ManifestError
from h5ingest.core.lists import MOST_EXACT, Lists, parse_kind
from h5ingest.core.manifest import Manifest
from h5ingest.core.manifest_columns import ManifestColumns
from h5ingest.core.sample_columns import INDEX, Block, Cells
from h5ingest.pipeline.kept_rows import KeptRows
from h5ingest.pipeline.stored_columns import StoredColumns


def merged(
    stored: StoredColumns, manifest: Manifest, labels: frozenset[bytes]
) -> tuple[dict[str, str], tuple[bytes, ...] | None]:
    """Return the kind of each column, and the names of all classes, of a file and a manifest.

    Classes of the file keep their numbers; new ones follow, sorted. A column of whole numbers
    becomes one of decimal numbers where the manifest needs it.

    Args:
        stored: of the file.
        manifest: behind it.
        labels: of the manifest, where the file has names for them.

    Raises:
        ManifestError: there are other columns, or of kinds that do not fit together.
    """
    new = ManifestColumns(manifest)
    if stored.kinds.keys() != new.kinds.keys():
        have, found = (
            ", ".join(name for name in kinds if name != INDEX)
            for kinds in (stored.kinds, new.kinds)
        )
        raise ManifestError(
            f"{manifest.name}: expected the columns of the file, {have}; found {found}"
        )
    several = [parse_kind(of.kinds.get("label", "")) is not None for of in (stored, new)]
    if several[0] != several[1]:
        number = "any number of classes" if several[0] else "one class"
        raise ManifestError(
            f"{manifest.name}: expected labels of {number} each, as the file has: see --multi-label"
        )
    if stored.class_names is None and manifest.class_names is not None:
        raise ManifestError(
            f"{manifest.name}: expected labels that are numbers, as the file has, found "
            f"{manifest.class_names[0].decode('utf-8', 'replace')!r}"
        )
    kinds = {}
    for name, kind in stored.kinds.items():
        kinds[name] = kind
        if kind in ("text", new.kinds[name]):
            continue
        kinds[name], found = (each.replace("int64", "float64") for each in (kind, new.kinds[name]))
        if kinds[name] != found:
            raise ManifestError(
                f"{manifest.name}: column {name!r}: expected {kind}, as in the file, found "
                f"{new.kinds[name]}: how its numbers were written is not known any more. Ingest "
                "all images anew, or correct the column."
            )
    if stored.class_names is None:
        return kinds, None
    return kinds, (*stored.class_names, *sorted(labels - {*stored.class_names}))


class MoreColumns:
    """See `SampleColumns`."""

    def __init__(
        self,
        stored: StoredColumns,
        manifest: Manifest,
        kept: KeptRows,
        numbers: Mapping[int, int],
        kinds: Mapping[str, str],
        class_names: tuple[bytes, ...] | None,
    ) -> None:
        """Read nothing yet; for `kinds` and `class_names` see `merged`.

        `numbers` has the position of a group of images from now on, by that in the file.
        """
        self._stored, self._kept, self._numbers = stored, kept, numbers
        self._new = ManifestColumns(replace(manifest, class_names=class_names))
        self.kinds = dict(kinds)
        texts = {name: kind for name, kind in kinds.items() if kind == "text"}
        self._new.kinds |= texts
        self.class_names = class_names

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of rows, then of lines.

        Raises:
            IngestError: they are not what they were.
        """
        row, last, n_each = 0, -1, self._stored.n_each
        for codes, block in self._stored.blocks():
            number = int(codes[0])  # blocks are of one group
            row = row if number == last else 0
            stays = self._kept.stay(number * n_each, range(row, row + len(codes)))
            row, last = row + len(codes), number
            if not stays.any():
                continue
            block = {name: self._as_it_is_now(name, cells[stays]) for name, cells in block.items()}
            samples = block[INDEX]
            assert isinstance(samples, np.ndarray), "by its kind"
            block[INDEX] = self._kept.renumbered(samples)
            now = self._numbers[number * n_each] // n_each
            yield np.full(int(stays.sum()), now, np.int64), block
        for codes, block in self._new.blocks():
            yield codes, {name: self._as_it_is_now(name, cells) for name, cells in block.items()}

    def _as_it_is_now(self, name: str, cells: Cells) -> Cells:
        """Return cells of one of the two as the column is from now on.

        Raises:
            ManifestError: a number would not be what it was.
        """
        if not self.kinds.get(name, "").startswith("float64"):
            return cells
        values = cells.values if isinstance(cells, Lists) else cells
        if values.dtype != np.float64 and any(abs(n) > MOST_EXACT for n in values.ravel().tolist()):
            raise ManifestError(
                f"{self._new.name}: column {name!r}: expected whole numbers, as the file and the "
                f"manifest have some beyond 2**53, which cannot be stored beside decimal ones"
            )
        return cells.astype(np.float64)
