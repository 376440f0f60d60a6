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
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from h5ingest.errors import SetupError
from h5ingest.layout import Layout
from h5ingest.storage.datasets import create, file_access, file_creation, output_errors
from h5ingest.storage.journal import Placement

_TOKEN_BYTES: Final = 32


class _Metadata(io.RawIOBase):
    """What HDF5 sees as the file: everything passes but the payload, whose offset is noted.

    The payload is told apart by its length and its first bytes, a random token. Not by its address
    alone: h5py before 3.16 hands out a copy.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = 0
        self.token = os.urandom(_TOKEN_BYTES)
        self.expected: int | None = None
        """Length of the payload that is to come, while one is."""
        self.noted: int | None = None
        """Where HDF5 wanted it."""

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        end = os.fstat(self._fd).st_size if whence == os.SEEK_END else 0
        self._position = position + end
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
        return length

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
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

    def __init__(self, path: Path, layout: Layout) -> None:
        """Create the file with all datasets.

        Raises:
            OutputError: it cannot be created.
        """
        self._path = path
        self._specs = layout.datasets
        with output_errors(f"{path}: cannot be created", ValueError):
            self._metadata = _Metadata(path)
            access = file_access()
            access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self._metadata)
            # The name must differ between files that are open at the same time.
            name = f"{id(self._metadata):#x}".encode()
            self._file = h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, file_creation(), access)
            self._datasets = [create(self._file, spec) for spec in self._specs]
            # Zeros of a dataset could be in HDF5's buffers still, and come after the rows.
            h5py.h5f.flush(self._file)
        self._payload = np.zeros(0, np.uint8)

    def offsets(self) -> list[int | None]:
        """Return where each dataset begins; None for filtered ones, whose chunks are placed."""
        return [
            None
            if spec.filters
            else dataset.get_chunk_info(0).byte_offset
            if spec.chunk_rows
            else dataset.get_offset()
            for spec, dataset in zip(self._specs, self._datasets, strict=True)
        ]

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
        if n_bytes > len(self._payload):  # zero pages that nobody touches take no memory
            self._payload = np.zeros(2 * n_bytes, np.uint8)
            head = np.frombuffer(self._metadata.token, np.uint8)
            self._payload[:_TOKEN_BYTES] = head[: len(self._payload)]
        spec = self._specs[dataset]
        rows = chunk * (spec.chunk_rows or 1)
        self._metadata.expected, self._metadata.noted = n_bytes, None
        with output_errors(f"{self._path}: placing a chunk"):
            self._datasets[dataset].write_direct_chunk(
                (rows, *(0,) * (len(spec.shape) - 1)), self._payload[:n_bytes], filter_mask
            )
        if self._metadata.noted is None:
            raise SetupError(
                f"this h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version} does not "
                f"write a chunk as h5ingest expects: please report it, and use no --compression"
            )
        return Placement(dataset, chunk, self._metadata.noted, n_bytes, filter_mask)

    def replay(self, placements: Iterable[Placement]) -> None:
        """Place chunks again, in the order of a journal, on a file made anew.

        Raises:
            SetupError: a chunk comes to lie elsewhere than it did: another HDF5 version.
        """
        for known in placements:
            new = self.place(known.dataset, known.chunk, known.n_bytes, known.filter_mask)
            if new != known:
                raise SetupError(
                    f"{self._path}: expected chunk {known.chunk} at byte {known.offset}, HDF5 "
                    f"{h5py.version.hdf5_version} places it at {new.offset}: the journal was "
                    f"written with another HDF5. Use that one, or begin again."
                )

    def close(self) -> None:
        """Write the rest of HDF5's metadata and close the file.

        Raises:
            OutputError: it could not reach the file.
        """
        with output_errors(f"{self._path}: cannot be closed"):
            for dataset in self._datasets:
                dataset._close()
            self._file.close()
            self._metadata.close()
