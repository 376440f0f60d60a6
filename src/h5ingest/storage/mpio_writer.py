"""The writer for shared file systems: preallocated, unfiltered datasets, written independently.

With the explicit early allocation the chunks lie back to back in the file and need no index (the
'implicit' index of HDF5 1.10), so a rank knows where its rows go and no rank waits for another
between opening and closing. One rank does the same through HDF5's ordinary driver.

On several hosts a hyperslab ends where a block of the file does (`shared_blocks`): for that, large
unfiltered datasets begin at a multiple of a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import Layout
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, waiting
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import file_access, open_dataset, output_errors
from h5ingest.storage.journal_records import Record
from h5ingest.storage.shared_blocks import as_bytes, boxes, see_same_file
from h5ingest.storage.shared_open import open_shared, share
from h5ingest.storage.writer import Writer

_MOST_BYTES: Final = 2**30
"""In one write: MPI counts in 32 bits, and not every HDF5 1.10 works around that."""


class MpioWriter(Writer):
    """One shared file, open on all ranks."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        comm: Comm,
        checkpoints: Checkpoints,
        known: Sequence[Record] = (),
        hints: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create the file with all datasets at their full size, and open it: see `open_writer`.

        Rank 0 creates it alone, as for `PlacedFile`: so a file is the same whoever fills it, and a
        job that did not end can be taken up by either. Collective.
        """
        super().__init__(layout, checkpoints)
        self._path = path
        self._comm = comm
        offsets: list[int | None] = []
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                from h5ingest.storage.chunk_placer import ChunkPlacer  # not on the others

                placer = ChunkPlacer(path, layout, known, beat)
                checkpoints.enter(placer.replay(beat))
                offsets = placer.offsets
                placer.close()
        self._offsets = {
            spec.name: offset or 0
            for spec, offset in zip(layout.datasets, comm.bcast(offsets), strict=True)
        }
        """Where each dataset begins, in bytes."""
        see_same_file(path, comm)
        checkpoints.open()
        access = file_access()
        with output_errors(f"{path}: cannot be opened"), waiting(comm):
            if comm.size > 1:
                share(access, comm, hints)
                self._file = open_shared(path, access)
            else:
                self._file = h5py.h5f.open(bytes(path), h5py.h5f.ACC_RDWR, access)
            self._datasets = {
                spec.name: open_dataset(self._file, spec.name) for spec in layout.datasets
            }

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        if not rows:
            return
        self._checkpoints.guard()
        values = np.ascontiguousarray(values).reshape(-1)
        start = rows.start * math.prod(self._specs[name].shape[1:])
        if self._checkpoints.whole_blocks_only:
            start, values = self._keep_whole(name, start, values)
        with output_errors(f"{self._path}: writing rows {rows.start}-{rows.stop - 1} of {name}"):
            self._write(name, start, values)

    def _keep_whole(self, name: str, start: int, values: NDArray[Any]) -> tuple[int, NDArray[Any]]:
        """Return what of the elements fills whole blocks of the file; rank 0 writes the others."""
        offset, size = self._offsets[name] + start * values.itemsize, values.itemsize
        data = as_bytes(values)
        if offset % size:  # of a small dataset: no block begins with an element
            self._checkpoints.hand_over(offset, bytes(data))
            return start, values[:0]
        whole, parts = self._checkpoints.keep_whole(offset, [data])
        first = (whole - offset) // size
        return start + first, values[first : first + sum(map(len, parts)) // size]

    def _write(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write elements of a dataset, which are counted in C order, from `start` on."""
        dataset, shape = self._datasets[name], self._specs[name].shape
        most, stop = _MOST_BYTES // values.itemsize, start + len(values)
        for first in range(start, stop, most):
            for at, count in boxes(first, min(first + most, stop), shape):
                n = math.prod(count)
                in_file = dataset.get_space()
                in_file.select_hyperslab(at, count)
                dataset.write(h5py.h5s.create_simple(count), in_file, values[:n])
                values = values[n:]

    def close(self) -> None:
        self._checkpoints.finish()
        with output_errors(f"{self._path}: cannot be closed"), waiting(self._comm):
            for dataset in self._datasets.values():
                dataset._close()
            self._file.close()
