"""Which class reads a file in which many images lie, by its name; each is imported when needed.

May not: read a file.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from typing import Final

from h5ingest.core.sample_table import ARCHIVES
from h5ingest.images.archive_table import Opened
from h5ingest.images.unpacked import Stream, is_compressed

_IN_FOLDER: Final = b"/data.mdb"
_KINDS: Final = (
    (rb"\.zip", "zip_archive", "ZipArchive"),
    (rb"\.parquet", "containers.parquet", "Parquet"),
    (rb"\.lmdb|\.mdb", "containers.lmdb_tree", "Lmdb"),
    (rb"\.np[yz]", "containers.npy", "Npy"),
    (rb"idx[34][-.]ubyte(?:\.gz)?|\.idx", "containers.idx", "Idx"),
    (rb"\.(?:h5|hdf5|hdf)", "containers.hdf5_stack", "Hdf5Stack"),
    (rb"\.(?:pkl|pickle)|(?:^|/)(?:data_batch_\d+|test_batch)", "containers.pickled", "Pickled"),
)
"""What a name ends in, and the module and class that read such a file."""


def is_archive(path: bytes) -> bool:
    """Return whether this is the name of an archive of files."""
    return path.lower().endswith(ARCHIVES)


def is_container(path: bytes) -> bool:
    """Return whether this is the name of another file with many images in it."""
    return _kind_of(path)[0] > 0


def file_of(path: bytes) -> bytes:
    """Return the file of an archive; that of an LMDB environment may lie in a folder."""
    if path.lower().endswith(b".lmdb") and os.path.isdir(path):
        return path + _IN_FOLDER
    return path


def format_of(path: bytes) -> Callable[[int, int, bytes, bytes], Opened]:
    """Return the class of an archive."""
    _, module, name = _kind_of(path)
    found: Callable[[int, int, bytes, bytes], Opened] = getattr(
        importlib.import_module(f"h5ingest.images.{module}"), name
    )
    return found


def unpacking(path: bytes, inner: bytes) -> tuple[bytes, Stream | None] | None:
    """Return what the unpacked file of a compressed one ends in, and how it is unpacked.

    None: the file is read as it is.

    Raises:
        SampleError, OSError: it cannot be read.
    """
    if path.lower().endswith(b".npz"):
        from h5ingest.images.containers.npy import deflated

        stream = deflated(path, inner)
        return None if stream is None else (b".npy", stream)
    if not is_compressed(path):
        return None
    return b".idx" if is_container(path) else b".tar", None


def _kind_of(path: bytes) -> tuple[int, str, str]:
    for number, (end, module, name) in enumerate(_KINDS):
        if re.search(b"(?:%s)$" % end, path, re.IGNORECASE):
            return number, module, name
    return -1, "tar_archive", "TarArchive"
