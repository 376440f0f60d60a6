"""What a scan found and left out, in words.

May not: open an image, know ranks, print.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final

from h5ingest.core.column_types import all_integers
from h5ingest.core.errors import ManifestError
from h5ingest.core.units import counted
from h5ingest.images.scan import EXTENSIONS, SHOWN, UNREAD, Noted, ScanOptions, Tally

_PAIRED: Final = ("images?$|imgs?$|jpegimages$", "masks?$|labels?$|annotations?$|segmentation")
"""Names of folders, in any case: of images, and of the label masks that belong to them."""


def check(folder: Path, tally: Tally, options: ScanOptions) -> None:
    """Check that a manifest can hold what has been found.

    Raises:
        ManifestError: no image, or one whose path cannot be written in a line.
    """
    if tally.refused:
        raise ManifestError(
            "\n".join([f"{folder}: nothing written, rename or move:", *_by_name(tally.refused)])
        )
    if not tally.n_images:
        how = "first bytes" if options.sniff else "names"
        known = ", ".join(dict.fromkeys(EXTENSIONS.values()))
        raise ManifestError(
            "\n".join(
                [f"{folder}: expected images ({known}), found none by their {how}; there are:",
                 *(_skipped(tally) or ["  no files at all"])]
            )
        )  # fmt: skip


def check_read(folder: Path, tally: Tally) -> None:
    """Check that all folders have been read.

    Raises:
        ManifestError: one has not, so images may be missing.
    """
    unread = {why: noted for why, noted in tally.noted.items() if why.startswith(UNREAD)}
    if unread:
        raise ManifestError(
            "\n".join(
                [f"{folder}: nothing is stored, as there may be more images than can be found:",
                 *_by_name(unread),
                 "Make such folders readable; or leave them out, with --on-error blank or with a "
                 f"list: h5ingest manifest {shlex.quote(str(folder))} -o LIST.csv"]
            )
        )  # fmt: skip


def describe(tally: Tally) -> str:
    """Return what was found and what was left out, a line each."""
    formats = ", ".join(f"{n:,} {name}" for name, n in tally.formats.most_common())
    lines = [f"{counted(tally.n_images, 'images')} ({formats})"]
    if tally.rows is not None:
        n, n_each = tally.rows
        together = counted(n, "pairs") if n_each == 2 else counted(n, f"rows of {n_each} images")
        lines = [f"{together}, from {lines[0]}"]
    elif pair := _like_pairs(tally.classes):
        lines.append(
            f"images and masks? pair them: h5ingest manifest DIR -o FILE.csv --pair {pair}"
        )
    if tally.classes:
        n = len(tally.classes)
        lines.append(f"{n:,} classes" if n > 1 else "1 class (--label none leaves labels out)")
        if all_integers(list(tally.classes)) and len({int(c) for c in tally.classes}) < n:
            lines.append("WARNING: some class names differ only in leading zeros")
    if tally.groups:
        counts = [f"{_show(name)[1:-1]} {n:,}" for name, n in sorted(tally.groups.items())]
        more = [f"… {len(counts) - SHOWN:,} more"] if len(counts) > SHOWN else []
        lines.append(f"{counted(len(counts), 'groups')}: {', '.join(counts[:SHOWN] + more)}")
    skipped = _skipped(tally)
    return "\n".join([*lines, *(["left out, or doubtful:"] if skipped else []), *skipped])


def _like_pairs(classes: set[bytes]) -> str:
    """Return the value of `--pair` if the classes look like folders of images and of their masks.

    >>> _like_pairs({b"masks", b"images"}), _like_pairs({b"cat", b"masks"})
    ('images:masks', '')
    """
    names = sorted(map(os.fsdecode, classes))
    images, masks = ([n for n in names if re.match(like, n, re.IGNORECASE)] for like in _PAIRED)
    return f"{images[0]}:{masks[0]}" if len(names) == 2 and len(images) == len(masks) == 1 else ""


def _skipped(tally: Tally) -> list[str]:
    lines = []
    if tally.others:
        kinds = [f"{n:,} {name}" for name, n in tally.others.most_common(SHOWN)]
        more = ["…"] if len(tally.others) > SHOWN else []
        lines.append(f"  {tally.others.total():,} x not an image ({', '.join(kinds + more)})")
    if tally.hidden:
        lines.append(f"  {tally.hidden:,} x hidden file or folder (--hidden includes them)")
    return [*lines, *_by_name(tally.noted)]


def _by_name(noted: Noted) -> list[str]:
    lines = []
    for reason, (count, paths) in sorted(noted.items()):
        lines.append(f"  {count:,} x {reason}")
        lines += [f"    {_show(path or b'.')}" for path in paths]
        if count > len(paths):
            lines.append(f"    … and {count - len(paths):,} more")
    return lines


def _show(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace"))
