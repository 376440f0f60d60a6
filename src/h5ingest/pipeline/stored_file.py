"""`StoredFile`: the samples are the rows of a finished file of h5ingest, which is only read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from h5ingest.core.errors import Failure, OutputError, UsageError
from h5ingest.core.image_columns import columns_in
from h5ingest.core.layout import Filter, Layout
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.option_fields import options_of
from h5ingest.core.options import IngestOptions
from h5ingest.core.recoding import PNG, in_words, of_dry_run
from h5ingest.core.schema import Attribute, FileHeader, read_header
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.load_stored import StoredLoader
from h5ingest.pipeline.loader import Loader
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.source import Plan, Source
from h5ingest.pipeline.stored_parts import (
    Part,
    check_parts,
    layout_of,
    look,
    palettes_of,
    warnings_of,
)
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.forksafe_file import SIZE, ForkSafeFile
from h5ingest.reading.selection import Labels
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.reading.text import Strings

if TYPE_CHECKING:
    from h5ingest.pipeline.layout_change import LayoutChange
    from h5ingest.pipeline.stored_columns import StoredColumns

BYTES: Final = "bytes of IN"
"""Name of the size in what makes it this file."""
CARRIED: Final = (Attribute.MANIFEST_NAME, Attribute.MANIFEST_SHA256, Attribute.SCAN)
_OF_LAYOUT: Final = ("layout", "recode")
_OF_CHUNKS: Final = ("compression", "shuffle", "chunk_rows")
"""Options that this run decides; all others in the file are those of the ingest."""


class StoredFile(Source):
    """The rows of a file of h5ingest."""

    argument = "IN"
    recompresses = True
    remedy = (
        "Ingest their sources again, or store zeros and status 2 in their place with --on-error "
        "blank."
    )

    header: FileHeader
    named: dict[str, Any]
    """Of the HDF5 root group, those that the format names. Both are there once it is open."""

    _change: LayoutChange | None = None
    """What makes another layout of it, if that is asked for; there once there is a plan."""

    def __init__(self, path: Path, *, keep_layout: bool = True) -> None:
        """Open nothing yet; see `recompress`."""
        super().__init__(path)
        self._keep_layout = keep_layout
        self.handle: Final = ForkSafeFile(os.path.abspath(path))
        """Of the file."""

    def close(self) -> None:
        """See `Source.close`."""
        self.handle.close()

    def plan(self, job: Job, filters: tuple[Filter, ...]) -> Plan:
        """See `Source.plan`."""
        comm = job.comm
        with job.phase("open"):
            about = self.open(comm)
            with agreeing(comm):
                job.options = self._chosen(job.options)
        with job.phase("look"), job.explaining_space(0):
            parts = self.look(comm)
            if job.options.layout != self.header.layout:
                from h5ingest.pipeline.layout_change import LayoutChange  # few jobs need it

                self.check_digest(comm)  # that of the new file is another
                handle = self.handle
                self._change = LayoutChange(job, self, self.header, handle, self.open_group)
                parts = self._change.parts(parts, about)
                with agreeing(comm):
                    self.look_again()
        with job.phase("layout"):
            counts = np.array(
                [(each.group.n_elements, each.has_failed.sum()) for each in parts], np.int64
            )
            every = np.stack(comm.allgather(counts))  # (ranks, groups, 2)
            before, total = every[: comm.rank].sum(axis=0), every.sum(axis=0)
            layout: Layout | None = None
            with agreeing(comm):
                layout = layout_of(
                    self.header,
                    job.options.layout,
                    parts,
                    total[:, 0].tolist(),
                    filters,
                    chunk_rows=job.options.chunk_rows,
                    alignment=job.options.alignment,
                )
            assert layout is not None, "else there is an error"
        n_each = 1 + len(self.header.images)
        n_failed = int(total[::n_each, 1].sum())
        return Plan(
            layout=layout,
            runs=[
                replace(each.samples, starts=each.samples.starts + start)
                for each, start in zip(parts, before[:, 0].tolist(), strict=True)
                if each.samples.rows
            ],
            about=about,
            n_bytes=about[BYTES],
            palettes=palettes_of(parts[:n_each]),
            image=layout.rows or in_words(job.options.recode),
            warnings=warnings_of(self.header, parts, n_failed)
            + of_dry_run(job.options.recode, dry_run=job.options.dry_run),
            n_failed=n_failed,
        )

    def open(self, comm: Comm) -> dict[str, Any]:
        """Look at the header; return what makes it this file. Collective.

        Raises:
            OutputError: it is no finished file of h5ingest, or not the same on all ranks.
        """
        with agreeing(comm):
            with self.handle as file:
                attributes = Attributes(file)
                self.header = header = read_header(attributes, self.path)
                self.named = {name: attributes[name] for name in Attribute if name in attributes}
            if not (header.complete and header.content_digest):
                raise OutputError(
                    f"{self.path}: expected a complete file of h5ingest, found another"
                )
            columns_in(header)  # raises
        about = comm.bcast(self._about() if comm.rank == 0 else None)
        with agreeing(comm):
            if about != self._about():
                raise OutputError(
                    f"{self.path}: expected the file that rank 0 sees, {about}; rank "
                    f"{comm.rank} sees {self._about()}"
                )
        return about

    def look(self, comm: Comm) -> list[Part]:
        """Return what there is of each group, with a share of its samples. Collective.

        Raises:
            OutputError: something is not as the format has it.
        """
        parts: list[Part] = []
        with agreeing(comm):
            for number in range(len(self.header.prefixes)):
                group = self.open_group(number)
                if number % (1 + len(self.header.images)) == 0:
                    first = group
                share = comm.rank, comm.size
                parts.append(look(self.handle, self.header, group, number, first, share))
            check_parts(self.header, self.named, parts)
        return parts

    def check_digest(self, comm: Comm) -> None:
        """Check what the content digest is made of, but the pixels themselves. Collective.

        Raises:
            OutputError: it was changed since the file was made.
        """
        with while_rank_0_works(comm) as beat:
            if comm.rank == 0:
                from h5ingest.pipeline.stored_digest import check_digest  # on one rank

                check_digest(self.columns(), beat)

    def _chosen(self, options: IngestOptions) -> IngestOptions:
        """Return the options with the layout of the new file.

        Raises:
            UsageError: one of them would have no effect, or does not go with the layout; or image
                files would be stored again as they are.
        """
        old = self.header.layout
        new = old if self._keep_layout else options.layout
        if KINDS[old].keeps_files and KINDS[new].keeps_files:
            raise UsageError(
                f"{self.path}: holds the image files' own bytes (--layout {old}), which are "
                f"compressed already: --layout stack, ragged or tree stores their pixels"
            )
        decided = *_OF_CHUNKS, "on_error", *(() if self._keep_layout else _OF_LAYOUT)
        idle = [
            each.flag
            for each in options_of(IngestOptions)
            if each.in_file and each.name not in decided
            if getattr(options, each.name) not in (each.default, old)
        ]
        if idle:
            raise UsageError(
                f"{idle[0]} cannot apply: what is in {self.path} is stored again as it is"
            )
        recode = options.recode or (PNG if KINDS[new].keeps_files else None)
        return replace(options, layout=new, recode=recode)

    def _about(self) -> dict[str, Any]:
        """Return what makes it this file: plain values, by the names that a message gives them."""
        identity = self.handle.identity
        assert identity is not None, "it is open"
        return {
            BYTES: identity[SIZE],
            "IN changed at (ns)": identity[SIZE + 1],
            "content_digest of IN": self.header.content_digest,
            "attributes_digest of IN": str(self.named.get(Attribute.ATTRIBUTES_DIGEST, "")),
        }

    def open_group(self, number: int) -> StoredGroup:
        """Return a group by its position."""
        prefix = self.header.prefixes[number]
        with self.handle as file:
            return StoredGroup(self.handle, file, prefix, self.header.layout)

    def loading(
        self, job: Job, stats: RankStats, heartbeat: Heartbeat
    ) -> AbstractContextManager[Loader[Any]]:
        """See `Source.loading`."""
        how = self.look_again, stats, heartbeat.beat_if_due
        if self._change is None:
            return nullcontext(StoredLoader(self.open_group, *how))
        return self._change.loading(*how)

    def look_again(self) -> None:
        """Raise if the file is not what it was.

        Raises:
            OutputError: it is not.
        """
        with self.handle:
            pass

    def labels(self) -> tuple[Labels | None, Strings | None]:
        """Return the labels of the first group, and the names of classes, if there are any."""
        group = self.open_group(0)
        with self.handle:
            return group.classes()

    def columns(self) -> StoredColumns:
        """See `Source.columns`."""
        from h5ingest.pipeline.stored_columns import StoredColumns  # on one rank

        return StoredColumns(self.handle, self.open_group, self.header)

    def attributes(self, job: Job, *, any_failed: bool) -> dict[str, str]:
        """See `Source.attributes`. The options are the file's, but for those of its chunks."""
        from h5ingest.pipeline.provenance import as_json  # on one rank

        options = self.header.options | {
            name: value
            for name, value in job.content().items()
            if name in _OF_CHUNKS or (name == "on_error" and any_failed)
        }
        if self._change is not None:
            options = self._change.told(options)
        told = self.named
        carried: dict[str, str] = {name: told[name] for name in CARRIED if name in told}
        return carried | {Attribute.OPTIONS: as_json(options)}

    def check(self, digest: str, failures: Sequence[Failure]) -> None:
        """See `Source.check`."""
        self.look_again()
        expected = self.header.content_digest
        if self._change is None and not failures and digest != expected:
            raise OutputError(
                f"{self.path}: expected the content digest {expected}, found {digest} in what was "
                f"read of it: labels, paths or columns were changed since it was made, and nothing "
                f"is published. `h5ingest verify {self.path}` tells which."
            )
