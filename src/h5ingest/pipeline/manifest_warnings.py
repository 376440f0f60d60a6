"""What the user should know of a manifest that can be read: it may not say what was meant."""

from __future__ import annotations

import os
from itertools import islice
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.core.manifest import Manifest
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.read_manifest import LocalSamples

_LIKE_LABELS: Final = ("labels", "class", "class_name", "classname", "category", "target", "y")
"""Names, in any case, of columns that are likely to be meant as labels."""


def manifest_warnings(manifest: Manifest, local: LocalSamples, comm: Comm) -> tuple[str, ...]:
    """Return what the user should know. Collective."""
    found = []
    columns = manifest.dialect.columns
    if "label" not in columns:
        found += [
            f"no column is named label: {name!r} is stored as columns/{name}, not as labels"
            for name in columns
            if name.lower() in _LIKE_LABELS and name != manifest.group_by
        ][:1]
    n_repeated, first = _count_repeated(local, comm)
    if n_repeated:
        image = first * local.n_each
        mine = image in local.indices
        path = os.fsdecode(local.paths[image - local.indices.start]) if mine else ""
        path = "".join(comm.allgather(path))
        lines = f"{n_repeated:,} line{'s' * (n_repeated > 1)}"
        found.append(
            f"{lines} of the manifest name{'s' * (n_repeated == 1)} a file that another line names "
            f"too; each has a row of its own (first: {path})"
        )
    return tuple(found)


def _count_repeated(local: LocalSamples, comm: Comm) -> tuple[int, int]:
    """Return how many samples have the path of an earlier one, and the first of these. Collective.

    Each rank is sent the hashes that are its own, so that none holds those of all samples.
    """
    paths = islice(local.paths, 0, None, local.n_each)  # the first image of each
    hashes = np.fromiter(map(xxh3_64_intdigest, paths), np.uint64)
    owners = hashes % np.uint64(comm.size)
    mine = [np.flatnonzero(owners == rank) for rank in range(comm.size)]
    found = np.sort(np.concatenate(comm.exchange([hashes[of] for of in mine])))
    n_repeated = sum(comm.allgather(int((found[1:] == found[:-1]).sum())))
    if not n_repeated:  # as mostly: then nothing is said of which they are
        return 0, -1
    found = np.concatenate(comm.exchange([hashes[of] for of in mine]))
    indices = np.concatenate(
        comm.exchange([local.indices.start // local.n_each + of for of in mine])
    )
    order = np.lexsort([indices, found])
    again = order[1:][found[order[1:]] == found[order[:-1]]]
    firsts = comm.allgather(int(indices[again].min()) if len(again) else None)
    return n_repeated, min(first for first in firsts if first is not None)
