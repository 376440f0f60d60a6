"""Which compression would help a file that is larger than its image files, and by how much."""

from __future__ import annotations

from typing import Final

import numpy as np

from h5ingest.core.errors import IngestError
from h5ingest.core.layout import CODED_CHANNELS
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB, size
from h5ingest.pipeline.report import IngestReport
from h5ingest.reading.store import ImageStore
from h5ingest.storage.auto_codec import Part, Sample, choose

_LEAST_BYTES: Final = MIB
"""Of a file about which something is said."""
_SAMPLE_BYTES: Final = MIB // 2
_LEAST_IMAGES: Final = 4
_MOST_IMAGES: Final = 400
_MOST_BESIDE: Final = 200
"""Bytes of a sample besides its pixels: path, label, checksum; what is more is filled-up chunks."""
_LEAST_GAIN: Final = 0.05
"""Of the file, from which a compression is worth its name."""


def compression_hint(report: IngestReport, options: IngestOptions) -> str:
    """Return a sentence; empty: the file is not larger, or nothing makes it much smaller.

    A sample of its images is compressed, in a tenth of a second.
    """
    filtered = options.shuffle or options.compression not in (None, "none")
    if (
        filtered
        or report.dry_run
        or report.recompressed
        or report.added is not None  # the options are those of the file
        or report.n_each > 1
        or options.layout != "stack"
        or report.bytes_out < max(_LEAST_BYTES, report.bytes_in)
    ):
        return ""
    try:
        samples = _samples(report, options)
        chosen = choose(samples, all_coded=all(each.all_coded for each in samples.values()))
    except (IngestError, OSError):  # the file is complete, and a hint is no reason to say otherwise
        return ""
    ratio = chosen.bytes_stored[chosen.codec] / chosen.bytes_stored["none"]
    beside = min(report.bytes_out - report.bytes_images, _MOST_BESIDE * report.n_samples)
    n_bytes = ratio * report.bytes_images + max(0, beside)
    if chosen.codec == "none" or n_bytes > (1 - _LEAST_GAIN) * report.bytes_out:
        return ""
    return (
        f"larger than the image files: --compression {chosen.codec} would make it about "
        f"{size(n_bytes)}"
    )


def _samples(report: IngestReport, options: IngestOptions) -> dict[str, Sample]:
    """Return runs of neighbours in the middle of each of the first groups."""
    with ImageStore(report.out, verify="never") as store:
        groups = store.groups[:8]
    samples = {}
    for group in groups or [None]:
        with ImageStore(report.out, group=group, verify="never") as store:
            one, _ = store[0]
            n = _SAMPLE_BYTES // max(1, len(groups)) // one.nbytes
            n = min(len(store), max(_LEAST_IMAGES, min(_MOST_IMAGES, n)))
            first = (len(store) - n) // 2
            images, _ = store[first : first + n]
            part = Part(np.asarray(images), options.chunk_rows)
            channels = part.values.shape[3] if part.values.ndim == 4 else 1
            samples[group or ""] = Sample([part], n, 0, channels in CODED_CHANNELS)
    return samples
