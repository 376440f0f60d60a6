"""`MANIFEST.index`: what `h5ingest manifest --index` saw of each image, so that an ingest need not.

A line of JSON, then a record for each line of the manifest, in order. It is of use as long as the
manifest is the one that it was written with; each image is compared with it when it is stored.

May not: know ranks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import numbers_of
from h5ingest.core.errors import SampleError
from h5ingest.images.decode import Prober
from h5ingest.images.prefetch import Reader

FORMAT: Final = "h5ingest index 1"
SEEN: Final = np.dtype(
    [("height", "<u4"), ("width", "<u4"), ("channels", "u1"), ("bytes", "u1"), ("size", "<u8")]
)
"""Height, width, channels and bytes of a value of an image, zeros if its header cannot be read; the
size of its file."""
_MOST_HEAD: Final = 1000


def index_of(manifest: Path) -> Path:
    """Return the name of a manifest's index."""
    return manifest.with_name(f"{manifest.name}.index")


class Recorder:
    """Makes the records of an index."""

    def __init__(self, read: Reader) -> None:
        """Begin; `read` reads all of a file, and tells its size."""
        self._read = read
        self._probe = Prober()

    def record(self, file: Any, head: bytes, size: int) -> bytes:
        """Return what one image is, as a record.

        Args:
            file: what of it is read.
            head: the first bytes of it, all if there are few.
            size: of the file, in bytes.
        """
        record = np.zeros((), SEEN)
        try:
            spec = self._probe(head, whole=len(head) == size)
            if spec is None:
                data, size = self._read(file)
                spec = self._probe(data)
            if spec is not None:
                record[()] = (*numbers_of(spec), size)
        except SampleError:
            pass  # an ingest says why
        return record.tobytes()


def heading(manifest_sha256: str, n_images: int) -> bytes:
    """Return the first line of an index."""
    about = {"format": FORMAT, "manifest_sha256": manifest_sha256, "images": n_images}
    return json.dumps(about).encode() + b"\n"


def load(manifest: Path, sha256: str, n_rows: int, rows: range) -> NDArray[np.void] | None:
    """Return what the index of a manifest says of some of its images, (n,) SEEN.

    Returns:
        None: there is no index, it is that of another manifest, or it is damaged.
    """
    try:
        with index_of(manifest).open("rb") as file:
            about: Any = json.loads(file.readline(_MOST_HEAD))
            if about != {"format": FORMAT, "manifest_sha256": sha256, "images": n_rows}:
                return None
            file.seek(rows.start * SEEN.itemsize, os.SEEK_CUR)
            found = np.frombuffer(file.read(len(rows) * SEEN.itemsize), SEEN)
    except (OSError, ValueError):
        return None
    return found if len(found) == len(rows) else None
