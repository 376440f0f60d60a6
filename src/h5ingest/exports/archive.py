"""An export to one file, an archive or a table: all ranks make image files, rank 0 writes them.

They do so in turns, in which each rank makes a block of neighbours: so the members are in the order
of the file, whatever the number of ranks is, and rank 0 holds no more than those of one turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import outfiles
from h5ingest.core.errors import IngestError
from h5ingest.exports import table
from h5ingest.exports.members import Archive, Cells, Member
from h5ingest.exports.names import MANIFEST
from h5ingest.exports.stored import Stored
from h5ingest.exports.work import Work, wait_for
from h5ingest.mpi.async_sum import AsyncSum, while_rank_0_works
from h5ingest.mpi.comm import agree, agreeing
from h5ingest.storage.datasets import output_errors

_TURN_BYTES: Final = 128 * 1024**2
"""Of image files that all ranks make in a turn, about."""
_MOST: Final = 1024


def block_rows(stored: Stored, size: int) -> int:
    """Return the images that each of so many ranks makes in a turn.

    Image files take about what the file takes.
    """
    in_turn = _TURN_BYTES * (stored.header.n_samples or 1) // stored.n_bytes
    return max(1, min(_MOST, in_turn // size))


def places_in_turns(n: int, block: int, rank: int, size: int) -> NDArray[np.int64]:
    """Return which of n places a rank has: every `size`-th block.

    >>> places_in_turns(10, 2, 1, 3)
    array([2, 3, 8, 9])
    """
    places = np.arange(n)
    found: NDArray[np.int64] = places[places // block % size == rank]
    return found


def export_to_archive(
    work: Work,
    out: Path,
    kind: outfiles.Kind,
    begin: Callable[[BinaryIO], Archive],
    cells: Callable[[Work, range], Sequence[Cells]] | None = None,
) -> None:
    """Write the images and their manifest into an archive, or into a table. Collective.

    Args:
        work: this rank has places as `places_in_turns` deals them out.
        out: the archive.
        kind: of it.
        begin: begins an archive in a file.
        cells: returns what a table has of images at positions of this rank's share; None: it is no
            table, and has a manifest.

    Raises:
        OutputError: it cannot be written, or exists.
        StoppedError: a signal asked for it.
        SamplesFailedError: see `Work.refuse_damaged`.
    """
    comm = work.comm
    error: IngestError | None = None
    agreed: IngestError | None = None
    is_open = False

    def fill(archive: Archive | None, sync: Callable[[], None] | None) -> None:
        """Do what all ranks do together; rank 0 within `outfiles.write`."""
        nonlocal agreed
        agree(comm, None)  # the file is open
        try:
            _fill(work, archive, out, cells)
            wait_for(comm, sync)
        except IngestError as caught:
            agreed = caught
            raise

    def content(file: BinaryIO) -> None:
        nonlocal is_open
        is_open, archive = True, begin(file)
        try:
            fill(archive, partial(_sync, file, out))
        finally:
            archive.give_up()

    if comm.rank:
        fill(None, None)
    else:
        try:
            outfiles.write(out, content, kind, replace=False)
        except IngestError as caught:
            if agreed is not None:  # and not what came after it, as when the file was closed
                raise agreed from None
            error = caught
            if not is_open:
                agree(comm, error)
    AsyncSum(comm, 0).finish(lambda: ())  # asleep, while rank 0 gives the file its name
    agree(comm, error)


def _sync(file: BinaryIO, out: Path) -> None:
    with output_errors(f"{out}: cannot be brought to the disk"):
        file.flush()
        os.fsync(file.fileno())


def _fill(
    work: Work,
    archive: Archive | None,
    out: Path,
    cells: Callable[[Work, range], Sequence[Cells]] | None,
) -> None:
    """Add all members, to the archive that rank 0 has. Collective."""
    comm, mine = work.comm, range(len(work.share))
    block = block_rows(work.stored, comm.size)
    work.watch.phase("export", work.n_all)
    for turn in range(-(-work.n_all // (block * comm.size))):
        made: list[tuple[list[Member], Cells]] = []
        with agreeing(comm):
            here = mine[turn * block : (turn + 1) * block]
            of_rows = [()] * len(here) if cells is None else cells(work, here)
            images = work.images(here, lambda: None)
            made = [
                ([*zip(work.names_of(k), files, strict=True)], of_rows[k - here.start])
                for k, files in images
            ]
        told = comm.gather(made)
        with agreeing(comm), output_errors(f"{out}: cannot be written"):
            if told is not None and archive is not None:
                for row in (each for of_rank in told for each in of_rank):
                    archive.add(*row)
        counts = comm.allgather((work.n_done, work.n_bytes, len(work.failures)))
        work.watch.advance(*np.sum(counts, axis=0).tolist())
        work.stop_if_asked()
    work.refuse_damaged()
    found, columns = table.of_all(work)
    with while_rank_0_works(comm) as beat:
        if found is not None and archive is not None:
            with output_errors(f"{out}: cannot be written"):
                if cells is None:
                    lines = table.in_order(*found, beat)
                    archive.add([(MANIFEST, b"".join([table.heading(columns), *lines]))])
                archive.close()
