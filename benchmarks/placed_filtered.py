"""The same as `collective_filtered.py`, through h5ingest's placed chunks.

mpirun -n 8 python benchmarks/placed_filtered.py PIXELS.npy OUT.h5
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from h5ingest.core.group_datasets import stack_group
from h5ingest.core.layout import ImageSpec, Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.partition import batches, cut, pieces
from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.world import world
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_writer import ChunkWriter
from h5ingest.storage.filters import filter_pipeline
from h5ingest.storage.job_files import reserve
from h5ingest.storage.journal import Journal
from h5ingest.storage.placed_file import PlacedFile

CHUNK_ROWS = 64
BATCH_BYTES = int(os.environ.get("BATCH_BYTES", 4 * 1024**2))


def main() -> None:
    """Write the file; print the seconds. Collective."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    comm = world()
    pixels = np.load(source, mmap_mode="r")
    n_rows, height, width, channels = pixels.shape
    image = ImageSpec(height=height, width=width, channels=channels, dtype="uint8")
    filters = filter_pipeline("zstd:1", shuffle=False)
    group = stack_group("", "", n_rows, image, chunk_rows=CHUNK_ROWS, filters=filters)
    layout = Layout(kind="stack", groups=(group,), grouped=False)
    [piece] = pieces(cut([group.pixels], comm.size), [n_rows], comm.rank)
    rows = piece.span
    mine = np.array(pixels[rows.start : rows.stop])

    MPI.COMM_WORLD.Barrier()
    started_s = time.perf_counter()
    journal = None
    if comm.rank == 0:
        out.unlink(missing_ok=True)
        journal = Journal(out.with_suffix(".journal"), {})
        reserve(out)
    checkpoints = Checkpoints(comm, out, journal, None, IngestOptions().checkpoint_s)
    writer = ChunkWriter(PlacedFile(out, layout, comm, checkpoints))
    pulse = AsyncSum(comm, 1)
    for batch in batches(rows, CHUNK_ROWS, BATCH_BYTES // image.n_bytes):
        writer.write("/images", batch, mine[batch.start - rows.start : batch.stop - rows.start])
        writer.mark(0, batch)
        pulse.beat(batch.stop - rows.start)
    pulse.finish(lambda: (len(rows),), meanwhile=writer.advance)
    writer.close()
    if journal is not None:
        journal.close()
    MPI.COMM_WORLD.Barrier()
    if comm.rank == 0:
        print(f"{time.perf_counter() - started_s:.4f}")


if __name__ == "__main__":
    main()
