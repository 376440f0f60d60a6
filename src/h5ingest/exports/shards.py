"""An export to WebDataset shards: tar files in which the members of a sample have one stem.

Further images of a row are called by their column: NAME.png, NAME.mask.png.
Each rank writes shards of its own, whole ones. A shard that a job has left which was ended is known
by the comment that it begins with: the next job keeps it. The first shard is written last, so that
where it is, all are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import outfiles
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.signatures import format_of
from h5ingest.exports import table
from h5ingest.exports.members import Tar
from h5ingest.exports.names import PNG, SUFFIXES
from h5ingest.exports.stored import HEAD_BYTES
from h5ingest.exports.work import Images, Work
from h5ingest.mpi.comm import agreeing
from h5ingest.storage.datasets import output_errors

_PLACE: Final = re.compile(r"%0?(\d*)d")
_BEGINNING: Final = 4096


class _Lacking(Exception):
    """A shard would lack an image that is damaged; never leaves this module."""


def is_pattern(out: Path) -> bool:
    """Return whether a name stands for those of shards.

    Raises:
        UsageError: it has a `%`, and is no such pattern.
    """
    if "%" not in out.name:
        return False
    places = _PLACE.findall(out.name)
    if len(places) != 1 or out.name.count("%") != 1 or out.suffix != ".tar":
        raise UsageError(
            f"{out}: expected one number in the name of shards, as in train-%06d.tar, found "
            f"{out.name}"
        )
    return True


def shard_path(out: Path, number: int) -> Path:
    """Return the path of a shard.

    >>> shard_path(Path("train-%06d.tar"), 12).name
    'train-000012.tar'
    """
    return out.with_name(_PLACE.sub(lambda match: f"{number:0{match[1] or 0}d}", out.name))


def places_of_shards(n: int, shard_rows: int, rank: int, size: int) -> NDArray[np.int64]:
    """Return which of n places a rank has: those of neighbouring shards.

    >>> places_of_shards(10, 3, 1, 2)
    array([6, 7, 8, 9])
    """
    n_shards = -(-n // shard_rows)
    first, end = (n_shards * each // size * shard_rows for each in (rank, rank + 1))
    return np.arange(min(n, first), min(n, end))


def _mark(work: Work, time_s: int) -> str:
    """Return what the shards of an export begin with: equal only for equal ones.

    Without damaged images they have none: once these are repaired, the same export makes others.
    """
    if work.options.skip_damaged:
        return ""
    about = {
        "content": work.stored.header.content_digest,
        "time": time_s,
        **{k: v for k, v in asdict(work.options).items() if k != "peer_timeout_s"},
        "shard_rows": work.options.rows_of_a_shard,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return f"h5ingest export {digest}"


def export_to_shards(work: Work, out: Path, time_s: int) -> None:
    """Write the images as shards, and note how many were there already. Collective.

    Args:
        work: this rank has places as `places_of_shards` deals them out.
        out: the pattern of their names.
        time_s: of all members.

    Raises:
        OutputError: one cannot be written, or is something else.
        StoppedError: a signal asked for it.
        SamplesFailedError: see `Work.refuse_damaged`.
    """
    comm, each = work.comm, work.options.rows_of_a_shard
    mark = _mark(work, time_s)
    first = int(work.share.places[0]) // each if len(work.share) else 0
    mine = {first + k: range(at, min(at + each, len(work.share)))
            for k, at in enumerate(range(0, len(work.share), each))}  # fmt: skip
    there: set[int] = set()
    with agreeing(comm):
        there = {k for k in mine if _is_there(shard_path(out, k), mark)}
        _refuse_more(out, -(-work.n_all // each))
    todo = [k for k in mine if k not in there]
    for numbers in ([k for k in todo if k], [k for k in todo if not k]):
        with work.together() as images:
            for k in numbers:
                with contextlib.suppress(_Lacking):
                    _write(work, shard_path(out, k), mine[k], images, mark, time_s)
        work.refuse_damaged("their shards are not written")
    work.n_kept = sum(comm.allgather(len(there)))


def _is_there(path: Path, mark: str) -> bool:
    """Return whether a shard is there, as an earlier run of the same job has left it.

    Raises:
        OutputError: something else is.
    """
    with output_errors(f"{path}: cannot be looked at"):
        found = outfiles.what_is(path)
        if not found:
            return False
        head = b""
        if mark and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(_BEGINNING)
    if mark and mark.encode() in head:
        return True
    raise OutputError(
        f"{path}: expected a name that is free, or a shard of the same export, found {found}: an "
        f"export replaces nothing"
    )


def _refuse_more(out: Path, n_shards: int) -> None:
    """Raise if there is a shard after the last one: a reader would take it for one of these."""
    path = shard_path(out, n_shards)
    with output_errors(f"{path}: cannot be looked at"):
        found = outfiles.what_is(path)
    if found:
        raise OutputError(
            f"{path}: expected {n_shards:,} shards of this export, and no other after them: remove "
            f"it or choose another name"
        )


def _write(
    work: Work, path: Path, positions: range, images: Images, mark: str, time_s: int
) -> None:
    def content(file: BinaryIO) -> None:
        tar, cells = Tar(file, time_s, mark), _cells(work, positions)
        further = work.stored.header.images  # names that have no slash
        prefixes = [b"", *(f"{each}.".encode("utf-8", "surrogateescape") for each in further)]
        for k, files in images(positions):
            stem = work.names[k] + b"."
            every = [prefix + _suffix(data) for prefix, data in zip(prefixes, files, strict=True)]
            members = (*cells[k - positions.start], *zip(every, files, strict=True))
            tar.add([(stem + suffix, data) for suffix, data in members])
        if not work.options.skip_damaged and not work.failures.keys().isdisjoint(positions):
            raise _Lacking
        tar.close()

    outfiles.write(path, content, outfiles.TAR, replace=False)


def _suffix(data: bytes) -> bytes:
    return SUFFIXES[format_of(data[:HEAD_BYTES]) or PNG][1:]


def _cells(work: Work, positions: range) -> list[Iterable[tuple[bytes, bytes]]]:
    """Return what goes with each image: (suffix, content) of `.cls` and `.json`."""
    share = work.share.at(np.arange(positions.start, positions.stop))
    found: list[Iterable[tuple[bytes, bytes]]] = []
    stored = work.stored
    for number, here in share.runs():
        group, rows = stored.group(number), share.rows[here]
        with stored.inside():
            labels, _ = group.classes()
        classes: list[int | None] = [None] * len(rows)  # of several, the JSON alone tells
        if isinstance(labels, np.ndarray):
            classes = labels[rows].tolist()
        cells: table.Cells = dict(stored.paths(number, rows))
        if groups := stored.header.groups:
            cells["group"] = [groups[number // stored.n_each]] * len(rows)
        cells |= table.cells_of(stored, group, rows)
        for k, label in enumerate(classes):
            about = {name: values[k] for name, values in cells.items()}
            parts = [] if label is None else [(b"cls", b"%d" % label)]
            found.append([*parts, (b"json", _as_json(about))])
    return found


def _as_json(about: dict[str, object]) -> bytes:
    """Return values as JSON: NaN as null, bytes that are no UTF-8 as lone surrogates."""

    def plain(value: object) -> object:
        if isinstance(value, bytes):
            return value.decode("utf-8", "surrogateescape")
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
            return None if math.isnan(value) else str(value)
        return [plain(each) for each in value] if isinstance(value, list) else value

    return json.dumps(
        {name: plain(value) for name, value in about.items()}, sort_keys=True
    ).encode()
