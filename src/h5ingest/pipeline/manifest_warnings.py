"""What the user should know of a manifest that can be read: it may not say what was meant."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from h5ingest.core.column_types import Seen, kinds_seen, resolve
from h5ingest.core.lists import parse_cell, parse_kind
from h5ingest.core.manifest import Manifest, stream
from h5ingest.core.manifest_dialect import LineError, parse
from h5ingest.core.manifest_heading import show
from h5ingest.core.units import counted
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.read_manifest import LocalSamples

_LIKE_LABELS: Final = ("labels", "class", "class_name", "classname", "category", "target", "y")
"""Names, in any case, of columns that are likely to be meant as labels."""
_LOOKED_AT: Final = 64 * 1024
"""Bytes of lines, from the first on, by which columns of images are known."""


def manifest_warnings(manifest: Manifest, local: LocalSamples, comm: Comm) -> tuple[str, ...]:
    """Return what the user should know. Collective."""
    found = []
    columns = manifest.dialect.columns
    if "label" not in columns:
        found += [
            f"no column is named label: {name!r} is stored as columns/{name}, not as labels: "
            f"--label-column {name}"
            for name in columns
            if name.lower() in _LIKE_LABELS and name != manifest.group_by
        ][:1]
    odd = [name for name in manifest.class_names or () if not _is_utf8(name)]
    if odd:
        shown = odd[0].decode("utf-8", "backslashreplace")
        found.append(
            f"{counted(len(odd), 'labels')} not in UTF-8, stored byte for byte (first: {shown}); "
            f"for Latin-1: iconv -f LATIN1 -t UTF-8 OLD > NEW"
        )
    n_repeated, first = _count_repeated(local, comm)
    if n_repeated:
        image = first * local.n_each
        mine = image in local.indices
        path = os.fsdecode(local.paths[image - local.indices.start]) if mine else ""
        path = "".join(comm.allgather(path))
        lines = f"{n_repeated:,} line{'s' * (n_repeated > 1)}"
        found.append(
            f"{lines} of the manifest name{'s' * (n_repeated == 1)} a file that another line names "
            f"too; each has a row of its own (first: {path})"
        )
    looked_at: tuple[str, ...] = ()
    with agreeing(comm):
        if comm.rank == 0:
            looked_at = *_like_images(manifest), *_broken_lists(manifest)
    return (*found, *comm.bcast(looked_at))


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def lists_in_words(manifest: Manifest) -> tuple[str, ...]:
    """Return a line that names the columns of lists, if there are any."""
    found = [f"{name} ({kind})" for name, kind in manifest.column_kinds.items() if parse_kind(kind)]
    s = "s" * (len(found) > 1)
    said = f"the JSON arrays in column{s} {', '.join(found)} are stored as lists of numbers"
    return (said,) if found else ()


def _broken_lists(manifest: Manifest) -> tuple[str, ...]:
    """Return a line for each column that is text though it begins with a list; says where."""
    names = []
    for name, cells in zip(manifest.dialect.columns, _first_rows(manifest), strict=True):
        first = next(filter(None, cells), b"")
        if manifest.column_kinds.get(name) == "text" and parse_cell(first) is not None:
            names.append(name)
    if not names:
        return ()
    wrong: dict[str, tuple[int, bytes]] = {}
    seen: dict[str, Seen] = dict.fromkeys(names, frozenset())
    index = manifest.first
    with contextlib.suppress(OSError, LineError):  # which the end of the job names
        for columns in stream(manifest.path, manifest.dialect):
            for name in names:
                for k, cell in enumerate(columns[name]):
                    if name in wrong:
                        break
                    seen[name] |= kinds_seen([cell])
                    if cell and resolve(seen[name]) == "text":
                        wrong[name] = index + k, cell
            index += len(columns["path"])
    lines = manifest.lines_of([index for index, _ in wrong.values()])
    return tuple(
        f"column {name!r} is stored as text, not as lists of numbers: "
        f"line {lines.get(index, 0):,} does not fit, {show(cell)}"
        for name, (index, cell) in wrong.items()
    )


def _like_images(manifest: Manifest) -> tuple[str, ...]:
    """Return a line for each column that looks like images and is not taken so."""
    columns = manifest.dialect.columns
    others = {*columns} - {"path", "label", *manifest.images}
    if not others:
        return ()
    from h5ingest.images.scan import EXTENSIONS  # few manifests have such columns

    endings = tuple(EXTENSIONS)
    return tuple(
        f"column {name!r} names image files and is stored as text: --image {name} stores "
        f"the images beside the others, --image {name}:raw label masks"
        for name, cells in zip(columns, _first_rows(manifest), strict=True)
        if name in others and cells and all(cell.lower().endswith(endings) for cell in cells)
    )


def _first_rows(manifest: Manifest) -> list[Sequence[bytes]]:
    """Return the columns of the first lines; empty ones if they cannot be read: others say so."""
    try:
        with manifest.path.open("rb") as file:
            file.seek(manifest.dialect.body_start)
            data = file.read(_LOOKED_AT)
        if len(data) == _LOOKED_AT:
            data = data[: data.rfind(b"\n") + 1]
        return parse(data, manifest.dialect)
    except (OSError, LineError):
        return [()] * len(manifest.dialect.columns)


def _count_repeated(local: LocalSamples, comm: Comm) -> tuple[int, int]:
    """Return how many samples have the path of an earlier one, and the first of these. Collective.

    Each rank is sent the hashes that are its own, so that none holds those of all samples.
    """
    paths = islice(local.paths, 0, None, local.n_each)  # the first image of each
    hashes = np.fromiter(map(xxh3_64_intdigest, paths), np.uint64)
    owners = hashes % np.uint64(comm.size)
    mine = [np.flatnonzero(owners == rank) for rank in range(comm.size)]
    found = np.sort(np.concatenate(comm.exchange([hashes[of] for of in mine])))
    n_repeated = sum(comm.allgather(int((found[1:] == found[:-1]).sum())))
    if not n_repeated:  # as mostly: then nothing is said of which they are
        return 0, -1
    found = np.concatenate(comm.exchange([hashes[of] for of in mine]))
    indices = np.concatenate(
        comm.exchange([local.indices.start // local.n_each + of for of in mine])
    )
    order = np.lexsort([indices, found])
    again = order[1:][found[order[1:]] == found[order[:-1]]]
    firsts = comm.allgather(int(indices[again].min()) if len(again) else None)
    return n_repeated, min(first for first in firsts if first is not None)
