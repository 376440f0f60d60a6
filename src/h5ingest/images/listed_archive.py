"""The files in an archive, in the order of the bytes of their names, for a manifest of it.

May not: know ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from h5ingest.core.sample_table import Within
from h5ingest.images.archive_table import NO_FILE, Table
from h5ingest.images.archives import Archive, Archives
from h5ingest.images.prefetch import Reader
from h5ingest.images.scan import Tally
from h5ingest.images.webdataset import AGAIN, has_labels

_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class ListedArchive:
    """An archive that is listed; the same on all ranks but for its table."""

    archive: Archive
    table: Table | None
    """None: another rank has it."""

    @property
    def is_shard(self) -> bool:
        """Whether labels lie beside the images, as far as this rank knows."""
        return self.table is not None and has_labels(self.table.rows)

    @property
    def read(self) -> Reader:
        """Reads a file of it."""
        return Archives([self.archive], os.path.dirname(self.archive.path)).read

    def files(self, tally: Tally, *, hidden: bool) -> Iterator[Within]:
        """Yield the files in it, on the rank that has the table; count what is left out."""
        table = self.table
        assert table is not None, "it is rank 0 that lists"
        if table.n_repeated:
            tally.noted[AGAIN] = table.n_repeated, table.repeated
        names = sorted(table.rows)
        for first in range(0, len(names), _BLOCK):
            some = names[first : first + _BLOCK]
            for name, member in zip(some, table.find(some, 0).tolist(), strict=True):
                if member[1] == NO_FILE:
                    continue
                if not hidden and _is_hidden(name):
                    tally.hidden += 1
                    continue
                yield name, member


def _is_hidden(name: bytes) -> bool:
    if not name.startswith(b".") and b"/." not in name:
        return False
    return any(part.startswith(b".") and part not in (b".", b"..") for part in name.split(b"/"))
