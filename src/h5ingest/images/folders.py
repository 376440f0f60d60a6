"""The files below a folder, in the order of the bytes of their paths.

What is in the folders is found out first, level by level, so that many can be looked into at once;
then they are gone through in order, which decides alone what is entered. The names of all files are
held meanwhile.

May not: open a file, know ranks.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from h5ingest.images.prefetch import SLOW_S
from h5ingest.images.scan import UNREAD, Noted, Tally, add_notes, note

_DEVICE: Final = "FIFO, socket or device"
_TRIED: Final = 16
"""Names whose kinds tell whether the system lists kinds, or has to be asked for each."""


@dataclass(slots=True)
class Folder:
    """What is in a folder."""

    identity: tuple[int, int] | None = None
    """Its device and inode; None if the system does not tell."""
    names: bytes = b""
    """Names of files and folders, sorted, with zeros between them; those of folders end in a
    slash."""
    folders: list[bytes] = field(default_factory=list)
    """Those of folders."""
    unsure: list[bytes] = field(default_factory=list)
    """Names of what may be a file or a folder: of links, and where listing does not tell."""
    hidden: int = 0
    """Entries left out because their names begin with a dot."""
    noted: Noted = field(default_factory=dict)
    """What the user should know, by reason: names in the folder, or an empty one for itself."""
    links: dict[bytes, bytes] = field(default_factory=dict)
    """Of the folders, those that are links: what they lead to, without links."""
    below: dict[bytes, Folder] = field(default_factory=dict)
    """What is in the folders that have been looked into."""


def look_into(path: bytes, *, hidden: bool) -> Folder:
    """Return what is in a folder; `links` and `below` are empty yet.

    Args:
        path: the folder, ending in a slash.
        hidden: whether names that begin with a dot count.
    """
    folder = Folder()
    files, devices, n_tried, n_slow = [], [], 0, 0
    try:
        status = os.stat(path)
        folder.identity = status.st_dev, status.st_ino
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b".") and not hidden:
                    folder.hidden += 1
                    continue
                if n_tried < _TRIED:
                    started_s = time.perf_counter()
                    entry.is_dir(follow_symlinks=False)
                    n_slow += time.perf_counter() - started_s > SLOW_S
                    n_tried += 1
                elif n_slow > _TRIED // 2:
                    folder.unsure.append(name)
                    continue
                if entry.is_file(follow_symlinks=False):
                    files.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    folder.folders.append(name + b"/")
                elif entry.is_symlink():
                    folder.unsure.append(name)
                else:
                    devices.append(name)
    except OSError as error:  # what was listed before the error counts
        note(folder.noted, f"{UNREAD} ({error.strerror})", b"")
    for name in sorted(devices):
        note(folder.noted, _DEVICE, name)
    folder.unsure.sort()
    folder.names = b"\0".join(sorted(files + folder.folders))
    return folder


Kind = tuple[bytes, bytes, str]
"""What a name ends in, a slash for a folder; if that is a link, what it leads to; and, if it is
neither file nor folder, the reason to note."""


def kind_of(path: bytes) -> Kind:
    """Return what a name means, whether it is a link or not."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return b"", b"", f"broken link ({error.strerror})"
    if stat.S_ISDIR(mode):
        return b"/", os.path.realpath(path) if os.path.islink(path) else b"", ""
    return b"", b"", "" if stat.S_ISREG(mode) else _DEVICE


class Walk:
    """Iterates over the files below a folder, as paths relative to it.

    A link to a file counts as a file. A link to a folder is followed, but no folder is entered
    twice (device and inode): a folder that is reached without the link keeps its own path, and a
    link to a folder above is a loop.
    """

    def __init__(
        self,
        base: bytes,
        tally: Tally,
        deal: Callable[[str, Iterable[bytes]], Iterator[list[Any]]],
        *,
        hidden: bool,
    ) -> None:
        """Prepare; looks at nothing.

        Args:
            base: the folder, ending in a slash.
            tally: counts what is left out.
            deal: asks about paths: for "folders" it yields lists of what `look_into` returns for
                each, for "names" of what `kind_of` does.
            hidden: whether names that begin with a dot count.
        """
        self._base = base
        self._tally = tally
        self._deal = deal
        self._hidden = hidden
        self._known: dict[tuple[int, int], Folder] = {}
        self._entered: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[bytes]:
        # Folders sort with the slash that their paths go on with: so depth first is byte order.
        # A stack, since folders may be nested more deeply than Python calls.
        # level: (path with its slash, what it is, names left, real paths of the links followed)
        top: tuple[bytes, ...] = (os.path.realpath(self._base),)
        folder = self._find(b"", top)
        stack = [(b"", folder, self._enter(b"", folder), top)]
        while stack:
            path, folder, names, through = stack[-1]
            for name in names:
                if not name.endswith(b"/"):
                    yield path + name
                    continue
                inner, then = path + name, through
                if (target := folder.links.get(name)) is not None:
                    if self._again(target, through):
                        self._leave_out(inner)
                        continue
                    then = (*through, target)
                found = folder.below.pop(name, None) or self._find(inner, then)
                if found.identity in self._entered:
                    self._leave_out(inner)
                    continue
                stack.append((inner, found, self._enter(inner, found), then))
                break
            else:
                stack.pop()

    def _enter(self, path: bytes, folder: Folder) -> Iterator[bytes]:
        """Note that a folder is entered, and return the names in it."""
        if folder.identity is not None:
            self._entered.add(folder.identity)
        self._tally.hidden += folder.hidden
        add_notes(self._tally.noted, folder.noted, path)
        names, folder.names = folder.names, b""
        return iter(names.split(b"\0") if names else ())

    def _leave_out(self, path: bytes) -> None:
        note(self._tally.noted, "link to a folder that is scanned anyway, or a loop", path)

    def _find(self, path: bytes, through: tuple[bytes, ...]) -> Folder:
        """Return what is in a folder, with all that is below it and has not been looked into yet.

        Args:
            path: the folder.
            through: real paths of the links on the way to it.
        """
        top = Folder()
        level = [(top, b"", path, through)]
        while level:
            below = []
            found = self._look_into([path for _, _, path, _ in level])
            for (parent, name, path, through), folder in zip(level, found, strict=True):
                known = folder
                if folder.identity is not None:
                    known = self._known.setdefault(folder.identity, folder)
                parent.below[name] = known
                if known is not folder:
                    continue
                for inner in folder.folders:
                    target = folder.links.get(inner)
                    if target is None:
                        below.append((folder, inner, path + inner, through))
                    elif not self._again(target, through):
                        below.append((folder, inner, path + inner, (*through, target)))
            level = below
        return top.below[b""]

    def _look_into(self, paths: list[bytes]) -> list[Folder]:
        """Return what is in each of these folders, names of unsure kind sorted in."""
        full = [self._base + path for path in paths]
        found: list[Folder] = list(chain.from_iterable(self._deal("folders", full)))
        unsure = [
            path + name for path, folder in zip(full, found, strict=True) for name in folder.unsure
        ]
        kinds: Iterator[Kind] = chain.from_iterable(self._deal("names", unsure))
        for folder in found:
            more = []
            for name, (end, target, reason) in zip(folder.unsure, kinds, strict=False):
                if reason:
                    note(folder.noted, reason, name)
                    continue
                more.append(name + end)
                if end:
                    folder.folders.append(name + end)
                if target:
                    folder.links[name + end] = target
            if more:
                names = folder.names.split(b"\0") if folder.names else []
                folder.names = b"\0".join(sorted(names + more))
            folder.unsure = []
        return found

    def _again(self, target: bytes, through: tuple[bytes, ...]) -> bool:
        """Return whether a link, followed after others, leads to what is scanned without it."""
        return any(self._reaches(one, target) or _below(target, one) for one in through)

    def _reaches(self, scanned: bytes, target: bytes) -> bool:
        """Return whether a scan of `scanned` reaches `target` without links (real paths)."""
        if not _below(scanned, target):
            return False
        between = target[len(scanned) :].split(b"/")
        return self._hidden or not any(name.startswith(b".") for name in between)


def _below(folder: bytes, path: bytes) -> bool:
    """Return whether `path` is `folder` or lies below it; both are real paths."""
    return path == folder or path.startswith(os.path.join(folder, b""))
