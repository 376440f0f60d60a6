"""`Outbox`: messages of a rank to rank 0 that nobody waits for.

May not: know what they mean, but for bytes that rank 0 is to write.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.mpi.comm import Comm, Request

TAG: Final = 3
BYTES: Final = -1
"""Begins a message of bytes: then come their offset, their number, and they themselves."""
_SEND_FROM: Final = 64 * 1024
"""Bytes that are sent together."""
_MOST_SENT: Final = 16 * 1024**2
"""Bytes under way, beyond which a rank waits: bounds its memory."""
_NAP_S: Final = 0.0005


class Outbox:
    """What one rank, not rank 0, has to tell it."""

    def __init__(self, comm: Comm) -> None:
        """Begin with nothing."""
        self._comm = comm
        self._bytes: list[NDArray[np.int64]] = []
        """Messages of bytes that are to be sent together."""
        self._n_held = 0
        """Their number of bytes."""
        self._sends: deque[tuple[Request, int]] = deque()
        """Under way, oldest first, and the bytes of each."""
        self.n_sent = 0
        """Messages so far."""

    def send(self, *values: int) -> None:
        """Send a message, after all bytes that have been put. Not collective; does not wait."""
        self.send_bytes()
        self._send(np.array(values, np.int64))

    def put(self, offset: int, data: bytes) -> None:
        """Send bytes that rank 0 is to write, sooner or later. May wait for rank 0."""
        message = np.zeros(3 + -(-len(data) // 8), np.int64)
        message[:3] = BYTES, offset, len(data)
        message[3:].view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        self._bytes.append(message)
        self._n_held += message.nbytes
        if self._n_held >= _SEND_FROM:
            self.send_bytes()
            while sum(n_bytes for _, n_bytes in self._sends) > _MOST_SENT:
                time.sleep(_NAP_S)
                self.forget_sent()

    def send_bytes(self) -> None:
        """Send the bytes that have been put."""
        if self._bytes:
            self._send(np.concatenate(self._bytes))
            self._bytes, self._n_held = [], 0

    def forget_sent(self) -> None:
        """Drop messages that have been sent."""
        while self._sends and self._sends[0][0].test():
            self._sends.popleft()

    def wait(self) -> None:
        """Wait until all have been sent."""
        while self._sends:
            time.sleep(_NAP_S)
            self.forget_sent()

    def _send(self, message: NDArray[np.int64]) -> None:
        self._sends.append((self._comm.send(0, TAG, message), message.nbytes))
        self.n_sent += 1


def take_bytes(message: NDArray[np.int64]) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) of what was put into a message."""
    while len(message):
        offset, n_bytes = message[1:3].tolist()
        end = 3 + -(-n_bytes // 8)
        yield offset, message[3:end].view(np.uint8)[:n_bytes].data
        message = message[end:]
