"""Samples in an archive of files: each image, by name; or all members of a stem, in their order.

The stem of a member is its path up to the first dot of the name. Where `.cls`, `.json` or `.txt`
lie beside images of their stems, a sample is an image with these: `.cls` is its label, an integer
or a text; what plain values `.json` has are columns, but for `path`, the name of the sample, and
`label`, where there is no `.cls`; `.txt` is the column `txt`.

May not: know ranks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from h5ingest.core.errors import SampleError
from h5ingest.core.sample_table import MEMBER
from h5ingest.images.archive_table import NO_FILE, Member, Opened, reason_of
from h5ingest.images.containers.container import Listing, text_of
from h5ingest.images.scan import HEAD_BYTES, Noted, Tally, note

AGAIN: Final = "member whose name comes again later, which counts"
"""Why a file of an archive is left out."""
_BESIDE: Final = (b".cls", b".json", b".txt")
_MOST_BYTES: Final = 2**20
"""Of what lies beside an image."""
_BEAT: Final = 256


def has_labels(names: Iterable[bytes]) -> bool:
    """Return whether an archive is a shard of WebDataset for sure."""
    return any(name.endswith(b".cls") for name in names)


def samples_in(
    opened: Opened, beat: Callable[[], None], tally: Tally, *, hidden: bool, sniff: bool
) -> Listing:
    """Return the samples in an archive.

    Args:
        opened: the archive.
        beat: called now and then; may raise.
        tally: counts what is found and left out.
        hidden: whether names that begin with a dot count.
        sniff: whether first bytes decide what an image is.
    """
    table = opened.table(beat)
    names = list(table.rows)
    members = {
        name: Member(*member)
        for name, member in zip(names, table.find(names, 0).tolist(), strict=True)
        if member[1] != NO_FILE
    }
    reader = _Reader(opened, beat)
    images, beside = list[bytes](), dict[bytes, dict[bytes, Member]]()
    for name, member in members.items():
        if not hidden and any(part.startswith(b".") and part != b"." for part in name.split(b"/")):
            tally.hidden += 1
            continue
        stem, ending = _split(name)
        if ending in _BESIDE:
            beside.setdefault(stem, {})[ending] = member
        elif tally.is_image(name, reader.head(name, member) if sniff else None):
            images.append(name)
    stems = [_split(name)[0] for name in images]
    beside = {stem: beside[stem] for stem in stems if stem in beside}
    columns: dict[str, list[bytes]] = {}
    paths: list[bytes] = []
    if beside:
        if len(set(stems)) < len(stems):
            twice = min(stem for stem, n in Counter(stems).items() if n > 1)
            these = [name.decode(errors="replace") for name in images if _split(name)[0] == twice]
            raise SampleError(
                "unsupported", f"expected one image in a sample, found {', '.join(these[:5])}"
            )
        for number, stem in enumerate(stems):
            about = reader.about(beside.get(stem, {}))
            paths.append(about.pop("path", b""))
            for column, cell in about.items():
                columns.setdefault(column, [b""] * number).append(cell)
            for cells in columns.values():
                cells += [b""] * (number + 1 - len(cells))
    else:
        images.sort()
    noted = dict(reader.noted)
    if table.n_repeated:
        noted[AGAIN] = table.n_repeated, table.repeated
    found = np.array([tuple(members[name]) for name in images], MEMBER)
    return Listing(
        names=images, members=found, columns=columns, paths=paths, problem=table.problem,
        noted=noted,
    )  # fmt: skip


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return the stem of a member, and what comes behind it.

    >>> _split(b"a.b/00001.seg.png")
    (b'a.b/00001', b'.seg.png')
    """
    at = name.find(b".", name.rfind(b"/") + 2)  # a hidden file has a stem, too
    return (name, b"") if at < 0 else (name[:at], name[at:].lower())


class _Reader:
    """Reads members, and counts the beats."""

    def __init__(self, opened: Opened, beat: Callable[[], None]) -> None:
        self._opened = opened
        self._beat = beat
        self._n_read = 0
        self.noted: Noted = {}

    def head(self, name: bytes, member: Member) -> tuple[bytes, int] | SampleError:
        """Return the first bytes of a member, and its size."""
        try:
            return self._read(member, HEAD_BYTES)
        except SampleError as error:
            return error

    def _read(self, member: Member, limit: int) -> tuple[bytes, int]:
        self._n_read += 1
        if self._n_read % _BEAT == 0:
            self._beat()
        if (wrong := reason_of(member.how)) is not None:
            raise wrong
        return self._opened.read(member, limit)

    def about(self, beside: dict[bytes, Member]) -> dict[str, bytes]:
        """Return the label and the columns of a sample."""
        found: dict[str, bytes] = {}
        for ending, member in sorted(beside.items(), key=lambda each: each[0] == b".cls"):
            data, size = self._read(member, _MOST_BYTES)
            if size > _MOST_BYTES:
                raise SampleError(
                    "too large", f"a {ending.decode()} of {size:,} bytes: at most {_MOST_BYTES:,}"
                )
            if ending == b".cls":
                found["label"] = data.strip()
            elif ending == b".txt":
                found["txt"] = data.strip()
            else:
                found |= self._of_json(data)
        return found

    def _of_json(self, data: bytes) -> dict[str, bytes]:
        try:
            about: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SampleError("damaged", f"a .json that is none ({error})") from None
        if not isinstance(about, dict):
            raise SampleError("unsupported", "expected names and values in a .json")
        found = {}
        for name, value in about.items():
            if isinstance(value, str | int | float | bool | None):
                found[name] = text_of(value)
            else:
                note(self.noted, "value in a .json that is not plain", name.encode())
        return found
