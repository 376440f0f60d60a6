"""Ingest one file made by an enemy, and print what it cost: each in a process of its own.

A job of `helpers.forking` has `good` and `bomb`, manifests of one image each, `target`, `layout`.
The good one is ingested first, so that whatever is imported and set up is there.

Launched by tests; never imported.
"""

from __future__ import annotations

import importlib
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.forking import Job, serve
from helpers.peak import peak_bytes

from h5ingest.cli.main import run


def measure(job: Job) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    run([job["good"], job["target"] + ".first"])
    before_bytes, started_s = peak_bytes(), time.process_time()
    code = run([job["bomb"], job["target"], "--layout", job["layout"]])
    cost = peak_bytes() - before_bytes, time.process_time() - started_s
    print("measured", code, *cost)
    return 0


if __name__ == "__main__":
    for name in ("cli.app", "cli.progress", "pipeline.run"):
        importlib.import_module(f"h5ingest.{name}")
    serve(measure)
