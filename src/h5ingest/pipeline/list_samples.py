"""The samples in archives and other files in which many lie, found by all ranks, as a manifest.

Each file is looked through by one rank. What it has is written by rank 0: lines of a manifest, and
where each sample lies, so that no rank looks for anything again.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import ManifestError, OutputError, SampleError
from h5ingest.core.outfiles import PLACES
from h5ingest.core.sample_table import MEMBER
from h5ingest.images.archives import Archive, open_new
from h5ingest.images.containers.container import Container, Listing
from h5ingest.images.sample_lines import Block, SampleLines
from h5ingest.images.scan import ScanOptions, Tally, add_notes
from h5ingest.images.scan_summary import check
from h5ingest.images.several import Several
from h5ingest.images.unpacked import Unpacker
from h5ingest.images.webdataset import samples_in
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.manifest_draft import REMEDY, Draft, explained

_FORMAT: Final = "h5ingest places 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The samples that are listed; the same on all ranks, but for the tally, which is rank 0's."""

    archives: tuple[Archive, ...]
    tally: Tally
    has_groups: bool
    """Whether there is a column of groups."""


def list_samples(
    several: Several,
    options: ScanOptions,
    draft: Draft,
    unpacker: Unpacker,
    comm: Comm,
    interrupt: Interrupt,
    *,
    takes_damaged: bool,
    outer: bytes | None = None,
    comma: bool = True,
) -> Found:
    """Fill the draft of a manifest with the samples in some files. Collective.

    Its records are the samples' `MEMBER`.

    Args:
        several: the files.
        options: what is an image, and how labels and groups are made where the files have none.
        draft: begun by rank 0 here.
        unpacker: unpacks what is compressed.
        comm: all ranks.
        interrupt: asks to stop.
        takes_damaged: whether what is whole in a damaged file is taken.
        outer: what the path to `several.base` is in the manifest; None: paths are what samples call
            themselves, or relative to it.
        comma: see `Form`.

    Raises:
        ManifestError: a file is damaged, has no samples, or samples that no manifest can hold.
        OutputError: something cannot be written.
        SetupError: a package is not installed.
        StoppedError: a rank was asked to stop.
    """
    lines = SampleLines(several, options, outer, comma=comma)
    archives = list[Archive]()
    kept: BinaryIO | None = None
    with agreeing(comm):
        if comm.rank == 0:
            draft.begin()
            kept = draft.temporary()
    for first in range(0, len(several.files), comm.size):
        mine: Block | None = None
        with while_rank_0_works(comm, interrupt) as beat:  # so do the others
            if first + comm.rank < len(several.files):
                file = several.files[first + comm.rank]
                mine = _look(several, file, options, unpacker, beat, strict=not takes_damaged)
                if mine.archive.problem and not takes_damaged:
                    raise ManifestError(f"{os.fsdecode(file)} {mine.archive.problem}\n{REMEDY}")
        told = comm.gather(mine)
        with agreeing(comm):
            for block in filter(None, told or ()):
                assert kept is not None, "it is rank 0 that is told"
                block.listing.members["archive"] = len(archives)
                archives.append(block.archive)
                lines.learn(block)
                with explained(draft.out):
                    draft.records.write(block.listing.members.tobytes())
                    pickle.dump(block, kept)
    with while_rank_0_works(comm) as beat:
        if kept is not None:
            with explained(draft.out):
                kept.seek(0)
                draft.lines.write(lines.heading())
                for file in several.files:
                    draft.lines.write(lines.of(pickle.load(kept), several.prefix(file)))
                    beat()
            check(Path(os.fsdecode(several.base)), lines.tally, options)
            draft.arrange(options, lines.columns, [outer or b""], comma=comma, beat=beat)
    archives, has_groups = comm.bcast((archives, "group" in lines.columns))
    return Found(archives=tuple(archives), tally=lines.tally, has_groups=has_groups)


def _look(
    several: Several,
    file: bytes,
    options: ScanOptions,
    unpacker: Unpacker,
    beat: Callable[[], None],
    *,
    strict: bool,
) -> Block:
    """Return what is in a file; what cannot be read has a problem, and nothing in it.

    Raises:
        ManifestError: strictly, if it is whole and yet not what can be read.
    """
    tally, is_container = Tally(), False
    try:
        archive, held = open_new(file, several.inner, unpacker, beat)
        if isinstance(held.opened, Container):
            is_container = True
            listing = held.opened.samples(beat)
            tally.formats[type(held.opened).__name__] += len(listing.names)
        else:
            listing = samples_in(
                held.opened, beat, tally, hidden=options.hidden, sniff=options.sniff
            )
        archive = replace(archive, problem=archive.problem or listing.problem)
    except SampleError as error:
        if strict and error.kind != "damaged":
            raise ManifestError(f"{os.fsdecode(file)}: {error.reason}") from None
        archive, listing = _unreadable(file, error.reason)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        archive, listing = _unreadable(file, error.strerror or str(error))
    prefix = several.prefix(file)
    add_notes(tally.noted, listing.noted, prefix)
    of_files = not (is_container or listing.columns)
    return Block(archive=archive, listing=listing, of_files=of_files, tally=tally)


def _unreadable(file: bytes, reason: str) -> tuple[Archive, Listing]:
    archive = Archive(path=file, size=-1, mtime_ns=-1, problem=f"cannot be read: {reason}")
    return archive, Listing(names=[], members=np.zeros(0, MEMBER))


def publish_places(draft: Draft, path: Path, n: int, beat: Callable[[], None]) -> None:
    """Write where the samples lie. Rank 0 only.

    Raises:
        OutputError: that cannot be.
    """
    first = json.dumps({"format": _FORMAT, "samples": n}).encode() + b"\n"
    draft.publish_records(path, PLACES, first, beat)


def read_places(path: Path, rows: NDArray[np.int64]) -> NDArray[np.void]:
    """Return where some of the samples lie, (n,) `MEMBER`; `rows`, (n,), are ascending.

    Raises:
        OutputError: the file is not what it was.
    """
    first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    with explained(path), path.open("rb") as file:
        file.readline()
        file.seek(first * MEMBER.itemsize, os.SEEK_CUR)
        found = np.frombuffer(file.read((end - first) * MEMBER.itemsize), MEMBER)
    if len(found) != end - first:
        raise OutputError(f"{path}: is shorter than it was: start the same command again")
    return found[rows - first]
