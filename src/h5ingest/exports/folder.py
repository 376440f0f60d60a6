"""An export to a folder: written beside it, and given its name when it is complete.

Beside DIR lie meanwhile DIR.partial, a folder with a mark in it and the images below `files`, and
DIR.lock, which says whose it is. What a job that was killed left there is removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from h5ingest.core import outfiles
from h5ingest.core.errors import OutputError, StoppedError
from h5ingest.exports import table
from h5ingest.exports.names import MANIFEST
from h5ingest.exports.work import Work, wait_for
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.lock import Fence, Lock

MARK: Final = "unfinished-export.json"
"""Name of the mark in DIR.partial."""
_FILES: Final = "files"
_TEMPORARY: Final = ".h5ingest-"
"""What `outfiles.write` begins a name with, which a job leaves that is killed meanwhile."""


def refuse_existing(out: Path) -> None:
    """Raise unless DIR is new or an empty folder. Rank 0 only.

    Raises:
        OutputError: it is not; or the folder that it is to lie in does not exist.
    """
    with output_errors(f"{out}: cannot be looked at"):
        has_parent, found = os.path.isdir(out.parent), outfiles.what_is(out)
        if found == outfiles.FOLDER:
            found = "a folder with something in it" if any(out.iterdir()) else ""
    if not has_parent:
        raise OutputError(f"{out}: expected an existing folder {out.parent}")
    if found:
        raise OutputError(
            f"{out}: expected a name that is free, or an empty folder, found {found}: an export "
            f"replaces nothing"
        )


def export_to_folder(work: Work, out: Path) -> None:
    """Write the images and their manifest into a folder. Collective.

    Raises:
        OutputError: it cannot be written, or is another job's.
        StoppedError: a signal asked for it.
        SamplesFailedError: see `Work.refuse_damaged`.
    """
    comm, partial = work.comm, out.with_name(f"{out.name}.partial")
    with _locked(work, out.with_name(f"{out.name}.lock")) as fence:
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                _begin(partial, out, beat)
        _write_images(work, partial / _FILES, fence)
        work.refuse_damaged()
        _write_manifest(work, partial / _FILES)
        _sync(comm, partial)
        with while_rank_0_works(comm):
            if comm.rank == 0:
                fence.check(now=True)
                _publish(partial, out)


@contextlib.contextmanager
def _locked(work: Work, path: Path) -> Iterator[Fence]:
    """Hold the lock of the folder. Collective at the beginning.

    Raises:
        OutputError: another job has it.
        StoppedError: asked to stop while the lock of another job was watched.
    """
    comm, lock = work.comm, None
    with while_rank_0_works(comm) as beat:
        if comm.rank == 0:

            def watching() -> None:
                beat()
                if work.interrupt.requested:
                    raise StoppedError("stopped as asked: nothing was begun")

            timeout_s = work.options.peer_timeout_s
            lock = Lock(path, timeout_s, beat=watching, tell=work.watch.notice)
    try:
        patience_s = work.options.peer_timeout_s / 2 if comm.n_hosts > 1 else 0.0
        fence = Fence(path, comm.bcast(lock.token if lock else None), patience_s)
        with agreeing(comm):
            fence.check(now=True)
        yield fence
    finally:
        if lock is not None:
            lock.release()


def _begin(partial: Path, out: Path, beat: Callable[[], None]) -> None:
    """Make DIR.partial, without what an unfinished job left in it. Rank 0 only.

    Raises:
        OutputError: it is something else, or cannot be made.
    """
    refuse_existing(out)
    with output_errors(f"{partial}: cannot be looked at"):
        found = outfiles.what_is(partial)
        names = os.listdir(partial) if found == outfiles.FOLDER else [found]
        inside = outfiles.what_is(partial / _FILES) if found == outfiles.FOLDER else ""
    is_ours = MARK in names or all(name.startswith(_TEMPORARY) for name in names)
    if found and not (is_ours and inside in ("", outfiles.FOLDER)):
        raise OutputError(
            f"{partial}: expected nothing, or the folder of an unfinished export with {MARK} in "
            f"it, found {found}: rename or remove it"
        )
    with output_errors(f"{partial}: cannot be made anew"):
        _remove(partial / _FILES, beat)
        partial.mkdir(exist_ok=True)
    about = {"format": "h5ingest export 1", "of": os.fspath(out)}
    outfiles.write(partial / MARK, json.dumps(about).encode() + b"\n", outfiles.EXPORT)
    with output_errors(f"{partial}: cannot be made"):
        (partial / _FILES).mkdir()


def _remove(folder: Path, beat: Callable[[], None]) -> None:
    """Remove a folder and all that is in it; links are not followed."""
    for where, folders, files in os.walk(os.fsencode(folder), topdown=False):
        for name in files:
            os.unlink(os.path.join(where, name))
            beat()
        for name in folders:
            os.rmdir(os.path.join(where, name))
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _write_images(work: Work, folder: Path, fence: Fence) -> None:
    """Write this rank's images. Collective at the end."""
    base, known = os.path.join(os.fsencode(folder), b""), {b""}
    with work.together() as images:
        for k, files in images(range(len(work.share))):
            fence.check()
            for name, data in zip(work.names_of(k), files, strict=True):
                within = os.path.dirname(name)
                with output_errors(f"{os.fsdecode(base + name)}: cannot be written"):
                    if within not in known:
                        os.makedirs(base + within, exist_ok=True)
                        known.add(within)
                    with _new(base + name) as file:
                        file.write(data)


def _new(path: bytes) -> BinaryIO:
    """Return a new file; links are not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o666), "wb")


def _write_manifest(work: Work, folder: Path) -> None:
    """Write the manifest of all ranks. Collective."""
    found, columns = table.of_all(work)
    path = os.path.join(os.fsencode(folder), MANIFEST)
    with while_rank_0_works(work.comm) as beat:
        if found is not None:
            with output_errors(f"{os.fsdecode(path)}: cannot be written"), _new(path) as file:
                file.write(table.heading(columns))
                file.writelines(table.in_order(*found, beat))


def _sync(comm: Comm, partial: Path) -> None:
    """Bring what every host has written to the disk, all files in one call. Collective.

    Raises:
        OutputError: the system says that something did not reach it.
    """

    def sync() -> None:
        with output_errors(f"{partial}: cannot be brought to the disk"):
            _sync_file_system(partial)

    is_first_of_host = list(comm.hosts).index(comm.hosts[comm.rank]) == comm.rank
    wait_for(comm, sync if is_first_of_host else None)


def _sync_file_system(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)


def _publish(partial: Path, out: Path) -> None:
    """Give the folder its name, and remove what was beside it. Rank 0 only."""
    try:
        with output_errors(f"{out}: cannot be given its name"):
            outfiles.give_folder_name(partial / _FILES, out)
    except OutputError:
        refuse_existing(out)  # says more
        raise
    with contextlib.suppress(OSError):  # it has its name: the rest is litter
        outfiles.sync(out.parent)
        (partial / MARK).unlink()
        for entry in partial.iterdir():
            if entry.name.startswith(_TEMPORARY):
                entry.unlink()
        partial.rmdir()
