"""The manifest, read by all ranks: each parses the lines of its own byte range."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import accumulate
from operator import or_
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.attribute_values import MOST_JSON
from h5ingest.core.column_types import all_integers, resolve
from h5ingest.core.errors import ManifestError, agreed
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.held_rows import NOTHING, HeldRows
from h5ingest.core.image_columns import columns_of
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import (
    Manifest,
    ManifestPart,
    file_sha256,
    read_class_names,
    read_part,
    share,
)
from h5ingest.core.manifest_dialect import STDIN, Dialect, LineError, sniff
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import Within, no_members
from h5ingest.mpi.comm import Comm, agreeing


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSamples:
    """The lines of the manifest that one rank has read."""

    indices: range
    """Global indices of its images: those of sample i are i * n_each, i * n_each + 1 ..."""
    paths: PackedStrings
    """(n,) as in the manifest."""
    groups: NDArray[np.int32]
    """(n,) position of each image's group in `Manifest.parts`."""
    folders: PackedStrings
    """(n,) names of HDF5 groups, where each image has a dataset of its own; else empty."""
    members: NDArray[np.void] = field(default_factory=no_members)
    """(n,) `MEMBER`; (0,) if no file lies in an archive, as far as is known."""
    n_each: int = 1
    """Images of a sample."""

    def sample(self, i: int) -> int:
        """Return the global index of the sample of an image, by its position."""
        return self.indices[i] // self.n_each

    held: HeldRows = NOTHING
    """What the file has already, its groups numbered as in `Manifest.group_names`."""

    def file(self, i: int) -> bytes | Within:
        """Return what is read for a sample, by its position; see `files_of`."""
        return (self.paths[i], self.members[i].item()) if len(self.members) else self.paths[i]


def read_manifest(
    path: Path,
    options: IngestOptions,
    comm: Comm,
    listed: Path | None = None,
) -> tuple[Manifest, LocalSamples]:
    """Return the manifest, and the lines that this rank has read. Collective.

    Args:
        path: the file.
        options: what the manifest is like, `group_by`, `image` and `layout`.
        comm: all ranks.
        listed: see `Manifest`.

    Raises:
        ManifestError: with the file, the line, what was expected and what was found.
    """
    name = listed or path
    images = tuple(columns_of(options.image))
    n_each = len(images)
    head: tuple[Dialect, str] | None = None
    with agreeing(comm):
        if comm.rank == 0:
            dialect = sniff(
                path,
                options.delimiter,
                str(name),
                label_column=options.label_column,
                multi_label=options.multi_label,
            )
            head = dialect, file_sha256(path)
            is_listed = str(name) not in (str(path), STDIN)
            _check_columns(dialect, options.group_by, images, is_listed=is_listed)
    dialect, sha256 = comm.bcast(head)
    coded = options.group_by
    if coded is None and KINDS[options.layout].dataset_per_image and dialect.has_one_label:
        coded = "label"
    part, problem = ManifestPart(), None
    with agreeing(comm):
        try:
            byte_range = share(path, dialect, comm.rank, comm.size)
            part = read_part(path, dialect, byte_range, coded, images)
        except OSError as error:
            raise ManifestError(f"{name}: cannot be read by rank {comm.rank}: {error}") from None
        except LineError as error:
            problem = error.line, error.problem
    n_rows = len(part.paths) // n_each
    told = comm.allgather((part.n_lines, n_rows, part.integer_labels, part.seen, problem))
    line = dialect.body_line
    for n_lines, *_, found in told:
        if found:
            raise agreed(ManifestError(f"{name}, line {line + found[0]}: {found[1]}"))
        line += n_lines
    bounds = [0, *accumulate(n for _, n, *_ in told)]
    if bounds[-1] == 0:
        raise agreed(ManifestError(f"{name}: expected at least one image, found only the header"))
    class_names = None
    integers = all(integer for _, _, integer, *_ in told)
    if "label" in dialect.columns and (dialect.separator or not integers):
        parts = comm.allgather(read_class_names(path, dialect, byte_range))
        class_names = tuple(sorted(frozenset[bytes]().union(*parts)))
        if all_integers(class_names):  # of several a row, which are numbered all the same
            class_names = tuple(sorted(class_names, key=lambda name: (int(name), name)))
    seen = [reduce(or_, column) for column in zip(*(s for *_, s, _ in told), strict=True)]
    group_names, groups = _agree_on_names(
        part, n_rows, name, comm, grouped=options.group_by is not None
    )
    counts = np.bincount(groups, minlength=len(group_names))
    kinds = dict(zip(dialect.extra_columns, map(resolve, seen), strict=True))
    manifest = Manifest(
        path=path,
        dialect=dialect,
        sha256=sha256,
        n_rows=bounds[-1],
        class_names=class_names,
        column_kinds={name: kind for name, kind in kinds.items() if name not in images},
        group_by=options.group_by,
        group_names=group_names,
        group_rows=tuple(np.sum(comm.allgather(counts), axis=0).tolist()),
        images=images,
        listed=listed,
    )
    if n_each > 1:
        of_each = np.arange(n_each, dtype=np.int32)
        groups = (groups[:, np.newaxis] * np.int32(n_each) + of_each).ravel()
    folders = PackedStrings.pack([])
    if coded == "label" and options.group_by is None:
        codes = np.repeat(part.codes, n_each).tolist()
        folders = PackedStrings.pack([part.names[code] for code in codes])
    local = LocalSamples(
        indices=range(bounds[comm.rank] * n_each, bounds[comm.rank + 1] * n_each),
        paths=part.paths,
        groups=groups,
        folders=folders,
        n_each=n_each,
    )
    return manifest, local


def behind(
    held: HeldRows, manifest: Manifest, local: LocalSamples
) -> tuple[Manifest, LocalSamples]:
    """Return the manifest and lines of it as those of samples that come behind others.

    Raises:
        ManifestError: the names of groups are more than readers of the file take (on all ranks).
    """
    names = tuple(sorted({*held.groups, *manifest.group_names}))
    _check_names(names, manifest.listed or manifest.path)
    places = {name: code for code, name in enumerate(names)}
    codes = np.array([places[name] for name in manifest.group_names], np.int32)
    rows = dict(zip(manifest.group_names, manifest.group_rows, strict=True))
    first = held.n_samples * local.n_each
    return replace(
        manifest,
        group_names=names,
        group_rows=tuple(rows.get(name, 0) for name in names),
        first=held.n_samples,
    ), replace(
        local,
        indices=range(first + local.indices.start, first + local.indices.stop),
        groups=codes[local.groups // local.n_each] * local.n_each + local.groups % local.n_each,
        held=held.among(names),
    )


def _check_columns(
    dialect: Dialect, group_by: str | None, images: Sequence[str], *, is_listed: bool
) -> None:
    """Raise if there is no such column to group by, or of images."""
    name, found = dialect.name, ", ".join(dialect.columns)
    if group_by is not None and (group_by == "path" or group_by not in dialect.columns):
        said = f"{name}: expected a column {group_by!r} to group by, found {found}"
        if is_listed:
            said += (
                ". --group-by-folder 1 groups by the folders at the top; --split "
                "train:0.8,val:0.2 makes a column split"
            )
        raise ManifestError(said)
    for column in images:
        if column not in dialect.columns:
            raise ManifestError(f"{name}: expected a column {column!r} of images, found {found}")
    if group_by == "label" and dialect.separator:
        raise ManifestError(f"{name}: expected to group by one class a row: label has several")
    if group_by in images:
        raise ManifestError(f"{name}: expected to group by no column of images, got {group_by!r}")


def _agree_on_names(
    part: ManifestPart,
    n_rows: int,
    manifest: Path,
    comm: Comm,
    *,
    grouped: bool,
) -> tuple[tuple[bytes, ...], NDArray[np.int32]]:
    """Return the sorted names of all groups, and the group of each local row. Collective.

    Raises:
        ManifestError: the names are more than readers of the file take.
    """
    if not grouped:
        return (b"",), np.zeros(n_rows, np.int32)
    names = tuple(sorted(frozenset[bytes]().union(*comm.allgather(part.names))))
    _check_names(names, manifest)
    codes = {name: code for code, name in enumerate(names)}
    recoded = np.array([codes[name] for name in part.names], np.int32)
    return names, recoded[part.codes]


def _check_names(names: Sequence[bytes], manifest: Path) -> None:
    """Raise on all ranks, which have the same names of groups, if they are too many."""
    n_letters = len(json.dumps([group_prefix(os.fsdecode(name))[1:] for name in names]))
    if n_letters > MOST_JSON:
        raise agreed(
            ManifestError(
                f"{manifest}: expected names of groups that take at most {MOST_JSON:,} letters in "
                f"the file, all together; found {n_letters:,}, of {len(names):,} names. Is this "
                f"the column to group by?"
            )
        )
