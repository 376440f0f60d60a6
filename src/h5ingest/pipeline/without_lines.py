"""A manifest without some of its lines, beside the output of a job that needs the others."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import ManifestError
from h5ingest.core.manifest import Manifest, blocks, read_class_names, share
from h5ingest.core.outfiles import MANIFEST, write
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.job import Job
from h5ingest.storage.shared_blocks import see_same_file


def leave_out(job: Job, manifest: Manifest, lines: NDArray[np.int64]) -> Path:
    """Write a manifest without some lines beside the output; return its path. Collective.

    Args:
        job: the run; its options say from now on what separates the columns.
        manifest: that is left as it is.
        lines: (k,) indices of the samples that are left out.

    Raises:
        ManifestError: the manifest is not what it was when the run began.
        OutputError: the other one cannot be written.
    """
    comm, listed = job.comm, job.paths.new
    if comm.rank == 0 and job.options.dry_run:  # without a lock the name may be another's
        listed = job.paths.out.with_name(f".h5ingest-{os.urandom(8).hex()}.csv")
    listed = comm.bcast(listed)
    with while_rank_0_works(comm):
        if comm.rank == 0:
            _write_without(manifest, lines, listed)
            job.has_scan = not job.options.dry_run
    see_same_file(listed, comm)
    job.options = replace(
        job.options, delimiter=manifest.dialect.delimiter.decode(), label_column=None
    )
    return listed


def labels_of(manifest: Manifest, comm: Comm) -> frozenset[bytes]:
    """Return all labels of a manifest, numbers too. Collective."""
    if manifest.class_names or "label" not in manifest.dialect.columns:
        return frozenset(manifest.class_names or ())
    byte_range = share(manifest.path, manifest.dialect, comm.rank, comm.size)
    found = read_class_names(manifest.path, manifest.dialect, byte_range)
    return frozenset[bytes]().union(*comm.allgather(found))


def _write_without(manifest: Manifest, lines: NDArray[np.int64], path: Path) -> None:
    """Write all but some lines, with the same delimiter. Rank 0 only; see `leave_out`."""
    left_out = np.zeros(manifest.n_rows, np.bool_)
    left_out[lines] = True

    def content(file: BinaryIO) -> None:
        file.writelines(_without(manifest, left_out))

    write(path, content, MANIFEST)


def _without(manifest: Manifest, left_out: NDArray[np.bool_]) -> Iterator[bytes]:
    """Yield lines; the first one names the columns, whether it did so before or not."""
    dialect = manifest.dialect
    heading = io.StringIO()
    mark = f"label[{dialect.separator.decode()}]"
    csv.writer(heading, delimiter=dialect.delimiter.decode(), lineterminator="\n").writerow(
        mark if name == "label" and dialect.separator else name for name in dialect.columns
    )
    yield heading.getvalue().encode("utf-8", "surrogateescape")
    index, start = 0, dialect.body_start
    with manifest.path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        for block in blocks(file, start, end):
            for line in block.splitlines(keepends=True):
                if line.isspace():
                    continue
                if index == len(left_out):
                    break
                if not left_out[index]:
                    yield line if line.endswith(b"\n") else line + b"\n"
                index += 1
    if index != len(left_out):
        raise ManifestError(f"{manifest.path}: the manifest was changed while the job ran")
