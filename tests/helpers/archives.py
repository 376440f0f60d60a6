"""Archives of the files in a folder."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

Member = tuple[str, bytes]


def members(folder: Path) -> list[Member]:
    """The files below a folder, by their names in it; not in order."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [(os.fspath(path.relative_to(folder)), path.read_bytes()) for path in found]


def tar(path: Path, files: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form, errors="surrogateescape") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def packed(path: Path, files: Iterable[Member], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


Packer = Callable[[Path, Iterable[Member]], Path]

PACKERS: dict[str, tuple[str, Packer]] = {
    "ustar": (".tar", lambda path, files: tar(path, files, tarfile.USTAR_FORMAT)),
    "gnu": (".tar", lambda path, files: tar(path, files, tarfile.GNU_FORMAT)),
    "pax": (".tar", tar),
    "stored": (".zip", packed),
    "deflated": (".zip", lambda path, files: packed(path, files, zipfile.ZIP_DEFLATED)),
}
"""How -> (ending of the name, what makes it)."""
