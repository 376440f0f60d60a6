"""`Way`: how the images of one column of the manifest are read, and what fits them.

May not: read files, know a communicator.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from h5ingest.core.image_columns import options_of_images
from h5ingest.core.layout import ImageSpec
from h5ingest.core.options import IngestOptions
from h5ingest.images.conversion import Fit
from h5ingest.images.decode import Prober, decode_into


class Way:
    """How images are read, as options say."""

    def __init__(self, options: IngestOptions) -> None:
        """Take the options of these images."""
        self.options = options
        self.raw = options.samples == "raw"
        self._upright = options.orientation == "exif"
        self.probe = Prober(
            options.max_pixels,
            raw=self.raw,
            any_palette=options.any_palette,
            upright=self._upright,
        )
        self.fit = Fit(
            how=options.fit,
            pad_value=options.pad_value,
            resample=options.resample or ("nearest" if self.raw else "bicubic"),
            raw=self.raw,
            scale=options.scale,
        )

    def decode_into(self, data: bytes, out: NDArray[Any], spec: ImageSpec) -> tuple[str, ...]:
        """See `images.decode.decode_into`; `spec` is what `probe` returned for these bytes."""
        return decode_into(data, out, raw=self.raw, spec=spec, upright=self._upright)


def ways_of(options: IngestOptions) -> list[Way]:
    """Return how each of the images of a row is read, in their order."""
    return [Way(each) for each in options_of_images(options)]
