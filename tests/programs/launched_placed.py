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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.stacks import stack
from xxhash import xxh3_64_intdigest

from h5ingest.core.layout import Layout
from h5ingest.core.options import IngestOptions
from h5ingest.core.partition import batches, cut, pieces, unit
from h5ingest.mpi.comm import Comm, abort_on_crash
from h5ingest.mpi.world import world
from h5ingest.pipeline.run import ingest
from h5ingest.storage import journal as journal_module
from h5ingest.storage.checkpoints import Checkpoints
from h5ingest.storage.chunk_placer import ChunkPlacer
from h5ingest.storage.job_files import reserve
from h5ingest.storage.journal import Journal
from h5ingest.storage.journal_records import Placement
from h5ingest.storage.writer import Writer
from h5ingest.storage.writer_choice import WriterChoice, open_writer


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
    spy = Spy() if "events" in job else None
    out = Path(job["out"])
    n_rows = job["n_chunks"] * job["chunk_rows"]
    layout = stack(
        n_rows, chunk_rows=job["chunk_rows"], side=job["side"], compression=job["compression"]
    )
    book = None
    if comm.rank == 0:
        book = Journal(Path(job["journal"]), {"n_rows": n_rows})
        reserve(out)
    checkpoints = Checkpoints(comm, out, book, None, job["checkpoint_s"])
    choice = WriterChoice("direct" if job.get("direct") else "chunks", "asked for")
    writer = open_writer(choice, out, layout, comm, checkpoints, (), {})
    fill(writer, layout, comm, job)
    writer.close()
    if book is not None:
        book.close()
    if spy is not None:
        Path(f"{job['events']}.{comm.rank}").write_text(json.dumps(spy.events))


def fill(writer: Writer, layout: Layout, comm: Comm, job: dict[str, Any]) -> None:
    spec = layout.groups[0].pixels
    [mine] = pieces(cut([spec], comm.size), [spec.shape[0]], comm.rank)
    for batch in batches(mine.span, unit(spec), job["batch_bytes"] // spec.row_bytes):
        rows = writer.get_buffer("/images", batch)
        rows[...] = rows_of(batch, spec.shape[1:])
        writer.write("/images", batch, rows)
        checksums = np.array([xxh3_64_intdigest(row.data) for row in rows], np.uint64)
        writer.write("/checksums", batch, checksums)
        writer.write("/status", batch, np.ones(len(batch), np.uint8))
        writer.mark(0, batch)
        if spec.filters:
            rows[...] = 0  # nothing of it may be needed any more
        writer.advance()
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
    """Notes, with the time, what this process writes, syncs, places, and enters in the journal."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._n_entered = 0
        fsync, pwritev, append, place = os.fsync, os.pwritev, Journal.append, ChunkPlacer.place
        read = journal_module.read

        def noting_pwritev(fd: int, buffers: Any, offset: int) -> int:
            n_written = pwritev(fd, buffers, offset)
            self.events.append(["wrote", time.monotonic(), offset, n_written])
            return n_written

        def noting_fsync(fd: int) -> None:
            began_s = time.monotonic()
            fsync(fd)
            path = os.readlink(f"/proc/self/fd/{fd}")
            self.events.append(["synced", time.monotonic(), path, began_s])

        def noting_append(book: Journal, *what: Any) -> None:
            before_s = time.monotonic()
            append(book, *what)
            _, records, _ = read(book._path)
            entered = records[self._n_entered :]
            self._n_entered = len(records)
            named = [[type(record).__name__, *record] for record in entered]
            self.events.append(["journal", before_s, named])

        def noting_place(placer: ChunkPlacer, *what: int) -> Placement:
            placement = place(placer, *what)
            self.events.append(["placed", time.monotonic(), *placement])
            return placement

        vars(os).update(fsync=noting_fsync, pwritev=noting_pwritev)
        type.__setattr__(Journal, "append", noting_append)
        type.__setattr__(ChunkPlacer, "place", noting_place)


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
