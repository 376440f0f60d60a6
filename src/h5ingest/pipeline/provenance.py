"""Where a file comes from: the attributes of its top level."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import h5py

from h5ingest import __version__
from h5ingest.core.errors import UsageError
from h5ingest.core.image_columns import image_group
from h5ingest.core.layout import Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.recoding import Recoding
from h5ingest.core.schema import Attribute
from h5ingest.images.png import decoder_version
from h5ingest.mpi.comm import Comm

_SLURM: Final = {
    "slurm_job": "SLURM_JOB_ID",
    "slurm_nodes": "SLURM_JOB_NODELIST",
    "slurm_restarts": "SLURM_RESTART_COUNT",
    "slurm_array_job": "SLURM_ARRAY_JOB_ID",
    "slurm_array_task": "SLURM_ARRAY_TASK_ID",
}
"""Name in the file -> variable that SLURM sets, where it applies (sbatch(1), output variables)."""
_PACKAGES: Final = ("numpy", "pillow", "hdf5plugin")


def provenance(
    layout: Layout,
    of_source: Mapping[str, str],
    options: IngestOptions,
    comm: Comm,
    command: str,
    *,
    n_failed: int,
) -> dict[str, str | int]:
    """Return the attributes of the file, apart from its digest; `of_source` are its source's.

    Reproducible builds set SOURCE_DATE_EPOCH: the file then holds neither the moment nor anything
    else of the run that made it, and is the same, byte for byte, wherever it is made again.
    """
    told = source_date()
    moment = told or datetime.now(UTC)
    libraries = {
        "h5py": h5py.version.version,
        "HDF5": h5py.version.hdf5_version,
        "decoder": decoder_version(),
        **{name: package_version(name) for name in _PACKAGES},
    }
    if options.recode is not None:
        libraries["encoder"] = encoder(options.recode)
    attributes: dict[str, str | int] = {}
    if layout.grouped:
        attributes[Attribute.GROUPS] = as_json(
            [group.prefix[1:] for group in layout.groups[:: len(layout.images)]]
        )
    if others := layout.images[1:]:
        attributes[Attribute.IMAGES] = as_json([image_group(column)[1:] for column in others])
    if told is None:
        libraries["MPI"] = comm.library
        attributes[Attribute.JOB] = as_json(_job(comm))
    return (
        attributes
        | dict(of_source)
        | {
            Attribute.H5INGEST_VERSION: __version__,
            Attribute.SCHEMA: layout.schema,
            Attribute.STATUS: "complete",
            Attribute.CREATED: moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            Attribute.N_SAMPLES: layout.n_samples,
            Attribute.N_FAILED: n_failed,
            Attribute.LIBRARIES: as_json(libraries),
            Attribute.COMMAND: as_text(command),
        }
    )


def source_date() -> datetime | None:
    """Return the moment that SOURCE_DATE_EPOCH names; None if it is not set.

    Raises:
        UsageError: it names none.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(int(epoch if epoch.isdecimal() else "-"), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970 as digits, up to the year 9999, got "
            f"{epoch!r}"
        ) from None


def _job(comm: Comm) -> dict[str, str | int]:
    """Return which job made the file; one that was gone on with: the last."""
    told = {
        name: os.environ[variable] for name, variable in _SLURM.items() if variable in os.environ
    }
    return {"ranks": comm.size, "hosts": comm.n_hosts, **told}


def encoder(recode: str | None) -> str | None:
    """Return name and version of what codes images for `--recode`. Rank 0 only."""
    if recode is None:
        return None
    from h5ingest.images.recode import encoder_version  # few jobs need it

    return encoder_version(Recoding.parse(recode))


def package_version(package: str) -> str:
    """Return the version of an installed package. Rank 0 only."""
    if (version := _installed().get(package)) is not None:
        return version
    from importlib import metadata  # 40 files and 30 ms; it knows other ways to be installed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _installed() -> dict[str, str]:
    """Return the packages in the folders that Python imports from, with their versions.

    As the names of the folders say that installers write beside each.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                package, _, version = name.removesuffix(".dist-info").partition("-")
                if version and name.endswith(".dist-info"):
                    found.setdefault(package.lower(), version)
    return found


def as_text(name: str) -> str:
    """Return it as HDF5 can hold it: bytes that are no UTF-8 as Python writes them."""
    return name.encode("utf-8", "backslashreplace").decode()


def as_json(value: object) -> str:
    """Return the value as the file has it."""
    return json.dumps(value, sort_keys=True)  # equal values are equal bytes
