"""Placing chunks: rank 0 learns from HDF5 where a compressed chunk belongs, without writing it.

Rank 0 alone has the file open through h5py's driver for Python file objects. For each chunk it asks
HDF5 to write a chunk of the right length; HDF5 takes space for it, notes it in the chunk index, and
hands the bytes to the driver, which recognises them, drops them, and remembers the offset. The
owner of the chunk then writes the real bytes there itself. All other writes, HDF5's metadata,
reach the file.

What this relies on is checked for every chunk (`place` fails loudly) and by a canary test:
`H5Dwrite_chunk` takes space and hands the bytes to the driver in one piece, before it returns; HDF5
never reads a chunk back while it places others; metadata that is evicted meanwhile goes through the
driver like any other write; space that is taken is never given to something else, and the same
calls take the same space; a chunk of a one-chunk file in memory holds what the output would hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import SetupError
from h5ingest.core.layout import Layout
from h5ingest.storage.datasets import (
    create_all,
    file_access,
    file_creation,
    offset_of,
    open_dataset,
    output_errors,
)
from h5ingest.storage.file_systems import look
from h5ingest.storage.gathered_writes import WrittenBlocks
from h5ingest.storage.journal_records import IMAGES, Begins, Placement, Record, pack
from h5ingest.storage.metadata_driver import TOKEN_BYTES, Metadata
from h5ingest.storage.tree_datasets import TreeDatasets
from h5ingest.storage.writer import Image

_MOST_OPEN: Final = 64
"""Datasets that are kept open: HDF5 takes some 10 KiB for each."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _abandon(file: Any, metadata: Metadata) -> None:
    """Close the file as it is: another job will make HDF5's metadata anew.

    It must not stay open: HDF5 would close it after Python, which has the driver, has ended.
    """
    metadata.give_up()
    # Also what only a frame of a traceback still holds; as h5py.File does.
    file._close_open_objects(h5py.h5f.OBJ_LOCAL | ~h5py.h5f.OBJ_FILE)
    file.close()
    metadata.close()


class ChunkPlacer:
    """The file on rank 0. Not collective."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        known: Sequence[Record] = (),
        beat: Callable[[], None] = lambda: None,
        *,
        written: WrittenBlocks | None = None,
    ) -> None:
        """Create the file with all datasets.

        Args:
            path: the file.
            layout: its datasets.
            known: the journal of a job that did not end. What it wrote is kept: HDF5's metadata is
                made anew around it, in the same places.
            beat: called after every dataset, to look at the clock.
            written: what has been written, if no other process writes a part of a block
                (`gathered_writes`).

        Raises:
            OutputError: it cannot be created.
        """
        self._path = path
        self._specs = layout.datasets
        self._tree = TreeDatasets(layout.groups)
        self._images: list[str] = []
        self._images_lie: int | None = None
        """A hash of where the images of a tree begin."""
        self._known = known
        counts = [spec.n_chunks if spec.filters else 0 for spec in self._specs]
        self._slots = [0, *accumulate(counts)]
        """Where the chunks of each dataset begin in `_placed`; then come the images of a tree."""
        self._placed = bytearray(self._slots[-1] if known else 0)
        """1: the chunk has a place already, in a file that is taken up, and may get another one."""
        with output_errors(f"{path}: cannot be created", ValueError):
            mount = look(path, with_stripes=False).mount
            self._takes_space = mount is not None and mount.known_disk
            """Ranks write faster into it then, and nobody else can take it in between."""
            self._metadata = Metadata(path, keep=bool(known), written=written)
            access = file_access(layout)
            access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self._metadata)
            # The name must differ between files that are open at the same time.
            name = f"{id(self._metadata):#x}".encode()
            self._file = h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, file_creation(), access)
            access._close()  # it has the driver, too
        # When this object is no longer used, or the process ends, unless `close` was called.
        self._abandon = weakref.finalize(self, _abandon, self._file, self._metadata)
        self._open: dict[int, Any] = {}
        """Number of a dataset -> the dataset, for those that chunks were placed in last."""
        self.offsets: list[int | None] = []
        """Where each dataset begins; None for filtered ones, whose chunks are placed."""
        with self._changing("cannot be created"):
            for spec, dataset in zip(self._specs, create_all(self._file, layout), strict=True):
                self.offsets.append(None if spec.filters else offset_of(dataset))
                beat()
            self._flush()
        self._payload = np.zeros(0, np.uint8)

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """Give the file up if the block, or a write that HDF5 made in it, fails."""
        try:
            with output_errors(f"{self._path}: {what}"):
                yield
                self._metadata.check()
        except BaseException:
            self._abandon()
            raise

    def _flush(self) -> None:
        """Write what HDF5 still holds, whose zeros would come after the rows, and take the space.

        Raises:
            OSError: the file system has no space for them.
        """
        h5py.h5f.flush(self._file)
        if not self._takes_space:
            return
        try:
            os.posix_fallocate(self._metadata.fd, 0, self._file.get_filesize())
        except OSError as error:
            if error.errno in _NO_SPACE:  # others mean that it cannot be done here
                if not self._metadata.keep:
                    os.ftruncate(self._metadata.fd, 0)  # what it got of it
                raise

    def create_images(
        self, images: Iterable[Image], beat: Callable[[], None] = lambda: None
    ) -> list[int | None]:
        """Create the datasets of a tree, and return where each begins; None if it is filtered.

        To be called once, with all of them. As `dataset` of `place` they have the numbers after
        those of the layout, in order. `beat` is called after every one.

        Raises:
            OutputError: HDF5 cannot.
        """
        assert not self._images, "flushed in between, the datasets would lie elsewhere"
        offsets: list[int | None] = []
        with self._changing("creating the datasets of the images"):
            for image in images:
                dataset = self._tree.add(self._file, image)
                self._images.append(self._tree.names[image.group][-1][0])
                filtered = dataset.get_create_plist().get_nfilters() > 0
                offsets.append(None if filtered else offset_of(dataset))
                beat()
            self._flush()
        if self._known:
            self._placed.extend(bytes(len(offsets)))
        places = np.array([-1 if offset is None else offset for offset in offsets], "<i8")
        self._images_lie = xxh3_64_intdigest(places.data)
        return offsets

    def names(self) -> dict[int, list[tuple[str, str]]]:
        """Return (HDF5 path, kind) of each row's dataset, for each group of a tree."""
        return self._tree.names

    def place(self, dataset: int, chunk: int, n_bytes: int, filter_mask: int) -> Placement:
        """Take space for one chunk and enter it in the index; its bytes are for others to write.

        Args:
            dataset: position in `Layout.datasets`.
            chunk: position of the chunk on axis 0, in chunks.
            n_bytes: its length, filtered.
            filter_mask: bit k set: filter k declined it.

        Raises:
            OutputError: HDF5 cannot.
            SetupError: HDF5 or h5py works in another way than this relies on.
        """
        if n_bytes >= len(self._payload):  # zero pages that nobody touches take no memory
            self._payload = np.zeros(2 * n_bytes + 1, np.uint8)
            head = np.frombuffer(self._metadata.token, np.uint8)
            self._payload[:TOKEN_BYTES] = head[: len(self._payload)]
        with self._changing("placing a chunk"):
            target = self._opened(dataset)
            rows = self._specs[dataset].chunk_rows if dataset < len(self._specs) else None
            at = (chunk * (rows or 1), *(0,) * (target.rank - 1))
            if self._placed and self._placed[self._slot(dataset, chunk)]:
                # HDF5 (1.10.8 and 2.0) keeps the old filter mask of a chunk that is written anew
                # with the same length: so it gets another length first.
                self._metadata.expected = n_bytes + 1  # dropped: others' bytes may lie there
                target.write_direct_chunk(at, self._payload[: n_bytes + 1], filter_mask)
            self._metadata.expected, self._metadata.noted = n_bytes, None
            target.write_direct_chunk(at, self._payload[:n_bytes], filter_mask)
        if self._metadata.noted is None:
            self._abandon()
            raise SetupError(
                f"this h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version} does not "
                f"write a chunk as h5ingest expects: please report it, and use no --compression"
            )
        return Placement(dataset, chunk, self._metadata.noted, n_bytes, filter_mask)

    def _opened(self, dataset: int) -> Any:
        """Return a dataset by its number."""
        found = self._open.get(dataset)
        if found is None:
            n_specs = len(self._specs)
            is_image = dataset >= n_specs
            name = self._images[dataset - n_specs] if is_image else self._specs[dataset].name
            if len(self._open) >= _MOST_OPEN:
                self._open.clear()
            found = self._open[dataset] = open_dataset(self._file, name)
        return found

    def begins(self) -> list[Begins]:
        """Return where the unfiltered datasets lie; a tree's images have one hash for all."""
        found = [Begins(i, o) for i, o in enumerate(self.offsets) if o is not None]
        if self._images_lie is not None:
            found.append(Begins(IMAGES, self._images_lie))
        return found

    def replay(self, beat: Callable[[], None] = lambda: None) -> bytes:
        """Take space again as the journal says, in its order, and compare; `beat` after each.

        To be called once, when all datasets have been created.

        Returns:
            What the journal does not know yet: where the datasets of a new file begin.

        Raises:
            SetupError: something comes to lie elsewhere than it did: another HDF5 version.
        """
        if not self._known:
            return pack(self.begins())
        offsets = {begins.dataset: begins.offset for begins in self.begins()}
        for known in self._known:
            if isinstance(known, Begins) and offsets.get(known.dataset) != known.offset:
                raise SetupError(self._moved("a dataset", known.offset))
            if not isinstance(known, Placement):
                continue
            new = self.place(known.dataset, known.chunk, known.n_bytes, known.filter_mask)
            self._placed[self._slot(known.dataset, known.chunk)] = 1
            beat()
            if new != known:
                raise SetupError(self._moved(f"chunk {known.chunk}", known.offset))
        return b""

    def _slot(self, dataset: int, chunk: int) -> int:
        n_specs = len(self._specs)
        if dataset < n_specs:
            return self._slots[dataset] + chunk
        return self._slots[-1] + dataset - n_specs

    def _moved(self, what: str, offset: int) -> str:
        return (
            f"{self._path}: expected {what} at {offset:#x}; HDF5 {h5py.version.hdf5_version} has "
            f"it elsewhere: the job that did not end used another version. Use that one, or begin "
            f"again with --restart."
        )

    def close(self) -> None:
        """Write the rest of HDF5's metadata and close the file.

        Raises:
            OutputError: it could not reach the file.
        """
        self._abandon.detach()
        with output_errors(f"{self._path}: cannot be closed"), contextlib.closing(self._metadata):
            for dataset in self._open.values():
                dataset._close()
            self._metadata.keep = False  # now HDF5 knows all that there is
            self._file.close()
            self._metadata.flush()
            self._metadata.check()
