"""Which kinds of images the groups of a stored file have, and layouts that cannot hold them.

May not: know a communicator.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import UsageError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import LayoutKind
from h5ingest.pipeline.stored_parts import Part

Kind = tuple[int, int, int, int]
"""Height, width, channels, bytes of a value; the first three are 0 where they do not matter."""
Counted = dict[Kind, tuple[int, int, str]]
"""How many there are, and row and path of the first; of the commonest kinds alone."""
_MOST_KINDS: Final = 10


def kinds_of(part: Part, shapes: NDArray[np.int32], kind: LayoutKind) -> Counted:
    """Return the kinds of images of a group that a layout tells apart, but for failed ones."""
    good = np.flatnonzero(~part.has_failed)
    told = shapes[good]
    if not kind.uniform:
        told = told * np.array((0, 0, 0, kind.one_dtype), np.int32)
    found, first, counts = np.unique(told, axis=0, return_index=True, return_counts=True)
    paths, rows = part.samples.paths, part.samples.rows
    some = np.argsort(-counts, kind="stable")[:_MOST_KINDS].tolist()
    places = [int(good[first[k]]) for k in some]
    return {
        (*found[k].tolist(),): (int(counts[k]), rows[at], os.fsdecode(paths[at]))
        for k, at in zip(some, places, strict=True)
    }


def merged(of_ranks: Iterable[Counted]) -> Counted:
    """Return the kinds of all ranks, the commonest first."""
    found: Counted = {}
    for kinds in of_ranks:
        for kind, (count, row, path) in kinds.items():
            n_before, its_row, its_path = found.get(kind, (0, row, path))
            found[kind] = n_before + count, *min((row, path), (its_row, its_path))
    return dict(sorted(found.items(), key=lambda each: (-each[1][0], each[1][1])))


def refuse_kinds(path: str, part: Part, kinds: Counted, kind: LayoutKind) -> None:
    """Raise if a layout cannot hold all images of a group.

    Raises:
        UsageError: it cannot; shows them.
    """
    if len(kinds) < 2:
        return
    of_group = f"group {part.group.name!r}: " if part.group.name else ""
    lines = [f"{path}: {of_group}--layout {kind.name} needs images of one kind; there are"]
    for (height, width, channels, n_bytes), (count, _, first) in list(kinds.items())[:_MOST_KINDS]:
        dtype = f"uint{8 * n_bytes}"
        what = dtype
        if height:
            what = str(ImageSpec(height=height, width=width, channels=channels, dtype=dtype))
        lines.append(f"  {count:,} x {what} (first: {first})")
    lines.append(
        "--layout tree holds any images"
        + (", ragged those of one depth" if kind.uniform else "")
        + "; to make them alike, ingest their sources again"
    )
    raise UsageError("\n".join(lines))
