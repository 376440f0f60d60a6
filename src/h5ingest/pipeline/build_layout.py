"""From what the ranks hold and what the images become to a layout, and to samples in its order."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout import (
    Filter,
    Group,
    Layout,
    extent_group,
    group_prefix,
    stack_group,
    tree_group,
)
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import Samples
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.output_spec import OutputSpec
from h5ingest.pipeline.probing import LocalProbe, ProbeResult
from h5ingest.pipeline.read_manifest import LocalSamples


def build_layout(
    held: LocalSamples,
    probed: LocalProbe,
    manifest: Manifest,
    findings: ProbeResult,
    filters: tuple[Filter, ...],
    options: IngestOptions,
    comm: Comm,
) -> tuple[Layout, list[Samples]]:
    """Return the layout, and this rank's samples in its order, a run for each group. Collective.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows (on all ranks).
    """
    n_groups = len(manifest.group_names)
    shapes = _stored_shapes(held, probed, findings.targets)
    lengths = _lengths(shapes, probed, options.layout)
    local = np.zeros((n_groups, 2), np.int64)  # per group: rows, elements
    local[:, 0] = np.bincount(held.groups, minlength=n_groups)
    if len(lengths):
        np.add.at(local[:, 1], held.groups, lengths)
    # every: (ranks, groups, 2)
    every = np.stack(comm.allgather(local))
    before, total = every[: comm.rank].sum(axis=0), every.sum(axis=0)
    groups = tuple(
        _group(os.fsdecode(name), target, int(rows), int(elements), manifest, filters, options)
        for name, target, (rows, elements) in zip(
            manifest.group_names, findings.targets, total, strict=True
        )
    )
    layout = Layout(
        kind=options.layout,
        groups=groups,
        grouped=manifest.group_by is not None,
        filters=filters,
        alignment=options.alignment,
    )
    mine: dict[int, NDArray[np.int64] | None] = {0: None}  # group -> where its samples are held
    if n_groups > 1:
        order, ends = np.argsort(held.groups, kind="stable"), np.cumsum(local[:, 0])
        present = np.flatnonzero(local[:, 0])
        mine = {g: order[ends[g] - local[g, 0] : ends[g]] for g in present.tolist()}
    runs = [_run(g, where, held, shapes, lengths, before[g]) for g, where in mine.items()]
    return layout, [run for run in runs if run.rows]


def _stored_shapes(
    held: LocalSamples, probed: LocalProbe, targets: tuple[OutputSpec, ...]
) -> NDArray[np.int32]:
    """Return (n, 4) height, width, channels, bytes a value, as stored; (0, 4) for a stack."""
    shapes = probed.shapes
    if not len(shapes):
        return shapes
    # wanted: (groups, 2) channels and bytes a value; 0: each image keeps its own
    wanted = np.array([(t.channels or 0, t.n_bytes) for t in targets], np.int32)[held.groups]
    changed = wanted > 0
    changed[:, 0] &= shapes[:, 0] > 0  # what cannot be read has no channels
    np.copyto(shapes[:, 2:], wanted, where=changed)
    return shapes


def _lengths(shapes: NDArray[np.int32], probed: LocalProbe, kind: str) -> NDArray[np.int64]:
    """Return (n,) what each sample takes of its group's `pixels`; (0,) for a stack."""
    if kind == "encoded":
        return probed.sizes
    factors = shapes if kind == "tree" else shapes[:, :3]  # a tree is counted in bytes
    lengths: NDArray[np.int64] = factors.astype(np.int64).prod(axis=1)
    return lengths


def _group(
    name: str,
    target: OutputSpec,
    n_rows: int,
    n_elements: int,
    manifest: Manifest,
    filters: tuple[Filter, ...],
    options: IngestOptions,
) -> Group:
    prefix = group_prefix(name) if manifest.group_by is not None else ""
    if options.layout == "tree":
        return tree_group(name, prefix, n_rows, n_elements)
    if options.layout != "stack":
        dtype = "uint8" if options.layout == "encoded" else target.dtype or "uint8"
        return extent_group(
            options.layout, name, prefix, n_rows, n_elements, dtype, filters=filters
        )
    return stack_group(
        name, prefix, n_rows, target.image,
        chunk_rows=options.chunk_rows, filters=filters, padded=options.fit == "pad",
    )  # fmt: skip


def _run(
    group: int,
    mine: NDArray[np.int64] | None,
    held: LocalSamples,
    shapes: NDArray[np.int32],
    lengths: NDArray[np.int64],
    before: NDArray[np.int64],
) -> Samples:
    """Return the samples `mine` (positions in `held`; None: all), in manifest order.

    Args:
        group: their group.
        mine: (n,) where they are.
        held: what this rank holds.
        shapes: (n, 4), or (0, 4).
        lengths: (n,), or (0,).
        before: (2,) rows and elements of the group on the ranks before this one.
    """
    indices = np.arange(held.indices.start, held.indices.stop, dtype=np.int64)
    paths, folders = held.paths, held.folders
    if mine is not None:
        indices = indices[mine]
        paths = PackedStrings.pack([paths[i] for i in mine.tolist()])
        if len(folders):
            folders = PackedStrings.pack([folders[i] for i in mine.tolist()])
        shapes = shapes[mine] if len(shapes) else shapes
        lengths = lengths[mine] if len(lengths) else lengths
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
    )
