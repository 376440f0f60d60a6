"""`StoredColumns`: paths, labels and further columns as a file of h5ingest has them.

May not: know ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from h5ingest.core import schema
from h5ingest.core.column_types import to_texts
from h5ingest.core.errors import OutputError
from h5ingest.core.image_columns import columns_in
from h5ingest.core.lists import kind_of
from h5ingest.core.sample_columns import INDEX, Block, Cells
from h5ingest.core.schema import FileHeader
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.reading.text import Strings

_BLOCK_ROWS: Final = 16 * 1024


class StoredColumns:
    """Those of all groups of a file, one group after the other."""

    def __init__(
        self, handle: ForkSafeFile, open_group: Callable[[int], StoredGroup], header: FileHeader
    ) -> None:
        """Look at the columns of all groups; `open_group` returns that of images at a position.

        Raises:
            OutputError: they differ.
        """
        self.handle, self.open_group, self.header = handle, open_group, header
        self._n_groups, self._images = len(header.group_prefixes), columns_in(header)
        self.kinds, self.class_names = self._described(self._group(0))
        for number in range(1, self._n_groups):
            if self._described(self._group(number)) != (self.kinds, self.class_names):
                raise OutputError(f"{handle.path}: expected the same columns in all groups")

    @property
    def n_each(self) -> int:
        """Images of a row."""
        return len(self._images)

    def _group(self, number: int, image: int = 0) -> StoredGroup:
        """Return what a group of samples has, or its images of another column than the first."""
        return self.open_group(number * len(self._images) + image)

    def _described(self, group: StoredGroup) -> tuple[dict[str, str], tuple[bytes, ...] | None]:
        with self.handle:
            labels, names = group.classes()
            columns = group.columns()
        kinds = {"path": schema.PATHS.dtype} | {
            name: "text" if isinstance(column, Strings) else kind_of(column)
            for name, column in columns.items()
        }
        if labels is not None:
            kinds["label"] = kind_of(labels)
        class_names = None if names is None else tuple(names.raw(np.arange(len(names))))
        return {**kinds, INDEX: schema.SAMPLES.dtype}, class_names

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of rows, group by group; paths of further images under their column.

        Raises:
            OutputError: the file cannot be read, or is not what it was.
        """
        for number in range(self._n_groups):
            group = self._group(number)
            others = {name: self._group(number, k) for k, name in enumerate(self._images) if k}
            with self.handle:
                labels, _ = group.classes()
                columns = group.columns()
            for start in range(0, group.n_rows, _BLOCK_ROWS):
                rows = range(start, min(start + _BLOCK_ROWS, group.n_rows))
                places = np.arange(rows.start, rows.stop)
                texts = {"path": group.paths(rows)}
                texts |= {name: images.paths(rows) for name, images in others.items()}
                block: dict[str, Cells] = {}
                with self.handle:
                    block[INDEX] = group.samples(rows)
                    if labels is not None:
                        block["label"] = labels[rows.start : rows.stop]
                    for name, column in columns.items():
                        if not isinstance(column, Strings):
                            block[name] = column[rows.start : rows.stop]
                for name, column in columns.items():
                    if isinstance(column, Strings):
                        texts[name] = column.raw(places)
                block |= {name: to_texts(cells) for name, cells in texts.items()}
                yield np.full(len(rows), number, np.int64), block
