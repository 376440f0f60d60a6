"""The smallest layout there is, for tests that go below `ingest`."""

from __future__ import annotations

from h5ingest.core.group_datasets import stack_group
from h5ingest.core.layout import ImageSpec, Layout
from h5ingest.storage.filters import filter_pipeline


def stack(
    n_rows: int, *, chunk_rows: int = 1, side: int = 4, compression: str = "gzip:1"
) -> Layout:
    """Square gray images of a byte a pixel; if filtered, with checksums of chunks beside those."""
    image = ImageSpec(height=side, width=side, channels=1, dtype="uint8")
    filters = filter_pipeline(compression, shuffle=False)
    group = stack_group("", "", n_rows, image, chunk_rows=chunk_rows, filters=filters)
    return Layout(kind="stack", groups=(group,), grouped=False)
