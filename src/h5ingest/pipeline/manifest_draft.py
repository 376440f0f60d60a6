"""`Draft`: a manifest that h5ingest writes, in files without a name until it is complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, Final, Self

from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.manifest import file_sha256
from h5ingest.core.outfiles import INDEX, MANIFEST, Kind, check, write
from h5ingest.images.header_index import index_of
from h5ingest.images.scan import ScanOptions

REMEDY: Final = (
    "Nothing is stored, as there may be more in it than can be found. Get a whole copy; or take "
    "what is intact with --on-error blank."
)
"""What to do about a damaged archive."""
_BLOCK: Final = 2**20
_BEAT_LINES: Final = 4096


@contextlib.contextmanager
def explained(out: Path | BinaryIO) -> Iterator[None]:
    """Run a block that writes the manifest; what the system refuses is an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        name = out if isinstance(out, Path) else "standard output"
        raise OutputError(f"{name}: cannot be written: {error.strerror}") from None


def check_out(out: Path | BinaryIO, options: ScanOptions) -> None:
    """Raise if a manifest cannot be written there, before any work is done.

    Raises:
        UsageError: the index has no place.
        OutputError: something is there already.
    """
    if not isinstance(out, Path):
        if options.index:
            raise UsageError("--index is written beside the manifest: name a file with --out")
        return
    if options.index:
        check(index_of(out), INDEX)
    check(out, MANIFEST)
    if not options.overwrite and os.path.lexists(out):
        raise OutputError(f"{out}: exists; --overwrite replaces it")


class Draft:
    """The lines as far as they are known, and a record for each. Rank 0 fills and writes them."""

    lines: BinaryIO
    """The manifest."""
    records: BinaryIO
    """What goes with it, as many bytes for each line. Both are there when it has begun."""

    def __init__(self, source: Path, out: Path | BinaryIO, *, overwrite: bool) -> None:
        """Prepare; makes no file yet.

        Args:
            source: what the manifest is of, for messages.
            out: where it goes.
            overwrite: whether another one there is replaced.
        """
        self.out = out
        self._source = source
        self._overwrite = overwrite
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def begin(self) -> None:
        """Make the files."""
        self.lines, self.records = self.temporary(), self.temporary()

    def temporary(self) -> BinaryIO:
        """Return a file without a name: no scan finds it, and it disappears whatever happens."""
        home = self.out.parent if isinstance(self.out, Path) else None
        with explained(self.out):
            return self._files.enter_context(tempfile.TemporaryFile(dir=home))

    def arrange(
        self,
        options: ScanOptions,
        columns: Sequence[str],
        prefixes: Sequence[bytes],
        *,
        comma: bool,
        beat: Callable[[], None],
    ) -> None:
        """Sort the lines and add the column `split`, where that is asked for.

        Args:
            options: ask for it.
            columns: behind the path.
            prefixes: what paths begin with that does not count.
            comma: see `Form`.
            beat: called now and then.

        Raises:
            UsageError, ManifestError: see `arrangement.arrange`.
        """
        if options.sort == "name" and options.split is None:
            return
        from h5ingest.images.arrangement import Split, arrange  # seldom asked for

        split = None
        if options.split is not None:
            split = Split.parse(
                options.split,
                seed=options.seed,
                stratify=options.stratify,
                keep_together=options.keep_together,
            )
        with explained(self.out):
            targets = self.temporary(), self.temporary()
            arrange(
                self.lines,
                self.records,
                targets,
                ("path", *columns),
                prefixes,
                comma=comma,
                natural=options.sort == "natural",
                split=split,
                beat=beat,
            )
        self.lines, self.records = targets

    def publish(self, beat: Callable[[], None]) -> str:
        """Give the lines their name; `beat` is called now and then.

        Returns:
            The SHA-256 of the file; empty for a stream.
        """
        out = self.out
        with explained(out):
            if not isinstance(out, Path):
                _copy(self.lines, out, beat)
                out.flush()
                return ""
            write(out, lambda f: _copy(self.lines, f, beat), MANIFEST, replace=self._overwrite)
            return file_sha256(out)

    def publish_records(
        self, path: Path, kind: Kind, first: bytes, beat: Callable[[], None]
    ) -> None:
        """Write the records to a file of their own, behind a first line."""
        with explained(path):
            write(path, lambda f: _copy(self.records, f, beat, first), kind)

    def compare(self, earlier: Path, beat: Callable[[], None]) -> None:
        """Raise if a manifest is another one; `beat` is called now and then.

        Raises:
            OutputError: it is, or it cannot be read.
        """
        self.lines.seek(0)
        with explained(earlier), earlier.open("rb") as file:
            for number, (then, now) in enumerate(zip_longest(file, self.lines, fillvalue=b"")):
                if then != now:
                    raise OutputError(
                        f"{self._source}: has changed since the unfinished job here began: where "
                        f"it had {_shown(then)} there is {_shown(now)} now. Make it as it was, and "
                        f"start the same command again to go on; or begin anew with --restart."
                    )
                if number % _BEAT_LINES == 0:
                    beat()


def _shown(line: bytes) -> str:
    return repr(line.decode("utf-8", "backslashreplace").rstrip("\n")) if line else "nothing"


def _copy(source: BinaryIO, target: BinaryIO, beat: Callable[[], None], first: bytes = b"") -> None:
    """Write some bytes and all of `source` to `target`."""
    source.seek(0)
    target.write(first)
    while block := source.read(_BLOCK):
        target.write(block)
        beat()
