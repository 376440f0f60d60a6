"""What has the name of the output before it is published, and whether it may be replaced.

Only a regular HDF5 file ever is. One with a user block is none here: that block may be anything,
an image of the manifest too, and h5ingest writes none.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from h5ingest.core.errors import OutputError
from h5ingest.core.outfiles import HDF5, what_is
from h5ingest.storage.datasets import output_errors


def refuse_existing(out: Path, *, overwrite: bool, foreign: bool) -> None:
    """Raise if something has the name of the output that must not be replaced. Rank 0 only.

    With `overwrite` a file of h5ingest may be, with `foreign` also another HDF5 file.

    Raises:
        OutputError: says what it is.
    """
    with output_errors(f"{out}: cannot be looked at"):
        found = what_is(out)
    if not found:
        return
    if found != HDF5:
        raise OutputError(
            f"{out}: exists already, as {found}: only an HDF5 file is ever replaced. Name another "
            f"OUT"
        )
    if not (overwrite and foreign) and not _is_ours(out):
        raise OutputError(
            f"{out}: exists already, as an HDF5 file that h5ingest did not write, or that is "
            f"damaged; only --overwrite with --overwrite-foreign replaces it"
        )
    if not overwrite:
        raise OutputError(
            f"{out}: exists already; --overwrite replaces it once the new one is complete"
        )


def _is_ours(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("schema", "")).startswith("h5ingest ")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # damaged, or being written
        return False
