"""`Loader`: what fills the arrays of a batch with samples, wherever these come from.

A sample that cannot be loaded becomes zeros, a status and a `Failure`; the loop goes on. May not:
know a writer.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import Samples
from h5ingest.core.schema import STATUS_FAILED
from h5ingest.pipeline.rank_stats import RankStats, SampleRecords

Images = NDArray[Any] | Sequence[NDArray[Any]]
"""One for each sample to load: (n, H, W) or (n, H, W, C), or n of any size."""
Given = TypeVar("Given")


def few_at_a_time(
    images: Images, most_bytes: int, most_images: int = sys.maxsize
) -> Iterator[Images]:
    """Yield the images that are loaded at once, in order.

    Args:
        images: all of them.
        most_bytes: pixels at once, at most, unless one image has more.
        most_images: images at once, at most.
    """
    if isinstance(images, np.ndarray):
        step = max(1, min(most_images, most_bytes // max(1, images[:1].nbytes)))
        yield from (images[start : start + step] for start in range(0, len(images), step))
        return
    start = n_bytes = 0
    for stop, image in enumerate(images):
        n_bytes += image.nbytes
        if stop > start and (n_bytes > most_bytes or stop - start == most_images):
            yield images[start:stop]
            start, n_bytes = stop, image.nbytes
    if images:
        yield images[start:]


class Loader(ABC, Generic[Given]):
    """Fills arrays with samples, for all shards of one rank.

    What is `Given` of a sample to load it from is the loader's own affair.
    """

    def __init__(self, stats: RankStats, beat: Callable[[], None]) -> None:
        """Prepare.

        Args:
            stats: counts what is loaded.
            beat: called after every sample, or every few; to look at the clock.
        """
        self._stats = stats
        self._beat = beat

    @property
    def wait_s(self) -> float:
        """Seconds in which samples have been waited for."""
        return 0.0

    @abstractmethod
    def read(self, samples: Samples) -> Iterator[Given]:
        """Yield what each sample of a shard is to be loaded from, in order."""

    @abstractmethod
    def load_all(
        self,
        samples: Samples,
        first: int,
        given: Iterator[Given],
        images: Images,
        records: SampleRecords,
    ) -> None:
        """Fill images with samples that this rank counts, and record them.

        Args:
            samples: of the shard.
            first: position among them of the first to load.
            given: as `read` yields it, from the first on.
            images: one for each sample to load.
            records: of the shard.
        """

    @abstractmethod
    def load(
        self,
        samples: Samples,
        k: int,
        given: Given,
        image: NDArray[Any],
        records: SampleRecords,
        *,
        counts: bool = True,
    ) -> tuple[int, int] | None:
        """Fill `image` with a sample, or with zeros, and record it.

        Args:
            samples: of the shard.
            k: position among them.
            given: as `read` yields it.
            image: (H, W) or (H, W, C), or (n,) for a file as it is.
            records: of the shard.
            counts: whether this rank counts and reports the sample; else another does.

        Returns:
            The size within a padded image; None if there is no image.
        """

    def _sum_up(self, images: Images, first: int, records: SampleRecords) -> None:
        """Add images that have just been loaded to the sums."""
        status = records.status[first : first + len(images)]
        self._stats.sums.add_images(images, status)

    def _fail(
        self,
        samples: Samples,
        k: int,
        error: SampleError,
        image: NDArray[Any],
        records: SampleRecords,
        *,
        counts: bool,
    ) -> None:
        """Put zeros in place of a sample that cannot be loaded, and say so."""
        image[...] = 0
        records.status[k] = STATUS_FAILED
        records.again[k] = True
        if counts:
            self._stats.failures.append(error.at(samples.sample(k), samples.paths[k]))
