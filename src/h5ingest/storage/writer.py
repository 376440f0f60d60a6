"""`Writer`: what the write loop needs of a file that is being filled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from h5ingest.core.layout import Layout
from h5ingest.core.moments import ByKind
from h5ingest.storage.buffer import Buffer
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.journal_records import Done, sums_of


class Writer(ABC):
    """A file whose datasets exist at their full size and are being filled."""

    def __init__(self, layout: Layout, checkpoints: Checkpoints) -> None:
        """Begin with the datasets of a layout. Not collective."""
        self._specs = {spec.name: spec for spec in layout.datasets}
        self._checkpoints = checkpoints
        self._buffer = Buffer()

    def get_buffer(self, name: str, rows: range) -> NDArray[Any]:
        """Return an array (len(rows), …) to be filled for `write`, its content undefined.

        Not collective; may wait for the disk. The memory is the writer's: no array of an earlier
        call may be used any more.

        Raises:
            OutputError: what was written earlier could not be.
        """
        spec = self._specs[name]
        return self._buffer.array((len(rows), *spec.shape[1:]), spec.dtype)

    @abstractmethod
    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """Write `values` (len(rows), …) to the rows of a dataset. Not collective.

        They may be reused at once, unless they are the buffer for these rows. The rows of two calls
        do not overlap, on whichever ranks; rows of a chunked dataset are whole chunks.

        Raises:
            OutputError: no space, or another error of the file system, on this rank.
        """

    def write_chunks(self, name: str, first: int, chunks: Sequence[tuple[int, bytes]]) -> None:
        """Write chunks of a filtered dataset that are compressed already. Not collective.

        Args:
            name: of the dataset.
            first: number of the first of them, along axis 0.
            chunks: filter mask and bytes of each, one after the other.

        Raises:
            OutputError: see `write`.
        """
        raise AssertionError("this writer has no chunks")

    def mark(self, group: int, span: range, *, joints: int = 0, sums: ByKind | None = None) -> None:
        """Note that all of a span of a group's `pixels` has been given to `write`. Not collective.

        It is on the disk, and in the journal, some time later.

        Args:
            group: position of the group in the layout.
            span: positions on axis 0.
            joints: where an image that crosses an end of the span is decoded each time for a part
                of it: `BEGINS_INSIDE`, `ENDS_INSIDE`, both, or 0.
            sums: of the pixels of the images that begin in the span; None: not known.
        """
        done = Done(group, span.start, span.stop, joints)
        self._checkpoints.note(*sums_of(group, sums), done)

    def names(self) -> dict[int, list[tuple[str, str]]] | None:
        """Return, on rank 0, (HDF5 path, kind) of each row's dataset for each group of a tree."""
        return None

    def advance(self) -> bool:
        """Move on what is under way; return whether nothing is. Not collective, never waits.

        To be called often: other ranks may depend on it.
        """
        self._checkpoints.tick()
        return True

    def give_up(self) -> None:  # noqa: B027 - most have nothing under way
        """After an error: write nothing any more, whatever is under way. Not collective."""

    @abstractmethod
    def close(self) -> None:
        """End the file. Collective.

        Raises:
            OutputError: what was written could not reach the file.
        """


class Image(NamedTuple):
    """An image that gets a dataset of its own."""

    group: int
    """Position of the group in the layout."""
    row: int
    """Row within the group."""
    folder: bytes
    """Name of the HDF5 group that it belongs in; empty: none."""
    stem: bytes
    """Name that it gets if no other has it."""
    shape: tuple[int, ...]
    """(H, W) or (H, W, C)."""
    dtype: str
    """`uint8` or `uint16`."""
    name: bytes = b""
    """HDF5 path that it gets; empty: what `folder` and `stem` make."""


class TreeWriter(Writer):
    """A file in which each image has a dataset of its own."""

    @abstractmethod
    def create_images(self, images: Sequence[Image]) -> None:
        """Create a dataset for each image of this rank, in row order. Collective, once.

        Raises:
            OutputError: HDF5 cannot (on all ranks).
        """

    @abstractmethod
    def write_image(self, group: int, row: int, values: NDArray[Any]) -> int:
        """Write the pixels of one of this rank's images, which may be reused. Not collective.

        Returns:
            The xxh3-64 of its bytes in the file, filtered or not; 0 where no image is filtered.

        Raises:
            OutputError: no space, or another error of the file system, on this rank.
        """

    @abstractmethod
    def write_image_chunk(self, group: int, row: int, mask: int, data: bytes) -> int:
        """Write one of this rank's images, of a filtered dataset, that is compressed already.

        Takes the mask of filters that were not applied, and the bytes in the file; returns the
        xxh3-64 of these.
        """
