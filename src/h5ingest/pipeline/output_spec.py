"""What the images of a group become, decided from what they are and from the options.

This is the only place where that is decided. May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import Census, spec_of
from h5ingest.core.geometry import Scale
from h5ingest.core.layout import OutputSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import CHANNELS, IngestOptions
from h5ingest.images.conversion import lossless_channels

_DEEPER: Final = (
    "(times 257); --dtype uint8 --reduce-depth makes all 8 bits, with loss; --layout tree or "
    "--layout encoded keeps each as it is"
)

_SIDES: Final = (224, 128, 64, 32)
"""Sides of squares that are proposed: of usual ones the largest that most images have."""
MOST_KINDS: Final = 10
"""Kinds of images that the message for a group shows."""


def decide(census: Census | None, options: IngestOptions) -> tuple[OutputSpec, list[str]]:
    """Return what the images of a group become, and why they do not fit together, if so.

    Args:
        census: of the group; None: no image of it can be read.
        options: what is to become of images that differ.

    Returns:
        A line for each problem, with the option for each way out; the spec is then of no use.
    """
    kind = KINDS[options.layout]
    channels = CHANNELS.get(options.channels)
    if census is None:  # every image of the group may be blank: the smallest image
        depth = "uint8" if options.dtype == "auto" else options.dtype
        return OutputSpec(channels=channels or 1, dtype=depth, size=options.size or (1, 1)), []
    problems: list[str] = []
    if channels is None and kind.uniform:
        channels = lossless_channels(census.channels)
    dtype = None if options.dtype == "auto" else options.dtype
    raw = options.samples == "raw"
    if dtype is None and kind.one_dtype:
        if len(census.dtypes) > 1:
            problems.append(
                "8 and 16 bits are mixed: --dtype uint16 makes all 16 bits without loss "
                + ("(raw values stay); --layout tree keeps each as it is" if raw else _DEEPER)
            )
        dtype = "uint16" if "uint16" in census.dtypes else "uint8"
    if options.dtype == "uint8" and "uint16" in census.dtypes and not options.reduce_depth:
        problems.append(
            "--dtype uint8 cannot hold the raw samples of 16-bit images"
            if raw
            else "--dtype uint8 would lose half of the bits of 16-bit images: add --reduce-depth "
            "to have that"
        )
    if options.fit in ("pad", "contain") and options.pad_value > 255 and dtype == "uint8":
        problems.append(f"--pad-value {options.pad_value} is more than 8 bits hold")
    size = None
    if kind.uniform:
        size, size_problems = _size(census, options)
        problems += size_problems
    output = OutputSpec(channels=channels, dtype=dtype, size=size, scale=options.scale)
    return output, problems


def _size(census: Census, options: IngestOptions) -> tuple[tuple[int, int], list[str]]:
    """Return the size of a stack's images, and why there is none."""
    smallest, largest = census.smallest, census.largest
    if options.size is not None:
        size = options.size
    elif options.fit == "pad" or options.fit == "resize":
        size = largest
    else:
        size = census.commonest
    if options.fit == "error" and not smallest == size == largest:
        h, w = census.commonest
        side = next((n for n in _SIDES if n <= min(h, w)), _SIDES[-1])
        return size, [
            f"{census.n_sizes:,} sizes are mixed: --fit pad keeps every pixel (to "
            f"{largest[0]}x{largest[1]}, true sizes in /sizes); --fit cover --size {side} makes "
            f"each {side}x{side} (scales it to fill that, crops the centre) and --fit contain "
            f"--size {side} makes each fit in (scales it, pads); --layout ragged stores each as it "
            f"is"
            + ("; --group-by COLUMN gives each group its own size" if not options.group_by else "")
        ]
    if options.fit == "pad" and (largest[0] > size[0] or largest[1] > size[1]):
        return size, [
            f"--fit pad --size {size[0]}x{size[1]} is too small for the largest images "
            f"({largest[0]}x{largest[1]}): leave out --size, or --fit contain"
        ]
    if options.fit == "crop" and (smallest[0] < size[0] or smallest[1] < size[1]):
        return size, [
            f"--fit crop to {size[0]}x{size[1]} is larger than some images (the least height is "
            f"{smallest[0]}, the least width {smallest[1]}): --fit cover scales each first, "
            f"--fit pad keeps every pixel"
        ]
    return size, []


def describe_misfit(
    group: str, kinds: NDArray[np.void], places: Mapping[int, str], problems: Sequence[str]
) -> str:
    """Return a table of what is there, and the ways out.

    Args:
        group: its name.
        kinds: (k,) of the group, the commonest first.
        places: index -> line and path of the first image of each of the first `MOST_KINDS`.
        problems: as `decide` returns them.
    """
    where = f"group {group!r}: " if group else ""
    lines = [f"{where}the images do not fit together; there are"]
    for kind in kinds[:MOST_KINDS]:
        first = int(kind["first"])
        lines.append(f"  {kind['count']:,} x {spec_of(kind)} (first: {places[first]})")
    if len(kinds) > MOST_KINDS:
        lines.append(f"  … and {len(kinds) - MOST_KINDS:,} kinds more")
    return "\n".join([*lines, *(f"- {problem}" for problem in problems)])


def describe_conversions(kinds: NDArray[np.void], outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
    """Return what is changed, a line for each kind of change, the commonest first.

    Args:
        kinds: (k,) of all groups.
        outputs: what the images of each group become.
    """
    numbers = [(*(t.size or (0, 0)), t.channels or 0, t.n_bytes) for t in outputs]
    # wanted: (k, 4), 0: as it is; known: (k, 4); both height, width, channels, bytes of a value
    wanted = np.array(numbers, np.int32)[kinds["group"]]
    fields = ("height", "width", "channels", "bytes")
    known = np.stack([kinds[field].astype(np.int32) for field in fields], axis=1)
    scale = outputs[0].scale if outputs else Scale()
    changed = ((wanted != 0) & (wanted != known)).any(axis=1)
    changed |= (wanted[:, 0] == 0) & (scale.of_shapes(known) != known).any(axis=1)
    # change: (m, 8) channels and bytes, wanted, height and width
    change = np.hstack([known[:, 2:], wanted, known[:, :2]])[changed]
    order = np.lexsort(change.T[::-1])
    change, rows = change[order], np.flatnonzero(changed)[order]
    differs = np.diff(change, axis=0, prepend=-1) != 0
    begin = np.flatnonzero(differs[:, :6].any(axis=1))
    found = []
    for start, end in pairwise([*begin.tolist(), len(change)]):
        n_images = kinds["count"][rows[start:end]].sum()
        n_sizes = differs[start:end].any(axis=1).sum()
        output, spec = outputs[kinds["group"][rows[start]]], spec_of(kinds[rows[start]])
        new = output.apply(spec)
        if n_sizes == 1:
            text = f"{n_images:,} images from {spec} to {new}"
        else:
            text = f"{n_images:,} images of {n_sizes:,} sizes from {spec.colour} to "
            text += str(new) if output.size else f"{new.colour}, {scale}" if scale else new.colour
        found.append((-n_images, text))
    return tuple(text for _, text in sorted(found))
