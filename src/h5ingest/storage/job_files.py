"""The files beside the output while it is made, and whether a job begins or goes on.

OUT.partial is the file, OUT.journal what is known to be in it, OUT.lock whose they are; OUT.recoded
(`spool`) and OUT.unpacked (`images.unpacked`) are folders, OUT.scan.csv is the manifest of a job
that was given no manifest, and OUT.scan.places goes with it; OUT.new.csv has the lines of it that
are new to a file. The journal exists before the partial
file does, so that a partial file without one is nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from h5ingest.core.errors import OutputError
from h5ingest.storage import journal
from h5ingest.storage.datasets import output_errors, sync
from h5ingest.storage.direct_io import write_all
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Records
from h5ingest.storage.shared_blocks import forget_cached

FINGERPRINTS: Final = ("the datasets", "sizes and places of the images")
"""What a job is known by whose value would tell the user nothing."""
_COPY_BYTES: Final = 8 * 1024**2
_MOST_SHOWN: Final = 10
"""Differences that are named: there may be one for each of many groups."""


class JobPaths:
    """The names of an output and of the files beside it."""

    def __init__(self, out: Path) -> None:
        """Touch no file."""
        self.out = out
        """The output."""
        self.partial = Path(f"{out}.partial")
        """The file until it is complete."""
        self.journal = Path(f"{out}.journal")
        """What is known to be in it."""
        self.lock = Path(f"{out}.lock")
        """Whose it is."""
        self.failed = Path(f"{out}.failed.tsv")
        """A table of the images that failed."""
        self.recoded = Path(f"{out}.recoded")
        """A folder of images that `--recode` has coded."""
        self.scan = Path(f"{out}.scan.csv")
        """The manifest of what has been found in a folder."""
        self.places = Path(f"{out}.scan.places")
        """Where the samples of that manifest lie, if they lie in archives."""
        self.new = Path(f"{out}.new.csv")
        """The manifest without what is in the file that it is added to."""
        self.unpacked = Path(f"{out}.unpacked")
        """A folder of what has been unpacked of compressed archives."""

    @property
    def all(self) -> tuple[Path, ...]:
        """The output and the files beside it."""
        return tuple(vars(self).values())


def begin(
    paths: JobPaths,
    about: Mapping[str, object],
    *,
    restart: bool,
    create: Callable[[Path], object],
    beat: Callable[[], None] = lambda: None,
) -> tuple[Journal, Records]:
    """Return the journal, and what it knows: nothing, or what an unfinished job left.

    Not collective: rank 0 only.

    Args:
        paths: the files.
        about: what the job is: whatever must be the same for its work to be of use.
        restart: whether to discard what there is.
        create: makes a new file, empty.
        beat: called now and then while files are copied.

    Raises:
        OutputError: what there is belongs to another job; names what differs.
    """
    if restart:
        discard(paths)
    renew(paths, beat)
    has_partial = os.path.lexists(paths.partial)
    if restart or has_partial:
        _remove_file_pointers(paths.partial)
    if has_partial and not os.path.lexists(paths.journal):
        raise OutputError(
            f"{paths.partial}: expected its journal {paths.journal.name} beside it, found none: "
            f"it cannot be resumed. --restart discards it."
        )
    if not has_partial:
        started = Journal(paths.journal, dict(about))
        create(paths.partial)
        sync(paths.out.parent)  # their names, too, survive a crash of the machine
        return started, Records.none()
    for path in (paths.journal, paths.partial):
        forget_cached(path)  # other hosts may have written to it
    known_about, records, n_bytes = journal.read(paths.journal)
    _refuse(paths, _differences(known_about, about))
    return Journal(paths.journal, None, keep=n_bytes), records


def refuse_other(paths: JobPaths, about: Mapping[str, object]) -> None:
    """Raise what `begin` is going to raise, with what is known of `about` by now. Rank 0 only.

    Raises:
        OutputError: an unfinished job is here, but another one.
    """
    if os.path.lexists(paths.partial) and os.path.lexists(paths.journal):
        forget_cached(paths.journal)
        known, _, _ = journal.read(paths.journal)
        _refuse(paths, _differences({key: known.get(key) for key in about}, about))


def _refuse(paths: JobPaths, differing: list[str]) -> None:
    if not differing:
        return
    if len(differing) > _MOST_SHOWN:
        more = f"… and {len(differing) - _MOST_SHOWN:,} differences more"
        differing[_MOST_SHOWN:] = [more]
    raise OutputError(
        f"{paths.partial}: an unfinished job is here, but with other input:\n"
        + "\n".join(f"  {line}" for line in differing)
        + "\nStart it as it was to go on with it, or discard it with --restart."
    )


def about_left(paths: JobPaths) -> dict[str, object]:
    """Return what an unfinished job says that it is; nothing if there is none. Rank 0 only.

    Raises:
        OutputError: the file system refuses.
    """
    for path in (_aside(paths.journal), paths.journal):  # what was set aside is what counts
        if path.is_file():
            forget_cached(path)
            return journal.read_about(path) or {}
    return {}


def set_aside(paths: JobPaths) -> None:
    """Take their names from the files of a job that may still write to them. Rank 0 only.

    A job on another host that has been silent may live, cut off or suspended between its last look
    at the lock and a write. What it writes late shall reach nothing: another job goes on with
    copies (`renew`). A file that was set aside before is what counts; its copy may not be whole.

    Raises:
        OutputError: the file system refuses.
    """
    for path in (paths.partial, paths.journal):
        with output_errors(f"{path}: cannot be set aside"):
            if os.path.lexists(_aside(path)):
                path.unlink(missing_ok=True)
            elif os.path.lexists(path):
                path.rename(_aside(path))


def renew(paths: JobPaths, beat: Callable[[], None]) -> None:
    """Put copies in the place of files that were set aside, if there are any. Rank 0 only.

    `beat` is called now and then, and before what was set aside is removed; it may raise.

    Raises:
        OutputError: there is no space for them, or another error of the file system.
    """
    old = [path for path in (paths.journal, paths.partial) if os.path.lexists(_aside(path))]
    for path in old:
        with output_errors(f"{_aside(path)}: cannot be copied"):
            _copy(_aside(path), path, beat)
    if old:
        sync(paths.out.parent)
        beat()
    for path in old:
        _aside(path).unlink()


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _copy(path: Path, copy: Path, beat: Callable[[], None]) -> None:
    """Copy a file and bring it to the disk; leave out what was never written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    forget_cached(path)  # another host has written it
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as old, open(os.open(copy, flags, 0o666), "wb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but holes
            end = min(os.lseek(old.fileno(), at, os.SEEK_HOLE), at + _COPY_BYTES)
            data = os.pread(old.fileno(), end - at, at)
            write_all(new.fileno(), [data], at)
            at += len(data)
            beat()
        os.fsync(new.fileno())


def _remove_file_pointers(partial: Path) -> None:
    """Remove what Open MPI leaves beside a file when a job is aborted: its shared file pointers."""
    left = re.compile(re.escape(partial.name) + r"-\d+-\d+\.lock")
    with contextlib.suppress(OSError), os.scandir(partial.parent) as entries:
        for entry in entries:
            if left.fullmatch(entry.name):
                os.unlink(entry.path)


def discard(paths: JobPaths) -> None:
    """Take away what an unfinished job left. Not collective: rank 0 only."""
    with output_errors(f"{paths.out}: cannot be made room for"):
        for path in (paths.partial, paths.journal):
            path.unlink(missing_ok=True)
            _aside(path).unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Create the file, empty, so that errors say what is wrong. Not collective: rank 0 only.

    HDF5's own error for any of them, on every rank, would be "unable to create file".

    Raises:
        OutputError: it cannot be created, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with output_errors(f"{path}: cannot be created"):
        os.close(os.open(path, flags, 0o666))


def _differences(known: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return a line for each thing that differs."""
    lines = []
    for key in sorted({*known, *new}):
        before, now = known.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += _differences(before, now)
        elif before != now and key in FINGERPRINTS:
            lines.append(f"{key}: not what they were")
        elif before != now:
            lines.append(f"{key}: {before!r} then, {now!r} now")
    return lines
