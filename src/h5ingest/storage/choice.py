"""Which writer fits a layout, this h5py and the number of ranks: the user never needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

from h5ingest.comm import Comm
from h5ingest.layout import Layout
from h5ingest.storage.journal import Record
from h5ingest.storage.ledger import Ledger
from h5ingest.storage.mpio import MpioWriter
from h5ingest.storage.placed import PlacedWriter
from h5ingest.storage.writer import Writer


def choose(layout: Layout, comm: Comm) -> tuple[type[MpioWriter] | type[PlacedWriter], str]:
    """Return the class of writer to use, and its name with the reason. Not collective."""
    if layout.kind == "tree":
        return PlacedWriter, "placed datasets (one for each image)"
    if any(spec.filters for spec in layout.datasets):
        return PlacedWriter, "placed chunks (they are compressed)"
    if comm.size == 1:
        return MpioWriter, "HDF5 (one process)"
    if h5py.get_config().mpi:
        return MpioWriter, "HDF5's MPI-IO driver (nothing is compressed, h5py is parallel)"
    return PlacedWriter, "placed rows (this h5py is not parallel)"


def open_writer(
    path: Path,
    layout: Layout,
    comm: Comm,
    ledger: Ledger,
    known: Sequence[Record],
    hints: Mapping[str, str],
) -> Writer:
    """Create the file with all its datasets, or take up one that was begun. Collective.

    Args:
        path: the file; it exists.
        layout: its datasets.
        comm: the ranks.
        ledger: is told what has been written.
        known: what the journal says.
        hints: for MPI-IO, where that is what writes.

    Raises:
        OutputError: HDF5 cannot create it (on all ranks).
    """
    writer, _ = choose(layout, comm)
    if writer is MpioWriter:
        return MpioWriter(path, layout, comm, ledger, known, hints)
    return writer(path, layout, comm, ledger, known)
