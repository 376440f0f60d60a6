"""Checking a finished file: its structure, every image against its checksum, its content digest.

With the source files at hand every image is decoded again and compared: by another decoder than
the one that wrote it, where both give the same pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from h5ingest.core.errors import OutputError
from h5ingest.core.image_columns import content_of_image
from h5ingest.core.schema import IMAGES, FileHeader
from h5ingest.inspect.findings import BadRow, gap_lines, listed
from h5ingest.inspect.inventory import GroupFacts, digest_problems, inspect_groups, name_problems
from h5ingest.inspect.judge_process import Died, Judge
from h5ingest.inspect.shares import Found, Share
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.pipeline.job import ProgressListener

_MOST_CHUNKS: Final = 20
"""Lines about chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found."""

    path: str
    """The file."""
    n_samples: int
    """Rows compared."""
    n_failed: int
    """Rows that the file itself calls failed."""
    bad: tuple[BadRow, ...]
    """Rows that differ."""
    problems: tuple[str, ...]
    """What is wrong with the file as a whole."""
    n_sources: int = 0
    """Sources that were decoded again and compared."""
    n_other: int = 0
    """Of these, by another decoder than the one that wrote them."""

    @property
    def ok(self) -> bool:
        """Whether the file is what it should be."""
        return not self.bad and not self.problems


def verify(
    path: Path,
    comm: Comm | None = None,
    *,
    sources: bool = False,
    root: Path | None = None,
    watch: ProgressListener | None = None,
) -> VerifyReport:
    """Check a finished file. Collective.

    All that touches the file happens in a process of its own for each rank, whose death is a
    finding and not the end (`judge_process`).

    Args:
        path: the file.
        comm: the ranks: each checks a share of the rows; None for this process alone.
        sources: whether to decode the sources again.
        root: the source folder, for relative paths; None: the folder of the file.
        watch: sees the progress.

    Raises:
        OutputError: it cannot be opened, or is not a file of h5ingest.
        SetupError: a process cannot be started.
    """
    comm = comm or SerialComm()
    source_folder = _absolute(root or Path(path).parent) if sources else None
    about = os.fspath(path), _absolute(path), source_folder
    with abort_on_crash(comm), Judge(*about) as judge:
        with agreeing(comm):
            header, problems = _opened(judge, about[0])
        if not header.complete:
            unfinished = ("its status is not 'complete'",)
            return VerifyReport(
                path=str(path), n_samples=0, n_failed=0, bad=(), problems=unfinished
            )
        if sources and (unusable := judge.try_ask("sources_problem")):
            sources = False
            problems.append(str(unusable))
        inspected = None
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                judge.on_beat = lambda _: beat()
                inspected = inspect_groups(judge, header)
        groups, wrong = comm.bcast(inspected)
        problems += wrong
        n_rows = sum(group.n_rows for group in groups)
        n_each = 1 + len(header.images)
        if header.n_samples not in (n_rows / n_each, None) and not wrong:
            problems.append(f"n_samples: expected {n_rows / n_each:g}, found {header.n_samples}")
        rows = Share(judge, header, comm, watch or ProgressListener(), again=sources)
        rows.run(groups)
        gathered = comm.gather(rows.found)
        with while_rank_0_works(comm) as beat:
            if gathered is not None:
                judge.on_beat = lambda _: beat()
                problems += _of_the_whole(judge, header, groups, gathered, is_sound=not wrong)
                problems += _chunk_lines(gathered)
        counts = np.sum(comm.allgather(rows.found.counts()), axis=0).tolist()
        n_samples, n_failed, n_sources, n_other = counts
        return VerifyReport(
            path=str(path),
            n_samples=n_samples,
            n_failed=n_failed,
            bad=comm.bcast(tuple(bad for found in gathered or () for bad in found.bad)),
            problems=tuple(comm.bcast(problems)),
            n_sources=n_sources,
            n_other=n_other,
        )


def _absolute(path: Path) -> str:
    """Return the path, absolute if there is a working directory: a kept judge has its own."""
    try:
        return os.path.abspath(path)
    except OSError:
        return os.fspath(path)


def _opened(judge: Judge, path: str) -> tuple[FileHeader, list[str]]:
    try:
        header, problems = judge.open()
    except Died as died:
        raise OutputError(f"{path}: cannot be opened: {died.reason}") from None
    return header, list(problems)


def _of_the_whole(
    judge: Judge,
    header: FileHeader,
    groups: list[GroupFacts],
    gathered: list[Found],
    *,
    is_sound: bool,
) -> list[str]:
    """Return what is wrong with the file as a whole, by what each rank has found. Rank 0 only.

    `is_sound`: whether nothing is wrong with what the groups have.
    """
    gaps = [gap for found in gathered for gap in found.gaps]
    sums = np.zeros(sum(group.n_rows for group in groups), np.uint64)
    for found in gathered:
        for first, values in found.sums:
            sums[first : first + len(values)] = values
    problems = gap_lines(gaps)
    problems += digest_problems(judge, header, groups, sums if is_sound and not gaps else None)
    problems += listed(judge.try_ask("attributes"), "attributes")
    problems += name_problems(judge, header.layout, groups)
    for group in groups if header.layout == "stack" else ():
        scales = judge.try_ask("scales", group.prefix, list(group.datasets))
        problems += listed(scales, f"{group.prefix or '/'}: dimension scales")
    if is_sound:
        problems += listed(judge.try_ask("groups"), "groups")
    if any(found.seen for found in gathered):
        from h5ingest.inspect.expected_specs import Expected

        shapes = {
            group.prefix: group.datasets[IMAGES.name].shape for group in groups if group.n_rows
        }
        n_each = 1 + len(header.images)
        for number in range(n_each):
            mine = header.prefixes[number::n_each]
            seen = (
                Counter({key: n for key, n in found.seen.items() if key[0] in mine})
                for found in gathered
            )
            expected = Expected(content_of_image(header.options, number))
            problems += expected.stack_problems(seen, shapes.__getitem__)
    n_failed = sum(found.n_failed for found in gathered) / (1 + len(header.images))
    if header.n_failed not in (n_failed, None) and is_sound:
        problems.append(f"n_failed: expected {n_failed:g}, found {header.n_failed}")
    return problems


def _chunk_lines(gathered: list[Found]) -> list[str]:
    """Return which chunks are not as they were stored, if no row says it."""
    if any(found.bad for found in gathered):
        return []
    lines = [line for _, line in sorted(chunk for found in gathered for chunk in found.chunks)]
    n_more = len(lines) - _MOST_CHUNKS
    return lines[:_MOST_CHUNKS] + [f"and {n_more:,} more chunks"] * (n_more > 0)
