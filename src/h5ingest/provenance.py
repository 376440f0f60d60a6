"""Where a file comes from: the attributes of its root group."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import h5py

from h5ingest import __version__
from h5ingest.comm import Comm
from h5ingest.decode import decoder_version
from h5ingest.layout import Layout
from h5ingest.manifest import Manifest
from h5ingest.options import IngestOptions


def provenance(
    layout: Layout,
    manifest: Manifest,
    options: IngestOptions,
    comm: Comm,
    command: str,
    *,
    n_failed: int,
) -> dict[str, str | int]:
    """Return the attributes of the file, apart from its digest."""
    # Reproducible builds set this: the file then does not hold the moment either.
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    libraries = {
        "h5py": h5py.version.version,
        "HDF5": h5py.version.hdf5_version,
        "MPI": comm.library,
        "decoder": decoder_version(),
    }
    attributes: dict[str, str | int] = {}
    if layout.grouped:
        attributes["groups"] = _json([group.prefix[1:] for group in layout.groups])
    return attributes | {
        "h5ingest_version": __version__,
        "schema": layout.schema,
        "status": "complete",
        "created": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "n_samples": manifest.n_rows,
        "n_failed": n_failed,
        "manifest_name": manifest.path.name,
        "manifest_sha256": manifest.sha256,
        "options": _json(options.content()),
        "libraries": _json(libraries),
        "command": command,
    }


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)  # equal values are equal bytes
