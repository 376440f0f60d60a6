"""`GroupStatistics`: mean, deviation, classes and copies of the images that a store is of.

May not: write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.attribute_values import MOST_JSON, SHOWN
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.lists import Lists
from h5ingest.core.moments import ByKind, Moments, PixelSums, joined
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.statistics import Statistics, from_plain, weights
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.dataset_rule import refuse
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.images import Images
from h5ingest.reading.open_file import find
from h5ingest.reading.selection import Labels

_AT_ONCE: Final = 256
"""Images that are read at once, where their pixels have to be summed up."""


def statistics_text(file: h5py.File, prefix: str) -> str | None:
    """Return the attribute `statistics` of a group; None: there is none.

    Raises:
        OutputError: it is no text.
    """
    holder = find(file, prefix) if prefix else file
    text = None if holder is None else Attributes(holder).get(schema.STATISTICS)
    if text is not None and not isinstance(text, str):
        refuse(file, f"{prefix or '/'}@{schema.STATISTICS}", "text", f"{text}"[:SHOWN])
    return text


def parsed(text: str, where: str) -> Statistics:
    """Return what the attribute says.

    Raises:
        OutputError: not what it should be.
    """
    try:
        if len(text) > MOST_JSON:
            raise ValueError(f"{len(text):,} letters")
        return from_plain(json.loads(text))
    except (ValueError, RecursionError, OverflowError) as error:
        raise OutputError(
            f"{where}@{schema.STATISTICS}: expected statistics, found {str(error)[:SHOWN]!r}"
        ) from None


def told(handle: ForkSafeFile, prefix: str) -> Statistics | None:
    """Return what a file says of a group; None: nothing.

    Raises:
        OutputError: the attribute is not what it should be.
    """
    with handle as file:
        text = statistics_text(file, prefix)
    return None if text is None else parsed(text, handle.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What statistics of a group of one file are made of."""

    path: str
    """Of the file, for messages."""
    tell: Callable[[], Statistics | None]
    """Returns what the file says; None: nothing."""
    images: Images
    status: NDArray[np.uint8]
    """(n_rows,)"""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GroupStatistics:
    """Statistics over the good images, whatever a store makes of failed ones.

    Means and deviations are those of the pixels as they are stored, with what a smaller image was
    padded with, in their own units: of uint8 0 to 255. Divide by 255 where images are scaled.
    A file that was made before they were, or holds image files as they are (`encoded`), is read
    once, when the first of them is asked for: that takes as long as reading all its images.
    """

    parts: Sequence[Part]
    """One for each file."""
    labels: Labels | None
    """(n,) of all files."""
    label_names: Sequence[str] | None
    """Names of labels, where they have names."""

    @cached_property
    def _told(self) -> list[Statistics | None]:
        return [part.tell() for part in self.parts]

    @cached_property
    def kinds(self) -> ByKind:
        """(channels, dtype) -> exact sums of the images of this kind.

        Raises:
            OutputError: the file has to be read for it, and is damaged.
        """
        return joined(
            _summed(part) if told is None or told.pixels is None else told.pixels
            for part, told in zip(self.parts, self._told, strict=True)
        )

    @property
    def _moments(self) -> Moments:
        if len(self.kinds) == 1:
            return next(iter(self.kinds.values()))
        kinds = ", ".join(f"{kind.channels} of {kind.dtype}" for kind in sorted(self.kinds))
        raise UsageError(
            f"{self.parts[0].path}: expected images of one number of channels and one type for "
            f"mean and std, found {kinds or 'no good image'}: `kinds` has the sums of each"
        )

    @property
    def n_images(self) -> int:
        """Good images."""
        return sum(int((part.status == STATUS_OK).sum()) for part in self.parts)

    @property
    def mean(self) -> NDArray[np.float64]:
        """(C,) mean of each channel.

        Raises:
            UsageError: images have different numbers of channels, or types; or there are none.
        """
        return np.array(self._moments.mean)

    @property
    def std(self) -> NDArray[np.float64]:
        """(C,) standard deviation of each channel over all pixels; see `mean`."""
        return np.array(self._moments.std)

    @cached_property
    def classes(self) -> NDArray[np.int64] | None:
        """(k,) the labels that there are: all that have names, or else occur; None: none have."""
        if self.labels is None:
            return None
        names = self.label_names
        return np.unique(self._good()) if names is None else np.arange(len(names))

    @cached_property
    def class_counts(self) -> NDArray[np.int64] | None:
        """(k,) good images of each of `classes`."""
        if self.labels is None or self.classes is None:
            return None
        places = np.searchsorted(self.classes, self._good())
        return np.bincount(places, minlength=len(self.classes)).astype(np.int64)

    @property
    def class_weights(self) -> NDArray[np.float64] | None:
        """(k,) what to multiply the loss of each of `classes` with, so that all count alike."""
        return None if self.class_counts is None else weights(self.class_counts)

    @property
    def n_copies(self) -> int | None:
        """Images with the pixels of an earlier one of their group; None: not known.

        So it is of files made before they were counted, and of several files.
        """
        told = self._told[0] if len(self.parts) == 1 else None
        return None if told is None else told.n_copies

    @property
    def n_elsewhere(self) -> int | None:
        """Images that another group of the file has, too; None: as `n_copies`."""
        told = self._told[0] if len(self.parts) == 1 else None
        return None if told is None else told.n_elsewhere

    def in_words(self) -> Iterator[str]:
        """Yield lines that say what the file says; nothing is read for them."""
        if any(told is None for told in self._told):
            return
        if all(told and told.pixels is not None for told in self._told) and len(self.kinds) == 1:
            mean, std = (" ".join(f"{x:.2f}" for x in each) for each in (self.mean, self.std))
            yield f"mean {mean}, standard deviation {std}"
        if self.n_copies:
            yield f"{self.n_copies:,} exact copies of others (--duplicates lists them)"
        if self.n_elsewhere:
            yield f"{self.n_elsewhere:,} are in other groups, too (--duplicates lists them)"

    def _good(self) -> NDArray[np.int64]:
        assert self.labels is not None, "asked for only where there are some"
        status = np.concatenate([part.status for part in self.parts])
        good = self.labels[status == STATUS_OK]
        found: NDArray[np.int64] = good.each_once() if isinstance(good, Lists) else good
        return found


def _summed(part: Part) -> ByKind:
    """Read all good images once."""
    good = np.flatnonzero(part.status == STATUS_OK)
    sums = PixelSums()
    for start in range(0, len(good), _AT_ONCE):
        for image in part.images.many(good[start : start + _AT_ONCE]):
            height, width, channels = (*image.shape, 1)[:3]
            sums.add(image, channels, 1, height * width)
    return sums.take() or {}
