"""Images of a stored file, one after the other; and coded as image files, for layout `encoded`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from h5ingest.core.errors import Failure, SampleError
from h5ingest.core.notes import AS_PNG
from h5ingest.core.recoding import PNG, Recoding
from h5ingest.core.sample_table import NOWHERE, PLACE
from h5ingest.images.recode import code
from h5ingest.mpi.comm import agreeing
from h5ingest.mpi.signals import StopRequested
from h5ingest.pipeline.finalize import refuse_failures
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.load_changed import pixels_of
from h5ingest.pipeline.output_checks import refuse_another
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.recoding import Coded, CodedImages
from h5ingest.pipeline.source import Source
from h5ingest.pipeline.stored_parts import Part
from h5ingest.reading.dataset_rule import most_bytes
from h5ingest.reading.stored_group import StoredGroup

Opened = Callable[[int], StoredGroup]
"""Returns a group by its position."""


def for_each(
    job: Job,
    phase: str,
    parts: Sequence[Part],
    open_group: Opened,
    work: Callable[[Part, int, StoredGroup], None],
) -> None:
    """Do something for each image of this rank that has not failed. Collective at its end.

    `work` takes the part, the position of the image in it, and the group.

    Raises:
        StoppedError: some rank was asked to stop.
    """
    stats = RankStats()
    n_images = sum(job.comm.allgather(sum(len(part.samples.rows) for part in parts)))
    heartbeat = Heartbeat(job, phase, n_images, stats)
    with contextlib.suppress(StopRequested):
        for part in parts:
            group = open_group(part.samples.group)
            for k in range(len(part.samples.rows)):
                heartbeat.beat_if_due()
                stats.n_done += 1
                if not part.has_failed[k]:
                    work(part, k, group)
    heartbeat.finish()
    job.stop_if_asked()


def code_images(
    job: Job,
    source: Source,
    to: Recoding,
    parts: Sequence[Part],
    about: Mapping[str, object],
    open_group: Opened,
) -> tuple[CodedImages, list[NDArray[np.int64]], list[NDArray[np.void]]]:
    """Code all images that have not failed; return them, their bytes and places. Collective.

    Returns:
        Of each group (n,) bytes, 0 of failed images, and (n,) `PLACE`.

    Raises:
        SamplesFailedError: images are damaged, and may not be blank.
    """
    assert job.fence is not None, "only a dry run has no lock"
    lengths = [np.zeros(len(part.samples.rows), np.int64) for part in parts]
    places = [np.full(len(each), NOWHERE, PLACE) for each in lengths]
    ends = np.cumsum([part.group.n_rows for part in parts]).tolist()
    refuse_another(job, about, ends[-1])
    mine = [
        range(end - part.group.n_rows + rows.start, end - part.group.n_rows + rows.stop)
        for end, part in zip(ends, parts, strict=True)
        for rows in [part.samples.rows]
    ]
    coded = CodedImages(to, about, mine, job.paths, job.comm, job.fence)
    failures: list[Failure] = []

    def add(part: Part, k: int, group: StoredGroup) -> None:
        samples, number = part.samples, part.samples.group
        try:
            pixels = np.ascontiguousarray(pixels_of(group, samples.rows[k]))
            lengths[number][k], places[number][k] = coded.add(
                mine[number][k],
                xxh3_128_digest(pixels.data),
                lambda: _as_file(pixels, to, part.palette),
                samples.sample(k),
                samples.paths[k],
            )
        except SampleError as error:
            failures.append(error.at(samples.sample(k), samples.paths[k]))

    for_each(job, "recode", parts, open_group, add)
    coded.finish()
    told = job.comm.gather(failures)
    with agreeing(job.comm):
        if told is not None:
            refuse_failures(job, source, ends[-1], [*chain.from_iterable(told)])
    return coded, lengths, places


def _as_file(pixels: NDArray[Any], to: Recoding, palette: NDArray[np.uint8] | None) -> Coded:
    """Return an image as a file that readers believe; see `images.recode.code`."""
    data, kinds = code(pixels, to, palette)
    if pixels.nbytes > most_bytes(0, len(data)):
        data, kinds = code(pixels, Recoding(PNG), palette)[0], (AS_PNG,)
    return data, kinds
