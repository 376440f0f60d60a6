"""Many ingests, or one bare placed file, in a single launch: starting MPI takes a second.

    launched_placed.py ingest CASES.json REPORTS.json   one ingest per case; root writes what it was
    launched_placed.py store JOB.json                   synthetic rows through the placed writer

Launched by tests; never imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.comm import Comm, abort_on_crash, world
from h5ingest.ingest import ingest
from h5ingest.layout import ImageSpec, Layout, stack
from h5ingest.options import IngestOptions
from h5ingest.plan import Plan
from h5ingest.storage import journal as journal_module
from h5ingest.storage import placed
from h5ingest.storage.filters import pipeline
from h5ingest.storage.journal import Journal


def ingest_all(comm: Comm, cases: Path, reports: Path) -> None:
    found = []
    for case in json.loads(cases.read_text()):
        options = IngestOptions(**case["options"])
        report = ingest(Path(case["manifest"]), Path(case["out"]), options, comm)
        found.append({"digest": report.content_digest, "writer": report.writer})
    if comm.rank == 0:
        reports.write_text(json.dumps(found))


def store(comm: Comm, job: dict[str, Any]) -> None:
    """Store `n_chunks` chunks of rows that `rows_of` makes, and end the file."""
    if "checkpoint_s" in job:
        vars(placed)["CHECKPOINT_S"] = job["checkpoint_s"]
    spy = Spy() if "events" in job else None
    image = ImageSpec(height=job["side"], width=job["side"], channels=1, dtype="uint8")
    n_rows = job["n_chunks"] * job["chunk_rows"]
    filters = pipeline(job["compression"], shuffle=False)
    layout = stack(n_rows, image, chunk_rows=job["chunk_rows"], filters=filters)
    book = Journal(Path(job["journal"]), {"n_rows": n_rows}) if comm.rank == 0 else None
    writer = placed.PlacedWriter(Path(job["out"]), layout, comm, book)
    plan = Plan.of(layout.images, size=comm.size, batch_bytes=job["batch_bytes"])
    fill(writer, layout, plan, comm, job)
    writer.close()
    if book is not None:
        book.close()
    if spy is not None:
        Path(f"{job['events']}.{comm.rank}").write_text(json.dumps(spy.events))


def fill(
    writer: placed.PlacedWriter, layout: Layout, plan: Plan, comm: Comm, job: dict[str, Any]
) -> None:
    for batch in plan.batches(comm.rank):
        writer.write("/images", batch, rows_of(batch, layout.image.shape))
        time.sleep(job.get("pause_s", 0))
    done = False
    while not done:  # on every rank: root serves until nobody waits for it
        done = all(comm.allgather(writer.advance()))


def rows_of(rows: range, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Rows that differ, and that are compressed to different lengths."""
    n = len(rows)
    pixels = np.zeros((n, *shape), np.uint8)
    flat = pixels.reshape(n, -1)
    index = np.arange(rows.start, rows.stop)
    noisy = np.random.default_rng(rows.start).integers(0, 256, flat.shape, np.uint8)
    length = (index * 7 % (flat.shape[1] + 1))[:, None]
    np.copyto(flat, noisy, where=np.arange(flat.shape[1]) < length)
    flat[:, 0] = index % 256
    return pixels


class Spy:
    """Notes, with the time, what this process writes, syncs, and notes in the journal."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        fsync, pwritev, append = os.fsync, os.pwritev, Journal.append
        unpack = journal_module.read

        def noting_pwritev(fd: int, buffers: Any, offset: int) -> int:
            n_written = pwritev(fd, buffers, offset)
            self.events.append(["wrote", time.monotonic(), offset, n_written])
            return n_written

        def noting_fsync(fd: int) -> None:
            fsync(fd)
            self.events.append(["synced", time.monotonic(), os.readlink(f"/proc/self/fd/{fd}")])

        def noting_append(book: Journal, *what: Any) -> None:
            before = time.monotonic()
            append(book, *what)
            _, placements = unpack(book._path)
            self.events.append(["journal", before, [[p.offset, p.n_bytes] for p in placements]])

        vars(os).update(fsync=noting_fsync, pwritev=noting_pwritev)
        type.__setattr__(Journal, "append", noting_append)


def main() -> None:
    verb, *arguments = sys.argv[1:]
    comm = world()
    with abort_on_crash(comm):
        if verb == "ingest":
            ingest_all(comm, Path(arguments[0]), Path(arguments[1]))
        else:
            store(comm, json.loads(Path(arguments[0]).read_text()))


if __name__ == "__main__":
    main()
