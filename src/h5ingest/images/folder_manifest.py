"""`h5ingest manifest`: a line for each image that `scan` finds, written completely or not at all.

May not: open an image, know ranks, print.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from h5ingest.core.column_types import all_integers
from h5ingest.core.errors import ManifestError, OutputError, UsageError
from h5ingest.core.manifest import file_sha256
from h5ingest.core.outfiles import INDEX, MANIFEST, check, write
from h5ingest.images.header_index import IndexRecords, index_of
from h5ingest.images.scan import EXTENSIONS, SHOWN, Noted, Scan, ScanOptions, Tally, note


def label_and_group(folder: bytes, own_name: bytes, options: ScanOptions) -> tuple[bytes, bytes]:
    """Return label and group of the images in a folder; each may be empty.

    Args:
        folder: path relative to the scanned folder; empty for the scanned folder itself.
        own_name: name of the scanned folder: the label of images that lie directly in it.
        options: how labels and groups are made.

    >>> options = ScanOptions(label="path", group_level=1)
    >>> label_and_group(b"train/Greek/alpha", b"data", options)
    (b'Greek/alpha', b'train')
    """
    names = folder.split(b"/") if folder else []
    level = options.group_level or 0
    group = names[level - 1] if 0 < level <= len(names) else b""
    if options.label == "none":
        return b"", group
    parent = names[-1] if names else own_name
    if options.label == "path":
        return b"/".join(names[: level - 1] + names[level:] if level else names) or parent, group
    return parent, group


def write_manifest(folder: Path, out: Path | BinaryIO, options: ScanOptions) -> Tally:
    """Write the manifest of the images below `folder`, and return counts of all that was found.

    Columns are separated by commas in a `.csv` file (with quotes where needed), else by tabs. In a
    stream, paths are relative to the working directory.

    Raises:
        UsageError: `folder` is no folder.
        ManifestError: no image, or one whose path cannot be written in a line.
        OutputError: `out` exists, or cannot be written.
    """
    base = os.fsencode(folder)
    if not os.path.isdir(base):
        found = "a file" if os.path.exists(base) else "no such folder"
        raise UsageError(f"{folder}: expected a folder, found {found}")
    if options.index:
        if not isinstance(out, Path):
            raise UsageError("--index is written beside the manifest: name a file with --out")
        check(index_of(out), INDEX)
    if isinstance(out, Path):
        check(out, MANIFEST)
        if not options.overwrite and os.path.lexists(out):
            raise OutputError(f"{out}: exists; --overwrite replaces it")
        name, home = str(out), out.parent
    else:
        name, home = "standard output", Path()
    comma = isinstance(out, Path) and out.suffix.lower() == ".csv"
    tally = Tally()
    try:
        prefix = _prefix(base, os.fsencode(home), absolute=options.absolute)
        # A file without a name: the scan cannot find it, and it disappears whatever happens.
        where = home if isinstance(out, Path) else None
        with tempfile.TemporaryFile(dir=where) as rows, contextlib.ExitStack() as more:
            records = None
            if options.index:
                records = IndexRecords(base, more.enter_context(tempfile.TemporaryFile(dir=where)))
            rows.writelines(_lines(base, prefix, options, tally, records, comma=comma))
            _check(folder, tally, options)
            rows.seek(0)
            if isinstance(out, Path):
                write(
                    out,
                    lambda file: shutil.copyfileobj(rows, file),
                    MANIFEST,
                    replace=options.overwrite,
                )
                if records is not None:
                    sha256 = file_sha256(out)
                    write(index_of(out), lambda file: records.write(file, sha256), INDEX)
            else:
                shutil.copyfileobj(rows, out)
                out.flush()
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror}") from None
    return tally


def _prefix(folder: bytes, home: bytes, *, absolute: bool) -> bytes:
    """Return the path from `home` to `folder`, ending in a slash unless it is empty.

    Symbolic links are kept as the user named them, unless a `..` after one would lead elsewhere.
    """
    plain, real = os.path.abspath(folder), os.path.realpath(folder)
    if not absolute:
        plain = os.path.relpath(plain, os.path.abspath(home))
        real = os.path.relpath(real, os.path.realpath(home))
    with contextlib.suppress(OSError):
        if os.path.samefile(os.path.join(home, plain), folder):
            real = plain
    return b"" if real == b"." else os.path.join(real, b"")


def _lines(
    base: bytes,
    prefix: bytes,
    options: ScanOptions,
    tally: Tally,
    records: IndexRecords | None,
    *,
    comma: bool,
) -> Iterator[bytes]:
    """Yield the lines of the manifest; paths that no line can hold go to `tally.refused`."""
    own_name = os.path.basename(os.path.abspath(base)) or b"/"
    delimiter = b"," if comma else b"\t"

    @functools.lru_cache(maxsize=1024)  # images of a folder come together
    def chosen(folder: bytes) -> tuple[bytes, bytes]:
        return label_and_group(folder, own_name, options)

    header = [b"path"]
    if options.label != "none":
        header.append(b"label")
    if options.group_level is not None:
        header.append(b"group")
    yield delimiter.join(header) + b"\n"
    for path in Scan(base, options, tally, records.add if records else None):
        label, group = chosen(path.rpartition(b"/")[0])
        cells = [prefix + path]
        if cells[0].isspace():
            cells[0] = b"./" + cells[0]  # else a blank line
        if options.label != "none":
            tally.classes.add(label)
            cells.append(label)
        if options.group_level is not None:
            tally.groups[group] += 1
            cells.append(group)
            if not group:
                note(tally.refused, f"no folder of level {options.group_level}", path)
        line = delimiter.join(map(_quoted, cells) if comma else cells)
        if b"\n" in line or b"\r" in line:
            note(
                tally.refused,
                "a line end in the name or its folder's, which no manifest can hold",
                cells[0],
            )
        elif not comma and line.count(b"\t") >= len(cells):
            note(
                tally.refused,
                "a tab in the name or its folder's, which only a .csv manifest can hold",
                cells[0],
            )
        yield line + b"\n"


def _quoted(cell: bytes) -> bytes:
    if b'"' in cell or b"," in cell:
        return b'"' + cell.replace(b'"', b'""') + b'"'
    return cell


def _check(folder: Path, tally: Tally, options: ScanOptions) -> None:
    if tally.refused:
        raise ManifestError(
            "\n".join([f"{folder}: nothing written, rename or move:", *_by_name(tally.refused)])
        )
    if not tally.n_images:
        how = "first bytes" if options.sniff else "names"
        known = ", ".join(dict.fromkeys(EXTENSIONS.values()))
        raise ManifestError(
            "\n".join(
                [f"{folder}: expected files that their {how} tell to be images ({known}), found:",
                 *(_skipped(tally) or ["  nothing at all"])]
            )
        )  # fmt: skip


def describe(tally: Tally) -> str:
    """Return what was found and what was left out, a line each."""
    formats = ", ".join(f"{n:,} {name}" for name, n in tally.formats.most_common())
    lines = [f"{tally.n_images:,} images ({formats})"]
    if tally.classes:
        n = len(tally.classes)
        lines.append(f"{n:,} classes" if n > 1 else "1 class (--label none leaves labels out)")
        if all_integers(list(tally.classes)) and len({int(c) for c in tally.classes}) < n:
            lines.append("WARNING: some class names are the same number, written with more zeros")
    if tally.groups:
        counts = [f"{_show(name)[1:-1]} {n:,}" for name, n in sorted(tally.groups.items())]
        more = [f"… {len(counts) - SHOWN:,} more"] if len(counts) > SHOWN else []
        lines.append(f"{len(counts):,} groups: {', '.join(counts[:SHOWN] + more)}")
    skipped = _skipped(tally)
    return "\n".join([*lines, *(["not taken, or in doubt:"] if skipped else []), *skipped])


def _skipped(tally: Tally) -> list[str]:
    lines = []
    if tally.others:
        kinds = [f"{n:,} {name}" for name, n in tally.others.most_common(SHOWN)]
        more = ["…"] if len(tally.others) > SHOWN else []
        lines.append(f"  {tally.others.total():,} x no image ({', '.join(kinds + more)})")
    if tally.hidden:
        lines.append(f"  {tally.hidden:,} x hidden file or folder (--hidden looks at them)")
    return [*lines, *_by_name(tally.noted)]


def _by_name(noted: Noted) -> list[str]:
    lines = []
    for reason, (count, paths) in noted.items():
        lines.append(f"  {count:,} x {reason}")
        lines += [f"    {_show(path)}" for path in paths]
        if count > len(paths):
            lines.append(f"    … and {count - len(paths):,} more")
    return lines


def _show(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace"))
