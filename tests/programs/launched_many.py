"""Run h5ingest several times in one launch, as its command does: the ranks start only once.

    launched_many.py JOBS FOLDER [CHUNK_BYTES]
                                   JOBS is a JSON file with a list of lists of arguments; each rank
                                   writes what it prints in job 3 to FOLDER/3.out.RANK and
                                   FOLDER/3.err.RANK, and its exit code to FOLDER/3.code.RANK;
                                   CHUNK_BYTES is for images of any size, in place of 512 KiB

For jobs that end in good order; where a rank is to die, each needs a launch of its own.
Launched by tests; never imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from h5ingest.cli.main import run
from h5ingest.mpi.world import leave, world


def redirect(fd: int, path: str) -> None:
    """Let everything that this process prints, MPI and HDF5 too, go to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, fd)
    os.close(file)


def main() -> None:
    jobs, folder = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    rank = world().rank
    if sys.argv[3:]:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script
        from programs.launched_faults import make_small

        make_small(int(sys.argv[3]))
    for number, arguments in enumerate(jobs):
        redirect(1, f"{folder}/{number}.out.{rank}")
        redirect(2, f"{folder}/{number}.err.{rank}")
        sys.argv[1:] = arguments
        try:
            code: object = run(arguments)
        except SystemExit as error:
            code = error.code
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{folder}/{number}.code.{rank}").write_text(str(code or 0))
    leave(0)


if __name__ == "__main__":
    main()
