"""Run the `h5ingest` command many times, as `helpers.forking` says.

Launched by tests; never imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.forking import Job, serve

from h5ingest.cli.main import main

_MODULES = (
    "h5ingest.cli.app", "h5ingest.cli.progress", "h5ingest.pipeline.run", "h5ingest.inspect.show",
    "hdf5plugin", "imagecodecs", "kornia_rs", "PIL.Image", "matplotlib.figure",
)  # fmt: skip


def command(job: Job) -> int:
    sys.argv = ["h5ingest", *job["arguments"]]
    main()
    raise AssertionError("main does not return")


if __name__ == "__main__":
    for module in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    serve(command)
