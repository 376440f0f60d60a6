"""Which paths of a manifest are in a file already, where each rank has a part of both.

A path goes, as a hash of 128 bits, to the rank that its hash names: so none has to hold all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from h5ingest.mpi.comm import Comm

_HASH: Final = np.dtype("V16")


def find_known(
    comm: Comm, stored: Iterable[bytes], new: Iterable[bytes]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which paths occur on the other side, too, on whichever ranks. Collective.

    Args:
        comm: the ranks.
        stored: (n,) paths in the file, this rank's.
        new: (m,) paths of the manifest, this rank's.

    Returns:
        (n,) and (m,).
    """
    sides = [_hashes(stored), _hashes(new)]
    owners = [side.view("<u8")[::2] % np.uint64(comm.size) for side in sides]
    sent = [[np.flatnonzero(owner == rank) for rank in range(comm.size)] for owner in owners]
    told = comm.exchange(
        [tuple(side[k[rank]] for side, k in zip(sides, sent, strict=True)) for rank in _all(comm)]
    )
    asked = [[of_rank[side] for of_rank in told] for side in (0, 1)]
    common = np.intersect1d(np.concatenate(asked[0]), np.concatenate(asked[1]))
    answers = comm.exchange(
        [tuple(np.isin(parts[rank], common) for parts in asked) for rank in _all(comm)]
    )
    found = [np.zeros(len(side), np.bool_) for side in sides]
    for rank, answer in enumerate(answers):
        for is_known, places, known in zip(found, sent, answer, strict=True):
            is_known[places[rank]] = known
    return found[0], found[1]


def _all(comm: Comm) -> Sequence[int]:
    return range(comm.size)


def _hashes(paths: Iterable[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(map(xxh3_128_digest, paths)), _HASH)
