"""How `bench read` reads: single rows, batches, in order; in this process or by a DataLoader.

May not: measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from h5ingest.bench.backends import Reader
from h5ingest.bench.corpus import Corpus
from h5ingest.bench.report import Described

BATCH: Final = 64
KINDS: Final = {
    "one": "random, one by one", "batch": f"random batches of {BATCH}",
    "epoch": f"in order, batches of {BATCH}",
}  # fmt: skip
"""Kind of access -> in words."""
_N_ROWS: Final = 2**16
"""Random rows that are asked for before they repeat."""
_CHECKED: Final = 8
"""Random batches that are compared, in addition to all images in order."""


@dataclass(frozen=True, slots=True)
class Order:
    """The rows that are asked for, the same from every reader."""

    n: int
    """Images."""
    rows: list[int]
    """Random, to be read one by one."""
    batches: list[NDArray[np.intp]]
    """(BATCH,) random rows each."""
    in_order: list[range]
    """Runs of consecutive rows, BATCH each but the last: all images."""

    @classmethod
    def of(cls, n: int) -> Order:
        """Return the order for n images; the same every time."""
        random = np.random.default_rng(n)
        return cls(
            n,
            random.integers(0, n, _N_ROWS).tolist(),
            list(random.integers(0, n, (_N_ROWS // BATCH, BATCH))),
            [range(start, min(start + BATCH, n)) for start in range(0, n, BATCH)],
        )


class MeasuredReader(Described, Protocol):
    """One way to read the images, which can be run and checked."""

    kinds: tuple[str, ...]
    """Those of `KINDS` that are possible."""

    def work(self, kind: str, n_units: int) -> Iterator[Callable[[], int]]:
        """Yield what reads so many images or batches, to be called at once, and timed.

        Each returns how many images it has read. Files are opened before, and closed after. In
        order, each is one pass through all images by a reader that has read nothing yet.
        """

    def check(self, corpus: Corpus) -> int:
        """Read everything, compare every pixel, and return how many images that were.

        Raises:
            AssertionError: they are not those of the corpus.
        """

    def close(self) -> None:
        """Close files and end processes."""


class InProcessReader:
    """A `Reader` in this process."""

    labelled = True
    """Whether it returns labels too."""

    def __init__(
        self, key: str, name: str, how: str, open_: Callable[[], Reader], order: Order
    ) -> None:
        """Remember how to open it: when it is first needed, and anew for each pass in order."""
        self.key, self.name, self.how = key, name, how
        self.kinds = tuple(KINDS)
        self._open, self._order = open_, order
        self._opened: Reader | None = None

    @property
    def _reader(self) -> Reader:
        """The reader, which is opened now if it is not open."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def work(self, kind: str, n_units: int) -> Iterator[Callable[[], int]]:
        order = self._order
        if kind == "one":
            yield partial(_each, self._reader, order.rows, n_units)
        elif kind == "batch":
            yield partial(_batches, self._reader, order.batches, n_units)
        else:
            for part in _epochs(order.in_order, n_units):
                self.close()  # a process may open an LMDB file only once
                yield partial(_epoch, self._reader, part)
            self.close()

    def check(self, corpus: Corpus) -> int:
        order, reader = self._order, self._reader
        if not self.labelled:
            corpus = replace(corpus, labels=None)
        n_checked = len(corpus)
        for row in range(len(corpus)):
            corpus.check_one(row, *reader.one(row), self.name)
        for rows in order.batches[:_CHECKED]:
            n_checked += corpus.check(rows.tolist(), *reader.many(rows), self.name)
        for run in order.in_order:
            n_checked += corpus.check(run, *reader.span(run.start, run.stop), self.name)
        return n_checked

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


class DataLoaderReader:
    """A PyTorch DataLoader with two processes."""

    kinds: tuple[str, ...] = ("batch", "epoch")

    def __init__(
        self, key: str, name: str, how: str, order: Order, dataset: Any, *, whole_batches: bool
    ) -> None:
        """Create the DataLoader; its processes start at the first batch.

        Args:
            key: one word.
            name: for tables.
            how: one sentence.
            order: what is asked for.
            dataset: map-style.
            whole_batches: whether the dataset returns a batch for a list of rows; else the
                DataLoader collates samples, or leaves them in a list where image sizes differ.
        """
        from torch.utils.data import DataLoader

        self.key, self.name, self.how = key, name, how
        self._order = order
        self._batches: list[list[int]] = []
        if whole_batches:
            how_batched: dict[str, Any] = {"sampler": self._batches, "batch_size": None}
        else:
            how_batched = {"batch_sampler": self._batches, "collate_fn": dataset.collate}
        self._loader: Any = DataLoader(
            dataset, num_workers=2, persistent_workers=True, **how_batched
        )

    def work(self, kind: str, n_units: int) -> Iterator[Callable[[], int]]:
        order = self._order
        if kind == "batch":
            batches = itertools.islice(itertools.cycle(order.batches), n_units)
            self._batches[:] = [rows.tolist() for rows in batches]
        else:
            parts = _epochs(order.in_order, n_units)
            self._batches[:] = [list(rows) for part in parts for rows in part]
        yield lambda: sum(len(labels) for _, labels in self._loader)

    def check(self, corpus: Corpus) -> int:
        order = self._order
        random = [rows.tolist() for rows in order.batches[:_CHECKED]]
        wanted = [*random, *map(list, order.in_order)]
        self._batches[:] = wanted
        n_checked = 0
        for rows, (images, labels) in zip(wanted, self._loader, strict=True):
            arrays = [_as_stored(image) for image in images]
            n_checked += corpus.check(rows, arrays, labels, self.name)
        return n_checked

    def close(self) -> None:
        self._loader = None  # ends its processes


class FileDataset:
    """A typical hand-written dataset of image files: PyTorch takes any class with these methods."""

    def __init__(self, reader: Any, n: int, *, uniform: bool) -> None:
        """Read n images."""
        self._reader, self._n = reader, n
        self.collate = None if uniform else as_lists

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: int) -> Any:
        from h5ingest.torch import to_tensor

        image, label = self._reader.one(row)
        return to_tensor(image), label


def as_lists(samples: list[Any]) -> Any:
    """Collate images of several sizes: a list of images, a list of labels."""
    return [image for image, _ in samples], [label for _, label in samples]


def _each(reader: Reader, rows: list[int], n: int) -> int:
    one = reader.one
    for row in itertools.islice(itertools.cycle(rows), n):
        one(row)
    return n


def _batches(reader: Reader, batches: list[NDArray[np.intp]], n: int) -> int:
    many = reader.many
    for rows in itertools.islice(itertools.cycle(batches), n):
        many(rows)
    return n * BATCH


def _epoch(reader: Reader, runs: Sequence[range]) -> int:
    span = reader.span
    for rows in runs:
        span(rows.start, rows.stop)
    return runs[-1].stop


def _epochs(runs: list[range], n_units: int) -> Iterator[list[range]]:
    """Yield `n_units` runs: all of them, repeatedly, and in the end the first few."""
    for start in range(0, n_units, len(runs)):
        yield runs[: n_units - start]


def _as_stored(image: Any) -> NDArray[Any]:
    """Return (H, W) or (H, W, C) of a tensor (C, H, W)."""
    array: NDArray[Any] = np.moveaxis(image.numpy(), 0, -1)
    return array[..., 0] if array.shape[2] == 1 else array
