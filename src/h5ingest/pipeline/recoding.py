"""`CodedImages` and `Recoder`: images are coded before the layout is known, which needs lengths.

Each rank codes the images that it looks at, into a spool beside the output; whichever rank then
stores an image reads it from there. May not: know a decoder, a dataset.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from h5ingest import __version__
from h5ingest.core.errors import SampleError
from h5ingest.core.layout import ImageSpec
from h5ingest.core.manifest import Manifest
from h5ingest.core.notes import NOT_BELIEVED, RECODING, Notes
from h5ingest.core.recoding import Recoding
from h5ingest.core.sample_table import NOWHERE, PLACE
from h5ingest.images.png import decoder_version
from h5ingest.images.recode import encoder_version, recode
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.output_checks import refuse_another
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.reading.dataset_rule import most_bytes
from h5ingest.storage.job_files import JobPaths
from h5ingest.storage.lock import Fence
from h5ingest.storage.spool import (
    KNOWN,
    Entry,
    Spool,
    SpoolReader,
    known_in,
    new_spools,
    spools_of,
)

Coded = tuple[bytes | None, tuple[str, ...]]
"""The new bytes of an image, None if it keeps its own; and kinds of `core.notes.RECODING`."""


class CodedImages:
    """What one rank codes, and where the new bytes are of all that have been coded."""

    def __init__(
        self,
        to: Recoding,
        of: Mapping[str, object],
        numbers: Sequence[range],
        paths: JobPaths,
        comm: Comm,
        fence: Fence,
    ) -> None:
        """Find what earlier runs have coded. Collective.

        Args:
            to: the codec.
            of: what the images are of; plain values.
            numbers: of the images that this rank codes. They say which image it is, in all runs.
            paths: of the output.
            comm: the ranks.
            fence: asked before anything is written.

        Raises:
            OutputError: a spool cannot be read.
        """
        spools: list[Path] = []
        with agreeing(comm):
            if comm.rank == 0:
                spools = [*spools_of(paths), *new_spools(paths, comm.size)]
        spools = comm.bcast(spools)
        n_earlier = len(spools) - comm.size
        versions = [__version__, encoder_version(to), decoder_version()]
        about = {**of, "recode": str(to), "versions": versions}
        self._comm = comm
        self._fence = fence
        self._number = n_earlier + comm.rank
        self._spool = Spool(spools[self._number], about)
        self._reader = SpoolReader(spools)
        self._known = self._exchange(spools[:n_earlier], about, numbers)
        self.notes = Notes()
        """On this rank's images."""

    def _exchange(
        self, spools: Sequence[Path], about: Mapping[str, object], numbers: Sequence[range]
    ) -> NDArray[np.void]:
        """Return (k,) `KNOWN` in the order of their numbers: what is known of this rank's images.

        Each rank looks into some of the spools. Collective.
        """
        comm = self._comm
        found = [np.zeros(0, KNOWN)]
        with while_rank_0_works(comm) as beat:  # so do the others
            at = range(comm.rank, len(spools), comm.size)
            found += [known_in(spools[number], number, about, beat) for number in at]
        mine = np.concatenate(found)
        shares = comm.allgather([(some.start, some.stop) for some in numbers])
        parts = []
        for share in shares:
            wanted = np.zeros(len(mine), np.bool_)
            for start, stop in share:
                wanted |= (start <= mine["sample"]) & (mine["sample"] < stop)
            parts.append(mine[wanted])
        known = np.concatenate(comm.exchange(parts))
        return known[np.argsort(known["sample"], kind="stable")]

    def add(
        self, number: int, source: bytes, code: Callable[[], Coded], index: int, path: bytes
    ) -> tuple[int, NDArray[np.void]]:
        """Code an image, unless an earlier run has.

        Args:
            number: of the image.
            source: (16,) what tells its pixels or its file from all others.
            code: codes it.
            index: of its sample, for notes.
            path: of its sample, likewise.

        Returns:
            How many new bytes there are, 0 if it keeps its own; and where, a `PLACE`.

        Raises:
            OutputError: the spool cannot be written.
            SampleError: whatever `code` raises.
        """
        known = self._find(number, source)
        if known is None:
            coded, kinds = code()
            new = coded or b""
            bits = sum(1 << RECODING.index(kind) for kind in kinds)
            entry = Entry(number, source, len(new), xxh3_64_intdigest(new), bits)
            self._fence.check()
            known = *entry, self._number, self._spool.add(entry, new)
        _, _, length, checksum, bits, spool, at = known
        for k, kind in enumerate(RECODING):
            if bits >> k & 1:
                self.notes.add(kind, index, os.fsdecode(path))
        return int(length), np.array((spool, at, checksum), PLACE) if length else NOWHERE

    def _find(self, number: int, source: bytes) -> tuple[Any, ...] | None:
        """Return what an earlier run has made of an image, if it is still there."""
        numbers = self._known["sample"]
        first, stop = np.searchsorted(numbers, (number, number + 1)).tolist()
        for entry in self._known[first:stop].tolist():
            _, its_source, length, checksum, _, spool, at = entry
            if its_source == source and self._reader.read(spool, at, length, checksum) is not None:
                return tuple(entry)
        return None

    def finish(self) -> None:
        """Let the other ranks read what this one has coded. Collective.

        Raises:
            OutputError: it has not reached the disk.
        """
        with agreeing(self._comm):
            self._spool.close(sync=self._comm.n_hosts > 1)
        self.close()
        self._known = self._known[:0]

    def close(self) -> None:
        """Close the spool that is read. Not collective."""
        self._reader.close()

    def read(self, place: np.void, length: int) -> bytes | SampleError:
        """Return the new bytes of an image, or why they are not there. Not collective.

        Raises:
            OutputError: the system refuses to read them.
        """
        number, at, checksum = place.item()
        data = self._reader.read(number, at, length, checksum)
        if data is None:
            return SampleError("changed", "its recoded bytes beside the output are damaged")
        return data


class Recoder(CodedImages):
    """`--recode` of image files, while their headers are read."""

    def __init__(
        self,
        to: Recoding,
        local: LocalSamples,
        manifest: Manifest,
        paths: JobPaths,
        comm: Comm,
        fence: Fence,
    ) -> None:
        """See `CodedImages`; `local` are this rank's images, which are in `manifest`."""
        of = {"manifest": manifest.sha256}
        super().__init__(to, of, [local.indices], paths, comm, fence)
        self._to, self._local = to, local
        self.places = np.full(len(local.paths), NOWHERE, PLACE)
        """(n,) of this rank's samples."""

    def __call__(self, i: int, data: bytes, spec: ImageSpec) -> int:
        """Code an image file, unless an earlier run has; return how many bytes are to be stored.

        Args:
            i: position of the sample among those of this rank.
            data: its file.
            spec: what that decodes to.

        Raises:
            SampleError: it is damaged.
            OutputError: the spool cannot be written.
        """

        def code() -> Coded:
            coded, kinds = recode(data, spec, self._to)
            if coded is not None and spec.n_bytes > most_bytes(0, len(coded)):
                return None, (*kinds, NOT_BELIEVED)
            return coded, kinds

        index = self._local.indices.start + i
        length, self.places[i] = self.add(
            index, xxh3_128_digest(data), code, index, self._local.paths[i]
        )
        return length or len(data)


def begin_recoding(
    job: Job, recode: str, local: LocalSamples, manifest: Manifest, about: Mapping[str, object]
) -> Recoder:
    """Return what codes this rank's images anew. Collective.

    Raises:
        OutputError: an unfinished job is here that is another; or a spool cannot be read.
    """
    assert job.fence is not None, "only a dry run has no lock"
    refuse_another(job, about, manifest.n_rows)
    return Recoder(Recoding.parse(recode), local, manifest, job.paths, job.comm, job.fence)
