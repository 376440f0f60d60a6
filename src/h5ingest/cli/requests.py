"""What the command line asks all ranks to do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from h5ingest.core.options import IngestOptions

if TYPE_CHECKING:
    from h5ingest.exports.options import ExportOptions  # nor does it export
    from h5ingest.images.scan import ScanOptions  # an ingest scans no folder


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRequest:
    """One call of `ingest`, or of `recompress`, as the command line asks for it."""

    source: Path
    """The manifest or folder, or the file to recompress."""
    recompresses: bool
    """Whether it is the latter."""
    out: Path
    options: IngestOptions
    scan: ScanOptions | None
    """How a folder is scanned, if that is not by default."""
    command: str
    """What the user typed."""
    progress: str
    """`auto`, `bar`, `line` or `off`."""
    report: Path | None
    """Where the report goes as JSON."""
    croissant: Path | None
    """Where the Croissant metadata go."""
    quiet: bool
    """Whether only errors are printed."""
    verbose: bool
    """Whether to say which libraries, file system and writer are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRequest:
    """One call of `manifest`, as the command line asks for it."""

    folders: Sequence[Path]
    out: Path
    """The manifest; `-` for standard output."""
    options: ScanOptions
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """One call of `doctor`."""

    out: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """One call of `verify`, as the command line asks for it."""

    out: Path
    sources: bool
    root: Path | None
    progress: str
    report: Path | None
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """One call of `export`, as the command line asks for it."""

    file: Path
    out: Path
    row: int | None
    """Of the only image that is wanted; None: `options` say which are."""
    options: ExportOptions
    progress: str
    report: Path | None
    quiet: bool


Request = IngestRequest | ManifestRequest | DoctorRequest | VerifyRequest | ExportRequest
