"""`--compression auto`: the codec that makes a sample of the images the smallest.

The rule: of `CANDIDATES`, which decode at least as fast as Pillow decodes the images' PNGs
(docs/codecs.md has the figures, and the exception), the one that stores the sample in the fewest
bytes; of equals, the first. HTJ2K is among them where it can hold every image, and where an image
is worth a chunk. So nothing is timed here, and the same images make the same choice on any machine,
at any number of ranks.

A group of images decides for itself if the sample has enough of it; else the whole sample does.

May not: read files, know ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SetupError
from h5ingest.core.group_datasets import extent_group, stack_group
from h5ingest.core.layout import CODED_CHANNELS, DatasetSpec, Filter, ImageSpec
from h5ingest.storage.compress import compressor
from h5ingest.storage.filters import filter_pipeline

CODED: Final = "htj2k"
_PLAIN: Final = "none"
_COMMON: Final = "zstd:3"
"""What a choice is told with."""
CANDIDATES: Final = (
    _COMMON, "zstd:9", "blosc2:zstd:5:bitshuffle", "blosc2:zstd:5:bytedelta", CODED, _PLAIN,
)  # fmt: skip
"""As `--compression` takes them. Others are smaller for some images, but slower to read than PNG
(bzip2) or to write by an order of magnitude (zstd:19)."""

_LEAST_CODED_PIXELS: Final = 1024
"""Of an image, on average, from which HTJ2K is a candidate: each image is then a chunk, whose entry
costs rank 0 memory, and a reader a look-up."""
_CHUNK_BYTES: Final = 24
"""What a chunk takes besides its own bytes: its entry in HDF5's index, and its checksum."""
_LEAST_OF_GROUP: Final = 4
"""Images of a group in the sample, from which it decides for itself."""
_LEAST_SHARE: Final = 1 / 16
"""Of the sample's pixels, that these take: for less there is nothing to gain."""


class Part(NamedTuple):
    """Images of the sample that would lie in one dataset, or in datasets of one kind."""

    values: NDArray[Any]
    """(n, H, W) or (n, H, W, C); or (n,) elements of images of any size, one after the other."""
    chunk_rows: int | None = None
    """Images in a chunk; None: as many as by default."""

    def spec(self, filters: tuple[Filter, ...]) -> DatasetSpec:
        """Return a dataset for these values, in chunks as an ingest makes them.

        They are all but equal: a last chunk that is padded much would count for a codec what is no
        pixel.

        Raises:
            UsageError: a chunk would be larger than HDF5 allows.
        """
        n, shape, dtype = len(self.values), self.values.shape, self.values.dtype
        if len(shape) == 1:
            group = extent_group("ragged", "", "", 1, n, dtype.name, filters=filters)
        else:
            image, rows = ImageSpec.of(shape[1:], dtype), self.chunk_rows
            group = stack_group("", "", n, image, chunk_rows=rows, filters=filters)
        spec = group.pixels
        return replace(spec, chunk_rows=-(-n // spec.n_chunks)) if spec.n_chunks else spec

    @property
    def can_be_coded(self) -> bool:
        """Whether HTJ2K can hold these images, each in a chunk of its own."""
        images = self.values
        if images.ndim == 1 or self.chunk_rows not in (None, 1):
            return False
        return ImageSpec.of(images.shape[1:], images.dtype).channels in CODED_CHANNELS

    @property
    def n_pixels(self) -> int:
        """Pixels of all images: their heights times their widths."""
        return int(np.prod(self.values.shape[:3], dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoCodec:
    """A choice, with the figures that decided it."""

    codec: str
    """One of `CANDIDATES`."""
    n_sampled: int
    """Images in the sample."""
    bytes_files: int
    """Of their files."""
    bytes_stored: dict[str, int]
    """Candidate -> bytes in which it stores them."""
    missing: tuple[str, ...] = ()
    """Candidates that this HDF5 cannot write."""
    groups: dict[str, AutoCodec] = field(default_factory=dict)
    """Name -> the choice of a group that is another than that for all."""

    def codec_of(self, group: str) -> str:
        """Return the codec of the images of a group."""
        return self.groups.get(group, self).codec

    @property
    def codecs(self) -> list[str]:
        """All that are used, in alphabetical order."""
        return sorted({self.codec, *(choice.codec for choice in self.groups.values())})

    @classmethod
    def of(
        cls, n_sampled: int, bytes_files: int, stored: dict[str, int], missing: Sequence[str]
    ) -> AutoCodec:
        """Return the choice of the smallest."""
        return cls(
            codec=smallest(stored),
            n_sampled=n_sampled,
            bytes_files=bytes_files,
            bytes_stored=stored,
            missing=tuple(missing),
        )

    @classmethod
    def from_plain(cls, plain: object) -> AutoCodec | None:
        """Return what `to_plain` made; None of anything else."""
        match plain:
            case {
                "codec": str(codec), "n_sampled": int(n), "bytes_files": int(n_bytes),
                "bytes_stored": dict(stored), "missing": list(missing), "groups": dict(groups),
            } if codec in CANDIDATES:  # fmt: skip
                choices = {name: cls.from_plain(choice) for name, choice in groups.items()}
                return cls(
                    codec=codec, n_sampled=n, bytes_files=n_bytes, bytes_stored=stored,
                    missing=tuple(missing),
                    groups={name: choice for name, choice in choices.items() if choice},
                )  # fmt: skip
        return None

    def to_plain(self) -> dict[str, object]:
        """Return it as plain values, as JSON gives them back."""
        return {
            "codec": self.codec,
            "n_sampled": self.n_sampled,
            "bytes_files": self.bytes_files,
            "bytes_stored": dict(self.bytes_stored),
            "missing": list(self.missing),
            "groups": {name: choice.to_plain() for name, choice in self.groups.items()},
        }

    def __str__(self) -> str:
        of_groups = (f"group {name!r}: {choice._told()}" for name, choice in self.groups.items())
        return "; ".join([self._told(), *of_groups])

    def _told(self) -> str:
        text = f"{self.codec} ({self._ratio(self.codec)} of the image files"
        if self.codec != _COMMON:
            text += f"; {_COMMON} {self._ratio(_COMMON)}"
        text += f") from a sample of {self.n_sampled:,} images"
        if self.missing:
            text += f"; not available here: {', '.join(self.missing)}"
        return text

    def _ratio(self, name: str) -> str:
        n_bytes = self.bytes_stored.get(name)
        return (
            "?" if n_bytes is None or not self.bytes_files else f"{n_bytes / self.bytes_files:.2f}"
        )


class Sample(NamedTuple):
    """Images of one group that are in the sample."""

    parts: Sequence[Part]
    n_images: int
    bytes_files: int
    """Of their files."""
    all_coded: bool
    """Whether HTJ2K can hold the other images of the group, too."""

    @property
    def can_be_coded(self) -> bool:
        """Whether HTJ2K is a candidate."""
        n_pixels = sum(part.n_pixels for part in self.parts)
        is_worth = n_pixels >= _LEAST_CODED_PIXELS * self.n_images
        return self.all_coded and is_worth and all(part.can_be_coded for part in self.parts)


def choose(
    samples: Mapping[str, Sample],
    *,
    all_coded: bool,
    beat: Callable[[], None] = lambda: None,
) -> AutoCodec:
    """Return the choice for images of which these are a sample. Not collective.

    Args:
        samples: name of a group -> what is of it; none: the first candidate is as good as any.
        all_coded: whether HTJ2K can hold the images of all groups, those without a sample, too.
        beat: called now and then.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    found: dict[str, tuple[Filter, ...]] = {}
    missing: list[str] = []
    for name in CANDIDATES:
        if name == CODED and not any(sample.can_be_coded for sample in samples.values()):
            continue
        try:
            found[name] = filter_pipeline(name, shuffle=False)
        except SetupError:
            missing.append(name)
    each: dict[str, AutoCodec] = {}
    for group, sample in samples.items():
        stored = {
            name: sum(_stored_bytes(part, filters, beat) for part in sample.parts)
            for name, filters in found.items()
            if name != CODED or sample.can_be_coded
        }
        each[group] = AutoCodec.of(sample.n_images, sample.bytes_files, stored, missing)
    choices = each.values()
    together = AutoCodec.of(
        sum(choice.n_sampled for choice in choices),
        sum(choice.bytes_files for choice in choices),
        {
            name: sum(choice.bytes_stored[name] for choice in choices)
            for name in found
            if (name != CODED or all_coded) and all(name in c.bytes_stored for c in choices)
        },
        missing,
    )
    least_bytes = _LEAST_SHARE * together.bytes_stored[_PLAIN]
    groups = {
        group: choice
        for group, choice in each.items()
        if choice.codec != together.codec
        and choice.n_sampled >= _LEAST_OF_GROUP
        and choice.bytes_stored[_PLAIN] >= least_bytes
    }
    return replace(together, groups=groups)


def smallest(stored: Mapping[str, int]) -> str:
    """Return the name of the fewest bytes; of equals, the first.

    >>> smallest({"zstd:3": 7, "htj2k": 5, "none": 5})
    'htj2k'
    """
    return min(stored, key=lambda name: stored[name])


def _stored_bytes(part: Part, filters: tuple[Filter, ...], beat: Callable[[], None]) -> int:
    """Return what the values take in a file."""
    if not filters:
        return part.values.nbytes
    spec = part.spec(filters)
    compress, rows = compressor(spec), spec.chunk_rows or 1
    n_bytes = 0
    for chunk in range(spec.n_chunks):
        _, data = compress(part.values[chunk * rows : (chunk + 1) * rows])
        n_bytes += len(data) + _CHUNK_BYTES
        beat()
    return n_bytes
