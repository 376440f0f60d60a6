"""What an export makes, by the name that it is to have: a folder, an archive, shards."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import outfiles
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.exports import archive, folder, lmdb, parquet, shards
from h5ingest.exports.members import Archive, Tar, Zip, utf8
from h5ingest.exports.names import MANIFEST
from h5ingest.exports.options import SHARD_ROWS, ExportOptions
from h5ingest.exports.stored import Stored
from h5ingest.exports.work import Work
from h5ingest.images.scan import EXTENSIONS
from h5ingest.pipeline.provenance import source_date
from h5ingest.storage.datasets import output_errors

_OTHERS: Final = frozenset(
    (
        ".gz",
        ".tgz",
        ".bz2",
        ".xz",
        ".zst",
        ".7z",
        ".npz",
        ".npy",
        ".h5",
        ".hdf5",
    )
)
"""Suffixes that no folder is meant to have."""


@dataclass(frozen=True, slots=True)
class Written:
    """What came of an export, on all ranks."""

    n_renamed: int = 0
    """Images whose path in the manifest is not what it was."""
    n_kept: int = 0
    """Shards that were there already."""


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
    def write(self, work: Work) -> Written:
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

    def write(self, work: Work) -> Written:
        return Written(n_renamed=folder.export_to_folder(work, self.out))


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

    def write(self, work: Work) -> Written:
        kind = outfiles.ZIP if self._is_zip else outfiles.TAR
        begin: type[Zip] | type[Tar] = Zip if self._is_zip else Tar
        time_s = _time_s()

        def opened(file: BinaryIO) -> Archive:
            return begin(file, time_s)

        return Written(n_renamed=archive.export_to_archive(work, self.out, kind, opened))

    @property
    def _is_zip(self) -> bool:
        return self.out.suffix.lower() == ".zip"


class _Lmdb(_OneFile):
    def refuse_existing(self) -> None:
        lmdb.lmdb_module()
        refuse_file(self.out)

    def fitted(self, name: bytes) -> bytes:
        return lmdb.fitted_key(name)

    def write(self, work: Work) -> Written:
        n_renamed = archive.export_to_archive(work, self.out, outfiles.LMDB, lmdb.Lmdb)
        return Written(n_renamed=n_renamed)


class _Parquet(_OneFile):
    def refuse_existing(self) -> None:
        parquet.pyarrow_module()
        refuse_file(self.out)

    def fitted(self, name: bytes) -> bytes:
        return utf8(name)

    def write(self, work: Work) -> Written:
        def opened(file: BinaryIO) -> Archive:
            return parquet.Parquet(file, work.stored)

        n_renamed = archive.export_to_archive(
            work, self.out, outfiles.PARQUET, opened, parquet.rows_of
        )
        return Written(n_renamed=n_renamed)


class _Shards(Target):
    in_shards = True

    def refuse_existing(self) -> None:
        """See `Target.refuse_existing`. A shard may be one of an earlier run: seen when written."""
        refuse_no_folder(self.out)

    def places(
        self, n: int, stored: Stored, options: ExportOptions, rank: int, size: int
    ) -> NDArray[np.int64]:
        return shards.places_of_shards(n, options.shard_rows or SHARD_ROWS, rank, size)

    def write(self, work: Work) -> Written:
        return Written(n_kept=shards.export_to_shards(work, self.out, _time_s()))


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
    """Raise if there is no folder for a file.

    Raises:
        OutputError: there is none.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: expected an existing folder {path.parent}")


def _time_s() -> int:
    """Return the time of members: SOURCE_DATE_EPOCH, or the beginning."""
    moment = source_date()
    return int(moment.timestamp()) if moment else 0
