"""The images below a folder, found by all ranks, written as a manifest completely or not at all.

Rank 0 goes through the folders and writes; what takes long, asking the file system about folders,
names and files, is dealt out (`mpi.led`). So the manifest is that of one rank.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from h5ingest.core.errors import ManifestError, UsageError
from h5ingest.core.outfiles import INDEX
from h5ingest.core.sample_table import ARCHIVES, Within
from h5ingest.images import scan_summary
from h5ingest.images.folder_manifest import FolderScan, Form
from h5ingest.images.folders import Walk
from h5ingest.images.header_index import heading, index_of
from h5ingest.images.scan import ScanOptions, Tally
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, SerialComm, agreeing
from h5ingest.mpi.led import Deal, led_by_rank_0
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.manifest_draft import Draft, check_out, explained

if TYPE_CHECKING:
    from h5ingest.images.listed_archive import ListedArchive
    from h5ingest.images.several import Several
    from h5ingest.images.unpacked import Unpacker
    from h5ingest.pipeline.job import Job


def write_manifest(
    folders: Path | Sequence[Path],
    out: Path | BinaryIO,
    options: ScanOptions,
    comm: Comm | None = None,
    interrupt: Interrupt | None = None,
) -> Tally:
    """Write the manifest of the images in folders or archives, one after the other. Collective.

    Columns are separated by commas in a `.csv` file (with quotes where needed), else by tabs. In a
    stream, paths are relative to the working directory.

    Args:
        folders: folders or archives, at least one, or what `images.several` takes, alone; all ranks
            must see them.
        out: where rank 0 writes.
        options: which files are images, and what is written about them.
        comm: all ranks; None for this process alone.
        interrupt: asks to stop.

    Returns:
        Counts of all that was found, on rank 0; elsewhere nothing is counted.

    Raises:
        UsageError: one of `folders` is neither.
        ManifestError: no image, or one whose path cannot be written in a line; or an archive is
            damaged.
        OutputError: `out` exists, or cannot be written.
        SetupError: a package for what is read is not installed.
        StoppedError: a rank was asked to stop.
    """
    from h5ingest.images.unpacked import Unpacker

    comm, interrupt = comm or SerialComm(), interrupt or Interrupt()
    folders = [folders] if isinstance(folders, Path) else folders
    with agreeing(comm):
        if (options.pair or options.coco or options.yolo) and len(folders) > 1:
            raise UsageError(
                f"--pair, --coco and --yolo: expected one folder of images, got {len(folders)}"
            )
        if comm.rank == 0:
            with explained(out):
                check_out(out, options)
    near = os.fsencode(out.parent) if isinstance(out, Path) else b"."
    draft = Draft(folders[0], out, overwrite=options.overwrite)
    with draft, contextlib.closing(Unpacker(near=near)) as unpacker:
        meant = meant_by(folders, comm)
        if meant is not None:
            from h5ingest.pipeline.list_samples import list_samples  # seldom needed

            with agreeing(comm):
                for flag, asked in (
                    ("--index", options.index),
                    ("--pair", options.pair),
                    ("--coco", options.coco),
                    ("--yolo", options.yolo),
                ):
                    if asked:
                        raise UsageError(f"{folders[0]}: {flag} goes with folders and archives")
            form = Form.of(Path(os.fsdecode(meant.base)), _named(out), options)
            is_file = meant.files == (meant.base,)
            outer = form.prefix.rstrip(b"/") + b"/" if is_file else form.prefix
            tally = list_samples(
                meant, options, draft, unpacker, comm, interrupt, takes_damaged=False, outer=outer,
                comma=form.comma,
            ).tally  # fmt: skip
        else:
            tally, forms = Tally(), []
            with agreeing(comm):
                if comm.rank == 0:
                    draft.begin()
            for folder in folders:
                archive = open_archive(folder, unpacker, comm, interrupt)
                with agreeing(comm):
                    if archive is None:
                        _check_folder(folder, comm)
                    elif archive.archive.problem:
                        raise ManifestError(f"{folder} {archive.archive.problem}")
                forms.append(Form.of(folder, _named(out), options))
                tally.add(_scan(folder, archive, forms[-1], draft, comm, interrupt))
            with while_rank_0_works(comm) as beat:
                if comm.rank == 0:
                    _arrange(draft, forms, tally, beat)
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                sha256 = draft.publish(beat)
                if options.index and isinstance(out, Path):
                    first = heading(sha256, tally.n_images)
                    draft.publish_records(index_of(out), INDEX, first, beat)
    return tally


def _named(out: Path | BinaryIO) -> Path | None:
    return out if isinstance(out, Path) else None


def meant_by(paths: Sequence[Path], comm: Comm) -> Several | None:
    """Return which files are meant by a name, if it is no plain folder or archive. Collective.

    Raises:
        ManifestError: none.
    """
    found: Several | None = None
    with agreeing(comm):
        if comm.rank == 0:
            from h5ingest.images.several import are_several, several

            if len(paths) == 1 and are_several(paths[0]):
                found = several(paths[0])
    return comm.bcast((found,))[0]


def open_archive(
    path: Path, unpacker: Unpacker, comm: Comm, interrupt: Interrupt
) -> ListedArchive | None:
    """Return the archive of this name, which all ranks must see; None: there is none. Collective.

    Raises:
        StoppedError: a rank was asked to stop.
    """
    full = os.fsencode(os.path.abspath(path))
    is_archive = comm.rank == 0 and full.lower().endswith(ARCHIVES) and os.path.isfile(full)
    if not comm.bcast(is_archive):
        return None
    from h5ingest.images.archives import read_table  # few jobs read from one
    from h5ingest.images.listed_archive import ListedArchive

    found: ListedArchive | None = None
    with while_rank_0_works(comm, interrupt) as beat:
        if comm.rank == 0:
            found = ListedArchive(*read_table(full, unpacker, beat))
    archive = comm.bcast(found.archive if found else None)
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
    with Draft(folder, listed, overwrite=True) as draft:
        with agreeing(job.comm):
            if job.comm.rank == 0:
                draft.begin()
        tally = _scan(folder, archive, form, draft, job.comm, job.interrupt)
        with while_rank_0_works(job.comm) as beat:
            if job.comm.rank == 0:
                if job.options.on_error == "fail":
                    scan_summary.check_read(folder, tally)
                _arrange(draft, [form], tally, beat)
                job.check_lock()
                if goes_on:
                    draft.compare(listed, beat)
                else:
                    draft.publish(beat)
    return tally


def _check_folder(folder: Path, comm: Comm) -> None:
    if not os.path.isdir(folder):
        where = f" on {comm.hosts[comm.rank]}" if comm.n_hosts > 1 else ""
        if not os.path.exists(folder):
            raise UsageError(f"{folder}: no such folder{where}")
        raise UsageError(
            f"{folder}: expected a folder or an archive (.tar, .zip, .tar.gz and the like), found "
            f"a file{where}"
        )


def _arrange(draft: Draft, forms: Sequence[Form], tally: Tally, beat: Callable[[], None]) -> None:
    """Join lines that belong together, then see `Draft.arrange`."""
    options, prefixes = forms[0].options, [form.prefix for form in forms]
    columns = options.columns
    if options.pair:
        from h5ingest.images.pairs import pair_lines  # rarely asked for

        with explained(draft.out):
            paired = draft.temporary()
            columns = pair_lines(draft.lines, paired, forms[0], tally)
            draft.lines, draft.records = paired, draft.temporary()
    elif options.coco or options.yolo:
        from h5ingest.images.annotations import annotate  # rarely asked for

        with explained(draft.out):
            annotated = draft.temporary()
            columns = annotate(draft.lines, annotated, forms[0], tally, beat)
            draft.lines, draft.records = annotated, draft.temporary()
    draft.arrange(options, columns[1:], prefixes, comma=forms[0].comma, beat=beat)


def _scan(
    folder: Path,
    archive: ListedArchive | None,
    form: Form,
    draft: Draft,
    comm: Comm,
    interrupt: Interrupt,
) -> Tally:
    """Add what is found in a folder or archive to a draft; return the counts. Collective.

    Raises:
        IngestError: see `write_manifest`.
    """
    tally, options = Tally(), form.options

    def collect(deal: Deal) -> None:
        with explained(draft.out):
            if not draft.lines.tell():
                draft.lines.write(form.heading())
            walk: Iterable[bytes | Within]
            if archive is not None:
                walk = archive.files(tally, hidden=options.hidden)
            else:
                walk = Walk(form.base, tally, deal, hidden=options.hidden)
            for found in deal("files", walk):
                draft.lines.write(found.lines)
                draft.records.write(found.records)
                tally.add(found.tally)
        scan_summary.check(folder, tally, options)

    with FolderScan(form, archive.read if archive else None) as scan:
        led_by_rank_0(comm, scan, collect, interrupt)
    return tally
