"""What the user should know of a manifest that can be read: it may not say what was meant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.core.manifest import Manifest
from h5ingest.core.manifest_dialect import LineError, parse
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.read_manifest import LocalSamples

_LIKE_LABELS: Final = ("labels", "class", "class_name", "classname", "category", "target", "y")
"""Names, in any case, of columns that are likely to be meant as labels."""
_LOOKED_AT: Final = 64 * 1024
"""Bytes of lines, from the first on, by which columns of images are known."""


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
    return (*found, *comm.bcast(_like_images(manifest) if comm.rank == 0 else ()))


def _like_images(manifest: Manifest) -> tuple[str, ...]:
    """Return a line for each column that looks like images and is not taken so."""
    columns = manifest.dialect.columns
    others = {*columns} - {"path", "label", *manifest.images}
    if not others:
        return ()
    from h5ingest.images.scan import EXTENSIONS  # few manifests have such columns

    endings = tuple(EXTENSIONS)
    return tuple(
        f"column {name!r} names image files and is stored as text: --image {name} stores "
        f"the images beside the others, --image {name}:raw label masks"
        for name, cells in zip(columns, _first_rows(manifest), strict=True)
        if name in others and cells and all(cell.lower().endswith(endings) for cell in cells)
    )


def _first_rows(manifest: Manifest) -> list[Sequence[bytes]]:
    """Return the columns of the first lines; empty ones if they cannot be read: others say so."""
    try:
        with manifest.path.open("rb") as file:
            file.seek(manifest.dialect.body_start)
            data = file.read(_LOOKED_AT)
        if len(data) == _LOOKED_AT:
            data = data[: data.rfind(b"\n") + 1]
        return parse(data, manifest.dialect)
    except (OSError, LineError):
        return [()] * len(manifest.dialect.columns)


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
