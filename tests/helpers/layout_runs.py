"""Jobs of any layout: on ranks that are threads, and many in one launch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h5ingest.core import group_datasets
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest
from helpers.oracle import Kind, Sample, encode
from helpers.support import PROGRAMS, Completed, Flavour, explain
from helpers.threads import on_ranks

DRIVER = PROGRAMS / "launched_layouts.py"


CHUNK_BYTES = 512


@contextmanager
def extent_chunks(n_bytes: int) -> Iterator[None]:
    """Small chunks of images of any size, so that small images cross their borders."""
    before = group_datasets.EXTENT_CHUNK_BYTES
    vars(group_datasets)["EXTENT_CHUNK_BYTES"] = n_bytes
    try:
        yield
    finally:
        vars(group_datasets)["EXTENT_CHUNK_BYTES"] = before


def launch(
    flavour: Flavour, n_ranks: int, cases: Sequence[dict[str, Any]], folder: Path,
    chunk_bytes: int | None = CHUNK_BYTES, **how: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run all cases in one launch; return what root says of each."""
    told = folder / f"cases-{flavour.name}-{n_ranks}.json"
    reports = folder / f"reports-{flavour.name}-{n_ranks}.json"
    told.write_text(json.dumps(cases))
    more = [str(chunk_bytes)] if chunk_bytes else []
    completed: Completed = flavour.launch(
        n_ranks, flavour.bin / "python", DRIVER, told, reports, *more, **{"timeout_s": 120, **how}
    )
    assert completed.returncode == 0, explain(completed)
    found: list[dict[str, Any]] = json.loads(reports.read_text())
    return found


def ingest_on(n_ranks: int, manifest: Path, out: Path, options: IngestOptions) -> IngestReport:
    """On ranks that are threads."""
    return on_ranks(n_ranks, lambda comm: ingest(manifest, out, options, comm))[0]


def images(n: int, height: int = 6, width: int = 5, colour: str = "rgb") -> list[Sample]:
    samples = []
    for row in range(n):
        picture = encode(Kind(colour=colour, depth=8), height, width, row)
        samples.append(Sample(path=f"{row}.png", data=picture.data, pixels=picture.scaled))
    return samples
