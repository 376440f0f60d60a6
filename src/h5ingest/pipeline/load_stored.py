"""From the rows of a file of h5ingest to pixels: each is compared with its checksum.

May not: know a writer, ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import OutputError, SampleError
from h5ingest.core.sample_table import Samples
from h5ingest.pipeline.loader import Images, Loader, few_at_a_time
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords
from h5ingest.reading.checks import ADVICE
from h5ingest.reading.stored_group import StoredGroup

_MOST_BYTES: Final = 1024**2
"""Pixels that are read at once, if it is more than one image."""


class StoredLoader(Loader[int]):
    """Reads rows: what is given of a sample is its row in the group, the same as it gets."""

    def __init__(
        self,
        open_group: Callable[[int], StoredGroup],
        check: Callable[[], None],
        stats: RankStats,
        beat: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            open_group: returns the group at a position in the layout.
            check: raises if the file is not what it was.
            stats: counts what is loaded.
            beat: called after every few samples; to look at the clock.
        """
        super().__init__(stats, beat)
        self._open_group = open_group
        self._check = check
        self._opened: tuple[int, StoredGroup] | None = None

    def _group(self, number: int) -> StoredGroup:
        if self._opened is None or self._opened[0] != number:
            self._opened = None  # before the next one maps the file
            self._opened = number, self._open_group(number)
        return self._opened[1]

    def read(self, samples: Samples) -> Iterator[int]:
        return iter(samples.rows)

    def load_all(
        self,
        samples: Samples,
        first: int,
        given: Iterator[int],
        images: Images,
        records: SampleRecords,
    ) -> None:
        """See `Loader.load_all`. Many small images are read at once."""
        for some in few_at_a_time(images, _MOST_BYTES):
            rows = list(islice(given, len(some)))
            if len(rows) == 1 or not self._load_together(samples, first, rows, some, records):
                for k, row, image in zip(count(first), rows, some, strict=False):
                    records.sizes[k] = self.load(samples, k, row, image, records) or (0, 0)
            self._sum_up(some, first, records)
            first += len(some)
            self._beat()

    def _load_together(
        self, samples: Samples, k: int, rows: list[int], images: Images, records: SampleRecords
    ) -> bool:
        """Fill images with neighbouring rows; return whether all of them are as they should be."""
        if rows[-1] - rows[0] >= len(rows):
            return False  # some between them are left out
        group, stored = self._group(samples.group), slice(rows[0], rows[-1] + 1)
        try:
            found = group.many(stored)
        except OutputError:
            return False  # each by itself: some may be good
        wanted = group.checksums[stored]
        if isinstance(images, np.ndarray):
            images[...] = found
        else:
            for image, values in zip(images, found, strict=True):
                image[...] = values
        sums = [xxh3_64_intdigest(image) for image in images]  # type: ignore[arg-type]  # buffers
        if not np.array_equal(np.array(sums, np.uint64), wanted):
            return False
        here = slice(k, k + len(rows))
        records.checksums[here] = wanted
        records.status[here] = group.status[stored]
        if group.sizes is not None:
            records.sizes[here] = group.sizes[stored]
        self._stats.n_read_bytes += sum(image.nbytes for image in images)
        self._stats.n_done += len(rows)
        return True

    def load(
        self,
        samples: Samples,
        k: int,
        given: int,
        image: NDArray[Any],
        records: SampleRecords,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        """See `Loader.load`.

        Raises:
            OutputError: the file is not what it was.
        """
        group = self._group(samples.group)
        try:
            found = self._image(samples, k, group, given, image)
            if (found.shape, found.dtype) != (image.shape, image.dtype):
                raise SampleError(
                    "damaged",
                    f"row {given:,}: expected {image.shape} {image.dtype}, found {found.shape} "
                    f"{found.dtype}",
                )
            image[...] = found
            records.status[k] = group.status[given]
            self._stats.n_read_bytes += image.nbytes * counts
        except SampleError as error:
            self._check()
            self._fail(samples, k, error, image, records, counts=counts)
        records.checksums[k] = xxh3_64_intdigest(image)  # type: ignore[arg-type]  # it is a buffer
        self._stats.n_done += counts
        self._beat()
        return None if group.sizes is None else (*group.sizes[given].tolist(),)

    def _image(
        self, samples: Samples, k: int, group: StoredGroup, row: int, image: NDArray[Any]
    ) -> NDArray[Any]:
        """Return what `image` is to hold, of the sample at position k, which is in this row.

        Raises:
            SampleError: it cannot be read, or is not what it should be.
        """
        return checked(group, row)


def checked(group: StoredGroup, row: int) -> NDArray[Any]:
    """Return what is stored of a row, pixels or a file, after comparing its checksum.

    Raises:
        SampleError: it cannot be read, or is not what it should be.
    """
    with naming_row(group, row):
        found = group.one(row)
    expected, sum_ = int(group.checksums[row]), xxh3_64_intdigest(found.data)
    if sum_ != expected:
        raise SampleError(
            "damaged", f"row {row:,}: expected checksum {expected:016x}, found {sum_:016x}"
        )
    return found


@contextlib.contextmanager
def naming_row(group: StoredGroup, row: int) -> Iterator[None]:
    """Run a block that reads a row.

    Raises:
        SampleError: it cannot be read.
    """
    try:
        yield
    except OutputError as error:
        reason = str(error).removeprefix(f"{group.path}: ").removesuffix(ADVICE)
        raise SampleError("damaged", f"row {row:,}: {reason}") from None
