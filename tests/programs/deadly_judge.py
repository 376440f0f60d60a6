"""A judge (`h5ingest.inspect.judge`) that some rows of some datasets end, as a library may.

The environment variable DEADLY has JSON: a list of [name of a dataset, row, how]. Whoever reads the
row, with others or alone, or opens the dataset (row -1), is ended by SIGSEGV or another signal by
its name, by `exit`, or by a `loop` without end; `later` is SIGSEGV once 3 rows have been read.

Imported by a process that a test lets `verify` start.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import h5py

from h5ingest.images import decode
from h5ingest.inspect import judge

DEADLY = json.loads(os.environ["DEADLY"])
_read, _open, _probe = h5py.Dataset.__getitem__, h5py.h5o.open, decode.probe
_n_read = 0


def die(how: str) -> None:
    global _n_read
    _n_read += 1
    if how == "exit":
        os._exit(3)
    if how == "later" and _n_read < 3:
        return
    while how == "loop":
        pass
    os.kill(os.getpid(), signal.SIGSEGV if how == "later" else signal.Signals[how])


def read(self: Any, wanted: Any, **how: Any) -> Any:
    for name, row, end in DEADLY:
        if row >= 0 and self.name == name and row in range(len(self))[wanted]:
            die(end)
    return _read(self, wanted, **how)


def open_(file: Any, wanted: bytes, **how: Any) -> Any:
    found = _open(file, wanted, **how)
    for name, row, end in DEADLY:
        if row < 0 and h5py.h5i.get_name(found) == name.encode():
            die(end)
    return found


def probe(data: bytes, **how: Any) -> Any:
    for name, _, end in DEADLY:
        if name == "source" and b"deadly" in data:
            die(end)
    return _probe(data, **how)


def main(pipe: int) -> None:
    h5py.Dataset.__getitem__, h5py.h5o.open, decode.probe = read, open_, probe
    judge.main(pipe)
