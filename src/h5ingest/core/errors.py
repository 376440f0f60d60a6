"""What can go wrong, one class and one exit code per kind.

    IngestError             1  what all others are; itself never raised
    ├── UsageError          2  an option or argument that cannot be
    ├── SamplesFailedError  3  images could not be read, or do not fit together
    ├── ManifestError       4  the manifest says something it cannot mean
    ├── OutputError         5  the output exists, has no space, no permission
    │   └── StorageError    5  the system or HDF5 refused to read or write it
    ├── SetupError          6  MPI, HDF5 or a codec is missing or does not fit
    └── StoppedError       75  asked to stop; the same command goes on from here

These are errors of the *job*: all ranks agree on one of them and raise it together (`comm.agree`).
A *sample* that cannot be read does not end the job: the code that reads and decodes it raises
`SampleError`, which the rank catches and keeps as a value, `Failure`. Any other exception is a bug.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final, TypeVar

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 1
EXIT_STOPPED: Final = 75
"""EX_TEMPFAIL of sysexits.h: started again, the same command goes on from here."""


class IngestError(Exception):
    """The job cannot go on, for a reason that the user can act on."""

    exit_code: int = EXIT_INTERNAL
    """What the process exits with; the same through mpirun and srun."""
    agreed: bool = False
    """Whether every rank raises this error (`comm.agree`), so that unwinding it is safe."""


class UsageError(IngestError, ValueError):
    """An option or argument that cannot be."""

    exit_code = 2


class SamplesFailedError(IngestError):
    """Images could not be read, or do not fit together."""

    exit_code = 3

    def __init__(self, message: str, failures: Sequence[Failure] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)
        """All of them, on rank 0."""


class ManifestError(IngestError, ValueError):
    """The manifest says something it cannot mean; the message names the file and the line."""

    exit_code = 4


class OutputError(IngestError, OSError):
    """The output exists, or cannot be written."""

    exit_code = 5


class StorageError(OutputError):
    """The system or HDF5 refused to read or write: the place itself may be the reason."""


class SetupError(IngestError, RuntimeError):
    """MPI, HDF5 or a codec is missing here, or they do not fit each other."""

    exit_code = 6


class StoppedError(IngestError):
    """A signal asked to stop; the same command, started again, goes on from here."""

    exit_code = EXIT_STOPPED


NO_COMMENTS: Final = "a manifest has no comments: take away lines that begin with #"
_BEHIND_ENDING: Final = re.compile(r"\.[a-zA-Z]{3,4}([,;| ])[^./]*$")
"""What may separate path and label, where a manifest was taken for a list of paths."""

ErrorT = TypeVar("ErrorT", bound=IngestError)


class NothingNewError(IngestError):
    """There is nothing to add to a file. Caught by the job, and never shown."""


_BY_NAME: Final = {cls.__name__: cls for cls in (*IngestError.__subclasses__(), StorageError)}


def to_plain(error: IngestError) -> tuple[str, str]:
    """Return (class name, message): plain values, since no exception object crosses ranks."""
    return type(error).__name__, str(error)


def from_plain(plain: tuple[str, str]) -> IngestError:
    """Return the error that `to_plain` took apart, as one that all ranks agree on.

    >>> from_plain(("OutputError", "out.h5 exists")).exit_code
    5
    """
    name, message = plain
    return agreed(_BY_NAME[name](message))


def agreed(error: IngestError) -> IngestError:
    """Return the error, marked as one that every rank raises."""
    error.agreed = True
    return error


def extended(error: ErrorT, text: str) -> ErrorT:
    """Return the error with more words, in lines of their own."""
    more = copy(error)
    more.args = (f"{error}\n{text}",)
    return more


class MisfitError(Exception):
    """An image is not as was expected before its header was read.

    Raised on all ranks together, caught by the job, and never shown.
    """


class SampleError(Exception):
    """One sample cannot be read. Raised in `images/`; caught where a rank goes through samples."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        """One of the kinds listed at `Failure.kind`."""
        self.reason = reason
        """One sentence for the user."""

    def at(self, index: int, path: bytes) -> Failure:
        """Return this as the failure of the sample with this index and path."""
        return Failure(index=index, path=os.fsdecode(path), kind=self.kind, reason=self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one sample could not be stored. A value: it is gathered, counted and reported."""

    index: int
    """Global 0-based index of the sample: its data line in the manifest, blank ones left out."""
    path: str
    """The path as the manifest has it (undecodable bytes as surrogates)."""
    kind: str
    """`missing`, `unreadable`, `not an image`, `damaged`, `unsupported`, `too large`, `changed`;
    `sizes`: of the images of a row."""
    reason: str
    """One sentence for the user."""


def describe_failures(
    failures: Sequence[Failure],
    lines_of: Callable[[Sequence[int]], Mapping[int, int]],
    *,
    first: int = 10,
) -> str:
    """Return a count per kind, then the first few by line and name.

    Args:
        failures: in any order.
        lines_of: from indices to lines of the manifest, see `Manifest.lines_of`.
        first: how many are named.

    >>> gone = Failure(index=3, path="a.png", kind="missing", reason="gone")
    >>> print(describe_failures([gone], lambda indices: {3: 5}))
    1 missing
      line 5: a.png: gone
    """
    counts = Counter(failure.kind for failure in failures).most_common()
    lines = [", ".join(f"{n:,} {kind}" for kind, n in counts), *odd_names(failures)]
    shown = sorted(failures, key=lambda failure: failure.index)[:first]
    numbers = lines_of([failure.index for failure in shown])
    lines += [f"  {where(f.index, numbers)}: {f.path}: {f.reason}" for f in shown]
    if len(failures) > len(shown):
        lines.append(
            f"  … and {len(failures) - len(shown):,} more (--report FILE.json lists them all)"
        )
    return "\n".join(lines)


def odd_names(failures: Sequence[Failure]) -> Iterator[str]:
    """Yield why files may be missing whose names look like what other programs write in lists."""
    paths = [failure.path for failure in failures if failure.kind == "missing"]
    if any(path.startswith(('"', "'")) and path.endswith(path[0]) for path in paths):
        yield (
            "(quotes are part of a path in a list of paths: take them away; in a .csv with a first "
            "line of column names, double quotes enclose a cell)"
        )
    if any(path.startswith("#") for path in paths):
        yield f"({NO_COMMENTS})"
    found = [_BEHIND_ENDING.search(path) for path in paths if not path.startswith("#")]
    marks = {mark and mark[1] for mark in found}
    if len(marks) == 1 and (mark := marks.pop()):
        yield f"(if {mark!r} separates path and label: add --delimiter {mark!r})"


def one_of(names: Sequence[str], *, most: int = 10) -> str:
    """Return the names that may be chosen, for a message; of many, the first.

    >>> one_of(["a", "b"]), one_of(["a", "b", "c"], most=1)
    ('one of a, b', 'one of a, … (3)')
    """
    shown = ", ".join(names[:most])
    return f"one of {shown}, … ({len(names):,})" if len(names) > most else f"one of {shown}"


def where(index: int, lines: Mapping[int, int]) -> str:
    """Return how a message names a sample: by its line, if the manifest can still tell.

    >>> where(3, {3: 5}), where(4, {})
    ('line 5', 'sample 4')
    """
    return f"line {lines[index]}" if index in lines else f"sample {index}"


def cut_short(error: BaseException) -> str:
    """Return what an error of HDF5 says of a file whose end is missing; empty: it is another one.

    >>> cut_short(OSError("(truncated file: eof = 9, sblock->base_addr = 0, stored_eof = 1200)"))
    'expected 1,200 bytes, found 9: the end is missing, as after a copy that was cut short'
    """
    cut = re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", str(error))
    if cut is None:
        return ""
    found, expected = map(int, cut.groups())
    return (
        f"expected {expected:,} bytes, found {found:,}: the end is missing, as after a copy that "
        f"was cut short"
    )


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; its class name if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
