"""Samples move to the ranks that write them: the part of the plan that needs the samples."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from h5ingest.core.layout import Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.partition import Cut, Piece, cut, overlap, pieces, unit
from h5ingest.core.sample_table import Samples
from h5ingest.mpi.comm import Comm


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of one group that one rank writes, with its samples."""

    group: int
    """Position of the group in the layout."""
    span: range
    """What it writes of `pixels`: rows of a stack, else elements; whole chunks."""
    owned: range
    """Rows whose status and checksum it writes: those that begin in its span."""
    samples: Samples
    """Those rows, and the one before them if a part of it is in the span."""

    def without(self, done: Sequence[range]) -> list[Shard]:
        """Return what is left of it where some spans of its group are done already.

        Args:
            done: disjoint spans of the group, in order; whole chunks, or whole images.
        """
        left, position = [], self.span.start
        for finished in done:
            common = overlap(self.span, finished)
            if common:
                left.append(range(position, common.start))
                position = common.stop
        left.append(range(position, self.span.stop))
        spans = [span for span in left if span]
        if spans == [self.span]:
            return [self]
        parts = [self.part(span) for span in spans]
        return parts + self._empty_images([part.owned for part in parts])

    def part(self, span: range) -> Shard:
        """Return what lies in a part of its span: whole chunks, or whole images."""
        samples, base = self.samples, self.samples.rows.start
        if not len(samples.starts):  # a stack: rows are positions
            return replace(self, span=span, owned=span, samples=samples.slice(span))
        ends = samples.starts + samples.lengths
        begun = base + int(np.searchsorted(samples.starts, span.start))
        first = base + int(np.searchsorted(ends, span.start, side="right"))
        stop = base + int(np.searchsorted(samples.starts, span.stop))
        owned = range(max(begun, self.owned.start), stop)
        rows = range(min(first, begun), stop)
        return replace(self, span=span, owned=owned, samples=samples.slice(rows))

    def _empty_images(self, taken: Sequence[range]) -> list[Shard]:
        """Return a shard for each image without pixels: no span tells whether it is done.

        Args:
            taken: rows that belong to another part.
        """
        samples = self.samples
        found = []
        for k in np.flatnonzero(samples.lengths == 0).tolist():
            row = range(samples.rows.start + k, samples.rows.start + k + 1)
            if any(row.start in rows for rows in taken):
                continue
            start = int(samples.starts[k])
            nothing = range(start, start)
            found.append(replace(self, span=nothing, owned=row, samples=samples.slice(row)))
        return found


def redistribute(comm: Comm, layout: Layout, runs: Sequence[Samples]) -> list[Shard]:
    """Return what this rank writes, with the samples for it. Collective.

    Args:
        comm: the ranks.
        layout: what is written.
        runs: the samples that this rank has now, in runs of rows.
    """
    local: dict[int, list[Samples]] = {}
    for run in runs:
        local.setdefault(run.group, []).append(run)
    cuts = cut([group.pixels for group in layout.groups], comm.size)
    if KINDS[layout.kind].uniform:
        rows = [(c.position, c.position) for c in cuts]
    else:
        cuts, rows = _locate(comm, layout, cuts, local)
    lengths = [group.pixels.shape[0] for group in layout.groups]
    shares = [_share(layout, cuts, rows, lengths, rank) for rank in range(comm.size)]
    outgoing = [
        [
            run.slice(overlap(run.rows, needed))
            for piece, needed, _ in share
            for run in local.get(piece.group, ())
            if overlap(run.rows, needed)
        ]
        for share in shares
    ]
    incoming: dict[int, list[Samples]] = {}
    for parts in comm.exchange(outgoing):
        for part in parts:
            incoming.setdefault(part.group, []).append(part)
    return [
        Shard(
            group=piece.group,
            span=piece.span,
            owned=owned,
            samples=Samples.concatenate(
                sorted(incoming[piece.group], key=lambda part: part.rows.start)
            ),
        )
        for piece, _, owned in shares[comm.rank]
    ]


def _share(
    layout: Layout,
    cuts: Sequence[Cut],
    rows: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    rank: int,
) -> list[tuple[Piece, range, range]]:
    """Return the pieces of one rank, the rows needed for each, and the rows owned.

    Args:
        layout: what is written.
        cuts: borders between the ranks.
        rows: for each border, the row in which it lies and the first row that begins at it or
            behind it: the same row, unless the border is inside an image.
        lengths: positions on axis 0 of each group's `pixels`.
        rank: whose.
    """
    share = []
    found = pieces(cuts, lengths, rank)
    for i, piece in enumerate(found):
        first, owned = rows[rank - 1] if i == 0 and rank > 0 else (0, 0)
        stop = layout.groups[piece.group].n_rows
        if i == len(found) - 1 and rank < len(cuts):
            stop = rows[rank][1]
        if not piece.span:  # no part of an image that a border is in, but empty images maybe
            first = owned
        if first < stop:
            share.append((piece, range(first, stop), range(owned, stop)))
    return share


def _locate(
    comm: Comm, layout: Layout, cuts: Sequence[Cut], local: Mapping[int, Sequence[Samples]]
) -> tuple[list[Cut], list[tuple[int, int]]]:
    """Return the cuts, moved to where an image begins if they may, and their rows. Collective.

    The first row that begins at a cut or behind it is the number of rows that begin before it,
    which every rank can count for the rows that it has.
    """
    told = comm.allgather([_before(cut_, local.get(cut_.group, ())) for cut_ in cuts])
    moved, rows = [], []
    for number, (group, position) in enumerate(cuts):
        pixels = layout.groups[group].pixels
        first = sum(counts[number][0] for counts in told)
        begins = min([counts[number][1] for counts in told], default=pixels.shape[0])
        begins = min(begins, pixels.shape[0])
        if unit(pixels) == 1:
            moved.append(Cut(group, begins))
            rows.append((first, first))
        else:
            moved.append(Cut(group, position))
            rows.append((first - (begins > position), first))
    return moved, rows


def _before(cut_: Cut, runs: Sequence[Samples]) -> tuple[int, int]:
    """Return how many of this rank's rows begin before a cut, and where the next one begins."""
    n_before, begins = 0, sys.maxsize
    for run in runs:
        k = int(np.searchsorted(run.starts, cut_.position))
        n_before += k
        if k < len(run.starts):
            begins = min(begins, int(run.starts[k]))
    return n_before, begins
