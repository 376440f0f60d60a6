"""Which files below a folder are images, and counts of everything else (see `folder_manifest`).

May not: read a file, decode an image (the first bytes of a file tell what it is), know ranks.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from h5ingest.core.errors import SampleError, UsageError
from h5ingest.core.signatures import format_of
from h5ingest.images.prefetch import Read

HEAD_BYTES: Final = 32
"""Bytes read of each file: enough for the signature of every format."""

EXTENSIONS: Final = {
    b".png": "PNG", b".apng": "PNG", b".jpg": "JPEG", b".jpeg": "JPEG", b".jpe": "JPEG",
    b".jfif": "JPEG", b".gif": "GIF", b".tif": "TIFF", b".tiff": "TIFF", b".webp": "WebP",
    b".bmp": "BMP", b".jp2": "JPEG 2000", b".j2k": "JPEG 2000", b".avif": "AVIF", b".pnm": "PNM",
    b".pbm": "PNM", b".pgm": "PNM", b".ppm": "PNM", b".qoi": "QOI",
    b".jxl": "JPEG XL",
}  # fmt: skip

SORTS: Final = ("name", "natural")
LABELS: Final = ("parent", "path", "none")

SHOWN: Final = 10
"""Paths named for each reason."""

Noted = dict[str, tuple[int, list[bytes]]]
"""Reason -> (how many, the first few paths)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """Which files are images, and what is written about them."""

    label: str = "parent"
    """`parent` (name of the image's folder), `path` (that below the scanned one) or `none`."""
    group_level: int | None = None
    """Which folder of the path names the group, 1 for the first; None: no groups."""
    hidden: bool = False
    """Whether to look at files and folders whose names begin with a dot."""
    sniff: bool = True
    """Whether the first bytes of each file decide; False: the name does, and no file is opened."""
    index: bool = False
    """Whether to write an index beside the manifest (`header_index`)."""
    pair: tuple[str, ...] = ()
    """Names of folders whose files of one stem belong in one line; empty: each has its own."""
    coco: str | None = None
    """A COCO file: only images that it names, with its classes and boxes; see `coco`."""
    yolo: str | None = None
    """A folder of YOLO's label files, likewise; see `yolo`."""
    absolute: bool = False
    """Whether to write absolute paths; False: relative to the manifest's folder."""
    overwrite: bool = False
    """Whether to replace a manifest that exists."""
    label_from: str | None = None
    """A regular expression that is looked for in an image's path below the folder: its group
    `label`, or the first one, or all of it is the label; further named groups are columns."""
    sort: str = "name"
    """`name` (bytes of the paths) or `natural` (z2 before z10)."""
    split: str | None = None
    """Names and shares, as in `train:0.8,test:0.2`: a column `split`; see `arrangement`."""
    seed: int = 0
    """Of the split."""
    stratify: str | None = None
    """Column of each of whose values the split takes the same shares."""
    keep_together: str | None = None
    """Column whose equal values the split keeps together; or `folder`."""

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise UsageError(f"--label: expected one of {', '.join(LABELS)}, got {self.label!r}")
        if self.index and not self.sniff:
            raise UsageError("--index looks into every file: it does not go with --no-sniff")
        if self.sort not in SORTS:
            raise UsageError(f"--sort: expected one of {', '.join(SORTS)}, got {self.sort!r}")
        if self.split is None and (self.stratify or self.keep_together or self.seed):
            raise UsageError("--seed, --stratify and --keep-together go with --split")
        if self.label_from is not None:
            self._check_label_from()
        if self.pair and (len({*self.pair} - {""}) < max(2, len(self.pair)) or self.index):
            raise UsageError(
                "--pair: expected two or more names of folders such as images:masks, and no "
                f"--index; got {':'.join(self.pair)!r}"
            )
        if (self.coco or self.yolo) and (
            self.pair or self.index or self.label_from or (self.coco and self.yolo)
        ):
            raise UsageError(
                "--coco and --yolo set the labels: use one of them, without --pair, --index or "
                "--label-from"
            )
        if self.group_level is not None and self.group_level < 1:
            raise UsageError(
                f"--group-by-folder: expected 1 (the folders in DIR) or more, got "
                f"{self.group_level}"
            )

    def _check_label_from(self) -> None:
        if self.label != "parent":
            raise UsageError("--label-from sets the labels: it does not go with --label")
        try:
            named = self.pattern.groupindex if self.pattern else {}
        except re.error as error:
            raise UsageError(f"--label-from: not a regular expression: {error}") from None
        taken = {"path", "split", *(["group"] if self.group_level else [])} & named.keys()
        if taken:
            raise UsageError(f"--label-from: no group can be called {', '.join(sorted(taken))}")

    @property
    def pattern(self) -> re.Pattern[bytes] | None:
        """What `label_from` means."""
        text = self.label_from
        return None if text is None else re.compile(os.fsencode(text))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a manifest, the split left out."""
        named = self.pattern.groupindex if self.pattern else {}
        return (
            "path",
            *(["label"] if self.label != "none" else []),
            *(["group"] if self.group_level is not None else []),
            *(name for name in named if name != "label"),
        )


_MISNAMED: Final = "file that is named like an image"
UNREAD: Final = "folder that cannot be read"
"""How such reasons begin."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of what a scan has found so far."""

    formats: Counter[str] = field(default_factory=Counter)
    """Images by format."""
    classes: set[bytes] = field(default_factory=set)
    """Distinct labels."""
    groups: Counter[bytes] = field(default_factory=Counter)
    """Images by group."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by extension."""
    noted: Noted = field(default_factory=dict)
    """Paths left out that the user should know of, by reason."""
    refused: Noted = field(default_factory=dict)
    """Paths that cannot be written in a manifest, by reason."""
    hidden: int = 0
    """Files and folders not looked at because their names begin with a dot."""
    rows: tuple[int, int] | None = None
    """Lines of images that belong together, and images in each; None: each has its own line."""

    @property
    def n_images(self) -> int:
        """Images found."""
        return self.formats.total()

    def add(self, other: Tally) -> None:
        """Count what another tally has, as if it had come after what is here."""
        self.formats += other.formats
        self.classes |= other.classes
        self.groups += other.groups
        self.others += other.others
        self.hidden += other.hidden
        add_notes(self.noted, other.noted)
        add_notes(self.refused, other.refused)

    @property
    def misnamed(self) -> tuple[int, bytes]:
        """Files left out that are named as images, and the path of one of them."""
        return self._noted(_MISNAMED)

    @property
    def unread(self) -> tuple[int, bytes]:
        """Folders that could not be read, and the path of one of them."""
        return self._noted(UNREAD)

    def _noted(self, what: str) -> tuple[int, bytes]:
        found = [noted for reason, noted in self.noted.items() if reason.startswith(what)]
        return sum(n for n, _ in found), min((paths[0] for _, paths in found), default=b"")

    def is_image(self, path: bytes, file: Read | None) -> bool:
        """Count a file; return whether it is an image, by its first bytes if they were read."""
        head, size = None, 0
        if isinstance(file, SampleError):  # the name decides; an ingest fails alike
            note(self.noted, f"file that cannot be read ({file.reason})", path)
        elif file is not None:
            head, size = file
        kind = format_of(head) if head is not None else None
        if kind is None:
            extension = os.path.splitext(os.path.basename(path))[1].lower()
            named = EXTENSIONS.get(extension)
            if named is None:
                self.others[os.fsdecode(extension) or "no extension"] += 1
                return False
            if head is not None:
                why = "something else inside" if size else "empty"
                note(self.noted, f"{_MISNAMED} ({why})", path)
                return False
            kind = named
        self.formats[kind] += 1
        return True


def note(noted: Noted, reason: str, path: bytes) -> None:
    """Count a path under a reason, and keep it if it is one of the first."""
    count, paths = noted.get(reason, (0, []))
    noted[reason] = count + 1, paths if count >= SHOWN else [*paths, path]


def add_notes(noted: Noted, more: Noted, folder: bytes = b"") -> None:
    """Count what has been noted elsewhere, of paths that begin with `folder` here."""
    for reason, (n, found) in more.items():
        count, paths = noted.get(reason, (0, []))
        paths = [*paths, *(folder + path for path in found)]
        noted[reason] = count + n, paths[:SHOWN]
