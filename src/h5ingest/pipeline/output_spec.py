"""What the images of a group become, decided from what they are and from the options.

This is the only place where that is decided. May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import Census, in_words, merge
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
        ways = {
            f"--fit cover --size {side}": f"scales to fill {side}x{side}, crops the centre",
            f"--fit contain --size {side}": f"scales to fit in {side}x{side}, pads",
            "--fit pad": f"keeps every pixel, pads to {largest[0]}x{largest[1]}",
            "--layout ragged": "stores each as it is",
            "--group-by COLUMN": "gives each group its own size",
        }
        if options.group_by:
            del ways["--group-by COLUMN"]
        width = max(map(len, ways))
        lines = (f"\n    {typed:<{width}}  {what}" for typed, what in ways.items())
        return size, [f"{census.n_sizes:,} sizes are mixed. Choose one of:{''.join(lines)}"]
    if options.fit == "pad" and (largest[0] > size[0] or largest[1] > size[1]):
        return size, [
            f"--fit pad --size {size[0]}x{size[1]} is too small for these images: leave out --size "
            f"(then all become {largest[0]}x{largest[1]}), or --fit contain"
        ]
    if options.fit == "crop" and (smallest[0] < size[0] or smallest[1] < size[1]):
        return size, [
            f"--fit crop to {size[0]}x{size[1]} is larger than these images (the least height is "
            f"{smallest[0]}, the least width {smallest[1]}): --fit cover scales each first, "
            f"--fit pad keeps every pixel; or take them out of the manifest"
        ]
    return size, []


def in_question(
    kinds: NDArray[np.void], output: OutputSpec, problems: Sequence[str], options: IngestOptions
) -> NDArray[np.void]:
    """Return the kinds that a message should show: of one problem, those that it is about.

    Returns:
        (m,) the commonest first; height and width are 0 where sizes do not matter.
    """
    if len(problems) == 1 and options.fit in ("crop", "pad") and output.size is not None:
        height, width = output.size
        sign = 1 if options.fit == "pad" else -1
        odd = (sign * (kinds["height"] - height) > 0) | (sign * (kinds["width"] - width) > 0)
        if odd.any():
            return kinds[odd]
    if len(problems) == 1 and (options.fit != "error" or output.size is None):
        kinds = kinds.copy()
        kinds["height"] = kinds["width"] = 0
        kinds = merge([kinds])
        return kinds[np.lexsort([kinds["first"], -kinds["count"]])]
    return kinds


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
        lines.append(f"  {kind['count']:,} x {in_words(kind)} (first: {places[first]})")
    if len(kinds) > MOST_KINDS:
        lines.append(f"  … and {len(kinds) - MOST_KINDS:,} kinds more")
    return "\n".join([*lines, *(f"- {problem}" for problem in problems)])
