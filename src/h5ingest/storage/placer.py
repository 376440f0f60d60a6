"""Placing chunks: root learns from HDF5 where a compressed chunk belongs, without writing it.

Root alone holds the file open through h5py's driver for Python file objects. For each chunk it asks
HDF5 to write a chunk of the right length; HDF5 takes space for it, notes it in the chunk index, and
hands the bytes to the driver, which recognises them, drops them, and remembers the offset. The
owner of the chunk then writes the real bytes there itself. All other writes, HDF5's metadata,
reach the file.

What this relies on is checked for every chunk (`place` fails loudly) and by a canary test:
`H5Dwrite_chunk` takes space and hands the bytes to the driver in one piece, before it returns.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.errors import SetupError
from h5ingest.layout import Layout
from h5ingest.storage.datasets import (
    create_all,
    file_access,
    file_creation,
    offset_of,
    output_errors,
)
from h5ingest.storage.journal import IMAGES, Begins, Placement, Record
from h5ingest.storage.tree import Tree
from h5ingest.storage.writer import Image

_TOKEN_BYTES: Final = 32


class _Metadata(io.RawIOBase):
    """What HDF5 sees as the file: everything passes but the payload, whose offset is noted.

    The payload is told apart by its length and its first bytes, a random token. Not by its address
    alone: h5py before 3.16 hands out a copy.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags if keep else flags | os.O_TRUNC, 0o666)
        self.keep = keep
        """Whether there may be bytes to be kept behind HDF5's end of the file."""
        self._position = 0
        self._end = 0
        """Where the file ends as far as HDF5 knows: it would open one that is not empty."""
        self.token = os.urandom(_TOKEN_BYTES)
        self.expected: int | None = None
        """Length of the payload that is to come, while one is."""
        self.noted: int | None = None
        """Where HDF5 wanted it."""

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        self._position = position + (self._end if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._fd, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        length = len(data)
        head = memoryview(data)[:_TOKEN_BYTES]
        if length == self.expected and head == self.token[:length]:
            self.noted, self.expected = self._position, None
        else:
            view, at = memoryview(data), self._position
            while view:
                n_written = os.pwrite(self._fd, view, at)
                view, at = view[n_written:], at + n_written
        self._position += length
        self._end = max(self._end, self._position)
        return length

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        self._end = size
        if not self.keep or size > os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, size)
        return size

    def flush(self) -> None:
        pass  # nothing is buffered here

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


class Placer:
    """The file on root. Not collective."""

    def __init__(self, path: Path, layout: Layout, known: Sequence[Record] = ()) -> None:
        """Create the file with all datasets.

        Args:
            path: the file.
            layout: its datasets.
            known: the journal of a job that did not end. What it wrote is kept: HDF5's metadata is
                made anew around it, in the same places.

        Raises:
            OutputError: it cannot be created.
        """
        self._path = path
        self._specs = layout.datasets
        self._tree = Tree([group.prefix for group in layout.groups], layout.filters)
        self._images: list[str] = []
        self._images_lie: int | None = None
        """A hash of where the images of a tree begin."""
        self._known = known
        self._replayed: set[tuple[int, int]] = set()
        """(dataset, chunk) that has a place already, and may get another one."""
        with output_errors(f"{path}: cannot be created", ValueError):
            self._metadata = _Metadata(path, keep=bool(known))
            access = file_access()
            access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self._metadata)
            # The name must differ between files that are open at the same time.
            name = f"{id(self._metadata):#x}".encode()
            self._file = h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, file_creation(), access)
            self._datasets = create_all(self._file, layout)
            # Zeros of a dataset could be in HDF5's buffers still, and come after the rows.
            h5py.h5f.flush(self._file)
        self._payload = np.zeros(0, np.uint8)

    def offsets(self) -> list[int | None]:
        """Return where each dataset begins; None for filtered ones, whose chunks are placed."""
        return [
            None if spec.filters else offset_of(dataset)
            for spec, dataset in zip(self._specs, self._datasets, strict=True)
        ]

    def create_images(self, images: Iterable[Image]) -> list[int | None]:
        """Create the datasets of a tree, and return where each begins; None if it is filtered.

        To be called once, with all of them. As `dataset` of `place` they have the numbers after
        those of the layout, in order.

        Raises:
            OutputError: HDF5 cannot.
        """
        assert not self._images, "flushed in between, the datasets would lie elsewhere"
        offsets: list[int | None] = []
        with output_errors(f"{self._path}: creating the datasets of the images"):
            for image in images:
                dataset = self._tree.add(self._file, image)
                self._images.append(self._tree.names[image.group][-1][0])
                filtered = dataset.get_create_plist().get_nfilters() > 0
                offsets.append(None if filtered else offset_of(dataset))
            h5py.h5f.flush(self._file)
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
            self._payload[:_TOKEN_BYTES] = head[: len(self._payload)]
        if dataset < len(self._specs):
            spec, target = self._specs[dataset], self._datasets[dataset]
            at = (chunk * (spec.chunk_rows or 1), *(0,) * (len(spec.shape) - 1))
        else:  # too many to be kept open
            name = self._images[dataset - len(self._specs)]
            target = h5py.h5d.open(self._file, name.encode("utf-8", "surrogateescape"))
            at = (0,) * target.rank
        with output_errors(f"{self._path}: placing a chunk"):
            if (dataset, chunk) in self._replayed:
                # HDF5 (1.10.8 and 2.0) keeps the old filter mask of a chunk that is written anew
                # with the same length: so it gets another length first.
                self._metadata.expected = n_bytes + 1  # dropped: others' bytes may lie there
                target.write_direct_chunk(at, self._payload[: n_bytes + 1], filter_mask)
            self._metadata.expected, self._metadata.noted = n_bytes, None
            target.write_direct_chunk(at, self._payload[:n_bytes], filter_mask)
        if self._metadata.noted is None:
            raise SetupError(
                f"this h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version} does not "
                f"write a chunk as h5ingest expects: please report it, and use no --compression"
            )
        return Placement(dataset, chunk, self._metadata.noted, n_bytes, filter_mask)

    def begins(self) -> list[Begins]:
        """Return where the unfiltered datasets lie; a tree's images have one hash for all."""
        found = [Begins(i, o) for i, o in enumerate(self.offsets()) if o is not None]
        if self._images_lie is not None:
            found.append(Begins(IMAGES, self._images_lie))
        return found

    def replay(self) -> None:
        """Take space again as the journal says, in its order, and compare.

        Raises:
            SetupError: something comes to lie elsewhere than it did: another HDF5 version.
        """
        offsets = {begins.dataset: begins.offset for begins in self.begins()}
        for known in self._known:
            if isinstance(known, Begins) and offsets.get(known.dataset) != known.offset:
                raise SetupError(self._moved("a dataset", known.offset))
            if not isinstance(known, Placement):
                continue
            new = self.place(known.dataset, known.chunk, known.n_bytes, known.filter_mask)
            self._replayed.add((known.dataset, known.chunk))
            if new != known:
                raise SetupError(self._moved(f"chunk {known.chunk}", known.offset))

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
        with output_errors(f"{self._path}: cannot be closed"):
            for dataset in self._datasets:
                dataset._close()
            self._metadata.keep = False  # now HDF5 knows all that there is
            self._file.close()
            self._metadata.close()
