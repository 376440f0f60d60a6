"""Which paths of a manifest are in a file already, where each rank has a part of both.

A path goes to the rank that its hash names, and is compared there with all others that went there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.packed_strings import PackedStrings
from h5ingest.mpi.comm import Comm

_AT_ONCE: Final = 64 * 1024
"""Paths, about, that a rank compares at once: so memory does not grow with their number."""


def find_known(
    comm: Comm, stored: PackedStrings | Sequence[bytes], new: PackedStrings | Sequence[bytes]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which paths occur on the other side, too, on whichever ranks. Collective.

    Args:
        comm: the ranks.
        stored: (n,) paths in the file, this rank's.
        new: (m,) paths of the manifest, this rank's.

    Returns:
        (n,) and (m,).
    """
    n_all = sum(comm.allgather(len(stored) + len(new)))
    n_rounds = 1 + n_all // (comm.size * _AT_ONCE)
    dealt = [_dealt(side, n_rounds * comm.size) for side in (stored, new)]
    found = np.zeros(len(stored), np.bool_), np.zeros(len(new), np.bool_)
    for first in range(0, n_rounds * comm.size, comm.size):
        here = [[each[first + rank] for each in dealt] for rank in range(comm.size)]
        told = comm.exchange(
            [
                ([stored[k] for k in in_file.tolist()], [new[k] for k in in_manifest.tolist()])
                for in_file, in_manifest in here
            ]
        )
        common = {*chain.from_iterable(paths for paths, _ in told)}
        common &= {*chain.from_iterable(paths for _, paths in told)}
        answers = comm.exchange(
            [tuple(np.array([p in common for p in side], np.bool_) for side in of) for of in told]
        )
        for of, answer in zip(here, answers, strict=True):
            for is_known, places, known in zip(found, of, answer, strict=True):
                is_known[places] = known
    return found


def _dealt(paths: PackedStrings | Sequence[bytes], n: int) -> list[NDArray[np.int64]]:
    """Return the positions of the paths that go to each of n places."""
    place = np.fromiter(map(xxh3_64_intdigest, paths), np.uint64, len(paths)) % np.uint64(n)
    order = np.argsort(place, kind="stable")
    return np.split(order, np.searchsorted(place[order], np.arange(1, n, dtype=np.uint64)))
