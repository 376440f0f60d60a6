"""The libraries in use, with their versions, or why they cannot be imported.

May not: change anything. mpi4py is imported through `mpi.world`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

_IMPORT_LIMIT_S: Final = 120
"""A Python environment on a busy shared file system may take a minute to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """What can be imported, and what cannot."""

    h5py: str = ""
    hdf5: str = ""
    """Version of the HDF5 library that h5py uses."""
    parallel: bool = False
    """Whether h5py can write a file from several ranks."""
    mpi4py: str = ""
    mpi: str = ""
    """Name and version of the MPI library that mpi4py uses."""
    mpi_files: tuple[str, ...] = ()
    """Shared libraries of MPI in the process; two of them cannot work together."""
    decoder: str = ""
    libpng: str = ""
    """Version of the libpng that decodes palettes."""
    codecs: tuple[str, ...] = ()
    """Codecs that --compression accepts here."""
    tried: dict[str, list[str]] = field(default_factory=dict)
    """Codec -> images that it does not give back, and by what; empty: none was tried."""
    trial_ended: str = ""
    """How the process ended in which they were tried, if it did not live to tell."""
    errors: tuple[str, ...] = ()
    """What could not be imported, and why."""

    @property
    def hdf5_version(self) -> tuple[int, ...]:
        """For comparisons."""
        return tuple(int(part) for part in re.findall(r"\d+", self.hdf5)[:3])

    @property
    def mpi_family(self) -> str:
        """`open mpi`, `mpich` (or one of its descendants), or empty."""
        if "open mpi" in self.mpi.lower():
            return "open mpi"
        is_mpich = re.search("mpich|mvapich|intel|cray", self.mpi, re.IGNORECASE)
        return "mpich" if is_mpich else ""

    @property
    def mpi_version(self) -> tuple[int, ...]:
        """For comparisons."""
        found = re.search(r"\d+(\.\d+)+", self.mpi)
        return tuple(int(part) for part in found[0].split(".")) if found else ()


def import_apart() -> Libraries:
    """Import the libraries, and try the codecs, in another process, since that may crash.

    Not collective.
    """
    command = [sys.executable, "-m", "h5ingest.diagnostics.libraries"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_LIMIT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Libraries(errors=(f"importing h5py and mpi4py took over {_IMPORT_LIMIT_S} s",))
    told = [*filter(None, map(_object, done.stdout.splitlines()))]
    ended = ""
    if done.returncode or not told:
        how = f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"signal {signal.Signals(-done.returncode).name}"
        ended = f"{how} {' '.join(done.stderr.split())[-500:]}"
    if not told:
        return Libraries(errors=(f"importing h5py with mpi4py ended the process: {ended}",))
    found, *tried = told
    for name in ("mpi_files", "codecs", "errors"):
        found[name] = tuple(found[name])  # JSON has lists
    return Libraries(**{**found, "tried": tried[0] if tried else {}, "trial_ended": ended})


def _object(line: str) -> dict[str, Any]:
    """Return the JSON object in a line; an empty one if there is none: libraries may print."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def import_here(mpi: str = "", *, with_codecs: bool = True) -> Libraries:
    """Import the libraries in this process. Not collective.

    Args:
        mpi: `comm.library` in a run under MPI; otherwise MPI is asked without starting it.
        with_codecs: whether to find out which codecs work.
    """
    errors: list[str] = []
    found: dict[str, Any] = {}
    try:
        if not mpi:
            from h5ingest.mpi.world import library_unstarted

            mpi = library_unstarted()
        found |= {"mpi": mpi, "mpi4py": importlib.import_module("mpi4py").__version__}
    except (ImportError, RuntimeError) as error:
        errors.append(f"mpi4py: {error}")
    try:
        import h5py

        found |= {
            "h5py": h5py.version.version,
            "hdf5": h5py.version.hdf5_version,
            "parallel": bool(h5py.get_config().mpi),
        }
        if with_codecs:
            from h5ingest.storage.filters import available

            found["codecs"] = tuple(available())
    except (ImportError, RuntimeError) as error:
        errors.append(f"h5py: {error}")
    try:
        from h5ingest.images import libpng
        from h5ingest.images.png import decoder_version

        found |= {"decoder": decoder_version(), "libpng": libpng.version()}
    except ImportError as error:
        errors.append(f"imagecodecs: {error}")
    if importlib.util.find_spec("hdf5plugin") is None:
        errors.append("hdf5plugin: not installed")
    return Libraries(mpi_files=mpi_files(_maps()), errors=tuple(errors), **found)


def _maps() -> str:
    try:
        return Path("/proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        return ""


def mpi_files(maps: str) -> tuple[str, ...]:
    """Return the MPI libraries that /proc/self/maps lists.

    >>> mpi_files("7f00-7f01 r-xp 00000000 08:01 42 /usr/lib/libmpich.so.12.2.1")
    ('/usr/lib/libmpich.so.12.2.1',)
    """
    pattern = r"/\S*/lib(?:mpi|mpich|mpi_cray|mpi_gnu_\d+|mpi_intel|mpi_abi)\.so[.\d]*$"
    found = (re.search(pattern, line) for line in maps.splitlines())
    return tuple(sorted({match[0] for match in found if match}))


if __name__ == "__main__":
    libraries = import_here()
    print(json.dumps(asdict(libraries)), flush=True)  # what follows may crash
    if libraries.codecs:
        from h5ingest.diagnostics.codec_trial import wrong_codecs

        print(json.dumps(wrong_codecs()))
