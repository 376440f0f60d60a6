"""The images below a folder, in order, and counts of everything else (see `folder_manifest`).

Paths are sorted by their bytes, independently of the locale and of the order in which the file
system lists them. Memory grows with the entries of one folder, not with the number of images.

May not: decode an image (the first bytes of a file tell what it is), know ranks.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from h5ingest.core.errors import SampleError, UsageError
from h5ingest.core.signatures import format_of
from h5ingest.images import decode
from h5ingest.images.prefetch import Prefetcher, Read

HEAD_BYTES: Final = 32
"""Bytes read of each file: enough for the signature of every format."""

EXTENSIONS: Final = {
    b".png": "PNG", b".apng": "PNG", b".jpg": "JPEG", b".jpeg": "JPEG", b".jpe": "JPEG",
    b".jfif": "JPEG", b".gif": "GIF", b".tif": "TIFF", b".tiff": "TIFF", b".webp": "WebP",
    b".bmp": "BMP", b".jp2": "JPEG 2000", b".j2k": "JPEG 2000", b".avif": "AVIF", b".pnm": "PNM",
    b".pbm": "PNM", b".pgm": "PNM", b".ppm": "PNM", b".qoi": "QOI",
    b".jxl": "JPEG XL",
}  # fmt: skip

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
    absolute: bool = False
    """Whether to write absolute paths; False: relative to the manifest's folder."""
    overwrite: bool = False
    """Whether to replace a manifest that exists."""

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise UsageError(f"--label: expected one of {', '.join(LABELS)}, got {self.label!r}")
        if self.index and not self.sniff:
            raise UsageError("--index looks into every file: no --no-sniff")
        if self.group_level is not None and self.group_level < 1:
            raise UsageError(
                f"--group-by-folder: expected 1 (the folders in DIR) or more, got "
                f"{self.group_level}"
            )


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

    @property
    def n_images(self) -> int:
        """Images found."""
        return self.formats.total()


def note(noted: Noted, reason: str, path: bytes) -> None:
    """Count a path under a reason, and keep it if it is one of the first."""
    count, paths = noted.get(reason, (0, []))
    noted[reason] = count + 1, paths if count >= SHOWN else [*paths, path]


class Scan:
    """Iterates over the images below a folder, as paths relative to it in the order of bytes.

    A link to a file counts as a file. A link to a folder is followed, but no folder is entered
    twice (device and inode): a folder that the scan reaches without the link keeps its own path,
    and a link to a folder above is a loop.
    """

    def __init__(
        self,
        folder: bytes,
        options: ScanOptions,
        tally: Tally,
        seen: Callable[[bytes, bytes, int], None] | None = None,
    ) -> None:
        """Prepare; looks at nothing.

        Args:
            folder: the folder.
            options: which files are images.
            tally: counts what is found.
            seen: called with the path of each image, the first bytes of its file, and its size.
        """
        self._seen = seen
        self._base = os.path.join(folder, b"")
        self._options = options
        self._tally = tally
        self._entered: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[bytes]:
        if not self._options.sniff:
            yield from (path for path in self._files() if self._is_image(path, None))
            return
        asked, paths = itertools.tee(self._files())
        limit = HEAD_BYTES if self._seen is None else decode.HEAD_BYTES
        with Prefetcher(self._base, limit=limit) as files:
            for path, file in zip(asked, files.read(paths), strict=True):
                if self._is_image(path, file):
                    if self._seen is not None:
                        self._seen(path, *((b"", 0) if isinstance(file, SampleError) else file))
                    yield path

    def _files(self) -> Iterator[bytes]:
        """Yield all files, in order."""
        # Folders sort with the slash that their paths go on with: so depth first is byte order.
        # A stack, since folders may be nested more deeply than Python calls.
        # level: (path with its slash, names left in it, real paths of the links followed so far)
        real: tuple[bytes, ...] = (os.path.realpath(self._base),)
        self._entered.add(_identity(self._base))
        stack = [(b"", iter(self._list(b"")), real)]
        while stack:
            prefix, left, through = stack[-1]
            for name in left:
                path = prefix + name
                if name.endswith(b"/"):
                    inner = self._enter(path, through)
                    if inner is not None:
                        stack.append((path, iter(self._list(path)), inner))
                        break
                else:
                    yield path
            else:
                stack.pop()

    def _list(self, path: bytes) -> list[bytes]:
        """Return the names in a folder, sorted; those of folders end in a slash."""
        names: list[bytes] = []
        try:
            with os.scandir(self._base + path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b".") and not self._options.hidden:
                        self._tally.hidden += 1
                    elif entry.is_file(follow_symlinks=False):
                        names.append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        names.append(name + b"/")
                    elif entry.is_symlink():
                        names += self._behind_link(path + name, name)
                    else:
                        note(self._tally.noted, "FIFO, socket or device", path + name)
        except OSError as error:  # what was listed before the error counts
            note(self._tally.noted, f"folder that cannot be read ({error.strerror})", path or b".")
        return sorted(names)

    def _behind_link(self, path: bytes, name: bytes) -> list[bytes]:
        try:
            mode = os.stat(self._base + path).st_mode
        except OSError as error:
            note(self._tally.noted, f"broken link ({error.strerror})", path)
            return []
        if stat.S_ISDIR(mode):
            return [name + b"/"]
        if stat.S_ISREG(mode):
            return [name]
        note(self._tally.noted, "FIFO, socket or device", path)
        return []

    def _enter(self, path: bytes, through: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        """Return the real paths of the links followed, with this one's; None: do not enter."""
        full = self._base + path.rstrip(b"/")
        again = False
        try:
            identity = _identity(full)
            if os.path.islink(full):
                target = os.path.realpath(full)
                again = any(self._reaches(one, target) or _below(target, one) for one in through)
                through = (*through, target)
        except OSError as error:
            note(self._tally.noted, f"folder that cannot be read ({error.strerror})", path)
            return None
        if again or identity in self._entered:
            note(self._tally.noted, "link to a folder that is scanned anyway, or a loop", path)
            return None
        self._entered.add(identity)
        return through

    def _reaches(self, scanned: bytes, target: bytes) -> bool:
        """Return whether a scan of `scanned` reaches `target` without links (real paths)."""
        if not _below(scanned, target):
            return False
        between = target[len(scanned) :].split(b"/")
        return self._options.hidden or not any(name.startswith(b".") for name in between)

    def _is_image(self, path: bytes, file: Read | None) -> bool:
        """Return whether a file is one, by its first bytes if it has been read."""
        tally = self._tally
        head, size = None, 0
        if isinstance(file, SampleError):  # the name decides; an ingest fails alike
            note(tally.noted, f"file that cannot be read ({file.reason})", path)
        elif file is not None:
            head, size = file
        kind = format_of(head) if head is not None else None
        if kind is None:
            extension = os.path.splitext(os.path.basename(path))[1].lower()
            named = EXTENSIONS.get(extension)
            if named is None:
                tally.others[os.fsdecode(extension) or "no extension"] += 1
                return False
            if head is not None:
                why = "something else inside" if size else "empty"
                note(tally.noted, f"file that is named as an image ({why})", path)
                return False
            kind = named
        tally.formats[kind] += 1
        return True


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _below(folder: bytes, path: bytes) -> bool:
    """Return whether `path` is `folder` or lies below it; both are real paths."""
    return path == folder or path.startswith(os.path.join(folder, b""))
