"""Lustre stripes: over how many storage targets (OSTs) a new file is spread.

Lustre fixes them when the file is created, so the empty file is created with them. By `lfs`, where
there is one: it works with every MPI and with none. MPI-IO's hints need an MPI library that was
built with Lustre support, and any other may ignore them: they are for where `lfs` is missing, in
containers for example.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from h5ingest.core.errors import OutputError
from h5ingest.core.units import MIB
from h5ingest.mpi.comm import Comm
from h5ingest.storage.datasets import output_errors
from h5ingest.storage.file_systems import FileSystem, look
from h5ingest.storage.job_files import reserve

DEFAULT_SIZE: Final = 4 * MIB
"""Bytes of a stripe: what a rank writes at once."""
_ADVICE: Final = ((10**9, 1), (10 * 10**9, 8), (100 * 10**9, 24))
"""(bytes, targets up to there): NERSC's advice for shared files; 72 beyond."""
_MOST_ADVISED: Final = 72
_COMMAND_LIMIT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Stripes:
    """How a file is spread."""

    count: int
    """Storage targets."""
    size: int
    """Bytes on one before the next comes."""


def advised_count(n_bytes: int) -> int:
    """Return over how many storage targets a file of this size is best spread.

    >>> [advised_count(n * 10**9) for n in (0, 1, 9, 10, 99, 100, 5000)]
    [1, 8, 8, 24, 24, 72, 72]
    """
    return next((count for below, count in _ADVICE if n_bytes < below), _MOST_ADVISED)


def choose(place: FileSystem, n_bytes: int, count: int | None, size: int | None) -> Stripes | None:
    """Return the stripes of a new file; None: as its folder has it.

    A folder to which somebody has given more than one stripe, or a layout of several components, is
    taken at its word.

    Args:
        place: where the file will be.
        n_bytes: what it will hold.
        count: as the user wants it: 0 as the folder has it, None by the size of the file.
        size: as the user wants it.
    """
    if count == 0 or place.mount is None or place.mount.type != "lustre":
        return None
    if count is None and size is None:
        known = re.search(r"stripe_count: *(-?\d+)", place.stripes)
        if "lcm_" in place.stripes or (known and known[1] != "1") or advised_count(n_bytes) == 1:
            return None
    return Stripes(count or advised_count(n_bytes), size or DEFAULT_SIZE)


def create_empty(path: Path, comm: Comm, n_bytes: int, count: int | None, size: int | None) -> str:
    """Create a file that does not exist yet, empty: see `choose`. Not collective: rank 0 only.

    Returns:
        What the user should know: wishes that cannot be met. Mostly empty.

    Raises:
        OutputError: it cannot be created.
    """
    with output_errors(f"{path}: cannot be created"):
        place = look(path)
    stripes = choose(place, n_bytes, count, size)
    notice = ""
    if stripes is not None:
        try:
            _create_striped(path, stripes, comm)
        except OutputError as error:
            notice = f"the file gets the stripes that its folder has: {error}"
        else:
            return ""
    elif count or size:
        kind = place.mount.name if place.mount else "an unknown file system"
        notice = f"--stripe-count and --stripe-size do nothing here: {place.folder} is on {kind}"
    reserve(path)
    return notice


def hints(count: int | None, size: int | None) -> dict[str, str]:
    """Return MPI-IO's reserved hints (MPI standard, "File Info") for what the user wants."""
    wanted = {"striping_factor": count, "striping_unit": size}
    return {name: str(value) for name, value in wanted.items() if value}


def _create_striped(path: Path, stripes: Stripes, comm: Comm) -> None:
    """Create the file under a name that nobody can know, then give it its own, if that is free."""
    import shutil

    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    lfs = shutil.which("lfs")
    with output_errors(f"{path}: cannot be created with {stripes.count} stripes"):
        try:
            if lfs is not None:
                _ask_lfs(lfs, stripes, temporary)
            else:
                comm.create(temporary, hints(stripes.count, stripes.size))
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _ask_lfs(lfs: str, stripes: Stripes, path: Path) -> None:
    import subprocess

    command = [lfs, "setstripe", "-c", str(stripes.count), "-S", str(stripes.size), str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_LIMIT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OutputError(f"lfs setstripe took over {_COMMAND_LIMIT_S} s") from None
    if done.returncode != 0:
        raise OutputError(f"lfs setstripe: {' '.join((done.stderr or done.stdout).split())}")
