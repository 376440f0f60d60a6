"""`Job`: what all steps of one run share; its lock, its clock, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError, StoppedError, extended
from h5ingest.core.layout import Filter
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB, size
from h5ingest.mpi.async_sum import AsyncSum, while_rank_0_works
from h5ingest.mpi.comm import Comm, agree, agreeing
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.report import PhaseSeconds
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.filters import canonical, filter_pipeline
from h5ingest.storage.job_files import JobPaths, set_aside
from h5ingest.storage.lock import Fence, Lock

if TYPE_CHECKING:
    from h5ingest.storage.auto_codec import AutoCodec

_LITTLE_BYTES: Final = 4 * MIB
"""Free space so small that it may be why a write failed."""
_FULL: Final = ("No space left", "quota", "File too large")
_FREE: Final = "are free in"


class ProgressListener:
    """Sees the run while it goes on, on every rank; this one does nothing with it."""

    def phase(self, name: str, n_images: int) -> None:
        """A phase begins that has to do with so many images over all ranks."""

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        """So much is done of this phase, over all ranks."""

    def notice(self, text: str) -> None:
        """Something that the user should know; on rank 0."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One run, on one rank."""

    paths: JobPaths
    options: IngestOptions
    """Those that a source brings with it are in it from its plan on."""
    comm: Comm
    watch: ProgressListener
    interrupt: Interrupt
    command: str
    started_s: float = field(default_factory=time.perf_counter)
    started_ns: int = field(default_factory=time.time_ns)
    """The same moment, in nanoseconds since 1970."""
    started_cpu_s: float = field(default_factory=time.process_time)
    """CPU seconds of this process until then: start-up."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds of this rank."""
    stopping: bool = False
    """Whether some rank has been asked to stop, as far as this one knows."""
    n_misfits: int = 0
    """Images that are not as the first look has it, on all ranks as far as this one knows."""
    auto: AutoCodec | None = None
    """What `--compression auto` has chosen; None before, and without it."""
    fence: Fence | None = None
    """Guards the file."""
    has_scan: bool = False
    """On rank 0: whether what it found in a folder lies beside the file."""
    file_number: int = 0
    """On rank 0: inode of the unfinished file; 0 before it is there."""

    def content(self) -> dict[str, object]:
        """Return the options that decide what the file contains, as JSON gives them back."""
        content = self.options.content()
        content["size"] = list(self.options.size or ()) or None
        if self.options.image:
            content["image"] = list(self.options.image)
        content["compression"] = canonical(self.options.compression)
        if self.auto is not None:
            content["auto"] = self.auto.to_plain()
        return content

    def filters(self, compression: str | None) -> tuple[Filter, ...]:
        """Return the filters of the images. Collective.

        Raises:
            UsageError: there is no such codec (on all ranks).
            SetupError: it is not in this HDF5 (on all ranks).
        """
        filters: tuple[Filter, ...] = ()
        if compression is not None or self.options.shuffle:
            with agreeing(self.comm):
                filters = filter_pipeline(compression, shuffle=self.options.shuffle)
        return filters

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the output. Collective at the beginning.

        Raises:
            OutputError: another job has it.
            StoppedError: asked to stop while the lock of another job was watched.
        """
        lock: Lock | None = None
        with while_rank_0_works(self.comm) as beat:
            if self.comm.rank == 0:

                def watching() -> None:
                    beat()
                    if self.interrupt.requested:
                        raise StoppedError("stopped as asked: nothing was begun")

                lock = Lock(
                    self.paths.lock,
                    self.options.peer_timeout_s,
                    beat=watching,
                    tell=self.watch.notice,
                    set_aside=lambda: set_aside(self.paths),
                )
        try:
            token = self.comm.bcast(lock.token if lock else None)
            patience_s = self.options.peer_timeout_s / 2 if self.comm.n_hosts > 1 else 0.0
            self.fence = Fence(self.paths.lock, token, patience_s)
            with agreeing(self.comm):
                self.fence.check(now=True)
            yield
        finally:
            if lock is not None:
                if self.has_scan or os.path.lexists(self.paths.unpacked):
                    with contextlib.suppress(OSError, OutputError):  # it would only be litter
                        self._remove_scan(is_stopped=isinstance(sys.exception(), StoppedError))
                lock.release()

    def _remove_scan(self, *, is_stopped: bool) -> None:
        """Remove what was found in a folder, unless an unfinished job is there to go on with.

        What a stopped job has unpacked stays: it may be much, and is not unpacked again.
        """
        if self.fence is not None:
            self.fence.check(now=True)
        if os.path.lexists(self.paths.partial):
            return
        if self.has_scan:
            self.paths.scan.unlink(missing_ok=True)
            self.paths.places.unlink(missing_ok=True)
            self.paths.new.unlink(missing_ok=True)
        if not is_stopped and os.path.lexists(self.paths.unpacked):
            from h5ingest.images.unpacked import discard_unpacked  # few jobs need it

            discard_unpacked(os.fsencode(self.paths.unpacked))

    def check_lock(self) -> None:
        """Raise if another job has taken the output over. Not collective.

        Raises:
            OutputError: it has.
        """
        if self.fence is not None:
            self.fence.check(now=True)
        with output_errors(f"{self.paths.partial}: cannot be looked at"):
            if self.file_number and self.paths.partial.stat().st_ino != self.file_number:
                raise OutputError(f"{self.paths.partial}: another job has taken this name")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the seconds that the block takes on this rank."""
        started_s = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started_s

    @property
    def stop_requested(self) -> bool:
        """Whether some rank was asked to stop, as far as this one knows."""
        return self.stopping or self.interrupt.requested

    def stop_if_asked(self, n_safe: int | None = None) -> None:
        """Raise on all ranks if some rank was asked to stop. Collective.

        Args:
            n_safe: images of this rank that are stored.

        Raises:
            StoppedError: some rank was.
        """
        told = self.comm.allgather((self.stop_requested, n_safe or 0))
        if any(asked for asked, _ in told):
            stored = (
                f", {sum(n for _, n in told):,} images were stored" if n_safe is not None else ""
            )
            error = StoppedError(f"stopped as asked{stored}: start the same command again to go on")
            agree(self.comm, error)

    def final_sum(self) -> AsyncSum:
        """Begin the phase in which rank 0 works alone. Not collective."""
        return AsyncSum(self.comm, 1, on_sum=self._on_final_sum)

    def final_beat(self, sum_: AsyncSum) -> None:
        """Take part in the sums. Rank 0 only.

        Raises:
            StoppedError: some rank was asked to stop.
        """
        sum_.beat(self.interrupt.requested)
        if self.stop_requested:
            raise StoppedError(
                "stopped as asked, all images are stored: start the same command again to go on"
            )

    def check_space(self, n_bytes: int) -> None:
        """Raise if the file system has no space for so many bytes. Rank 0 only.

        Raises:
            OutputError: it has not; says how much is needed and how much is free.
        """
        with output_errors(f"{self.paths.out}: its folder cannot be looked at"):
            free, used = self._space()
        if free + used < n_bytes:
            raise OutputError(
                f"{self.paths.out}: {size(n_bytes - used)} are needed, {size(free)} {_FREE} "
                f"{self.paths.out.parent}: make room, or name another OUT"
            )

    @contextlib.contextmanager
    def explaining_space(self, n_bytes: int) -> Iterator[None]:
        """Say how much space there is if that may be why the block cannot write.

        The MPI libraries do not tell HDF5 what the system said.

        Args:
            n_bytes: of the finished file; 0 if that shows only in the end.

        Raises:
            OutputError: what the block raised, with more words.
        """
        try:
            yield
        except OutputError as error:
            try:
                free, used = self._space()
            except OSError:  # the folder is gone
                raise error from None
            text = str(error)
            full = free < _LITTLE_BYTES or any(word in text for word in _FULL)
            if not full or _FREE in text:
                raise
            need = f", {size(n_bytes - used)} more are needed" if n_bytes > used else ""
            more = (
                f"{size(free)} {_FREE} {self.paths.out.parent}{need}. What is stored is kept: "
                f"make room and start the same command again."
            )
            raise extended(error, more) from None

    def _space(self) -> tuple[int, int]:
        """Return the bytes that are free for the file, and those that it has."""
        file_system = os.statvfs(self.paths.out.parent)
        used = 0
        with contextlib.suppress(OSError):
            used = self.paths.partial.lstat().st_blocks * 512
        return file_system.f_bavail * file_system.f_frsize, used

    def spreads(self) -> dict[str, PhaseSeconds]:
        """Return the seconds of each phase over all ranks. Collective."""
        told = self.comm.allgather(self.seconds)
        return {name: PhaseSeconds.of([seconds[name] for seconds in told]) for name in self.seconds}

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of all ranks and their threads, before and since. Collective."""
        work_s = time.process_time() - self.started_cpu_s
        told = self.comm.allgather((self.started_cpu_s, work_s))
        return {"start": sum(start for start, _ in told), "work": sum(work for _, work in told)}

    def _on_final_sum(self, total: NDArray[np.int64]) -> None:
        self.stopping = self.stopping or int(total[0]) > 0

    def on_sum(self, total: NDArray[np.int64]) -> None:
        """Take in what all ranks tell: images, bytes, failures, requests to stop, misfits."""
        n_images, n_bytes, n_failed, n_asked, self.n_misfits = total.tolist()
        self.stopping = self.stopping or n_asked > 0
        self.watch.advance(n_images, n_bytes, n_failed)
