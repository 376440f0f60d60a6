"""`Work`: what one rank exports, and how all ranks go through their images together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import (
    Failure,
    IngestError,
    SampleError,
    SamplesFailedError,
    StoppedError,
    agreed,
    describe_failures,
)
from h5ingest.core.layout_kinds import KINDS
from h5ingest.exports.chosen import Share
from h5ingest.exports.names import AS_IT_IS, PNG, file_name, key_of, listed, tell_apart
from h5ingest.exports.options import ExportOptions
from h5ingest.exports.stored import Stored
from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.comm import Comm, agree, agreeing
from h5ingest.mpi.signals import Interrupt, StopRequested
from h5ingest.pipeline.job import ProgressListener

Images = Callable[[Iterable[int]], Iterator[tuple[int, Sequence[bytes]]]]
"""From positions in a share to (position, image files of the row); damaged rows are left out."""


@dataclass(slots=True, kw_only=True)
class Work:
    """The rows of one rank, and what all ranks know of the export."""

    stored: Stored
    options: ExportOptions
    comm: Comm
    watch: ProgressListener
    interrupt: Interrupt
    n_all: int
    """Rows that all ranks export."""
    share: Share
    """Rows of this rank."""
    names: list[bytes] = field(default_factory=list)
    """(n * images of a row,) of the files that they become; or, in shards, (n,) of samples."""
    forms: list[str] = field(default_factory=list)
    """(n * images of a row,) see `Stored.form`."""
    failures: dict[int, Failure] = field(default_factory=dict)
    """Position in the share -> why the row is left out."""
    n_done: int = 0
    n_bytes: int = 0
    n_renamed: int = 0
    """Images of all ranks whose path in the manifest is not what it was."""
    n_kept: int = 0
    """Shards of all ranks that were there already."""

    def plan(self, *, in_shards: bool, fitted: Callable[[bytes], bytes]) -> int:
        """Find names and forms; return how many had to be told apart, on all ranks. Collective.

        Args:
            in_shards: whether names are those of samples, without suffix.
            fitted: returns a name as the target can have it.
        """
        recoded, keep = self.stored.is_recoded, self.options.keep_names
        form = AS_IT_IS if KINDS[self.stored.header.layout].keeps_files else PNG
        error: IngestError | None = None
        progress, are_new = AsyncSum(self.comm, 0), list[bool]()
        n_each = self.stored.n_each
        try:
            for number, here in self.share.runs():
                rows = self.share.rows[here]
                every = self.stored.paths(number, rows).values()
                for row, paths in zip(rows.tolist(), zip(*every, strict=True), strict=True):
                    for k, path in enumerate(paths):
                        if recoded:
                            form = self._form(number + k, row, path)
                        self.forms.append(form)
                        if in_shards and k:
                            continue  # it has the name of the first
                        name = key_of(path) if in_shards else file_name(path, form, keep=keep)
                        self.names.append(fitted(name))
                        are_new.append(not in_shards and listed(path, self.names[-1]) != path)
                    progress.beat()
        except IngestError as caught:
            error = caught
        progress.finish(lambda: ())
        agree(self.comm, error)
        places = self.share.places
        if not in_shards:
            places = (places[:, np.newaxis] * n_each + np.arange(n_each)).ravel()
        return tell_apart(self.comm, self.names, are_new, places)

    def names_of(self, k: int) -> list[bytes]:
        """Return the names of the files that a row becomes, by its position in the share."""
        n_each = self.stored.n_each
        return self.names[k * n_each : (k + 1) * n_each]

    def _form(self, number: int, row: int, path: bytes) -> str:
        try:
            return self.stored.form(number, row, path)
        except SampleError:
            return AS_IT_IS  # to be found once more when it is read

    @contextlib.contextmanager
    def together(self) -> Iterator[Images]:
        """Go through images, all ranks their own; they end together. Collective at the end.

        The block gets a function that gives it images, and takes part in the sums; the block itself
        must not be collective. What it raises ends the work on all ranks.

        Raises:
            IngestError: what it raised on the first rank.
            StoppedError: some rank was asked to stop.
        """
        stopping, error = False, None

        def on_sum(total: NDArray[np.int64]) -> None:
            nonlocal stopping
            stopping = stopping or bool(total[3])
            self.watch.advance(*total[:3].tolist())

        def counts() -> tuple[int, int, int, int]:
            stop = self.interrupt.requested or error is not None
            return self.n_done, self.n_bytes, len(self.failures), stop

        def beat() -> None:
            progress.beat(*counts())
            if stopping or self.interrupt.requested:
                raise StopRequested

        self.watch.phase("export", self.n_all)
        progress = AsyncSum(self.comm, 4, on_sum=on_sum)
        try:
            yield lambda positions: self.images(positions, beat)
        except StopRequested:
            pass
        except IngestError as caught:
            error = caught
        progress.finish(counts)
        agree(self.comm, error)
        self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raise on all ranks if one was asked to stop. Collective.

        Raises:
            StoppedError: one was.
        """
        stop = self.interrupt.requested
        error = StoppedError("stopped as asked: start the same command again") if stop else None
        agree(self.comm, error)

    def images(
        self, positions: Iterable[int], beat: Callable[[], None]
    ) -> Iterator[tuple[int, Sequence[bytes]]]:
        """Yield (position, image files); note rows that are damaged, and leave them out."""
        share, n_each = self.share, self.stored.n_each
        for k in positions:
            beat()
            number, row, files = int(share.groups[k]), int(share.rows[k]), list[bytes]()
            try:
                for form in self.forms[k * n_each : (k + 1) * n_each]:
                    files.append(self.stored.image_file(number + len(files), row, form))
            except SampleError as error:
                damaged, at = self.stored.group(number + len(files)), range(row, row + 1)
                with self.stored.inside():
                    index = int(self.stored.group(number).samples(at)[0])
                self.failures[k] = error.at(index, damaged.paths(at)[0])
                continue
            yield k, files
            self.n_done += 1
            self.n_bytes += sum(map(len, files))

    def kept(self) -> tuple[Share, list[bytes]]:
        """Return the rows that are not damaged, and the names of their files."""
        if not self.failures:
            return self.share, self.names
        good = [k for k in range(len(self.share)) if k not in self.failures]
        names = chain.from_iterable(map(self.names_of, good))
        return self.share.at(np.array(good, np.int64)), [*names]

    def refuse_damaged(self, but: str = "nothing is published") -> tuple[Failure, ...]:
        """Return the damaged images whose rows are left out, of all ranks. Collective.

        Args:
            but: what became of the others.

        Raises:
            SamplesFailedError: there are some, and nobody said that they may be left out.
        """
        told = self.comm.allgather([*self.failures.values()])
        failures = tuple(failure for of_rank in told for failure in of_rank)
        if failures and not self.options.skip_damaged:
            named = describe_failures(failures, lambda _: {})
            kind = "images" if self.stored.n_each == 1 else "rows"
            raise agreed(
                SamplesFailedError(
                    f"{len(failures):,} of {self.n_all:,} {kind} of {self.stored.path} are "
                    f"damaged, {but}: {named}\n--skip-damaged exports the others.",
                    failures,
                )
            )
        return failures


def wait_for(comm: Comm, do: Callable[[], None] | None) -> None:
    """Do on some ranks what may take minutes, as fsync does, while all take part in sums.

    So no rank seems to be dead, and those that have nothing to do sleep. Collective.

    Args:
        comm: the ranks.
        do: what this rank has to do, in a thread; None: nothing.

    Raises:
        IngestError: what it raised on the first rank.
    """
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(do or (lambda: None))
        AsyncSum(comm, 0).finish(lambda: (), meanwhile=done.done)
    with agreeing(comm):
        done.result()
