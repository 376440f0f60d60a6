"""The main writer: preallocated, unfiltered datasets, written independently by every rank.

With the explicit early allocation the chunks lie back to back in the file and need no index (the
'implicit' index of HDF5 1.10), so a rank knows where its rows go and no rank waits for another
between creating and closing. One rank does the same through HDF5's ordinary driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from h5ingest.comm import Comm
from h5ingest.layout import Layout
from h5ingest.storage.datasets import create, file_access, file_creation, output_errors


class MpioWriter:
    """One shared file, open on all ranks."""

    def __init__(self, path: Path, layout: Layout, comm: Comm) -> None:
        """Create the file with all datasets at their full size. Collective.

        Raises:
            OutputError: HDF5 cannot create it (on all ranks).
        """
        access = file_access()
        if comm.size > 1:
            access.set_fapl_mpio(comm.handle, comm.info)
        with output_errors(f"{path}: cannot be created", ValueError):
            self._file = h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, file_creation(), access)
            self._datasets = {spec.name: create(self._file, spec) for spec in layout.datasets}
            # Without this flush a job that is killed leaves a file that never opens again.
            h5py.h5f.flush(self._file)
        self._path = path

    def write(self, name: str, rows: range, values: NDArray[Any]) -> None:
        """Write `values` (len(rows), …) to the rows. Not collective.

        Raises:
            OutputError: no space, or another error of the file system, on this rank.
        """
        if not rows:
            return
        dataset = self._datasets[name]
        rest = values.shape[1:]
        in_file = dataset.get_space()
        in_file.select_hyperslab((rows.start, *(0,) * len(rest)), values.shape)
        in_memory = h5py.h5s.create_simple(values.shape)
        with output_errors(f"{self._path}: writing rows {rows.start}-{rows.stop - 1} of {name}"):
            dataset.write(in_memory, in_file, values)

    def advance(self) -> bool:
        """See `Writer.advance`: nothing is ever under way here."""
        return True

    def close(self) -> None:
        """End the file. Collective.

        Raises:
            OutputError: what was written could not reach the file.
        """
        with output_errors(f"{self._path}: cannot be closed"):
            for dataset in self._datasets.values():
                dataset._close()
            self._file.close()
