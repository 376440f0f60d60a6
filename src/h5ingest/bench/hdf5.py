"""HDF5 backends: as notebooks write it by hand, and as h5ingest does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.bench.backends import Backend, Reader, Sample, Samples
from h5ingest.bench.corpus import Corpus
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.reading.store import ImageStore


class DatasetPerImage(Backend):
    """The loop of many notebooks."""

    key, name = "hdf5-loop", "HDF5 by hand, a dataset per image"
    how = "imageio and create_dataset for each image, in a loop; labels in one dataset"

    def store(self, corpus: Corpus, place: Path) -> None:
        with h5py.File(place, "w") as file:
            for row, image in enumerate(corpus.images()):
                file.create_dataset(f"images/{row}", data=image)
            file.create_dataset("labels", data=corpus.label_array())

    def open(self, place: Path) -> Reader:
        return _DatasetsReader(place)


class _DatasetsReader(Reader):
    def __init__(self, place: Path) -> None:
        self._file = h5py.File(place, "r")
        self._images, self._labels = self._file["images"], self._file["labels"][()]

    def one(self, row: int) -> Sample:
        return self._images[str(row)][()], int(self._labels[row])

    def close(self) -> None:
        self._file.close()


class Stacked(Backend):
    """All images in memory, then written as one dataset."""

    key, name = "hdf5-stack", "HDF5 by hand, one dataset"
    how = "imageio for each image, all of them in memory, then one contiguous dataset"

    def store(self, corpus: Corpus, place: Path) -> None:
        images = np.stack(list(corpus.images()))
        with h5py.File(place, "w") as file:
            file.create_dataset("images", data=images)
            file.create_dataset("labels", data=corpus.label_array())

    def open(self, place: Path) -> Reader:
        return StackReader(place)


class StackReader(Reader):
    """A dataset of images, by h5py's own indexing."""

    def __init__(self, place: Path, prefix: str = "") -> None:
        """Open the file; its datasets are `images` and, if there are any, `labels`."""
        self._file = h5py.File(place, "r")
        self._images = self._file[f"{prefix}images"]
        labels = self._file.get(f"{prefix}labels")
        # In memory, as a training script would have them.
        self._labels = np.full(len(self._images), -1) if labels is None else labels[()]

    def one(self, row: int) -> Sample:
        return self._images[row], int(self._labels[row])

    def many(self, rows: NDArray[np.intp]) -> Samples:
        # h5py takes only ascending rows without repetition.
        distinct, back = np.unique(rows, return_inverse=True)
        return self._images[distinct][back], self._labels[rows]

    def span(self, start: int, stop: int) -> Samples:
        return self._images[start:stop], self._labels[start:stop]

    def close(self) -> None:
        self._file.close()


class Ingested(Backend):
    """A file of h5ingest, read by `ImageStore`."""

    def __init__(self, compression: str | None, *, uniform: bool) -> None:
        """Choose the codec, and the layout `ragged` unless all images have one size and type."""
        codec = compression or "uncompressed"
        self.key = f"h5ingest-{'raw' if compression is None else codec.partition(':')[0]}"
        self.name = f"h5ingest, {codec}"
        self._options: dict[str, Any] = {
            "compression": compression, "layout": "stack" if uniform else "ragged",
        }  # fmt: skip
        option = f" --compression {compression}" if compression else ""
        layout = "" if uniform else " --layout ragged"
        self.how = f"h5ingest MANIFEST OUT{option}{layout} in one process, read by ImageStore"

    def store(self, corpus: Corpus, place: Path) -> None:
        manifest = place.with_suffix(".csv")
        corpus.write_manifest(manifest)
        try:
            ingest(manifest, place, IngestOptions(**self._options))
        finally:
            manifest.unlink()

    def open(self, place: Path) -> Reader:
        return StoreReader(place)


class StoreReader(Reader):
    """`ImageStore` as a `Reader`."""

    def __init__(self, place: Path, **how: Any) -> None:
        """Open the file; for `how` see `ImageStore`."""
        self.store = ImageStore(place, **how)
        self.one: Any = self.store.__getitem__
        self.many: Any = self.store.__getitem__

    def span(self, start: int, stop: int) -> Samples:
        return self.store[start:stop]

    def close(self) -> None:
        self.store.close()
