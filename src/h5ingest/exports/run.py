"""`export`: the images of a finished file as image files: in a folder, an archive, shards."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h5ingest.core import outfiles
from h5ingest.core.errors import (
    Failure,
    OutputError,
    SampleError,
    SamplesFailedError,
    UsageError,
    one_of,
)
from h5ingest.core.image_columns import FIRST
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.signatures import format_of
from h5ingest.exports.chosen import Share, choose
from h5ingest.exports.names import PNG
from h5ingest.exports.options import ExportOptions
from h5ingest.exports.stored import HEAD_BYTES, Stored
from h5ingest.exports.targets import Target, refuse_file, target_of
from h5ingest.exports.work import Work
from h5ingest.images.scan import EXTENSIONS
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.job import ProgressListener


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did."""

    out: str
    """The folder, the archive, or the pattern of the shards."""
    manifest: str
    """Path of the manifest; empty if it is in an archive, or there is none."""
    n_images: int
    """Images that it has."""
    n_failed: int
    """Rows left out, as their images failed when they were ingested."""
    failures: tuple[Failure, ...]
    """Damaged images, which are left out; so are their rows, where these have others."""
    n_renamed: int
    """Images whose path in the manifest is not what it was in the file."""
    n_apart: int
    """Of these, those that would have had the name of another."""
    n_kept: int
    """Shards that an earlier run had written."""
    n_bytes: int
    """Of all image files that this run wrote."""
    options: Mapping[str, Any]
    """Those of the ingest that made the file, as it has them."""
    n_ranks: int
    seconds: float


def export(
    path: Path,
    out: Path,
    options: ExportOptions | None = None,
    comm: Comm | None = None,
    *,
    watch: ProgressListener | None = None,
    interrupt: Interrupt | None = None,
) -> ExportReport:
    """Write the images of a finished file as image files. Collective.

    `out` is a folder, which must be new or empty; by its suffix an archive (`.tar`, `.zip`), an
    LMDB (`.lmdb`) or a table for Hugging Face (`.parquet`); or WebDataset shards, where its name
    has a number in it: `train-%06d.tar`. Pixels are written as PNG, stored image files as they are.
    Beside them, but not in shards and tables, lies `manifest.csv`, of which an ingest makes the
    same file again. It appears when it is complete; of shards, the first appears last.

    Args:
        path: the file.
        out: what to make.
        options: which images, and their names; None: all.
        comm: the ranks; None for this process alone.
        watch: sees the progress.
        interrupt: whether this rank is asked to stop.

    Raises:
        UsageError: an option that cannot be, or that chooses nothing.
        SamplesFailedError: images are damaged.
        OutputError: the file cannot be read, or `out` not be written, or exists.
        SetupError: a filter of the file is not available here.
        StoppedError: a signal asked for it.
    """
    started_s = time.perf_counter()
    comm, options = comm or SerialComm(), options or ExportOptions()
    target: Target | None = None
    with abort_on_crash(comm):
        with agreeing(comm):
            target = target_of(out)
            if options.shard_rows is not None and not target.in_shards:
                raise UsageError(
                    f"--shard-rows goes with a pattern such as train-%06d.tar, which {out} is not"
                )
            if comm.rank == 0:
                target.refuse_existing()
        assert target is not None, "else there is an error"
        with _opened(path, comm) as stored:
            share, n_all, n_failed = _dealt_out(stored, options, target, comm)
            work = Work(
                stored=stored,
                options=options,
                comm=comm,
                watch=watch or ProgressListener(),
                interrupt=interrupt or Interrupt(),
                n_all=n_all,
                share=share,
            )
            n_apart = work.plan(in_shards=target.in_shards, fitted=target.fitted)
            target.write(work)
            failures = work.refuse_damaged()
        n_bytes = sum(comm.allgather(work.n_bytes))
    return ExportReport(
        out=str(out),
        manifest=target.manifest,
        n_images=(n_all - len(failures)) * stored.n_each,
        n_failed=n_failed,
        failures=failures,
        n_renamed=work.n_renamed,
        n_apart=n_apart,
        n_kept=work.n_kept,
        n_bytes=n_bytes,
        options=stored.header.options,
        n_ranks=comm.size,
        seconds=time.perf_counter() - started_s,
    )


@contextlib.contextmanager
def _opened(path: Path, comm: Comm) -> Iterator[Stored]:
    """Open the file on all ranks. Collective at the beginning."""
    stored: Stored | None = None
    with agreeing(comm):
        stored = Stored(path)
    assert stored is not None, "else there is an error"
    with contextlib.closing(stored):
        digest = stored.header.content_digest
        of_rank_0 = comm.bcast(digest)
        with agreeing(comm):
            if digest != of_rank_0:
                raise OutputError(f"{path}: rank {comm.rank} sees another file than rank 0")
        yield stored


def _dealt_out(
    stored: Stored, options: ExportOptions, target: Target, comm: Comm
) -> tuple[Share, int, int]:
    """Return the rows of this rank, and how many there are in all and had failed. Collective."""
    parts: list[tuple[Share, int, int] | None] = [None] * comm.size
    with while_rank_0_works(comm) as beat:
        if comm.rank == 0:
            all_, n_failed = choose(stored, options, beat)
            n = len(all_)
            places = (target.places(n, stored, options, r, comm.size) for r in range(comm.size))
            parts = [(all_.at(of_rank), n, n_failed) for of_rank in places]
    mine = comm.exchange(parts)[0]
    assert mine is not None, "rank 0 has sent it"
    return mine


def export_references(path: Path, out: Path, url: str, group: str | None = None) -> int:
    """Write where each chunk lies, for zarr and what is built on it; return how many bytes.

    Not collective.

    Args:
        path: a file of layout `stack`.
        out: the JSON file, in the form of kerchunk.
        url: of the file, as whoever reads it names it.
        group: only this group, under its name; None: all.

    Raises:
        UsageError: the file is of another layout, or compressed by a codec that zarr has not; or
            there is no such group.
        OutputError: the file cannot be read, or `out` not be written.
    """
    from h5ingest.exports.kerchunk import references  # rarely needed

    with contextlib.closing(Stored(path)) as stored:
        data = references(stored, url, group)
    outfiles.write(out, data, outfiles.KERCHUNK)
    return len(data)


def export_image(
    path: Path, row: int, out: Path, group: str | None = None, image: str = FIRST
) -> int:
    """Write one image, pixels as a PNG or a stored image file as it is; return how many bytes.

    Not collective.

    Args:
        path: the file.
        row: of the image in its group.
        out: the image file; its suffix is that of its format.
        group: name of the group, for a file that has groups.
        image: which one of a row of several: its column in the manifest.

    Raises:
        UsageError: there is no such row or image, it has failed, or the suffix is of another
            format.
        SamplesFailedError: the image is damaged.
        OutputError: the file cannot be read, or `out` not be written, or exists.
        SetupError: a filter of the file is not available here.
    """
    refuse_file(out)
    with contextlib.closing(Stored(path)) as stored:
        first = stored.header.prefixes.index(stored.header.prefix(group))
        status = stored.group(first).status
        if not 0 <= row < len(status):
            raise UsageError(f"--row {row}: expected 0 to {len(status) - 1}, as {path} has")
        if status[row] != STATUS_OK:
            raise UsageError(f"{path}: row {row} failed when it was ingested: it holds no image")
        if image not in stored.image_columns:
            known = one_of(stored.image_columns)
            raise UsageError(f"{path}: expected an image, {known}, got {image!r}")
        number = first + stored.image_columns.index(image)
        source = stored.group(number).paths(np.array([row]))[0]
        try:
            form = stored.form(number, row, source)
            data = stored.image_file(number, row, form)
            wanted = EXTENSIONS.get(os.path.splitext(os.fsencode(out))[1].lower())
            found = format_of(data[:HEAD_BYTES])
            if wanted == PNG != found:
                data = stored.png(number, row)
            elif wanted != found:
                known = " or ".join(dict.fromkeys((PNG, str(found))))
                raise UsageError(
                    f"{out}: expected the suffix of {known}, found that of "
                    f"{wanted or 'no format'}: name it {out.with_suffix('.png').name}"
                )
        except SampleError as error:
            raise SamplesFailedError(f"{path}: row {row:,}: {error.reason}") from None
    outfiles.write(out, data, outfiles.PICTURE, replace=False)
    return len(data)
