"""The images below a folder, found by all ranks, written as a manifest completely or not at all.

Rank 0 goes through the folders and writes; what takes long, asking the file system about folders,
names and files, is dealt out (`mpi.led`). So the manifest is that of one rank.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from h5ingest.core.errors import ManifestError, OutputError, StoppedError, UsageError
from h5ingest.core.manifest import file_sha256
from h5ingest.core.outfiles import INDEX, MANIFEST, check, write
from h5ingest.core.sample_table import ARCHIVES, Within
from h5ingest.images import folder_manifest
from h5ingest.images.folder_manifest import FolderScan, Form
from h5ingest.images.folders import Walk
from h5ingest.images.header_index import heading, index_of
from h5ingest.images.scan import ScanOptions, Tally
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, SerialComm, agreeing
from h5ingest.mpi.led import Deal, led_by_rank_0
from h5ingest.mpi.signals import Interrupt

if TYPE_CHECKING:
    from h5ingest.images.listed_archive import ListedArchive
    from h5ingest.pipeline.job import Job

_BLOCK: Final = 2**20
_BEAT_LINES: Final = 4096


def write_manifest(
    folder: Path,
    out: Path | BinaryIO,
    options: ScanOptions,
    comm: Comm | None = None,
    interrupt: Interrupt | None = None,
) -> Tally:
    """Write the manifest of the images in a folder or archive. Collective.

    Columns are separated by commas in a `.csv` file (with quotes where needed), else by tabs. In a
    stream, paths are relative to the working directory.

    Args:
        folder: the folder or archive; all ranks must see it.
        out: where rank 0 writes.
        options: which files are images, and what is written about them.
        comm: all ranks; None for this process alone.
        interrupt: asks to stop.

    Returns:
        Counts of all that was found, on rank 0; elsewhere nothing is counted.

    Raises:
        UsageError: `folder` is neither.
        ManifestError: no image, or one whose path cannot be written in a line; or the archive is
            damaged.
        OutputError: `out` exists, or cannot be written.
        StoppedError: a rank was asked to stop.
    """
    comm, interrupt = comm or SerialComm(), interrupt or Interrupt()
    archive = open_archive(folder, comm, interrupt)
    form: Form | None = None
    with agreeing(comm):
        if archive is None:
            _check_folder(folder, comm)
        elif archive.archive.problem:
            raise ManifestError(f"{folder} {archive.archive.problem}")
        if comm.rank == 0:
            with _explained(out):
                _check_out(out, options)
                form = Form.of(folder, out if isinstance(out, Path) else None, options)
    draft = _Draft(folder, archive, out, comm.bcast(form))
    return draft.fill(comm, interrupt, draft.publish)


def open_archive(path: Path, comm: Comm, interrupt: Interrupt) -> ListedArchive | None:
    """Return the archive of this name; None: there is none. Collective.

    Args:
        path: the file; all ranks must see it.
        comm: all ranks.
        interrupt: asks to stop.

    Raises:
        StoppedError: a rank was asked to stop.
    """
    found: ListedArchive | None = None
    full = os.fsencode(os.path.abspath(path))
    with while_rank_0_works(comm) as beat:
        if comm.rank == 0 and full.lower().endswith(ARCHIVES) and os.path.isfile(full):
            from h5ingest.images.archives import read_table
            from h5ingest.images.listed_archive import ListedArchive

            def beating() -> None:
                beat()
                if interrupt.requested:
                    raise StoppedError("stopped as asked: start the same command again")

            found = ListedArchive(*read_table(full, beating))
    archive = comm.bcast((found.archive if found else None,))[0]
    if archive is None:
        return None
    from h5ingest.images.listed_archive import ListedArchive

    return found or ListedArchive(archive, None)


def list_images(
    job: Job,
    folder: Path,
    archive: ListedArchive | None,
    listed: Path,
    options: ScanOptions,
    *,
    goes_on: bool,
) -> Tally:
    """Write the manifest of a job that was given a folder, with paths relative to it. Collective.

    Args:
        job: the run.
        folder: the folder; all ranks must see it.
        archive: or it is this archive.
        listed: the manifest, with commas.
        options: which files are images, and what is written about them.
        goes_on: whether an unfinished job has written `listed`, so that it has to be the same.

    Returns:
        See `write_manifest`.

    Raises:
        IngestError: see `write_manifest`; or the folder has changed since then.
    """
    with agreeing(job.comm):
        if archive is None:
            _check_folder(folder, job.comm)
    base = os.path.join(os.fsencode(folder), b"")
    form = Form(base=base, prefix=b"", comma=True, options=replace(options, overwrite=True))
    draft = _Draft(folder, archive, listed, form)

    def publish(beat: Callable[[], None]) -> None:
        job.check_lock()
        if goes_on:
            draft.compare(listed, beat)
        else:
            draft.publish(beat)

    return draft.fill(job.comm, job.interrupt, publish)


def _check_folder(folder: Path, comm: Comm) -> None:
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "no such folder"
        where = f" on {comm.hosts[comm.rank]}" if comm.n_hosts > 1 else ""
        wanted = "a folder"
        if os.path.exists(folder):
            wanted = "a folder or an archive (.tar or .zip, not compressed as a whole)"
        raise UsageError(f"{folder}: expected {wanted}, found {found}{where}")


def _check_out(out: Path | BinaryIO, options: ScanOptions) -> None:
    if not isinstance(out, Path):
        if options.index:
            raise UsageError("--index is written beside the manifest: name a file with --out")
        return
    if options.index:
        check(index_of(out), INDEX)
    check(out, MANIFEST)
    if not options.overwrite and os.path.lexists(out):
        raise OutputError(f"{out}: exists; --overwrite replaces it")


@contextlib.contextmanager
def _explained(out: Path | BinaryIO) -> Iterator[None]:
    """Run a block that writes the manifest; what the system refuses is an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        name = out if isinstance(out, Path) else "standard output"
        raise OutputError(f"{name}: cannot be written: {error.strerror}") from None


class _Draft:
    """The manifest as far as it is known, in files without a name. Rank 0 fills and writes it."""

    def __init__(
        self, folder: Path, archive: ListedArchive | None, out: Path | BinaryIO, form: Form
    ) -> None:
        """Begin; makes no file yet."""
        self.tally = Tally()
        self._folder = folder
        self._archive = archive
        self._out = out
        self._form = form
        self._files = contextlib.ExitStack()

    def fill(
        self, comm: Comm, interrupt: Interrupt, publish: Callable[[Callable[[], None]], None]
    ) -> Tally:
        """Fill it with what is found, then publish it on rank 0; return the counts. Collective.

        Args:
            comm: all ranks.
            interrupt: asks to stop.
            publish: is given what to call now and then.

        Raises:
            IngestError: see `write_manifest`.
        """
        read = self._archive.read if self._archive else None
        with self._files, FolderScan(self._form, read) as scan:
            led_by_rank_0(comm, scan, self._collect, interrupt)
            with while_rank_0_works(comm) as beat:
                if comm.rank == 0:
                    publish(beat)
        return self.tally

    def _collect(self, deal: Deal) -> None:
        form, options = self._form, self._form.options
        with _explained(self._out):
            self._lines, self._records = self._temporary(), self._temporary()
            self._lines.write(form.heading())
            walk: Iterable[bytes | Within]
            if self._archive is not None:
                walk = self._archive.files(self.tally, hidden=options.hidden)
            else:
                walk = Walk(form.base, self.tally, deal, hidden=options.hidden)
            for found in deal("files", walk):
                self._lines.write(found.lines)
                self._records.write(found.records)
                self.tally.add(found.tally)
        folder_manifest.check(self._folder, self.tally, options)

    def publish(self, beat: Callable[[], None]) -> None:
        """Give it its name; `beat` is called now and then."""
        out, options = self._out, self._form.options
        with _explained(out):
            if not isinstance(out, Path):
                _copy(self._lines, out, beat)
                out.flush()
                return
            write(out, lambda f: _copy(self._lines, f, beat), MANIFEST, replace=options.overwrite)
            if options.index:
                first = heading(file_sha256(out), self.tally.n_images)
                write(index_of(out), lambda f: _copy(self._records, f, beat, first), INDEX)

    def compare(self, earlier: Path, beat: Callable[[], None]) -> None:
        """Raise if a manifest is another one; `beat` is called now and then.

        Raises:
            OutputError: it is, or it cannot be read.
        """
        self._lines.seek(0)
        with _explained(earlier), earlier.open("rb") as file:
            for number, (then, now) in enumerate(zip_longest(file, self._lines, fillvalue=b"")):
                if then != now:
                    raise OutputError(
                        f"{self._folder}: has changed since the unfinished job here began: where "
                        f"it had {_shown(then)} there is {_shown(now)} now. Make it as it was, and "
                        f"start the same command again to go on; or begin anew with --restart."
                    )
                if number % _BEAT_LINES == 0:
                    beat()

    def _temporary(self) -> BinaryIO:
        # A file without a name: the scan cannot find it, and it disappears whatever happens.
        home = self._out.parent if isinstance(self._out, Path) else None
        return self._files.enter_context(tempfile.TemporaryFile(dir=home))


def _shown(line: bytes) -> str:
    return repr(line.decode("utf-8", "backslashreplace").rstrip("\n")) if line else "nothing"


def _copy(source: BinaryIO, target: BinaryIO, beat: Callable[[], None], first: bytes = b"") -> None:
    """Write some bytes and all of `source` to `target`."""
    source.seek(0)
    target.write(first)
    while block := source.read(_BLOCK):
        target.write(block)
        beat()
