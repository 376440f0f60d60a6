"""Names of exported files: the paths of the sources, made safe and told apart.

May not: know HDF5, write files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.images.scan import EXTENSIONS
from h5ingest.mpi.comm import Comm

MANIFEST: Final = b"manifest.csv"
"""Name of the manifest beside the images."""
PNG: Final = "PNG"
JPEG: Final = "JPEG"
AS_IT_IS: Final = ""
"""Form of an image file whose own bytes are stored; the others are named as in `EXTENSIONS`."""
SUFFIXES: Final = {kind: suffix for suffix, kind in reversed(EXTENSIONS.items())}
"""Format -> the first of its suffixes."""
_LONGEST: Final = 255
"""Bytes of a name (NAME_MAX)."""
_ROOM: Final = 30
"""For what tells names apart."""
_UNWRITABLE: Final = bytes.maketrans(b"\0\n\r", b"___")
"""What no line of a manifest can hold."""


def safe_path(path: bytes) -> bytes:
    r"""Return a relative path that leads nowhere but down, and fits into a line of a manifest.

    >>> safe_path(b"cat/1.png"), safe_path(b"/data/./x//1.png"), safe_path(b"../../etc/x\n.png")
    (b'cat/1.png', b'data/x/1.png', b'etc/x_.png')
    """
    steps = [step for step in path.translate(_UNWRITABLE).split(b"/") if step not in _NO_STEPS]
    steps = [_shortened(step) for step in steps] or [b"image"]
    if steps[0] == MANIFEST:
        steps[0] = b"_" + MANIFEST
    return b"/".join(steps)


_NO_STEPS: Final = (b"", b".", b"..")


def _shortened(step: bytes) -> bytes:
    if len(step) <= _LONGEST:
        return step
    stem, suffix = os.path.splitext(step)
    suffix = suffix[:_ROOM]
    return (
        stem[: _LONGEST - _ROOM - len(suffix)] + b"~%08x" % (xxh3_64_intdigest(step) >> 32) + suffix
    )


def file_name(path: bytes, form: str, *, keep: bool = False) -> bytes:
    """Return the name of the file that an image becomes.

    A name that is of another format than the file gets the suffix of the file's own. One that is of
    no format stays.

    Args:
        path: of its source.
        form: of the file, see `Stored.form`.
        keep: whether the suffix stays in any case.

    >>> file_name(b"a/b.JPG", "PNG"), file_name(b"b.png", "PNG"), file_name(b"b", "PNG")
    (b'a/b.png', b'b.png', b'b')
    """
    name = safe_path(path)
    if keep or form == AS_IT_IS:
        return name
    stem, suffix = os.path.splitext(name)
    return name if EXTENSIONS.get(suffix.lower(), form) == form else stem + SUFFIXES[form]


def key_of(path: bytes) -> bytes:
    """Return the name of a sample in WebDataset shards: without suffix, and no dots in its end.

    >>> key_of(b"v1.0/im.001.png")
    b'v1.0/im_001'
    """
    name = safe_path(path)
    folder, slash, last = name.rpartition(b"/")
    stem, suffix = os.path.splitext(last)
    if suffix.lower() not in EXTENSIONS:
        stem = last
    return folder + slash + (stem.replace(b".", b"_") or b"image")


def listed(path: bytes, name: bytes) -> bytes:
    """Return how a manifest beside the file names it: as its source was, if that leads there."""
    plain = path.translate(_UNWRITABLE)
    steps = plain.split(b"/")
    leads_there = steps[0] and b".." not in steps and steps[-1] not in _NO_STEPS
    if leads_there and b"/".join(step for step in steps if step not in _NO_STEPS) == name:
        return plain
    return b"./" + name if name.isspace() else name


def tell_apart(
    comm: Comm, names: list[bytes], are_new: Sequence[bool], places: NDArray[np.int64]
) -> int:
    """Change names so that no two are the same, and none is that of a folder. Collective.

    Of several, one whose name is that of its source keeps it, else the first, whichever ranks have
    them: so the number of ranks does not show.

    Args:
        comm: the ranks.
        names: of this rank's files; changed where necessary.
        are_new: (n,) whether each is another than that of its source.
        places: (n,) the place of each among those of all ranks.

    Returns:
        How many were changed, on all ranks.
    """
    hashes = _hashes(names)
    told = comm.gather((hashes, _hashes(sorted(_folders(names)))))
    files = folders = doubtful = np.zeros(0, np.uint64)
    if told is not None:
        files, counts = np.unique(np.concatenate([each for each, _ in told]), return_counts=True)
        folders = np.unique(np.concatenate([each for _, each in told]))
        doubtful = np.union1d(files[counts > 1], np.intersect1d(files, folders))
    mine = np.flatnonzero(np.isin(hashes, comm.bcast(doubtful)))
    asked = comm.gather([(are_new[k], int(places[k]), names[k]) for k in mine.tolist()])
    changed: dict[int, bytes] = {}
    if asked is not None:
        changed = _changed(sorted(each for of_rank in asked for each in of_rank), files, folders)
    changed = comm.bcast(changed)
    for k in mine.tolist():
        names[k] = changed.get(int(places[k]), names[k])
    return len(changed)


def _changed(
    asked: Sequence[tuple[bool, int, bytes]], files: NDArray[np.uint64], folders: NDArray[np.uint64]
) -> dict[int, bytes]:
    """Return place -> new name, of the doubtful ones: (whether it gives way, place, name)."""
    seen: set[bytes] = set()
    numbers: Counter[bytes] = Counter()
    changed: dict[int, bytes] = {}
    for _, place, name in asked:
        if name not in seen and not _is_in(name, folders):
            seen.add(name)
            continue
        folder, slash, last = name.rpartition(b"/")
        stem, suffix = os.path.splitext(last)
        stem = stem[: _LONGEST - _ROOM - len(suffix)]
        for number in count(numbers[name] + 2):
            new = folder + slash + stem + b"~%d" % number + suffix
            if not (new in seen or _is_in(new, files) or _is_in(new, folders)):
                break
        numbers[name] = number - 1
        seen.add(new)
        changed[place] = new
    return changed


def _hashes(names: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.fromiter(map(xxh3_64_intdigest, names), np.uint64, len(names))


def _is_in(name: bytes, hashes: NDArray[np.uint64]) -> bool:
    k = int(np.searchsorted(hashes, np.uint64(xxh3_64_intdigest(name))))
    return k < len(hashes) and int(hashes[k]) == xxh3_64_intdigest(name)


def _folders(names: Sequence[bytes]) -> set[bytes]:
    """Return all folders on the way to files."""
    found: set[bytes] = set()
    for folder in {os.path.dirname(name) for name in names}:
        while folder and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found
