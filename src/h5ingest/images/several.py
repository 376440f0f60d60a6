"""Which files are meant by a name that stands for many, or for one in which many samples lie.

    shards-{000000..000009}.tar   "shards/*.parquet"   a folder of nothing but .tar files
    train.parquet   photos.npz:x_train   file.h5:/images   train-images-idx3-ubyte.gz

May not: read what is in them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from h5ingest.core.errors import ManifestError
from h5ingest.core.sample_table import ARCHIVES
from h5ingest.images.archive_formats import file_of, is_archive, is_container

_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MAGIC: Final = re.compile(r"[*?\[]|\{\d+\.\.\d+\}|\{[^{}]*,[^{}]*\}")
_OTHER_ARCHIVES: Final = (b".gz", b".bz2", b".xz", b".zst", b".7z", b".rar")
"""Of others the user is told what can be read."""
_MOST: Final = 1_000_000
_BESIDE: Final = re.compile(
    rb".*labels.*idx1[-.]ubyte(\.gz)?|(batches\.)?meta|readme(\.\w+)?|.*\.(json|md|txt)",
    re.IGNORECASE,
)
"""What may lie in a folder beside containers."""
_OF_JOB: Final = re.compile(
    rb".*\.(partial|journal|lock|failed\.tsv|recoded|scan\.(csv|places)|new\.csv|unpacked)"
)
"""What a job makes whose output is to lie in the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """The files that are meant."""

    base: bytes
    """What the names of their samples are relative to: a folder, or the one file."""
    files: tuple[bytes, ...]
    """Absolute, in order."""
    inner: bytes = b""
    """What of each is meant; see `Opened`."""

    def prefix(self, file: bytes) -> bytes:
        """Return what the names of the samples in a file begin with."""
        return b"" if file == self.base else os.path.relpath(file, self.base) + b"/"


def split_inner(path: bytes) -> tuple[bytes, bytes]:
    """Return the file that is meant, and what of it.

    >>> split_inner(b"a/file.h5:/images")
    (b'a/file.h5', b'/images')
    """
    file, colon, inner = path.rpartition(b":")
    if colon and not os.path.exists(path) and is_container(file):
        return file, inner
    return path, b""


def is_listed(path: Path) -> bool:
    """Return whether this is no manifest, but one is to be made of what is in it, or in them."""
    is_packed = os.fsencode(path).lower().endswith((*ARCHIVES, *_OTHER_ARCHIVES))
    return os.path.isdir(path) or (is_packed and os.path.isfile(path)) or are_several(path)


def is_pattern(path: Path) -> bool:
    """Return whether a name stands for those of many files."""
    return _MAGIC.search(os.fspath(path)) is not None and not os.path.lexists(path)


def are_several(path: Path) -> bool:
    """Return whether `several` knows which files are meant by this name. Opens none."""
    file, _ = split_inner(os.fsencode(path))
    if is_pattern(Path(os.fsdecode(file))):
        return True
    if os.path.isdir(file):
        return os.path.isfile(file_of(file)) or bool(_files_in(file))
    return is_container(file) and os.path.isfile(file)


def several(path: Path) -> Several:
    """Return the files that are meant by a name that stands for many.

    Raises:
        ManifestError: there is none, or one is missing.
    """
    file, inner = split_inner(os.fsencode(path))
    full = os.path.abspath(file)
    if is_pattern(Path(os.fsdecode(file))):
        found = islice(_matching(os.fsdecode(file)), _MOST)
        files = tuple(os.path.abspath(os.fsencode(each)) for each in found)
        if not files:
            raise ManifestError(f"{path}: no such files")
        if len(set(files)) < len(files):
            raise ManifestError(f"{path}: expected different files, found one of them twice")
        wrong = [each for each in files if not (is_archive(each) or is_container(each))]
        if wrong:
            raise ManifestError(
                f"{path}: expected archives (.tar, .zip) or files such as .parquet, found "
                f"{os.fsdecode(wrong[0])}"
            )
        base = os.path.commonpath([os.path.dirname(each) for each in files])
        return Several(base=base, files=files, inner=inner)
    if os.path.isdir(full) and not os.path.isfile(file_of(full)):
        names = tuple(os.path.join(full, name) for name in _files_in(full))
        return Several(base=full, files=names, inner=inner)
    return Several(base=full, files=(full,), inner=inner)


def _files_in(folder: bytes) -> list[bytes]:
    """Return the names in a folder of nothing but archives, or of containers and what is theirs."""
    archives, containers, others = list[bytes](), list[bytes](), 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b".") or _OF_JOB.fullmatch(entry.name):
                    continue
                if not entry.is_file():
                    return []
                if is_archive(entry.name):
                    archives.append(entry.name)
                elif is_container(entry.name):
                    containers.append(entry.name)
                elif _BESIDE.fullmatch(entry.name):
                    others += 1
                else:
                    return []  # mostly at the first of many images
    except OSError:
        return []
    if archives:
        return [] if containers or others else sorted(archives)
    return sorted(containers)


def _matching(pattern: str) -> Iterator[str]:
    """Yield the files that a pattern stands for: in the order of braces, else by name.

    Raises:
        ManifestError: one that braces name is missing.
    """
    for each in _expanded(pattern):
        if glob.has_magic(each) and not os.path.exists(each):
            yield from sorted(glob.glob(each), key=os.fsencode)
        elif os.path.exists(each):
            yield each
        else:
            raise ManifestError(f"{each}: no such file, though {pattern} names it")


def _expanded(pattern: str) -> Iterator[str]:
    """Yield what a pattern with braces stands for.

    >>> list(_expanded("{a,b}-{08..10}"))
    ['a-08', 'a-09', 'a-10', 'b-08', 'b-09', 'b-10']
    """
    found = [match for form in (_RANGE, _CHOICE) if (match := form.search(pattern))]
    if not found:
        yield pattern
        return
    match = min(found, key=lambda each: each.start())
    for each in _choices(match):
        yield from _expanded(pattern[: match.start()] + each + pattern[match.end() :])


def _choices(match: re.Match[str]) -> Iterator[str]:
    if match.re is _CHOICE:
        yield from match[1].split(",")
        return
    first, last = int(match[1]), int(match[2])
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{len(match[1])}d}"
