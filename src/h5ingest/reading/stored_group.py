"""`StoredGroup`: all that one group of a finished file holds, to be stored once more.

May not: write, import mpi4py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import column_types, schema
from h5ingest.core.errors import OutputError
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.lists import Lists
from h5ingest.core.schema import StandardDataset
from h5ingest.core.units import MIB
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.checks import StoredChunk, chunking_of
from h5ingest.reading.contents import Opener
from h5ingest.reading.dataset_rule import as_text, naming, refuse
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.group_statistics import statistics_text
from h5ingest.reading.images import Batch, Encoded, Ragged, Stack
from h5ingest.reading.open_file import column_names, find, open_column, open_image
from h5ingest.reading.scales import is_scale
from h5ingest.reading.selection import Labels
from h5ingest.reading.stored_lists import read_lists
from h5ingest.reading.text import Strings
from h5ingest.reading.tree_images import Tree

_CACHE_BYTES: Final = 4 * MIB
"""Decoded chunks that are kept, at least one: rows are read in their order."""

T = TypeVar("T")


class StoredGroup(Opener):
    """A group of samples; `images`, `names` and `paths` enter the handle of the file by themselves.

    Whatever else has to be called is to be called within the handle's block.
    """

    def __init__(self, handle: ForkSafeFile, file: h5py.File, prefix: str, layout: str) -> None:
        """Look at what every rank needs.

        Args:
            handle: of the file.
            file: what entering the handle gave.
            prefix: HDF5 path of the group: empty, or `/train`.
            layout: of the file.

        Raises:
            OutputError: datasets are missing or do not fit together, or a row was never stored.
            SetupError: a filter is not available here.
        """
        super().__init__(handle, file, prefix, _CACHE_BYTES, 1, "auto")
        self.path: Final = handle.path
        """Absolute, of the file."""
        self.prefix: Final = prefix
        """HDF5 path of the group: empty, or `/train`."""
        self.layout: Final = layout
        """Of the file."""
        status = self._needed(schema.STATUS, self.array(schema.STATUS))
        self.n_rows: Final = len(status)
        """Samples."""
        self._n_rows = self.n_rows  # what else has rows must have as many
        wrong = np.flatnonzero((status != schema.STATUS_OK) & (status != schema.STATUS_FAILED))
        if len(wrong):
            name, row = schema.STATUS.at(prefix), int(wrong[0])
            refuse(file, name, "1 or 2 in every row", f"{status[row]} in row {row:,}")
        self.status: Final[NDArray[np.uint8]] = status
        """(n_rows,) 1 or 2."""
        self.checksums: Final = self._needed(schema.CHECKSUMS, self.array(schema.CHECKSUMS))
        """(n_rows,) uint64 of the images."""
        images, row_shape, dtype, _ = getattr(self, f"_{layout}")(self.n_rows)
        self.images: Final = images
        """In compressed chunks they are compared with those checksums before they are decoded."""
        self.row_shape: Final[tuple[int, ...] | None] = row_shape
        """(H, W) or (H, W, C), in a stack."""
        self.dtype: Final[np.dtype[Any] | None] = dtype
        """Of the pixels, where all images have the same."""
        self.sizes: Final = self._standard(schema.SIZES)
        """(n_rows, 2) height and width without padding, in a stack with padding."""
        self.offsets: Final = self._standard(schema.OFFSETS)
        """(n_rows + 1,) where each image begins, in elements, where they are in one dataset."""
        self.shapes: Final = self._standard(schema.SHAPES)
        """(n_rows, 3) height, width and channels, likewise."""
        self._paths = self._texts(schema.PATHS)
        known = schema.known_datasets(layout)
        self._names = self._texts(schema.TREE_NAMES) if schema.TREE_NAMES in known else None

    def name(self) -> str:
        """Return the group's name as the manifest had it; empty where samples are not grouped."""
        if not self.prefix:
            return ""
        group = self._file[self.prefix]
        name = Attributes(group).get(schema.GROUP_NAME)
        if not isinstance(name, str):
            refuse(self._file, self.prefix, "an attribute `name`, a text", f"{name}")
        return name

    def kinds(self, rows: range, names: list[bytes]) -> NDArray[np.int32]:
        """Return (n, 4) height, width, channels, bytes of a value; (0, 4) of a stack.

        Args:
            rows: whose.
            names: theirs.

        Raises:
            OutputError: an image is not there, or has not as many elements as its shape.
        """
        kinds = np.zeros((0 if self.row_shape else len(rows), 4), np.int32)
        if self.shapes is not None and self.offsets is not None:
            kinds[:, :3] = self.shapes[rows.start : rows.stop]
            kinds[:, 3] = 1 if self.dtype is None else self.dtype.itemsize
            wanted = kinds[:, :3].prod(axis=1, dtype=np.int64)
            found = np.diff(self.offsets[rows.start : rows.stop + 1])
            wrong = np.flatnonzero((wanted != found) & (not KINDS[self.layout].keeps_files))
            if len(wrong):
                k = int(wrong[0])
                name = f"{schema.SHAPES.at(self.prefix)}, row {rows[k]:,}"
                refuse(self._file, name, f"a shape of {found[k]:,} elements", f"{kinds[k, :3]}")
        elif not self.row_shape:
            known: set[bytes] = set()
            for k, path in enumerate(names):
                image = open_image(self._file, path, known)
                channels = image.shape[2] if image.ndim == 3 else min(1, image.size)
                kinds[k] = *image.shape[:2], channels, image.dtype.itemsize
        return kinds

    def file_sizes(self, rows: range) -> NDArray[np.int64]:
        """Return (n,) bytes of the stored image files; (0,) where there are only pixels."""
        if self.offsets is None or not KINDS[self.layout].keeps_files:
            return np.zeros(0, np.int64)
        sizes: NDArray[np.int64] = np.diff(self.offsets[rows.start : rows.stop + 1])
        return sizes

    def one(self, row: int) -> NDArray[Any]:
        """Return what is stored of an image: its pixels, (H, W) or (H, W, C), or its file, (n,)."""
        is_file = isinstance(self.images, Encoded)
        found: NDArray[Any] = self.images.values(row) if is_file else self.images.one(row)
        return found

    def pixels(self, row: int, stored: NDArray[Any]) -> NDArray[Any]:
        """Return an image as it was before it was stored: decoded, without padding.

        Args:
            row: whose.
            stored: as `one` returns it.

        Raises:
            OutputError: it cannot be decoded, or is smaller than its size in `sizes`.
        """
        if isinstance(self.images, Encoded):
            return self.images.decoded(row, stored.tobytes())
        if self.sizes is None:
            return stored
        height, width = self.sizes[row].tolist()
        if not (0 < height <= stored.shape[0] and 0 < width <= stored.shape[1]):
            raise OutputError(f"{self.path}: a size of {height}x{width} in {stored.shape}")
        return stored[:height, :width]

    def keep_indices(self) -> None:
        """Let `pixels` decode palette indices and low-bit gray as they are from now on."""
        if isinstance(self.images, Encoded):
            self.images.keep_indices()

    def many(self, rows: slice) -> Batch:
        """Return what is stored of neighbouring images."""
        if not isinstance(self.images, Encoded):
            found: Batch = self.images.many(rows)
            return found
        return [self.images.values(row) for row in range(rows.start, rows.stop)]

    def stored(self, chunk: int) -> StoredChunk | None:
        """Return a chunk, of a tree an image, as it is in the file.

        None where there is none, or nothing says that it is what was stored.
        """
        assert isinstance(self.images, (Stack, Ragged, Tree)), "all that there are"
        return self.images.stored(chunk)

    def names(self, rows: range) -> list[bytes]:
        """Return the HDF5 paths of the images of a tree; of other layouts none."""
        if self._names is None:
            return []
        found = self._names.raw(np.arange(rows.start, rows.stop))
        above = f"{self.prefix}/".encode("utf-8", "surrogateescape")
        for row, name in zip(rows, found, strict=True):
            steps = name.removeprefix(above).split(b"/")
            if not name.startswith(above) or len(steps) > 2 or {b"", b".", b".."} & {*steps}:
                where = f"{schema.TREE_NAMES.at(self.prefix)}, row {row:,}"
                refuse(self._file, where, "the path of an image in this group", f"{name!r}")
        return found

    def paths(self, rows: range | NDArray[np.int64]) -> list[bytes]:
        """Return the paths of the source files, as the manifest had them."""
        return self._paths.raw(_places(rows))

    def samples(self, rows: range | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) the index of each in the manifest."""
        if not self.prefix:
            return _places(rows)
        samples = self._needed(schema.SAMPLES, self.array(schema.SAMPLES))
        found: NDArray[np.int64] = samples[_places(rows)]  # a copy: it may be mapped
        return found

    def classes(self) -> tuple[Labels | None, Strings | None]:
        """Return (n_rows,) labels, and the name of each; None: there are none."""
        found = self._classes()
        return found["labels"], found["label_names"]

    def columns(self) -> dict[str, Strings | Lists | h5py.Dataset]:
        """Return the further columns of the manifest: texts, lists, or int64 or float64."""
        found: dict[str, Strings | Lists | h5py.Dataset] = {}
        for name in column_names(self._file, self.prefix):
            dataset = open_column(self._file, self.prefix, name, self.n_rows)
            if isinstance(dataset, tuple):
                found[name] = read_lists(self._file, *dataset)
                continue
            if dataset.dtype.kind != "O" and dataset.dtype.name not in column_types.KINDS:
                kinds = " or ".join(column_types.KINDS)
                refuse(self._file, dataset.name, kinds, f"{dataset.dtype}")
            found[name] = self._strings(dataset) if dataset.dtype.kind == "O" else dataset
        return found

    def palette(self) -> NDArray[np.uint8] | None:
        """Return (k, 3) RGB entries that the samples are indices of; None: there is none."""
        pixels = schema.PIXELS.get(self.layout)
        holder = find(self._file, pixels.at(self.prefix) if pixels else self.prefix or "/")
        assert holder is not None, "it has been opened"
        with naming(self._file, schema.PALETTE):
            if schema.PALETTE not in holder.attrs:
                return None
            kind = holder.attrs.get_id(schema.PALETTE)
            if kind.dtype != np.uint8 or kind.shape[1:] != (3,) or not 0 < kind.shape[0] <= 256:
                refuse(
                    self._file, f"{holder.name}@{schema.PALETTE}", "1 to 256 colours",
                    f"{kind.shape} {kind.dtype}",
                )  # fmt: skip
            colours: NDArray[np.uint8] = holder.attrs[schema.PALETTE]
        return colours

    def statistics_text(self) -> str | None:
        """Return the attribute `statistics`; None: there is none."""
        return statistics_text(self._file, self.prefix)

    def chunking(self) -> str | None:
        """Return how chunks were cut when their checksums were written; None: they have none."""
        sums = self._dataset(schema.CHUNK_CHECKSUMS)
        return None if sums is None else chunking_of(sums)

    def strangers(self, images: Sequence[str]) -> tuple[str, ...]:
        """Return objects in the HDF5 group, and attributes of it (`@`), that are not of the format.

        None of a tree, whose images may have any name.

        Args:
            images: names of HDF5 groups of further images.
        """
        if KINDS[self.layout].dataset_per_image:
            return ()
        known = {name.partition("/")[0] for name in schema.known(self.layout)}
        known |= {schema.COLUMNS, *images}
        attributes = {schema.GROUP_NAME} if self.prefix else {*map(str, schema.Attribute)}
        attributes.add(schema.STATISTICS)
        with naming(self._file, self.prefix or "/"):
            group = self._file[self.prefix or "/"]
            names = [name for name in group if name not in known]
            names = [name for name in names if not is_scale(self._file, self.prefix, name)]
            names += [f"@{name}" for name in group.attrs if name not in attributes]
        return tuple(
            as_text(f"{self.prefix}/{name}".encode("utf-8", "surrogateescape")) for name in names
        )

    def _texts(self, wanted: StandardDataset) -> Strings:
        return self._strings(self._needed(wanted, self._dataset(wanted)))

    def _standard(self, wanted: StandardDataset) -> NDArray[Any] | None:
        """Return a dataset, if files of this layout may have it: in a tree, it is an image."""
        known = schema.known_datasets(self.layout)
        return self.array(wanted) if wanted in known else None

    def _needed(self, wanted: StandardDataset, found: T | None) -> T:
        if found is None:
            raise self._missing(wanted)
        return found


def _places(rows: range | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(rows.start, rows.stop) if isinstance(rows, range) else rows
