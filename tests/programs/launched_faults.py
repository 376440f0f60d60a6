"""Run h5ingest as its command does, with faults arranged at chosen places.

    launched_faults.py run FAULTS ARGUMENTS...   FAULTS is a JSON list of faults, see `Fault`
    launched_faults.py serve                     one process, no launcher: see `helpers.forking`

Chunks are made small here, so that a few small images are many chunks.
Launched by tests; imported only by programs that are launched, for its faults.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5ingest.core.group_datasets
import h5ingest.pipeline.load_batch
import h5ingest.pipeline.load_stored
import h5ingest.pipeline.probing
import h5ingest.pipeline.stored_columns
import h5ingest.storage.rank0_pass
import h5ingest.storage.tables
from h5ingest.cli.main import run
from h5ingest.core.options import IngestOptions
from h5ingest.images.decode import Prober
from h5ingest.mpi.launcher import launcher_rank
from h5ingest.mpi.world import leave
from h5ingest.pipeline.ways import Way, ways_of


class Looking(Prober):
    """Reads headers before an image is stored: a site that is not decode's."""


def looking_ways(options: IngestOptions) -> list[Way]:
    """Return how images are read whose headers are looked at."""
    ways = ways_of(options)
    for way in ways:
        way.probe.__class__ = Looking
    return ways


vars(h5ingest.pipeline.probing).update(Prober=Looking, ways_of=looking_ways)

SITES = {
    "lock": "h5ingest.storage.lock:Lock._create",
    "probe": "h5ingest.pipeline.probing:Prober.__call__",
    "spool": "h5ingest.storage.spool:Spool._append",
    "recoded": "h5ingest.pipeline.recoding:Recoder.finish",
    "first look": "h5ingest.pipeline.look_at_images:agree_on_first",
    "anew": "h5ingest.pipeline.run:_carry_out_anew",
    "begin": "h5ingest.pipeline.output_checks:begin",
    "reserve": "h5ingest.storage.job_files:reserve",
    "create": "h5ingest.storage.chunk_placer:ChunkPlacer.__init__",
    "metadata": "h5ingest.storage.metadata_driver:Metadata.store",
    "last metadata": "h5ingest.storage.raw_file:RawFile.store",
    "share": "h5ingest.storage.mpio_writer:share",
    "open": "h5ingest.storage.mpio_writer:open_shared",
    "images": "h5ingest.storage.chunk_placer:ChunkPlacer.create_images",
    "replay": "h5ingest.storage.chunk_placer:ChunkPlacer.replay",
    "place": "h5ingest.storage.chunk_placer:ChunkPlacer.place",
    # The checksum follows, whichever way an image is decoded.
    "decode": "h5ingest.pipeline.load_batch:xxh3_64_intdigest",
    "copy": "h5ingest.pipeline.load_stored:xxh3_64_intdigest",  # in place of `decode`
    "known": "h5ingest.pipeline.known_rows:find_known",
    "chunks": "h5ingest.pipeline.write_loop:WriteLoop._count_copied",
    "write": "h5ingest.pipeline.write_loop:WriteLoop._write",
    "book": "h5ingest.pipeline.write_loop:WriteLoop._write_records",
    "mark": "h5ingest.pipeline.write_loop:WriteLoop._mark",
    "raw": "h5ingest.storage.placed_file:PlacedFile.write",
    "direct": "h5ingest.storage.direct_io:DirectFile._write",
    "checkpoint": "h5ingest.storage.checkpoints:Checkpoints._checkpoint",
    "sync": "h5ingest.storage.checkpoints:Checkpoints._sync",
    "journal": "h5ingest.storage.journal:Journal.append",
    "finish": "h5ingest.storage.checkpoints:Checkpoints.finish",
    "close": "h5ingest.storage.chunk_placer:ChunkPlacer.close",
    "join": "h5ingest.pipeline.run:join",
    "final": "h5ingest.storage.rank0_pass:finalize",
    "table": "h5ingest.storage.tables:_create",
    "final beat": "h5ingest.pipeline.job:Job.final_beat",
    "digest": "h5ingest.storage.rank0_pass:_blocks",
    "publish": "h5ingest.storage.rank0_pass:publish",
    "name": "h5ingest.storage.rank0_pass:give_name",
    "rename": "h5ingest.storage.rank0_pass:sync",
    "discard": "h5ingest.pipeline.finalize:discard",
    "release": "h5ingest.storage.lock:Lock.release",
    "export begin": "h5ingest.exports.folder:_begin",
    "export mark": "h5ingest.core.outfiles:write",
    "export image": "h5ingest.exports.stored:Stored.image_file",
    "export lines": "h5ingest.exports.table:of_all",
    "export sync": "h5ingest.exports.folder:_sync",
    "export folder": "h5ingest.core.outfiles:give_folder_name",
    "export file": "h5ingest.core.outfiles:give_name",
    "export tidy": "h5ingest.core.outfiles:sync",
}

SIGNALS = {
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "usr1": signal.SIGUSR1,
    "stop": signal.SIGSTOP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to one rank."""

    act: str
    """`kill`, `kill-all` (the whole session, mpirun too), `crash`, `nap:SECONDS`, `fill:FILE` (take
    all space of its file system), `sh:COMMAND`; `term`, `int`, `usr1` or `stop`, maybe with
    `-later:SECONDS`."""
    site: str = ""
    """A key of `SITES`; empty: after so many seconds."""
    rank: int = 0
    call: int = 1
    """Which call of the site on that rank; 0: each of them."""
    when: str = "before"
    """`before`, `after`, or `torn`: after half of the bytes have been written."""
    after_s: float = 0.0

    def strike(self) -> None:
        me = os.getpid()
        if self.act == "kill":
            os.kill(me, signal.SIGKILL)
        elif self.act == "kill-all":
            kill_session()
        elif self.act == "crash":
            raise ZeroDivisionError("arranged by a test")
        elif self.act.startswith("nap:"):
            time.sleep(float(self.act.partition(":")[2]))
        elif self.act.startswith("fill:"):
            fill(self.act.partition(":")[2])
        elif self.act.startswith("sh:"):
            subprocess.run(self.act.partition(":")[2], shell=True, check=True, timeout=120)
        else:
            name, _, later_s = self.act.partition("-later:")
            if later_s:
                threading.Timer(float(later_s), ask, (SIGNALS[name],)).start()
            else:
                ask(SIGNALS[name])

    def arrange(self) -> None:
        if not self.site:
            threading.Thread(target=self._wait, daemon=True).start()
            return
        module_name, _, path = SITES[self.site].partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module_name)
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, self._around(getattr(owner, name)))

    def _wait(self) -> None:
        time.sleep(self.after_s)
        self.strike()

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = itertools.count(1)  # one step for all threads: ranks may be some

        @functools.wraps(function)
        def wrapped(*args: Any, **how: Any) -> Any:
            now = next(calls) == self.call or self.call == 0
            if now and self.when == "before":
                self.strike()
            elif now and self.when == "torn":
                tear(self.site, *args)
                self.strike()
            result = function(*args, **how)
            if now and self.when == "after":
                self.strike()
            return result

        return wrapped


def tear(site: str, *args: Any) -> None:
    """Write the first half of what the call was to write."""
    if site == "journal":
        journal, records = args
        os.write(journal._fd, records[: max(1, len(records) // 2 + 7)])
    elif site == "raw":
        file, offset, parts = args
        data = b"".join(bytes(part) for part in parts)
        os.pwrite(file.fd, data[: len(data) // 2], offset)
    elif site == "spool":
        spool, parts = args
        data = b"".join(parts)
        os.pwrite(spool._fd, data[: len(data) // 2], spool._end)
    elif site == "metadata":
        file, data = args
        os.pwrite(file.fd, bytes(data)[: len(data) // 2], file.position)
    else:
        raise ValueError(f"{site} cannot be torn")


def fill(path: str) -> None:
    """Leave no space on a file system."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        for size in (2**16, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def ask(number: int) -> None:
    """Send this process a signal, and say when."""
    os.write(2, f"asked at {time.time():.3f}\n".encode())
    os.kill(os.getpid(), number)


def kill_session() -> None:
    """Kill all processes of this session: mpirun, its helpers, all ranks, this one last."""
    session, me = os.getsid(0), os.getpid()
    if session != me and "mpi" not in Path(f"/proc/{session}/comm").read_text():
        raise AssertionError("this is not a session that a test has started")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(stat.parent.name)
            if pid != me and int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(pid, signal.SIGKILL)
    os.kill(me, signal.SIGKILL)


def make_small(chunk_bytes: int) -> None:
    """Make chunks so small that a few small images are many, and whatever is taken at once."""
    vars(h5ingest.core.group_datasets)["MIB"] = 2 * chunk_bytes  # of stacks
    vars(h5ingest.core.group_datasets)["EXTENT_CHUNK_BYTES"] = chunk_bytes
    vars(h5ingest.core.group_datasets)["_LARGE_IMAGE"] = min(
        chunk_bytes, 64 * 1024
    )  # has a chunk of its own
    vars(h5ingest.storage.rank0_pass)["_BLOCK_ROWS"] = 4
    vars(h5ingest.pipeline.stored_columns)["_BLOCK_ROWS"] = 4
    vars(h5ingest.pipeline.load_stored)["_MOST_BYTES"] = chunk_bytes
    vars(h5ingest.pipeline.load_batch)["_MOST_IMAGES"] = 2


def go(faults: list[dict[str, Any]], arguments: list[str]) -> int:
    """Arrange this rank's faults and run the command."""
    make_small(512)
    for fault in faults:
        if fault.get("rank", 0) in (launcher_rank() or 0, "all"):
            Fault(**fault).arrange()
    sys.argv[1:] = arguments
    return run(arguments)


def serve_faults() -> None:
    """Run what is asked for, one after the other, each in a process of its own."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script
    from helpers.forking import serve

    for module in ("cli.app", "pipeline.run", "cli.progress"):
        importlib.import_module(f"h5ingest.{module}")
    importlib.import_module("imagecodecs")
    serve(lambda job: go(job["faults"], job["arguments"]))


def main() -> None:
    verb, *arguments = sys.argv[1:]
    if verb == "serve":
        serve_faults()
    else:
        code = go(json.loads(arguments[0]), arguments[1:])
        print(f"rank {launcher_rank()} ends with {code}", file=sys.stderr, flush=True)
        leave(code)


if __name__ == "__main__":
    main()
