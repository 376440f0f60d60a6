"""From what the images are to what the file holds: the one place where that is decided.

May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from h5ingest.convert import lossless_channels
from h5ingest.errors import SamplesFailedError
from h5ingest.layout import ImageSpec
from h5ingest.options import IngestOptions

CHANNELS: Final = {"gray": 1, "rgb": 3, "rgba": 4}

_DEEPER: Final = (
    "(times 257); --dtype uint8 --reduce-depth makes all 8 bits, with loss; --layout tree or "
    "--layout encoded keeps each as it is"
)

Seen = Mapping[ImageSpec, tuple[int, int, str]]
"""spec -> (how many images have it, index of the first, its path)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What every image of a group is made."""

    channels: int | None
    """Channels; None: each image keeps its own."""
    dtype: str | None
    """`uint8` or `uint16`; None: each image keeps its own."""
    size: tuple[int, int] | None
    """(height, width); None: each image keeps its own."""

    @property
    def image(self) -> ImageSpec:
        """The one spec of a stack's images."""
        if self.channels is None or self.dtype is None or self.size is None:
            raise ValueError("only the images of a stack have one spec")
        return ImageSpec(
            height=self.size[0], width=self.size[1], channels=self.channels, dtype=self.dtype
        )

    def apply(self, spec: ImageSpec) -> ImageSpec:
        """Return what an image of this spec becomes."""
        height, width = self.size or (spec.height, spec.width)
        return ImageSpec(
            height=height,
            width=width,
            channels=self.channels or spec.channels,
            dtype=self.dtype or spec.dtype,
        )


def decide(group: str, seen: Seen, options: IngestOptions) -> Target:
    """Return the target of a group.

    Raises:
        SamplesFailedError: the images do not fit together as they are; the message shows what is
            there and the option for each way out.
    """
    specs = list(seen)
    channels = CHANNELS.get(options.channels)
    if not specs:  # every image of the group is unreadable, and may be blank: the smallest image
        depth = "uint8" if options.dtype == "auto" else options.dtype
        return Target(channels=channels or 1, dtype=depth, size=options.size or (1, 1))
    problems: list[str] = []
    if channels is None and options.layout == "stack":
        channels = lossless_channels(specs)
    dtype = None if options.dtype == "auto" else options.dtype
    depths = {spec.dtype for spec in specs}
    raw = options.samples == "raw"
    if dtype is None and options.layout in ("stack", "ragged"):
        if len(depths) > 1:
            problems.append(
                "8 and 16 bits are mixed: --dtype uint16 makes all 16 bits without loss "
                + ("(raw values stay); --layout tree keeps each as it is" if raw else _DEEPER)
            )
        dtype = specs[0].dtype
    if options.dtype == "uint8" and "uint16" in depths and not options.reduce_depth:
        problems.append(
            "--dtype uint8 cannot hold the raw samples of 16-bit images"
            if raw
            else "--dtype uint8 would lose half of the bits of 16-bit images: add --reduce-depth "
            "to have that"
        )
    if options.fit == "pad" and options.pad_value > 255 and dtype == "uint8":
        problems.append(f"--pad-value {options.pad_value} is more than 8 bits hold")
    size = None
    if options.layout == "stack":
        size, size_problems = _size(seen, options)
        problems += size_problems
    if problems:
        raise SamplesFailedError(_describe(group, seen, problems))
    return Target(channels=channels, dtype=dtype, size=size)


def _size(seen: Seen, options: IngestOptions) -> tuple[tuple[int, int], list[str]]:
    """Return the size of a stack's images, and why there is none."""
    counts: dict[tuple[int, int], int] = {}
    for spec, (count, *_) in seen.items():
        size = spec.height, spec.width
        counts[size] = counts.get(size, 0) + count
    largest = max(h for h, _ in counts), max(w for _, w in counts)
    commonest = max(counts, key=lambda size: (counts[size], size))
    if options.size is not None:
        size = options.size
    elif options.fit == "pad" or options.fit == "resize":
        size = largest
    else:
        size = commonest
    others = [known for known in counts if known != size]
    smallest = min(h for h, _ in counts), min(w for _, w in counts)
    if options.fit == "error" and others:
        h, w = commonest
        return size, [
            f"{len(counts):,} sizes are mixed: --fit pad keeps every pixel (to "
            f"{largest[0]}x{largest[1]}, true sizes in /sizes); --fit crop --size "
            f"{smallest[0]}x{smallest[1]} or --fit resize --size {h}x{w} make them one; "
            f"--layout ragged stores each as it is"
            + ("; --group-by COLUMN gives each group its own size" if not options.group_by else "")
        ]
    if options.fit == "pad" and any(h > size[0] or w > size[1] for h, w in others):
        return size, [
            f"--fit pad --size {size[0]}x{size[1]} is too small for the largest images "
            f"({largest[0]}x{largest[1]}): leave out --size, or --fit resize"
        ]
    if options.fit == "crop" and any(h < size[0] or w < size[1] for h, w in others):
        return size, [
            f"--fit crop to {size[0]}x{size[1]} is larger than some images: --size "
            f"{smallest[0]}x{smallest[1]} fits all, or --fit pad, or --fit resize"
        ]
    return size, []


def _describe(group: str, seen: Seen, problems: Sequence[str], most: int = 10) -> str:
    """Return a table of what is there, and the ways out."""
    where = f"group {group!r}: " if group else ""
    lines = [f"{where}the images do not fit together; there are"]
    shown = sorted(seen.items(), key=lambda item: (-item[1][0], item[1][1]))[:most]
    lines += [
        f"  {count:,} x {spec} (first: sample {index}: {path})"
        for spec, (count, index, path) in shown
    ]
    if len(seen) > most:
        lines.append(f"  … and {len(seen) - most:,} kinds more")
    return "\n".join([*lines, *(f"- {problem}" for problem in problems)])
