"""What is changed of images that do not become what they are: for the report, and for the summary.

May not: decide on it (`output_spec` does), know ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import spec_of
from h5ingest.core.geometry import Scale
from h5ingest.core.layout import OutputSpec
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import counted

_COLOURS: Final = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGBA"}
_FITTED: Final = {
    "pad": "padded",
    "crop": "cropped",
    "resize": "resized",
    "cover": "scaled and cropped",
    "contain": "scaled and padded",
}


def describe_conversions(kinds: NDArray[np.void], outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
    """Return what is changed, a line for each kind of change, the commonest first."""
    known, wanted = compared(kinds, outputs)
    scale = outputs[0].scale if outputs else Scale()
    changed = ((wanted != 0) & (wanted != known)).any(axis=1) | _is_scaled(known, wanted, scale)
    # change: (m, 8) channels and bytes, wanted, height and width
    change = np.hstack([known[:, 2:], wanted, known[:, :2]])[changed]
    order = np.lexsort(change.T[::-1])
    change, rows = change[order], np.flatnonzero(changed)[order]
    differs = np.diff(change, axis=0, prepend=-1) != 0
    begin = np.flatnonzero(differs[:, :6].any(axis=1))
    found = []
    for start, end in pairwise([*begin.tolist(), len(change)]):
        n_images = int(kinds["count"][rows[start:end]].sum())
        n_sizes = differs[start:end].any(axis=1).sum()
        output, spec = outputs[kinds["group"][rows[start]]], spec_of(kinds[rows[start]])
        new = output.apply(spec)
        if n_sizes == 1:
            text = f"{counted(n_images, 'images')} from {spec} to {new}"
        else:
            text = f"{n_images:,} images of {n_sizes:,} sizes from {spec.colour} to "
            text += str(new) if output.size else f"{new.colour}, {scale}" if scale else new.colour
        found.append((-n_images, text))
    return tuple(text for _, text in sorted(found))


def describe_changes(
    kinds: NDArray[np.void], outputs: Sequence[OutputSpec], options: IngestOptions
) -> tuple[str, ...]:
    """Return what is changed, all images counted, in a line each for channels, depth and size."""
    known, wanted = compared(kinds, outputs)
    changed = (wanted != 0) & (wanted != known)
    every = counted(int(kinds["count"].sum()), "images")

    def number(which: NDArray[np.bool_]) -> int:
        return int(kinds["count"][which].sum())

    found = []
    if n := number(changed[:, 2]):
        into = sorted({int(c) for c in wanted[changed[:, 2], 2]})
        text = f"{n:,} of {every} became {' or '.join(_COLOURS[c] for c in into)}"
        n_alpha, n_colour = number(known[:, 2] % 2 == 0), number(known[:, 2] > 2)
        if options.channels != "auto":
            text += f" (--channels {options.channels})"
        elif (changed[:, 2] & (known[:, 2] % 2 == 1)).any() and into[-1] % 2 == 0:
            flag = "rgb" if n_colour else "gray"
            has = "has" if n_alpha == 1 else "have"
            text += f", because {n_alpha:,} {has} transparency (--channels {flag} drops it)"
        else:
            text += f", because {n_colour:,} {'is' if n_colour == 1 else 'are'} in colour"
        found.append(text)
    if n := number(changed[:, 3]):
        bits = "16 bits, times 257" if 2 in wanted[changed[:, 3], 3] else "8 bits"
        found.append(f"{n:,} of {every} became {bits} (--dtype {options.dtype})")
    scale = outputs[0].scale if outputs else Scale()
    is_scaled = _is_scaled(known, wanted, scale)
    if n := number(is_scaled):
        found.append(f"{n:,} of {every} were scaled to {scale}")
    moved = changed[:, 0] | changed[:, 1]
    if n := number(moved):
        n_sizes = counted(len(np.unique(known[moved, :2], axis=0)), "sizes")
        sizes = {output.size for output in outputs if output.size}
        to = "{}x{}".format(*sizes.pop()) if len(sizes) == 1 else "the size of their group"
        how = _FITTED.get(options.fit, "fitted")
        found.append(f"{n:,} of {every}, of {n_sizes}, were {how} to {to}")
    return tuple(found)


def _is_scaled(
    known: NDArray[np.int32], wanted: NDArray[np.int32], scale: Scale
) -> NDArray[np.bool_]:
    """Return which images of no common size are scaled: (k,)."""
    others: NDArray[np.bool_] = (scale.of_shapes(known) != known).any(axis=1)
    others[wanted[:, 0] != 0] = False
    return others


def compared(
    kinds: NDArray[np.void], outputs: Sequence[OutputSpec]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what images are and what they become, 0 where they stay as they are.

    Both are (k, 4): height, width, channels, bytes of a value.
    """
    numbers = [(*(t.size or (0, 0)), t.channels or 0, t.n_bytes) for t in outputs]
    fields = ("height", "width", "channels", "bytes")
    known = np.stack([kinds[field].astype(np.int32) for field in fields], axis=1)
    return known, np.array(numbers, np.int32)[kinds["group"]]
