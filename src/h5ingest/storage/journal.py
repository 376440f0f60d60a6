"""The journal beside a file that is being made: which chunks lie where, durably.

A line of JSON that says what it belongs to, then one record of 32 bytes per placed chunk, in the
order of placement. Only chunks whose bytes have reached the disk are in it: whatever follows the
last whole, intact record never happened. Replaying the records on a new file gives the same offsets
(`Placer.replay`), which is how a job that was killed can go on.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.errors import OutputError
from h5ingest.storage.datasets import output_errors

FORMAT: Final = "h5ingest journal 1"
_RECORD: Final = struct.Struct("<IIQQII")
_BODY: Final = struct.Struct("<IIQQI")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one chunk lies."""

    dataset: int
    """Position of the dataset in `Layout.datasets`."""
    chunk: int
    """Position of the chunk on axis 0, in chunks."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int
    """Bytes in the file."""
    filter_mask: int
    """Bit k set: filter k of the pipeline declined this chunk."""


class Journal:
    """An append-only file of placements. Root only; not collective."""

    def __init__(self, path: Path, about: dict[str, object]) -> None:
        """Begin a new journal.

        Raises:
            OutputError: it cannot be written.
        """
        self._path = path
        with output_errors(f"{path}: cannot be created"):
            self._file = path.open("wb", buffering=0)
        self._append(json.dumps({"format": FORMAT, **about}).encode() + b"\n")

    def append(self, records: bytes) -> None:
        """Add the records (`pack`) of chunks that are on the disk, and bring the journal there.

        Raises:
            OutputError: it cannot be written.
        """
        self._append(records)

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        with output_errors(f"{self._path}: cannot be written"):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())


def read(path: Path) -> tuple[dict[str, object], list[Placement]]:
    """Return what a journal belongs to, and its placements up to the first torn record.

    Raises:
        OutputError: it is not a journal of this format.
    """
    data = path.read_bytes()
    head, _, body = data.partition(b"\n")
    try:
        about = json.loads(head)
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise OutputError(f"{path}: expected a journal ({FORMAT}), found something else")
    placements = []
    for start in range(0, len(body) - _RECORD.size + 1, _RECORD.size):
        dataset, mask, chunk, offset, n_bytes, crc = _RECORD.unpack_from(body, start)
        if zlib.crc32(body[start : start + _BODY.size]) != crc:
            break
        placements.append(Placement(dataset, chunk, offset, n_bytes, mask))
    return about, placements


def pack(placements: Iterable[Placement]) -> bytes:
    """Return the records of placements, 32 bytes each."""
    return b"".join(map(_pack, placements))


def _pack(placement: Placement) -> bytes:
    body = _BODY.pack(
        placement.dataset,
        placement.filter_mask,
        placement.chunk,
        placement.offset,
        placement.n_bytes,
    )
    return body + zlib.crc32(body).to_bytes(4, "little")
