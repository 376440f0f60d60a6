"""What a file's images should be by their sources: shape and type of each, and of a stack.

It is worked out anew from the sources' headers and the file's options, not by
`pipeline.output_spec`, which decided it when the file was made.

May not: read files, know ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from h5ingest.core.geometry import Scale, contained
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import CHANNELS
from h5ingest.core.schema import IMAGES
from h5ingest.images.conversion import holds, lossless_channels
from h5ingest.inspect.findings import Seen

Sizes = tuple[int, int]
"""(height, width), pixels."""


class Expected:
    """Judges images, one after the other, and remembers what decides the spec of a stack."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Take the options that the file was made with, as its attribute has them."""
        self._kind = KINDS[options["layout"]]
        self._fit: str = options["fit"]
        self._size = tuple(options["size"]) if options["size"] else None
        self._scale = Scale(longest=options.get("longest"), shortest=options.get("shortest"))
        self._channels = CHANNELS.get(options["channels"])
        self._recoded = options.get("recode") is not None
        self._dtype: str | None = None if options["dtype"] == "auto" else options["dtype"]
        self._reduces: bool = options["reduce_depth"]
        self.seen: Seen = Counter()

    def problem(
        self, prefix: str, spec: ImageSpec, shape: tuple[int, ...], dtype: str, size: Sizes | None
    ) -> str | None:
        """Return what is wrong with the kind of a stored image, if anything.

        Args:
            prefix: of its group.
            spec: of its source.
            shape: (H, W) or (H, W, C), as stored.
            dtype: as stored.
            size: stored with an image that has padding; else None.
        """
        channels = shape[2] if len(shape) == 3 else 1
        wanted_dtype, wanted_channels = self._dtype or spec.dtype, self._channels or spec.channels
        if wanted_dtype == "uint8" and not self._reduces:
            wanted_dtype = spec.dtype
        own_size = self._scale.of((spec.height, spec.width))
        wanted_size: tuple[int, ...] = own_size
        if self._kind.uniform:
            self.seen[prefix, spec] += 1
        if self._kind.keeps_files:
            wanted_dtype = dtype  # bytes
        if (self._kind.uniform or self._recoded) and self._channels is None:
            fewest = channels if holds(channels, spec) else wanted_channels
            wanted_channels = fewest  # for all: `stack_problems`
        if self._fit != "error":  # of a stack; or of the file that was one
            wanted_size = self._size or shape[:2]
            if self._fit == "contain" and not self._kind.uniform:
                wanted_size = contained(own_size, (wanted_size[0], wanted_size[1]))
        if (shape[:2], channels, dtype) != (wanted_size, wanted_channels, wanted_dtype):
            height, width = wanted_size
            return (
                f"its source is {spec}, which makes {height}x{width} pixels of {wanted_channels} "
                f"channels, {wanted_dtype}; found {shape}, {dtype}"
            )
        if self._fit == "contain":
            own_size = contained(own_size, (shape[0], shape[1]))
        if size is not None and size != own_size:
            return f"its source is {spec}, found {size[0]}x{size[1]} in sizes"
        return None

    def stack_problems(
        self, counted: Iterable[Seen], shape_of: Callable[[str], tuple[int, ...]]
    ) -> list[str]:
        """Return a line for each stack that is not what all of its sources together make it.

        Args:
            counted: `seen` of each rank. A stack of which some sources were not read is left out.
            shape_of: prefix -> (n, H, W) or (n, H, W, C), the stack's.
        """
        specs: dict[str, Counter[ImageSpec]] = {}
        for seen in counted:
            for (prefix, spec), count in seen.items():
                specs.setdefault(prefix, Counter())[spec] += count
        problems = []
        for prefix, counts in specs.items():
            n_images, *shape = shape_of(prefix)
            if counts.total() < n_images:
                continue
            channels = self._channels or lossless_channels({spec.channels for spec in counts})
            size = self._size or self._common_size(counts)
            wanted = [*size, channels] if channels > 1 else [*size]
            if shape != wanted:
                problems.append(f"{IMAGES.at(prefix)}: its sources make {wanted}, found {shape}")
        return problems

    def _common_size(self, counts: Counter[ImageSpec]) -> Sizes:
        sizes: Counter[Sizes] = Counter()
        for spec, count in counts.items():
            sizes[self._scale.of((spec.height, spec.width))] += count
        if self._fit in ("pad", "resize"):
            return max(h for h, _ in sizes), max(w for _, w in sizes)
        return max(sizes, key=lambda size: (sizes[size], size))
