"""`IngestOptions`: what the user may choose, validated once, known to every rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from h5ingest.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024**2

MAX_PIXELS: Final = 89_478_485
"""Pillow's `Image.MAX_IMAGE_PIXELS`: a quarter of a GiB of RGB, 'decompression bomb' beyond it."""

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
    compression: str | None = None
    """Codec with its level, such as `zstd:3`; see `storage.filters` for all forms."""
    shuffle: bool = False
    """Shuffle the bytes of each chunk before it is compressed."""
    chunk_rows: int | None = None
    """Images per chunk; None: chosen from the image size (`layout.default_chunk_rows`)."""
    batch_bytes: int = 4 * MIB
    """Pixels that one rank decodes before it writes, in bytes; at least one chunk is taken."""
    cache_bytes: int = 32 * MIB
    """File bytes that one rank keeps from the probe, so that it opens those files once."""
    on_error: str = "fail"
    """`fail`: nothing is published if an image failed. `blank`: zero pixels and status 2."""
    max_pixels: int = MAX_PIXELS
    """Height times width beyond which a header is refused before anything is allocated."""
    overwrite: bool = False
    """Replace an existing output, once the new one is whole."""
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
        if self.on_error not in ("fail", "blank"):
            raise UsageError(f"--on-error: expected fail or blank, got {self.on_error!r}")
        for name in ("chunk_rows", "batch_bytes", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "chunk" if name == "chunk_rows" else name.replace("_", "-")
                raise UsageError(f"--{option}: expected at least 1, got {value}")
        if self.cache_bytes < 0:
            raise UsageError(f"--cache-bytes: expected 0 or more, got {self.cache_bytes}")

    def content(self) -> dict[str, object]:
        """Return the options that decide the content of the file, for its `options` attribute.

        How the file is made (batch and cache sizes) is left out: it must not show in it.
        """
        return {
            "layout": "stack",
            "compression": self.compression,
            "shuffle": self.shuffle,
            "chunk_rows": self.chunk_rows,
            "on_error": self.on_error,
        }
