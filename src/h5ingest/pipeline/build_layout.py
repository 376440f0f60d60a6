"""From the samples of all ranks, and what the images become, to the layout."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.group_datasets import not_coded
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.image_columns import image_group
from h5ingest.core.layout import CODED_CHANNELS, Filter, Group, Layout, OutputSpec
from h5ingest.core.layout_kinds import KINDS, GroupPlan
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import Samples
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.probing import LocalProbe
from h5ingest.pipeline.read_manifest import LocalSamples


def build_layout(
    local: LocalSamples,
    probed: LocalProbe,
    manifest: Manifest,
    outputs: tuple[OutputSpec, ...],
    filters: Sequence[tuple[Filter, ...]],
    options: IngestOptions,
    comm: Comm,
) -> tuple[Layout, list[Samples]]:
    """Return the layout, and this rank's samples as rows of it, a run for each group. Collective.

    What the file has already comes first in each group.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows (on all ranks).
    """
    n_groups = len(manifest.parts)
    kind = KINDS[options.layout]
    shapes = _stored_shapes(local, options.scale.of_shapes(probed.shapes), outputs)
    codes = np.array([any(each.codes_images for each in of_group) for of_group in filters])
    if codes.any():
        with agreeing(comm):
            refuse_not_coded(shapes, local.paths, codes[local.groups] if len(shapes) else True)
    lengths = kind.lengths(shapes, probed.file_sizes)
    counts = np.zeros((n_groups, 2), np.int64)  # per group: rows, elements
    counts[:, 0] = np.bincount(local.groups, minlength=n_groups)
    if len(lengths):
        np.add.at(counts[:, 1], local.groups, lengths)
    # every: (ranks, groups, 2)
    every = np.stack(comm.allgather(counts))
    before, total = every[: comm.rank].sum(axis=0), every.sum(axis=0)
    if local.held.groups:
        before, total = before + local.held.counts, total + local.held.counts
    grouped = manifest.group_by is not None
    plans = [
        GroupPlan(
            name=os.fsdecode(name),
            prefix=(group_prefix(os.fsdecode(name)) if grouped else "") + image_group(column),
            n_rows=n_rows,
            n_elements=n_elements,
            output=output,
            filters=of_group,
            chunk_rows=options.chunk_rows,
            padded=options.fit in ("pad", "contain"),
        )
        for (name, column), output, of_group, (n_rows, n_elements) in zip(
            manifest.parts, outputs, filters, total.tolist(), strict=True
        )
    ]
    groups: tuple[Group, ...] = ()
    with agreeing(comm):
        groups = tuple(map(kind.group, plans))
    layout = Layout(
        kind=kind.name,
        groups=groups,
        grouped=grouped,
        alignment=options.alignment,
        images=manifest.images,
    )
    mine: dict[int, NDArray[np.int64] | None] = {0: None}  # group -> positions of its samples
    if n_groups > 1:
        order, ends = np.argsort(local.groups, kind="stable"), np.cumsum(counts[:, 0])
        present = np.flatnonzero(counts[:, 0])
        mine = {g: order[ends[g] - counts[g, 0] : ends[g]] for g in present.tolist()}
    runs = [
        _run(g, where, local, shapes, lengths, probed.places, before[g])
        for g, where in mine.items()
    ]
    return layout, [run for run in runs if run.rows]


def refuse_not_coded(
    shapes: NDArray[np.int32], paths: PackedStrings, coded: NDArray[np.bool_] | bool = True
) -> None:
    """Raise if an image is not of the channels that a filter can code.

    Args:
        shapes: (n, 4) of this rank's images, as `Samples.shapes`.
        paths: (n,) of their files.
        coded: (n,) whether they are to be coded; or the same for all.

    Raises:
        UsageError: one is not.
    """
    wrong = np.flatnonzero(~np.isin(shapes[:, 2], (0, *CODED_CHANNELS)) & coded)
    if len(wrong):
        first = int(wrong[0])
        path = os.fsdecode(paths[first])
        raise not_coded(
            f"{len(wrong):,} images of this rank are not, the first is {path} with "
            f"{shapes[first, 2]} channels"
        )


def _stored_shapes(
    local: LocalSamples, shapes: NDArray[np.int32], outputs: tuple[OutputSpec, ...]
) -> NDArray[np.int32]:
    """Return (n, 4) height, width, channels, bytes of a value, as stored; (0, 4) if uniform.

    `shapes` are the same of the images, scaled, before they become what `outputs` says.
    """
    if not len(shapes):
        return shapes
    # wanted: (n, 2) channels and bytes of a value; 0: the image keeps its own
    wanted = np.array([(o.channels or 0, o.n_bytes) for o in outputs], np.int32)[local.groups]
    changed = (wanted > 0) & (wanted != shapes[:, 2:])
    changed[:, 0] &= shapes[:, 0] > 0  # what cannot be read has no channels
    if changed.any():  # mostly images stay as they are: no copy
        shapes = shapes.copy()
        np.copyto(shapes[:, 2:], wanted, where=changed)
    return shapes


def _run(
    group: int,
    mine: NDArray[np.int64] | None,
    local: LocalSamples,
    shapes: NDArray[np.int32],
    lengths: NDArray[np.int64],
    places: NDArray[np.void],
    before: NDArray[np.int64],
) -> Samples:
    """Return the samples of a group, in manifest order: those at the positions `mine` in `local`.

    Of all samples in `local`, `shapes` is (n, 4) and `lengths` (n,), both empty in a stack, and
    `places` (n,) or empty; `mine` is (k,), or None for all of them. `before` has the rows and
    elements of the group on the ranks before this one, (2,).
    """
    indices = np.arange(local.indices.start, local.indices.stop, dtype=np.int64)
    paths, folders, members = local.paths, local.folders, local.members
    if mine is not None:
        indices = indices[mine]
        paths = PackedStrings.pack([paths[i] for i in mine.tolist()])
        if len(folders):
            folders = PackedStrings.pack([folders[i] for i in mine.tolist()])
        shapes = shapes[mine] if len(shapes) else shapes
        lengths = lengths[mine] if len(lengths) else lengths
        places = places[mine] if len(places) else places
        members = members[mine] if len(members) else members
    first_row, first_element = before.tolist()
    return Samples(
        group=group,
        rows=range(first_row, first_row + len(paths)),
        indices=indices,
        paths=paths,
        shapes=shapes,
        starts=first_element + np.cumsum(lengths) - lengths,
        lengths=lengths,
        folders=folders,
        places=places,
        members=members,
        n_each=local.n_each,
    )
