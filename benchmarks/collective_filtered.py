"""HDF5's own way to write compressed chunks from several ranks: collective writes through MPI-IO.

    mpirun -n 8 python benchmarks/collective_filtered.py PIXELS.npy OUT.h5

Independent of h5ingest, for comparison with `placed_filtered.py`: the same pixels from memory, the
same chunks (64 images), the same filter (zstd, level 1), the same rows on each rank, the same
batches, and fsync at the end. Root prints the seconds from create to fsync.
"""

from __future__ import annotations

import os
import sys
import time

import h5py
import hdf5plugin
import numpy as np
from mpi4py import MPI

CHUNK_ROWS = 64
BATCH_BYTES = int(os.environ.get("BATCH_BYTES", 4 * 1024**2))


def main() -> None:
    """Write the file; print the seconds. Collective."""
    source, out = sys.argv[1:3]
    comm = MPI.COMM_WORLD
    pixels = np.load(source, mmap_mode="r")
    n_rows, row_bytes = len(pixels), pixels[0].nbytes
    n_chunks = -(-n_rows // CHUNK_ROWS)
    start, stop = (
        min(n_rows, n_chunks * r // comm.size * CHUNK_ROWS) for r in (comm.rank, comm.rank + 1)
    )
    mine = np.array(pixels[start:stop])
    batch = max(1, BATCH_BYTES // (CHUNK_ROWS * row_bytes)) * CHUNK_ROWS
    # Every rank takes part in every round, those that have nothing left with an empty selection.
    n_rounds = comm.allreduce(-(-len(mine) // batch), MPI.MAX)

    comm.Barrier()
    started_s = time.perf_counter()
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_mpio(comm, MPI.INFO_NULL)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    file = h5py.h5f.create(out.encode(), h5py.h5f.ACC_TRUNC, fapl=access)
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_chunk((CHUNK_ROWS, *pixels.shape[1:]))
    zstd = hdf5plugin.Zstd(clevel=1)
    creation.set_filter(zstd.filter_id, h5py.h5z.FLAG_OPTIONAL, zstd.filter_options)
    in_file = h5py.h5s.create_simple(pixels.shape)
    dataset = h5py.h5d.create(file, b"images", h5py.h5t.STD_U8LE, in_file, creation)
    transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    for k in range(n_rounds):
        rows = mine[k * batch : (k + 1) * batch]
        if len(rows):
            in_file.select_hyperslab((start + k * batch, 0, 0, 0), rows.shape)
            in_memory = h5py.h5s.create_simple(rows.shape)
        else:
            rows = np.empty((1, *pixels.shape[1:]), np.uint8)
            in_memory = h5py.h5s.create_simple(rows.shape)
            in_memory.select_none()
            in_file.select_none()
        dataset.write(in_memory, in_file, rows, dxpl=transfer)
    del dataset
    file.close()
    fd = os.open(out, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    comm.Barrier()
    if comm.rank == 0:
        print(f"{time.perf_counter() - started_s:.4f}")


if __name__ == "__main__":
    main()
