"""An LMDB of image files: the key is the path of an image, and the value its file.

Under the key `manifest.csv` lies the manifest, as in other archives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

from xxhash import xxh3_64_hexdigest

from h5ingest.core.errors import SetupError
from h5ingest.core.units import MIB
from h5ingest.exports.members import Cells, Member

_LONGEST_KEY: Final = 511
"""Bytes (MDB_MAXKEYSIZE)."""
_MOST_RECORDS: Final = 256
_MOST_BYTES: Final = 32 * MIB
"""Of a transaction."""
_STEP: Final = 64 * MIB
"""By which the map grows at least."""


def lmdb_module() -> Any:
    """Return the library; raise `SetupError` if it is not installed."""
    try:
        import lmdb  # an extra
    except ImportError:
        raise SetupError("an LMDB needs a library: pip install 'h5ingest[lmdb]'") from None
    return lmdb


def fitted_key(name: bytes) -> bytes:
    """Return a name as LMDB can have it: of a longer one the end is a hash.

    >>> fitted_key(b"cat/1.png"), len(fitted_key(b"x" * 1000))
    (b'cat/1.png', 511)
    """
    if len(name) <= _LONGEST_KEY:
        return name
    end = b"~" + xxh3_64_hexdigest(name).encode()
    return name[: _LONGEST_KEY - len(end)] + end


class Lmdb:
    """An LMDB in one file, without a lock; see `members.Archive`.

    Records are written some at a time, always the same ones together: so the bytes of the file do
    not depend on the number of ranks.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Begin in a file that is empty."""
        self._lmdb, self._size = lmdb_module(), _STEP
        with self._errors():
            self._env = self._lmdb.open(
                file.name, subdir=False, lock=False, map_size=self._size, sync=False
            )
        self._records: list[tuple[bytes, bytes]] = []
        self._n_bytes = 0

    def add(self, row: Sequence[Member], cells: Cells = ()) -> None:
        self._records += row
        self._n_bytes += sum(len(data) for _, data in row)
        if len(self._records) >= _MOST_RECORDS or self._n_bytes >= _MOST_BYTES:
            self._flush()

    def _flush(self) -> None:
        while self._records:
            with self._errors():
                try:
                    with self._env.begin(write=True) as transaction:
                        for name, data in self._records:
                            transaction.put(name, data)
                except self._lmdb.MapFullError:
                    self._size += max(_STEP, self._size, 2 * self._n_bytes)
                    self._env.set_mapsize(self._size)
                    continue
            self._records, self._n_bytes = [], 0

    def close(self) -> None:
        self._flush()
        with self._errors():
            self._env.sync(True)
        self._env.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise an error of LMDB's as `OSError`: mostly the disk is full."""
        try:
            yield
        except self._lmdb.Error as error:
            raise OSError(f"LMDB: {error}") from None

    def give_up(self) -> None:
        self._env.close()
