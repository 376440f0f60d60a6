"""What an export makes, by the name that it is to have: a folder, an archive, shards."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import outfiles
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.exports import archive, folder, lmdb, parquet, shards
from h5ingest.exports.members import Tar, Zip, utf8
from h5ingest.exports.names import MANIFEST
from h5ingest.exports.options import ExportOptions
from h5ingest.exports.stored import Stored
from h5ingest.exports.work import Work
from h5ingest.images.scan import EXTENSIONS
from h5ingest.pipeline.provenance import source_date
from h5ingest.storage.datasets import output_errors

_OTHERS: Final = (
    ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".npz", ".npy", *outfiles.HDF5_SUFFIXES,
)  # fmt: skip
"""Suffixes that no folder is meant to have."""


@dataclass(frozen=True, slots=True)
class Target(ABC):
    """What is made."""

    out: Path
    in_shards = False
    """Whether names are those of samples, without suffix."""

    @property
    def manifest(self) -> str:
        """Path of the manifest; empty if it is no file of its own."""
        return ""

    @abstractmethod
    def refuse_existing(self) -> None:
        """Raise if something has the name. Rank 0 only.

        Raises:
            OutputError: something has it, or the folder does not exist.
        """

    @abstractmethod
    def places(
        self, n: int, stored: Stored, options: ExportOptions, rank: int, size: int
    ) -> NDArray[np.int64]:
        """Return which of n images a rank exports; ascending."""

    def fitted(self, name: bytes) -> bytes:
        """Return a name as it can be here."""
        return name

    @abstractmethod
    def write(self, work: Work) -> None:
        """Write all. Collective.

        Raises:
            OutputError: that cannot be.
            StoppedError: a signal asked for it.
            SamplesFailedError: see `Work.refuse_damaged`.
        """


class _Folder(Target):
    @property
    def manifest(self) -> str:
        return os.path.join(self.out, os.fsdecode(MANIFEST))

    def refuse_existing(self) -> None:
        folder.refuse_existing(self.out)

    def places(
        self, n: int, stored: Stored, options: ExportOptions, rank: int, size: int
    ) -> NDArray[np.int64]:
        return np.arange(n * rank // size, n * (rank + 1) // size)

    def write(self, work: Work) -> None:
        folder.export_to_folder(work, self.out)


class _OneFile(Target):
    """A file that rank 0 writes, in turns of what all ranks make."""

    def refuse_existing(self) -> None:
        refuse_file(self.out)

    def places(
        self, n: int, stored: Stored, options: ExportOptions, rank: int, size: int
    ) -> NDArray[np.int64]:
        return archive.places_in_turns(n, archive.block_rows(stored, size), rank, size)


class _Archive(_OneFile):
    def fitted(self, name: bytes) -> bytes:
        return utf8(name) if self._is_zip else name

    def write(self, work: Work) -> None:
        kind = outfiles.ZIP if self._is_zip else outfiles.TAR
        begin = partial(Zip if self._is_zip else Tar, time_s=_time_s())
        archive.export_to_archive(work, self.out, kind, begin)

    @property
    def _is_zip(self) -> bool:
        return self.out.suffix.lower() == ".zip"


class _Lmdb(_OneFile):
    def refuse_existing(self) -> None:
        lmdb.lmdb_module()
        super().refuse_existing()

    def fitted(self, name: bytes) -> bytes:
        return lmdb.fitted_key(name)

    def write(self, work: Work) -> None:
        archive.export_to_archive(work, self.out, outfiles.LMDB, lmdb.Lmdb)


class _Parquet(_OneFile):
    def refuse_existing(self) -> None:
        parquet.pyarrow_module()
        super().refuse_existing()

    def fitted(self, name: bytes) -> bytes:
        return utf8(name)

    def write(self, work: Work) -> None:
        begin = partial(parquet.Parquet, stored=work.stored)
        archive.export_to_archive(work, self.out, outfiles.PARQUET, begin, parquet.rows_of)


class _Shards(Target):
    in_shards = True

    def refuse_existing(self) -> None:
        refuse_no_folder(self.out)  # a shard may be one of an earlier run: seen when written

    def places(
        self, n: int, stored: Stored, options: ExportOptions, rank: int, size: int
    ) -> NDArray[np.int64]:
        return shards.places_of_shards(n, options.rows_of_a_shard, rank, size)

    def write(self, work: Work) -> None:
        shards.export_to_shards(work, self.out, _time_s())


_BY_SUFFIX: Final[dict[str, type[Target]]] = {
    ".tar": _Archive, ".zip": _Archive, ".lmdb": _Lmdb, ".parquet": _Parquet,
}  # fmt: skip


def target_of(out: Path) -> Target:
    """Return what a name stands for.

    Raises:
        UsageError: nothing.
    """
    suffix = out.suffix.lower()
    if os.fsencode(suffix) in EXTENSIONS:
        raise UsageError(f"{out}: expected a folder or an archive; one image is written with --row")
    if suffix in _OTHERS:
        raise UsageError(
            f"{out}: expected a folder, FILE.tar, FILE.zip, FILE.parquet, FILE.lmdb or "
            f"NAME-%06d.tar, found {suffix}"
        )
    if shards.is_pattern(out):
        return _Shards(out)
    return _BY_SUFFIX.get(suffix, _Folder)(out)


def refuse_file(path: Path) -> None:
    """Raise if a file cannot get this name.

    Raises:
        OutputError: something has it, or the folder does not exist.
    """
    refuse_no_folder(path)
    with output_errors(f"{path}: cannot be looked at"):
        found = outfiles.what_is(path)
    if found:
        raise OutputError(
            f"{path}: expected a name that is free, found {found}: an export replaces nothing"
        )


def refuse_no_folder(path: Path) -> None:
    """Raise `OutputError` if there is no folder for a file."""
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: expected an existing folder {path.parent}")


def _time_s() -> int:
    """Return the time of members: SOURCE_DATE_EPOCH, or the beginning."""
    moment = source_date()
    return int(moment.timestamp()) if moment else 0
