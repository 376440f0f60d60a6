"""Compressed files, unpacked once beside the output: `.tar.gz`, `.tar.zst`, `.gz` and their like.

What lies in a compressed stream cannot be read at an offset, and an image is read where and when it
is needed: by the rank that stores it, ahead of need, in a second look. So one rank goes through the
stream once, from its beginning to its end, and writes what comes out into a file of the job's own,
in the folder OUT.unpacked; members are read from there like those of a tar that was never packed.
That takes the space of the unpacked file until the job ends, which is about that of its images; but
each stream is read once, on any number of ranks, and not again by a job that goes on.

May not: know ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol

from h5ingest.core.errors import OutputError, SetupError, one_line

MOST_RATIO: Final = 250
"""Bytes that come out of each byte, at most, beyond `ALWAYS_BYTES`."""
ALWAYS_BYTES: Final = 2**30
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 4 * 1024**2
_NAME: Final = re.compile(rb"[0-9a-f]{32}\.(?:whole|damaged|part)\.\w+")
_DAMAGED: Final = (OSError, EOFError, zlib.error, ValueError, RuntimeError, MemoryError)
"""What the libraries raise, besides errors of their own."""


class Readable(Protocol):
    """What is read from beginning to end."""

    def read1(self, size: int, /) -> bytes:
        """Return the next bytes, as many as are there; none at the end."""


Stream = Callable[[BinaryIO], Readable]
"""Takes a compressed file, and gives what is in it."""


def is_compressed(path: bytes) -> bool:
    """Return whether a file is compressed as a whole, by its name."""
    return path.lower().endswith((b".gz", b".tgz", b".zst", b".tzst", b".bz2", b".xz"))


def opened(path: bytes, file: BinaryIO) -> Readable:
    """Return what is in a compressed file, as its name says.

    Raises:
        SetupError: the library for it is not installed.
    """
    name = path.lower()
    if name.endswith((b".gz", b".tgz")):
        import gzip

        return gzip.open(file)
    if name.endswith(b".bz2"):
        import bz2

        return bz2.BZ2File(file)
    if name.endswith(b".xz"):
        import lzma

        return lzma.LZMAFile(file)
    try:
        import zstandard
    except ImportError:
        raise SetupError(
            f"{os.fsdecode(path)}: to read it the package zstandard is needed: "
            f"pip install 'h5ingest[zstd]'"
        ) from None
    reader: Readable = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return reader


class Unpacker:
    """Unpacks files into a folder, which is made when it is needed."""

    def __init__(self, folder: bytes | None = None, *, near: bytes | None = None) -> None:
        """Make nothing yet.

        Args:
            folder: of the job: what has been unpacked there before is taken, and stays; None: a
                new one, for this object alone.
            near: where a new one is made; None: where the system has its temporary files.
        """
        self._folder = folder
        self._near = near
        self._is_private = folder is None

    def unpack(
        self,
        path: bytes,
        inner: bytes,
        about: tuple[int, int],
        ending: bytes,
        beat: Callable[[], None],
        stream: Stream | None = None,
    ) -> tuple[bytes, str]:
        """Return the path of the unpacked file, and what is wrong with the packed one.

        Args:
            path: of the packed one, absolute.
            inner: what of it is meant; see `Opened`.
            about: its size in bytes, and the time of its last change in ns.
            ending: of the name of the unpacked file, with its dot.
            beat: called now and then; may raise.
            stream: how it is unpacked; None: as its name says.

        Raises:
            OSError: the file cannot be read.
            OutputError: what is unpacked cannot be written.
            SetupError: the library for it is not installed.
        """
        text = b"%s\0%s\0%d\0%d" % (path, inner, *about)
        key = hashlib.sha256(text).hexdigest()[:32].encode()
        most = max(ALWAYS_BYTES, about[0] * MOST_RATIO)
        with open(path, "rb") as file, self._explained():
            whole, damaged, part = (
                os.path.join(self._made_folder(), key + b"." + state + ending)
                for state in (b"whole", b"damaged", b"part")
            )
            if os.path.exists(whole):
                return whole, ""
            with open(part, "wb", opener=lambda name, _: os.open(name, _FLAGS, 0o666)) as out:
                problem = _copy(file, stream or (lambda f: opened(path, f)), out, most, beat)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, damaged if problem else whole)
        return damaged if problem else whole, problem

    def _made_folder(self) -> bytes:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix=b".h5ingest-", dir=self._near)
        os.makedirs(self._folder, exist_ok=True)
        return self._folder

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            where = os.fsdecode(self._folder or self._near or b"the folder of temporary files")
            raise OutputError(
                f"{where}: cannot be unpacked into: {error.strerror}; what is unpacked takes its "
                f"space until the job ends"
            ) from None

    def close(self) -> None:
        """Remove what is this object's alone."""
        if self._is_private and self._folder is not None:
            discard_unpacked(self._folder)


def _copy(
    file: BinaryIO, stream: Stream, out: BinaryIO, most: int, beat: Callable[[], None]
) -> str:
    """Copy what is in a compressed file; return what is wrong with it."""
    n_bytes = 0
    source: Readable | None = None
    while True:
        beat()
        try:
            source = source or stream(file)
            block = source.read1(_BLOCK)  # not read: what comes before an error counts
        except SetupError:
            raise
        except _damaged() as error:
            return f"cannot be unpacked beyond {n_bytes:,} bytes ({one_line(error)})"
        n_bytes += len(block)
        if n_bytes > most:
            return f"unpacks to more than {most:,} bytes: {MOST_RATIO} times its size"
        if not block:
            return ""
        out.write(block)


def _damaged() -> tuple[type[Exception], ...]:
    """Return what the libraries that are in use raise of a damaged file."""
    own = (("lzma", "LZMAError"), ("zstandard", "ZstdError"))
    return *_DAMAGED, *(getattr(sys.modules[m], name) for m, name in own if m in sys.modules)


def discard_unpacked(folder: bytes) -> None:
    """Remove all that has been unpacked there, and the folder if nothing else is in it.

    Raises:
        OSError: the system refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if _NAME.fullmatch(name):
                os.unlink(os.path.join(folder, name))
        with contextlib.suppress(OSError):  # somebody else's files are in it
            os.rmdir(folder)
