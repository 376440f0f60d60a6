"""`ChangedLoader`: rows of a file of h5ingest as another layout has them.

May not: know a writer, ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import NOWHERE, Samples
from h5ingest.core.schema import STATUS_FAILED
from h5ingest.pipeline.load_stored import StoredLoader, checked, naming_row
from h5ingest.pipeline.loader import Images
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords
from h5ingest.pipeline.recoding import CodedImages
from h5ingest.reading.images import Encoded
from h5ingest.reading.stored_group import StoredGroup


class ChangedLoader(StoredLoader):
    """Gives pixels without padding; or, where the new file keeps files, what was coded of them."""

    def __init__(
        self,
        open_group: Callable[[int], StoredGroup],
        check: Callable[[], None],
        stats: RankStats,
        beat: Callable[[], None],
        coded: CodedImages | None,
    ) -> None:
        """Take what `StoredLoader` takes, and the images as files if they are to be stored so."""
        super().__init__(open_group, check, stats, beat)
        self._coded = coded

    def _load_together(
        self, samples: Samples, k: int, rows: list[int], images: Images, records: SampleRecords
    ) -> bool:
        """See `StoredLoader`: for rows that are stored as they were."""
        group = self._group(samples.group)
        if self._coded is not None or group.sizes is not None or isinstance(group.images, Encoded):
            return False
        if (group.status[rows[0] : rows[-1] + 1] == STATUS_FAILED).any():
            return False  # they may have no shape
        return super()._load_together(samples, k, rows, images, records)

    def _image(
        self, samples: Samples, k: int, group: StoredGroup, row: int, image: NDArray[Any]
    ) -> NDArray[Any]:
        if group.status[row] == STATUS_FAILED:
            checked(group, row)
            return np.zeros_like(image)
        if self._coded is not None:
            place = samples.places[k]
            if place["spool"] == NOWHERE["spool"]:
                raise SampleError("damaged", f"row {row:,}: it could not be coded")
            data = self._coded.read(place, len(image))
            if isinstance(data, SampleError):
                raise data
            return np.frombuffer(data, np.uint8)
        return pixels_of(group, row)


def pixels_of(group: StoredGroup, row: int) -> NDArray[Any]:
    """Return an image as pixels, (H, W) or (H, W, C) without padding, compared.

    Raises:
        SampleError: it cannot be read, or is not what it should be.
    """
    found = checked(group, row)
    with naming_row(group, row):
        return group.pixels(row, found)
