"""Where a measurement was made, in words, without naming the machine or its folders."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from h5ingest import __version__
from h5ingest.core.units import size
from h5ingest.storage.file_systems import look


def describe(folder: Path, libraries: tuple[str, ...]) -> dict[str, str]:
    """Return processor, memory, file system of `folder`, versions of `libraries`."""
    mount = look(folder).mount
    processor = _entry("/proc/cpuinfo", "model name", "Model", "cpu") or platform.machine()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} usable",
        "memory": size(_memory()),
        "file system": mount.name if mount else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "h5ingest": __version__,
        **{name: _version(name) for name in libraries},
    }


def load() -> float:
    """Return the processes that wanted to run, on average over the last minute."""
    return os.getloadavg()[0]


def memory_available() -> int:
    """Return the bytes that can be allocated without swapping."""
    told = _entry("/proc/meminfo", "MemAvailable")  # "123 kB"
    return int(told.split()[0]) * 1024 if told else _memory()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _entry(file: str, *names: str) -> str:
    """Return the first value in a file of /proc that has one of these names; empty if none has."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                return " ".join(value.split())
    return ""


def _version(name: str) -> str:
    """Return the version of a Python package, and of the C library that it wraps."""
    version = importlib.metadata.version(name)
    if name == "h5py":
        return f"{version} with HDF5 {importlib.import_module('h5py').version.hdf5_version}"
    if name == "lmdb":
        wrapped = ".".join(map(str, importlib.import_module("lmdb").version()))
        return f"{version} with LMDB {wrapped}"
    return version
