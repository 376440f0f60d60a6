"""Which writer fits a layout, this h5py and the number of ranks: the user never needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import h5py

from h5ingest.core.layout import Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.journal_records import Record
from h5ingest.storage.writer import Writer

_LEAST_DIRECT_BYTES: Final = 16 * MIB
"""Of a file, from which it pays to go around the system's cache (docs/performance.md)."""

_MOST_DATASETS: Final = 1000
"""Of a file that every rank opens in HDF5, where each takes some 10 KiB while it is open."""


class WriterChoice(NamedTuple):
    """A kind of writer."""

    kind: Literal["mpio", "rows", "direct", "chunks", "tree"]
    """What it does: see the modules that `open_writer` imports. `mpio`: through HDF5."""
    why: str
    """Its name, with the reason."""


def choose_writer(layout: Layout, comm: Comm, out: Path, options: IngestOptions) -> WriterChoice:
    """Return the writer to use. Collective.

    Args:
        layout: of the file.
        comm: the ranks.
        out: the file; its folder exists.
        options: those about writing.

    Raises:
        OutputError: the folder cannot be looked at (on all ranks).
    """
    if layout.kind == "tree":
        return WriterChoice("tree", "placed datasets (one for each image)")
    if any(spec.filters for spec in layout.datasets):
        return WriterChoice("chunks", "placed chunks (they are compressed)")
    direct = False
    with agreeing(comm):
        if comm.rank == 0:
            direct = options.direct_io == "on" or (
                options.direct_io == "auto"
                and not options.hints
                and comm.n_hosts == 1  # what is a local disk to rank 0 may be another's NFS
                and _direct_pays(layout, out)
            )
    if comm.bcast(direct):
        return WriterChoice("direct", "placed rows (direct I/O)")
    if len(layout.datasets) > _MOST_DATASETS:
        return WriterChoice("rows", "placed rows (many groups)")
    if comm.size == 1:
        return WriterChoice("mpio", "HDF5 (one process)")
    if h5py.get_config().mpi:
        why = "HDF5's MPI-IO driver (nothing is compressed, h5py is parallel)"
        return WriterChoice("mpio", why)
    return WriterChoice("rows", "placed rows (this h5py is not parallel)")


def _direct_pays(layout: Layout, out: Path) -> bool:
    """Return whether direct I/O is known to work and to be faster there."""
    if layout.stored_bytes < _LEAST_DIRECT_BYTES:
        return False
    from h5ingest.storage.file_systems import look  # for rank 0

    with output_errors(f"{out}: its folder cannot be looked at"):
        mount = look(out, with_stripes=False).mount
    return mount is not None and mount.known_disk


def open_writer(
    choice: WriterChoice,
    path: Path,
    layout: Layout,
    comm: Comm,
    checkpoints: Checkpoints,
    known: Sequence[Record],
    hints: Mapping[str, str],
) -> Writer:
    """Create the file with all its datasets, or take up one that was begun. Collective.

    Args:
        choice: of the writer.
        path: the file; it exists.
        layout: its datasets.
        comm: the ranks.
        checkpoints: guards what is written, and is told of it.
        known: on rank 0, the journal of a job that did not end: what it wrote is kept.
        hints: for MPI-IO, where that is what writes; one that it does not know means nothing to it.

    Raises:
        OutputError: HDF5 cannot create or open it (on all ranks).
    """
    # A rank imports the one that it needs.
    if choice.kind == "mpio":
        from h5ingest.storage.mpio_writer import MpioWriter

        return MpioWriter(path, layout, comm, checkpoints, known, hints)
    from h5ingest.storage.placed_file import PlacedFile
    from h5ingest.storage.placed_file import RowWriter as Fitting

    match choice.kind:
        case "direct":
            from h5ingest.storage.direct_writer import DirectWriter as Fitting
        case "chunks":
            from h5ingest.storage.chunk_writer import ChunkWriter as Fitting
        case "tree":
            from h5ingest.storage.placed_tree import PlacedTreeWriter as Fitting
    more_follow = choice.kind == "tree"
    file = PlacedFile(path, layout, comm, checkpoints, known, more_follow=more_follow)
    return Fitting(file)
