"""The histograms of `show --page`: as heights of bars, for the template to draw.

May not: read pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.schema import STATUS_OK
from h5ingest.inspect.samples import Sample
from h5ingest.reading.store import ImageStore

_BINS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A histogram."""

    title: str
    low: str
    high: str
    """What is at its ends."""
    heights: tuple[float, ...]
    """Of its bars, 0 to 100."""


def _chart(title: str, counts: NDArray[Any], low: int, high: int) -> Chart:
    heights = 100 * counts / max(1, counts.max())
    return Chart(title=title, low=f"{low:,}", high=f"{high:,}", heights=tuple(heights.tolist()))


def of_sizes(store: ImageStore) -> list[Chart]:
    """Return histograms of the heights and widths of all good images, where they differ."""
    if store.sizes is None:
        return []
    charts = []
    for axis, title in enumerate(("Heights", "Widths")):
        lengths = store.sizes[store.status == STATUS_OK, axis]
        if len(lengths):
            low, high = int(lengths.min()), int(lengths.max())
            counts, _ = np.histogram(lengths, min(_BINS, high - low + 1), (low, high + 1))
            charts.append(_chart(f"{title} in pixels", counts, low, high))
    return charts


def of_values(sample: Sample) -> list[Chart]:
    """Return a histogram of the values of each channel."""
    return [
        _chart(f"Values of channel {channel}, {dtype}", counts, 0, np.iinfo(np.dtype(dtype)).max)
        for dtype, channels in sample.values.items()
        for channel, counts in enumerate(channels)
        if counts.any()
    ]
