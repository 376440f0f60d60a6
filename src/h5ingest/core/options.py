"""`IngestOptions`: what the user may choose, validated once, known to every rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.core.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024**2

MAX_PIXELS: Final = 89_478_485
"""Pillow's `Image.MAX_IMAGE_PIXELS`: a quarter of a GiB of RGB, 'decompression bomb' beyond it."""

MAX_READERS: Final = 256
"""Threads of one rank: far beyond what a metadata server thanks for."""

_MOST_ALIGNMENT: Final = 1024**3
"""Bytes: more would only make holes."""
_STRIPE_UNIT: Final = 64 * KIB
"""Lustre's LOV_MIN_STRIPE_SIZE."""

_UNITS: Final = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": 1024**3, "gib": 1024**3, "gb": 1000**3,
}  # fmt: skip


def size(n_bytes: float) -> str:
    """Return a number of bytes for people.

    >>> size(999), size(47_040_000)
    ('999 B', '44.9 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n_bytes < 1024 or unit == "TiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError("unreachable")


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` names.

    >>> parse_size("4MiB"), parse_size("64k"), parse_size("1.5 GB"), parse_size("100")
    (4194304, 65536, 1500000000, 100)

    Raises:
        UsageError: not a number with an optional unit.
    """
    from fractions import Fraction  # here, on root only: 7 files less for each rank to open

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"expected a size such as 4MiB, 512k or 1GB, got {text!r}")
    return int(Fraction(match[1]) * unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """Everything that decides what the file looks like and how it is made."""

    root: Path | None = None
    """What relative paths are relative to; None: the manifest's own folder."""
    delimiter: str | None = None
    """Separates the manifest's columns; None: a comma in `.csv`, a tab elsewhere."""
    layout: str = "stack"
    """`stack` (one dataset), `ragged` (any size), `tree` (a dataset each), `encoded` (files)."""
    group_by: str | None = None
    """Column of the manifest whose values become HDF5 groups."""
    channels: str = "auto"
    """`auto` (the fewest that lose nothing), `gray`, `rgb` or `rgba`."""
    dtype: str = "auto"
    """`auto` (as the images are), `uint8` or `uint16`."""
    reduce_depth: bool = False
    """Let `dtype="uint8"` take half of the bits of 16-bit images."""
    samples: str = "scaled"
    """`scaled`, or `raw`: palette indices and unscaled gray of 1, 2, 4 bits, for label masks."""
    fit: str = "error"
    """For images of another size, in a stack: `error`, `pad`, `crop` or `resize`."""
    size: tuple[int, int] | None = None
    """(height, width) of a stack's images; None: the largest, or the commonest for `crop`."""
    pad_value: int = 0
    """Value of the padding, in every channel."""
    resample: str | None = None
    """Pillow's filter for `resize`; None: bicubic, and nearest for raw samples."""
    compression: str | None = None
    """Codec with its level, such as `zstd:3`; see `storage.filters` for all forms."""
    shuffle: bool = False
    """Shuffle the bytes of each chunk before it is compressed."""
    chunk_rows: int | None = None
    """Images per chunk; None: chosen from the image size (`layout.default_chunk_rows`)."""
    batch_bytes: int = 4 * MIB
    """Pixels that one rank decodes before it writes, in bytes; at least one chunk is taken."""
    alignment: int = 0
    """Bytes: datasets and chunks of that size and more begin at multiples of it; 0: anywhere."""
    stripe_count: int | None = None
    """Lustre storage targets of the file; None: by its size. 0: as its folder has it."""
    stripe_size: int | None = None
    """Bytes of a Lustre stripe; None: 4 MiB, if the count is set."""
    direct_io: str = "auto"
    """Whether uncompressed pixels go around the system's cache: `auto`, `on` or `off`."""
    hints: tuple[tuple[str, str], ...] = ()
    """(key, value) for MPI-IO."""
    cache_bytes: int = 32 * MIB
    """File bytes that one rank keeps from the probe, so that it opens those files once."""
    readers: int | None = None
    """Threads of each rank that read files ahead; 0: none; None: once files are slow to open."""
    on_error: str = "fail"
    """`fail`: nothing is published if an image failed. `blank`: zero pixels and status 2."""
    max_pixels: int = MAX_PIXELS
    """Height times width beyond which a header is refused before anything is allocated."""
    trust_palettes: bool = False
    """Whether palettes are expanded also by a libpng that is known to be unsafe there."""
    checkpoint_s: float = 30.0
    """Seconds of work that a job that is killed can lose, about."""
    peer_timeout_s: float = 300.0
    """Seconds without a sign of life after which another host is taken for dead."""
    restart: bool = False
    """Discard what an unfinished job left, instead of going on with it."""
    overwrite: bool = False
    """Replace an existing output, once the new one is whole."""
    overwrite_foreign: bool = False
    """With `overwrite`: replace even an HDF5 file that h5ingest did not write."""
    dry_run: bool = False
    """Stop after the probe and report what would be made."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '\r\n"\0'
        ):
            raise UsageError(
                f"--delimiter: expected one ASCII character that is no quote and no line end, "
                f"got {self.delimiter!r}"
            )
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UsageError(
                    f"--{name.replace('_', '-')}: expected {', '.join(allowed)}, got {value!r}"
                )
        self._check_combinations()
        for name in ("chunk_rows", "batch_bytes", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "chunk" if name == "chunk_rows" else name.replace("_", "-")
                raise UsageError(f"--{option}: expected at least 1, got {value}")
        for name in ("checkpoint_s", "peer_timeout_s"):
            if not getattr(self, name) > 0:
                option = name.removesuffix("_s").replace("_", "-")
                raise UsageError(f"--{option}: expected seconds, got {getattr(self, name)}")
        if self.readers is not None and not 0 <= self.readers <= MAX_READERS:
            raise UsageError(f"--readers: expected auto or 0 to {MAX_READERS}, got {self.readers}")
        self._check_tuning()
        if self.cache_bytes < 0:
            raise UsageError(f"--cache-bytes: expected 0 or more, got {self.cache_bytes}")

    def _check_tuning(self) -> None:
        if not 0 <= self.alignment <= _MOST_ALIGNMENT:
            raise UsageError(f"--alignment: expected 0 to 1GiB, got {self.alignment} bytes")
        if self.stripe_count is not None and self.stripe_count < 0:
            raise UsageError(
                f"--stripe-count: expected a number of storage targets, or 0 for what the folder "
                f"has, got {self.stripe_count}"
            )
        if self.stripe_size is not None:
            if self.stripe_count == 0:
                raise UsageError("--stripe-size: --stripe-count 0 leaves the stripes as they are")
            if self.stripe_size % _STRIPE_UNIT or not 0 < self.stripe_size < 4 * 1024**3:
                raise UsageError(
                    f"--stripe-size: expected a multiple of 64KiB below 4GiB, as Lustre does, got "
                    f"{self.stripe_size} bytes"
                )
        for key, value in self.hints:
            text = f"{key}={value}"
            if not (key and value and text.isascii() and text.isprintable() and " " not in key):
                raise UsageError(f"--hint: expected KEY=VALUE in printable ASCII, got {text!r}")
        if len(dict(self.hints)) < len(self.hints):
            raise UsageError("--hint: expected each key once")

    def _check_combinations(self) -> None:
        """Refuse what would have no effect: silence would promise something else."""
        if self.size is not None and min(self.size) < 1:
            raise UsageError(
                f"--size: expected a height and a width of at least 1, got {self.size}"
            )
        if not 0 <= self.pad_value <= 65535:
            raise UsageError(f"--pad-value: expected 0 to 65535, got {self.pad_value}")
        if self.layout != "stack":
            for option, given in (
                ("--fit", self.fit != "error"),
                ("--size", self.size is not None),
                ("--chunk", self.chunk_rows is not None),
            ):
                if given:
                    raise UsageError(f"{option} is for --layout stack only, got {self.layout}")
        if self.size is not None and self.fit == "error":
            raise UsageError("--size: say how with --fit pad, crop or resize")
        if self.pad_value and self.fit != "pad":
            raise UsageError("--pad-value goes with --fit pad")
        if self.resample is not None and self.fit != "resize":
            raise UsageError("--resample goes with --fit resize")
        if self.layout == "encoded":
            if self.compression not in (None, "none") or self.shuffle:
                raise UsageError(
                    "--layout encoded stores the image files' own bytes, which are compressed "
                    "already: --compression and --shuffle would only cost time"
                )
            if (self.channels, self.dtype, self.samples) != ("auto", "auto", "scaled"):
                raise UsageError(
                    "--layout encoded stores the image files as they are: --channels, --dtype and "
                    "--samples cannot apply"
                )
        if self.direct_io == "on" and (
            self.layout == "tree" or self.shuffle or self.compression not in (None, "none")
        ):
            raise UsageError(
                "--direct-io on is for uncompressed images in one dataset: no --layout tree, "
                "--compression or --shuffle"
            )
        if self.overwrite_foreign and not self.overwrite:
            raise UsageError("--overwrite-foreign goes with --overwrite")
        if self.samples == "raw" and self.channels != "auto":
            raise UsageError("--samples raw keeps indices, which have no colour: no --channels")
        if self.samples == "raw" and self.reduce_depth:
            raise UsageError("--samples raw keeps values as they are: no --reduce-depth")
        if self.reduce_depth and self.dtype != "uint8":
            raise UsageError("--reduce-depth goes with --dtype uint8")

    @property
    def any_palette(self) -> bool:
        """Whether palette images are taken whatever libpng there is."""
        return self.trust_palettes or self.layout == "encoded"  # stored as they are

    def content(self) -> dict[str, object]:
        """Return the options that decide the content of the file, for its `options` attribute.

        How the file is made (batch and cache sizes) is left out: it must not show in it.
        """
        return {name: getattr(self, name) for name in _CONTENT}


_CONTENT: Final = (
    "layout", "group_by", "channels", "dtype", "reduce_depth", "samples", "fit", "size",
    "pad_value", "resample", "compression", "shuffle", "chunk_rows", "on_error", "max_pixels",
)  # fmt: skip
_CHOICES: Final = {
    "layout": ("stack", "ragged", "tree", "encoded"),
    "channels": ("auto", "gray", "rgb", "rgba"),
    "dtype": ("auto", "uint8", "uint16"),
    "samples": ("scaled", "raw"),
    "fit": ("error", "pad", "crop", "resize"),
    "direct_io": ("auto", "on", "off"),
    "resample": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "on_error": ("fail", "blank"),
}
