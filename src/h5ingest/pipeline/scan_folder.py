"""`h5ingest manifest`: the images below a folder, found by all ranks, written completely or not.

Rank 0 goes through the folders and writes; what takes long, asking the file system about folders,
names and files, is dealt out (`mpi.led`). So the manifest is that of one rank.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.manifest import file_sha256
from h5ingest.core.outfiles import INDEX, MANIFEST, check, write
from h5ingest.images import folder_manifest
from h5ingest.images.folder_manifest import FolderScan, Form
from h5ingest.images.folders import Walk
from h5ingest.images.header_index import heading, index_of
from h5ingest.images.scan import ScanOptions, Tally
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, SerialComm, agreeing
from h5ingest.mpi.led import Deal, led_by_rank_0
from h5ingest.mpi.signals import Interrupt

_BLOCK: Final = 2**20


def write_manifest(
    folder: Path,
    out: Path | BinaryIO,
    options: ScanOptions,
    comm: Comm | None = None,
    interrupt: Interrupt | None = None,
) -> Tally:
    """Write the manifest of the images below `folder`. Collective.

    Columns are separated by commas in a `.csv` file (with quotes where needed), else by tabs. In a
    stream, paths are relative to the working directory.

    Args:
        folder: the folder; all ranks must see it.
        out: where rank 0 writes.
        options: which files are images, and what is written about them.
        comm: all ranks; None for this process alone.
        interrupt: asks to stop.

    Returns:
        Counts of all that was found, on rank 0; elsewhere nothing is counted.

    Raises:
        UsageError: `folder` is no folder.
        ManifestError: no image, or one whose path cannot be written in a line.
        OutputError: `out` exists, or cannot be written.
        StoppedError: a rank was asked to stop.
    """
    comm = comm or SerialComm()
    form: Form | None = None
    with agreeing(comm):
        _check_folder(folder, comm)
        if comm.rank == 0:
            with _explained(out):
                _check_out(out, options)
                form = Form.of(folder, out if isinstance(out, Path) else None, options)
    form = comm.bcast(form)
    with _Draft(folder, out, form) as draft, FolderScan(form) as scan:
        led_by_rank_0(comm, scan, draft.collect, interrupt or Interrupt())
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                draft.publish(beat)
    return draft.tally


def _check_folder(folder: Path, comm: Comm) -> None:
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "no such folder"
        where = f" on {comm.hosts[comm.rank]}" if comm.n_hosts > 1 else ""
        raise UsageError(f"{folder}: expected a folder, found {found}{where}")


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

    def __init__(self, folder: Path, out: Path | BinaryIO, form: Form) -> None:
        """Begin; makes no file yet."""
        self.tally = Tally()
        self._folder = folder
        self._out = out
        self._form = form
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def collect(self, deal: Deal) -> None:
        """Fill it with what is found; see `write_manifest` for the errors."""
        form, options = self._form, self._form.options
        with _explained(self._out):
            self._lines, self._records = self._temporary(), self._temporary()
            self._lines.write(form.heading())
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

    def _temporary(self) -> BinaryIO:
        # A file without a name: the scan cannot find it, and it disappears whatever happens.
        home = self._out.parent if isinstance(self._out, Path) else None
        return self._files.enter_context(tempfile.TemporaryFile(dir=home))


def _copy(source: BinaryIO, target: BinaryIO, beat: Callable[[], None], first: bytes = b"") -> None:
    """Write some bytes and all of `source` to `target`."""
    source.seek(0)
    target.write(first)
    while block := source.read(_BLOCK):
        target.write(block)
        beat()
