"""What the command line asks all ranks to do together."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from h5ingest.core.options import IngestOptions

if TYPE_CHECKING:
    from h5ingest.exports.options import ExportOptions  # nor does it export
    from h5ingest.images.scan import ScanOptions  # an ingest scans no folder
    from h5ingest.pipeline.report import IngestReport


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRequest:
    """One call of `ingest`, `recompress` or `extend`, as the command line asks for it."""

    source: Path
    """The manifest or folder, or the file to recompress."""
    recompresses: bool = False
    """Whether it is the latter."""
    keep_layout: bool = True
    """Whether what is recompressed keeps its layout."""
    extends: bool = False
    """Whether the images are added to OUT."""
    again: bool = False
    """Whether they take the place of those whose paths they have."""
    out: Path
    options: IngestOptions
    scan: ScanOptions | None = None
    """How a folder is scanned, if that is not by default."""
    command: str = field(default_factory=lambda: shlex.join(["h5ingest", *sys.argv[1:]]))
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

    def work(self) -> Callable[..., IngestReport]:
        """Return what carries it out."""
        from h5ingest.pipeline import run  # not for --help

        if self.extends:
            from h5ingest.pipeline.extend import extend

            return partial(extend, again=self.again)
        if self.recompresses:
            return partial(run.recompress, keep_layout=self.keep_layout)
        return partial(run.ingest, scan=self.scan)


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
    image: str
    """Column of the image that is wanted of that row."""
    url: str | None
    """Of the file, for references to its chunks; None: images are wanted."""
    options: ExportOptions
    progress: str
    report: Path | None
    quiet: bool


Request = IngestRequest | ManifestRequest | DoctorRequest | VerifyRequest | ExportRequest
