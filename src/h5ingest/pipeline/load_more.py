"""Loading a batch of which the first rows are in a file already, and the others are image files.

May not: know a writer, ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from h5ingest.core.sample_table import Samples
from h5ingest.pipeline.load_stored import StoredLoader
from h5ingest.pipeline.loader import Images, Loader
from h5ingest.pipeline.rank_stats import SampleRecords


class MoreLoader(Loader[Any]):
    """Two loaders, each for its rows: in each group, those in the file come first."""

    def __init__(
        self,
        stored: StoredLoader,
        files: Loader[Any],
        rows_of: Callable[[Samples], Iterator[int]],
        n_held: Callable[[int], int],
    ) -> None:
        """Prepare.

        Args:
            stored: loads rows of the file.
            files: loads image files.
            rows_of: returns the rows in the file of samples that are in it.
            n_held: returns how many rows of a group are in the file.
        """
        self._stored, self._files = stored, files
        self._rows_of, self._n_held = rows_of, n_held

    @property
    def wait_s(self) -> float:
        return self._files.wait_s

    def _border(self, samples: Samples) -> int:
        """Return how many of the samples are in the file."""
        return min(max(0, self._n_held(samples.group) - samples.rows.start), len(samples.rows))

    def read(self, samples: Samples) -> Iterator[Any]:
        border = samples.rows.start + self._border(samples)
        held = samples.slice(range(samples.rows.start, border))
        more = samples.slice(range(border, samples.rows.stop))
        return chain(self._rows_of(held), self._files.read(more))

    def load_all(
        self,
        samples: Samples,
        first: int,
        given: Iterator[Any],
        images: Images,
        records: SampleRecords,
    ) -> None:
        border = min(max(0, self._border(samples) - first), len(images))
        if border:
            self._stored.load_all(samples, first, given, images[:border], records)
        if border < len(images):
            self._files.load_all(samples, first + border, given, images[border:], records)

    def load(
        self,
        samples: Samples,
        k: int,
        given: Any,
        image: NDArray[Any],
        records: SampleRecords,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        loader: Loader[Any] = self._stored if k < self._border(samples) else self._files
        return loader.load(samples, k, given, image, records, counts=counts)
