"""Many ingests in a single launch: starting MPI takes a second.

    launched_layouts.py CASES.json REPORTS.json [CHUNK_BYTES]

Root writes for each case the digest, the writer, what was lost, the failures, the pixels' bytes
that each rank has written; or the error that all ranks agreed on. A case may say on how many hosts
the ranks take themselves to run. CHUNK_BYTES replaces the size of the chunks of images of any size,
so that small images cross their borders.

Launched by tests; never imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from h5ingest.core import group_datasets
from h5ingest.core.errors import IngestError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.comm import abort_on_crash
from h5ingest.mpi.world import world
from h5ingest.pipeline import run as ingest_module
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.store_images import store_images

_seen: list[RankStats] = []


def seen(*arguments: Any) -> RankStats:
    """Store the images, and remember the bytes that this rank has written."""
    _seen.append(store_images(*arguments))
    return _seen[-1]


def main() -> None:
    cases, reports = map(Path, sys.argv[1:3])
    if len(sys.argv) > 3:
        vars(group_datasets)["EXTENT_CHUNK_BYTES"] = int(sys.argv[3])
    vars(ingest_module)["store_images"] = seen
    comm = world()
    found: list[dict[str, Any]] = []
    with abort_on_crash(comm):
        for case in json.loads(cases.read_text()):
            _seen.clear()
            known = case["options"]
            if comm.size > 1:
                comm.n_hosts = case.get("n_hosts", 1)
            if known.get("size"):
                known["size"] = tuple(known["size"])
            try:
                report = ingest(
                    Path(case["manifest"]), Path(case["out"]), IngestOptions(**known), comm
                )
            except IngestError as error:
                found.append({"error": str(error)})
                continue
            found.append(
                {
                    "digest": report.content_digest,
                    "writer": report.writer,
                    "losses": report.losses,
                    "failed": sorted(failure.index for failure in report.failures),
                    "bytes": comm.allgather(_seen[0].n_written_bytes),
                }
            )
    if comm.rank == 0:
        reports.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
