"""Where the samples lie that are in archives: each archive is looked through once, by one rank.

Each rank asks for the members that its lines of the manifest name, and what it is told travels with
the samples from then on. So no rank holds the table of an archive but the one that has made it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import IN_NONE, MEMBER
from h5ingest.images.archive_table import Table
from h5ingest.images.archives import Archive, Finder, read_table
from h5ingest.images.unpacked import Unpacker
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.pipeline.job import Job

_MOST_WARNINGS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The archives of a job, and where the samples of one rank lie in them."""

    archives: tuple[Archive, ...]
    """The same on all ranks."""
    members: NDArray[np.void]
    """(n,) `MEMBER`."""
    warnings: tuple[str, ...]
    """What the user should know of the archives; the same on all ranks."""

    @property
    def about(self) -> dict[str, str]:
        """What the archives must be for the work of an unfinished job to be of use: see `Plan`."""
        return {
            os.fsdecode(each.name): f"{each.size:,} bytes, changed at {each.mtime_ns:,} ns"
            for each in self.archives
        }


def locate_members(
    paths: PackedStrings,
    folder: bytes,
    job: Job,
    known: Mapping[bytes, tuple[Archive, Table]],
    unpacker: Unpacker,
) -> Located | None:
    """Return where the samples of this rank lie; None if none of any rank is in an archive.

    Collective.

    Args:
        paths: (n,) of this rank's samples.
        folder: the source folder; see `Finder`.
        job: the run.
        known: archives whose tables this rank has made already, by their paths.
        unpacker: unpacks those that are compressed.

    Raises:
        OutputError, SetupError: see `Unpacker.unpack`.
        StoppedError: a rank was asked to stop.
    """
    comm, finder = job.comm, Finder(folder)
    wanted: dict[bytes, tuple[list[int], list[bytes]]] = {}  # archive -> positions, names
    for k, path in enumerate(paths):
        found = finder.find(path)
        if found is not None:
            at, names = wanted.setdefault(found[0], ([], []))
            at.append(k)
            names.append(found[1])
    every = sorted(frozenset[bytes]().union(*comm.allgather(frozenset(wanted))))
    if not every:
        return None
    mine = {number: every[number] for number in range(comm.rank, len(every), comm.size)}
    tables = _make_tables(mine, job, known, unpacker)
    told = comm.allgather(
        [(n, archive, table.n_repeated) for n, (archive, table) in tables.items()]
    )
    about = sorted(one for part in told for one in part)
    members = np.full(len(paths), IN_NONE, MEMBER)
    numbers = {archive: number for number, archive in enumerate(every)}
    asked: list[list[tuple[int, list[bytes]]]] = [[] for _ in range(comm.size)]
    for archive, (_, names) in wanted.items():
        asked[numbers[archive] % comm.size].append((numbers[archive], names))
    answers = comm.exchange(
        [
            [(number, tables[number][1].find(names, number)) for number, names in questions]
            for questions in comm.exchange(asked)
        ]
    )
    for answer in answers:
        for number, found_there in answer:
            members[wanted[every[number]][0]] = found_there
    return Located(
        archives=tuple(each for _, each, _ in about),
        members=members,
        warnings=tuple(islice(_warnings(about), _MOST_WARNINGS)),
    )


def _make_tables(
    mine: Mapping[int, bytes],
    job: Job,
    known: Mapping[bytes, tuple[Archive, Table]],
    unpacker: Unpacker,
) -> dict[int, tuple[Archive, Table]]:
    """Return the archives of this rank and what is in them, by their numbers. Collective."""
    tables: dict[int, tuple[Archive, Table]] = {}
    with while_rank_0_works(job.comm, job.interrupt) as beat:  # so do the others
        for number, path in mine.items():
            tables[number] = known.get(path) or read_table(path, unpacker, beat)
    return tables


def _warnings(about: Iterable[tuple[int, Archive, int]]) -> Iterator[str]:
    """Yield what the user should know of archives, with how many names come again later."""
    for _, archive, n_repeated in about:
        name = os.fsdecode(archive.path)
        if archive.problem:
            yield f"{name} {archive.problem}"
        if n_repeated:
            yield f"{name}: {n_repeated:,} of its names come again later: the last member counts"
