"""Several images a row: which rows fail as a whole, and what is stored of these.

Before rank 0 makes the images of such rows blank, it notes in the journal that all are undone.

May not: read an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import Failure, SampleError
from h5ingest.core.layout import Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.redistribute import Shard
from h5ingest.storage.journal import Journal

SIZES: Final = "sizes"
"""Kind of the failure of a row whose images have different sizes."""


def unequal_rows(
    local: LocalSamples, shapes: NDArray[np.int32], options: IngestOptions
) -> list[Failure]:
    """Return the rows whose images would not stay one above the other when they are fitted.

    Args:
        local: this rank's images.
        shapes: (n, 4) of these; zeros for what cannot be read.
        options: how they are fitted; where they are not, they may have any sizes.
    """
    if options.fit == "error" and not options.scale:
        return []
    sizes = shapes[:, :2].reshape(-1, local.n_each, 2)
    known = (sizes > 0).all(axis=(1, 2))
    wrong = known & (sizes != sizes[:, :1]).any(axis=(1, 2))
    failures = []
    for row in np.flatnonzero(wrong).tolist():
        first = row * local.n_each
        paths = [os.fsdecode(local.paths[first + k]) for k in range(local.n_each)]
        found = (f"{p} {h}x{w}" for p, (h, w) in zip(paths, sizes[row].tolist(), strict=True))
        reason = f"expected images of one size, to fit them alike, found {', '.join(found)}"
        failures.append(SampleError(SIZES, reason).at(local.sample(first), local.paths[first]))
    return failures


def refuse_rows(
    local: LocalSamples,
    failures: Iterable[Failure],
    shapes: NDArray[np.int32],
    file_sizes: NDArray[np.int64],
) -> None:
    """Count all images of rows that are going to fail as such that cannot be read.

    `shapes`, (n, 4), and `file_sizes`, (n,), are changed.
    """
    n_each, first = local.n_each, local.indices.start
    for failure in failures:
        begin = failure.index * n_each - first
        shapes[begin : begin + n_each] = 0
        file_sizes[begin : begin + n_each] = 0


def fail_rows(
    job: Job,
    layout: Layout,
    shards: Sequence[Shard],
    failures: Sequence[Failure],
    refused: Sequence[Failure],
    journal: Journal | None,
    names: Mapping[int, Sequence[tuple[str, str]]] | None,
) -> list[Failure]:
    """Let rows fail as a whole of which an image has; return, on rank 0, one failure for each.

    If failed images may be blank, the other images of these rows become so, too. Collective.

    Args:
        job: the run.
        layout: the datasets.
        shards: what this rank would have done, had nothing been done before.
        failures: of images of this rank.
        refused: rows among those whose headers this rank has read that were to fail from then on.
        journal: on rank 0.
        names: on rank 0, (HDF5 path, kind) of each row's dataset, for each group of a tree.
    """
    comm = job.comm
    from_headers = {i for told in comm.allgather([f.index for f in refused]) for i in told}
    mine = [*refused, *(each for each in failures if each.index not in from_headers)]
    rows = sorted({i for told in comm.allgather([f.index for f in mine]) for i in told})
    told = comm.gather((mine, _images_of(shards, rows)))
    found: list[Failure] = []
    with while_rank_0_works(comm) as beat:
        if told is not None and rows:
            images = sorted(one for _, some in told for one in some)
            if job.options.on_error == "blank" and journal is not None:
                from h5ingest.storage.split_images import TornImage, blank, undo  # on rank 0 only

                of_trees = KINDS[layout.kind].dataset_per_image
                fail = [
                    TornImage(group, row, start, stop, names[group][row][0])
                    if of_trees and names is not None
                    else TornImage(group, row, start, stop)
                    for _, group, row, start, stop, _ in images
                    if start < stop  # nothing is stored of the others
                ]
                job.check_lock()
                journal.append(undo(layout, fail))
                blank(job.paths.partial, layout, fail, beat)
            paths: dict[int, list[str]] = {}
            for index, *_, path in images:
                paths.setdefault(index // len(layout.images), []).append(path)
            found = _as_rows((failure for of_rank, _ in told for failure in of_rank), paths)
    return found


def _images_of(
    shards: Sequence[Shard], rows: Sequence[int]
) -> list[tuple[int, int, int, int, int, str]]:
    """Return (index, group, row, first element, end, path) of each image of rows in shards.

    Args:
        shards: of one rank.
        rows: indices of samples, in order.
    """
    found = []
    for shard in shards:
        samples = shard.samples
        of_rows = np.isin(samples.indices // samples.n_each, np.array(rows, np.int64))
        for k in np.flatnonzero(of_rows).tolist():
            row = samples.rows.start + k
            if row in shard.owned:
                start, stop = row, row + 1
                if len(samples.starts):
                    start = int(samples.starts[k])
                    stop = start + int(samples.lengths[k])
                path = os.fsdecode(samples.paths[k])
                found.append((int(samples.indices[k]), shard.group, row, start, stop, path))
    return found


def _as_rows(failures: Iterable[Failure], paths: Mapping[int, Sequence[str]]) -> list[Failure]:
    """Return one failure for each row, which names all of its images.

    Args:
        failures: of images, with the indices of their rows; several of one row maybe.
        paths: index of a row -> paths of its images, in their order.
    """
    of_rows: dict[int, dict[str, Failure]] = {}
    for failure in failures:
        of_rows.setdefault(failure.index, {}).setdefault(failure.path, failure)
    found = []
    for index, of_row in sorted(of_rows.items()):
        first, *more = of_row.values()
        reasons = [first.reason, *(f"{each.path}: {each.reason}" for each in more)]
        others = [path for path in paths.get(index, ()) if path not in of_row]
        if others and first.kind != SIZES:
            reasons.append(f"the row fails with it: {', '.join(others)}")
        found.append(replace(first, reason="; ".join(reasons)))
    return found
