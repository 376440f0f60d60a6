"""Checking a finished file: its structure, every image against its checksum, its content digest.

With the source files at hand every image is decoded again and compared: by another decoder than
the one that wrote it, where both give the same pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.schema import (
    CHECKSUMS,
    IMAGES,
    PATHS,
    STATUS,
    STATUS_FAILED,
    STATUS_MISSING,
    FileHeader,
)
from h5ingest.inspect.expected_specs import Expected
from h5ingest.inspect.inventory import digest_problems, group_problems, structure_problems
from h5ingest.inspect.sources import Sources
from h5ingest.inspect.stored_images import Stored, blocks, stored_shapes
from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.comm import Comm, SerialComm, abort_on_crash, agreeing
from h5ingest.pipeline.job import ProgressListener
from h5ingest.reading.open_file import open_checked


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """One row that is not as it should be."""

    dataset: str
    """HDF5 path of the group's images."""
    row: int
    """Row within the group."""
    path: str
    """Path of the source file, as in the manifest."""
    reason: str
    """What was expected and found."""


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
    """Rows that differ; all of them, on rank 0."""
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

    Args:
        path: the file.
        comm: the ranks: each checks a share of the rows; None for this process alone.
        sources: whether to decode the sources again.
        root: the source folder, for relative paths; None: the folder of the file.
        watch: sees the progress.

    Raises:
        OutputError: it cannot be opened, or is not a file of h5ingest.
    """
    comm = comm or SerialComm()
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers its filters with HDF5
    with abort_on_crash(comm), agreeing(comm):
        file, header = open_checked(path)
        problems = structure_problems(file, header)
    with abort_on_crash(comm), file:
        if problems:  # every rank has found the same
            return VerifyReport(
                path=str(path), n_samples=0, n_failed=0, bad=(), problems=tuple(problems)
            )
        source_folder = (root or path.parent) if sources else None
        rows = _RowChecks(file, header, comm, watch or ProgressListener(), source_folder)
        rows.run()
        gathered = comm.gather((rows.bad, rows.checksums, rows.expected.seen))
        counts = np.sum(comm.allgather(rows.counts()), axis=0).tolist()
        if gathered is not None:
            found = np.zeros(counts[0], np.uint64)
            for first, values in chain.from_iterable(checksums for _, checksums, _ in gathered):
                found[first : first + len(values)] = values
            problems += digest_problems(file, header, found)
            problems += group_problems(file, header)
            problems += rows.expected.stack_problems(
                (seen for *_, seen in gathered), lambda prefix: file[IMAGES.at(prefix)].shape
            )
            if counts[1] != header.n_failed:
                problems.append(f"n_failed: expected {counts[1]}, found {header.n_failed}")
        return VerifyReport(
            path=str(path),
            n_samples=counts[0],
            n_failed=counts[1],
            bad=tuple(one for part, *_ in gathered or [] for one in part),
            problems=tuple(comm.bcast(problems)),
            n_sources=counts[2],
            n_other=counts[3],
        )


class _RowChecks:
    """The rows that one rank checks, and what it finds."""

    def __init__(
        self,
        file: h5py.File,
        header: FileHeader,
        comm: Comm,
        watch: ProgressListener,
        source_folder: Path | None,
    ) -> None:
        self._file, self._header = file, header
        self._comm = comm
        self._watch = watch
        self.expected = Expected(header.options)
        self._sources = (
            Sources(header.options, self.expected, source_folder) if source_folder else None
        )
        self.bad: list[BadRow] = []
        self.checksums: list[tuple[int, NDArray[np.uint64]]] = []
        """(first row, counted over all groups; checksums of the images from it on, as read)."""
        self._first = 0
        """Rows of the groups before this one."""
        self._n_done = self._n_failed = self._n_bytes = 0

    def counts(self) -> tuple[int, int, int, int]:
        """Return rows, failed rows, sources compared, and those by another decoder."""
        again = (self._sources.n_done, self._sources.n_other) if self._sources else (0, 0)
        return self._n_done, self._n_failed, *again

    def run(self) -> None:
        """Check this rank's share of all groups. Collective."""
        self._watch.phase("verify", self._header.n_samples or 0)
        progress = AsyncSum(
            self._comm, 3, on_sum=lambda total: self._watch.advance(*total.tolist())
        )
        for prefix in self._header.prefixes:
            for rows, images in blocks(self._file, prefix, self._header.layout, self._comm):
                self._check(prefix, rows, images, progress)
            self._first += len(self._file[STATUS.at(prefix)])
        progress.finish(lambda: (self._n_done, self._n_bytes, len(self.bad)))

    def _check(
        self, prefix: str, rows: range, images: Iterator[Stored], progress: AsyncSum
    ) -> None:
        cut = slice(rows.start, rows.stop)
        layout = self._header.layout
        status = self._file[STATUS.at(prefix)][cut].tolist()
        checksums = self._file[CHECKSUMS.at(prefix)][cut].tolist()
        path_of = self._file[PATHS.at(prefix)]
        paths = path_of[cut] if self._sources else None  # else those of bad rows alone
        sums = np.zeros(len(rows), np.uint64)
        self.checksums.append((self._first + rows.start, sums))
        shapes = stored_shapes(self._file, prefix, layout, cut)
        for k, (image, shape) in enumerate(zip(images, shapes, strict=False)):
            reason = None
            found = 0
            if not isinstance(image, str):
                sums[k] = found = xxh3_64_intdigest(np.ascontiguousarray(image).data)
                self._n_bytes += image.nbytes
            if status[k] == STATUS_MISSING:
                reason = "it was never stored (status 0)"
            elif isinstance(image, str):
                reason = f"cannot be read: {image}"
            elif found != checksums[k]:
                reason = f"expected checksum {checksums[k]:016x}, found {found:016x}"
            elif image.ndim == 1 and not KINDS[layout].keeps_files:
                reason = f"expected pixels of the shape {shape}, found {image.size}"
            elif status[k] == STATUS_FAILED:
                self._n_failed += 1
            elif self._sources is not None and paths is not None:
                reason = self._sources.compare(prefix, paths[k], image, shape)
            if reason is not None:
                self.bad.append(
                    BadRow(
                        dataset=IMAGES.at(prefix),
                        row=rows[k],
                        path=os.fsdecode(path_of[rows[k]]),
                        reason=reason,
                    )
                )
            self._n_done += 1
            if not self._n_done & 63:
                progress.beat(self._n_done, self._n_bytes, len(self.bad))
