"""`--compression auto`: a sample of the images is read by rank 0, which chooses for each group.

Which images it is depends on the manifest and the size of the images, and what is chosen on their
pixels: not on the number of ranks, not on time. A job that is gone on with keeps what its journal
says was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.group_datasets import EXTENT_CHUNK_BYTES
from h5ingest.core.layout import CODED_CHANNELS, ImageSpec, OutputSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.sampling import neighbours
from h5ingest.core.units import MIB
from h5ingest.images.archives import PathReader
from h5ingest.images.conversion import Losses, convert_into
from h5ingest.images.prefetch import Reader
from h5ingest.mpi.async_sum import while_rank_0_works
from h5ingest.pipeline.changes import compared
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.probing import LocalProbe
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.ways import Way, ways_of
from h5ingest.storage.auto_codec import AutoCodec, Part, Sample, choose
from h5ingest.storage.job_files import about_left

_MOST_PLACES: Final = 32
_LEAST_PLACES: Final = 4
_MOST_IMAGES: Final = 1024
"""Of the sample, where more than the least places have as many neighbours as a chunk has images."""
_MOST_BYTES: Final = 16 * MIB
"""Pixels of the sample, but for one image: about two seconds of work."""

Candidate = tuple[int, int, Any]
"""Index and group of an image, and what of it is read."""


def choose_codec(
    job: Job,
    source_folder: bytes,
    read: Reader | None,
    manifest: Manifest,
    local: LocalSamples,
    probed: LocalProbe,
    outputs: tuple[OutputSpec, ...],
) -> AutoCodec:
    """Return what is chosen for the groups of the file. Collective.

    For `read` see `Prefetcher`; None: files are read below the source folder.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    every = job.comm.allgather(_sum_up(probed.kinds, outputs))
    not_coded = {group for _, _, groups in every for group in groups}
    not_coded.update(
        group
        for group, output in enumerate(outputs)
        if output.channels not in (None, *CODED_CHANNELS)
    )
    n_images, n_bytes = sum(n for n, _, _ in every), sum(n for _, n, _ in every)
    rows = sample_rows(manifest.n_images, n_bytes // max(1, n_images), job.options)
    first = local.indices.start
    told = job.comm.gather(
        {
            row: (row, int(local.groups[row - first]), local.file(row - first))
            for row in rows
            if row in local.indices
        }
    )
    chosen: AutoCodec | None = None
    with while_rank_0_works(job.comm) as beat:
        if told is not None:
            chosen = _chosen_before(job, manifest)
            if chosen is None:
                candidates = {row: one for some in told for row, one in some.items()}
                chosen = choose_from_files(
                    [candidates[row] for row in rows],
                    outputs,
                    read or PathReader(source_folder).read,
                    job.options,
                    names=[os.fsencode(name) for name in manifest.part_names],
                    not_coded=not_coded,
                    beat=beat,
                )
    return job.comm.bcast(chosen)


def sample_rows(n_rows: int, image_bytes: int, options: IngestOptions) -> list[int]:
    """Return the indices of the sample, in the order in which they are taken.

    They are some runs of as many neighbours as share a chunk, as these may be alike.

    Args:
        n_rows: samples of the manifest.
        image_bytes: what an image takes, on average, as it is stored.
        options: those of chunks.
    """
    n_each = min(options.chunk_rows or EXTENT_CHUNK_BYTES // max(1, image_bytes), _MOST_IMAGES)
    n_places = min(_MOST_PLACES, max(_LEAST_PLACES, _MOST_IMAGES // max(1, n_each)))
    return neighbours(n_rows, n_places, max(1, n_each))


def choose_from_files(
    candidates: Iterable[Candidate],
    outputs: Sequence[OutputSpec],
    read: Reader,
    options: IngestOptions,
    *,
    names: Sequence[bytes],
    not_coded: Collection[int] = (),
    beat: Callable[[], None] = lambda: None,
) -> AutoCodec:
    """Return the choice for images of which these are a sample. Not collective.

    Args:
        candidates: those of `sample_rows`, in its order.
        outputs: what the images of each group become.
        read: returns the bytes of one, and their number.
        options: how images are read, and for which layout.
        names: of all groups.
        not_coded: groups with images that HTJ2K cannot hold.
        beat: called now and then.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows.
    """
    ways = ways_of(options)
    images: dict[int, tuple[int, int, NDArray[Any]]] = {}
    n_bytes = 0
    for index, group, file in candidates:
        beat()
        try:
            data, _ = read(file)
            way = ways[group % len(ways)]
            spec = way.probe(data)
            assert spec is not None, "probe was given the whole file"
            if images and n_bytes + outputs[group].apply(spec).n_bytes > _MOST_BYTES:
                break
            image = _decode(data, spec, outputs[group], way)
        except SampleError:  # it is going to be reported by whoever stores it
            continue
        images[index] = group, len(data), image
        n_bytes += image.nbytes
    found: dict[int, list[tuple[int, NDArray[Any]]]] = {}
    for _, (group, file_bytes, image) in sorted(images.items(), key=lambda one: one[0]):
        found.setdefault(group, []).append((file_bytes, image))
    samples = {
        os.fsdecode(names[group]): Sample(
            parts=_parts([image for _, image in some], options),
            n_images=len(some),
            bytes_files=sum(file_bytes for file_bytes, _ in some),
            all_coded=group not in not_coded,
        )
        for group, some in sorted(found.items())
    }
    return choose(samples, all_coded=not not_coded, beat=beat)


def _decode(data: bytes, spec: ImageSpec, output: OutputSpec, way: Way) -> NDArray[Any]:
    """Return the image as it is going to be stored."""
    pixels = np.empty(spec.shape, spec.dtype)
    way.decode_into(data, pixels, spec)
    stored = output.apply(spec)
    if stored == spec:
        return pixels
    image = np.empty(stored.shape, stored.dtype)
    convert_into(pixels, image, way.fit, Losses())
    return image


def _parts(images: Iterable[NDArray[Any]], options: IngestOptions) -> list[Part]:
    """Return the images of a group as they would lie in datasets."""
    kind = KINDS[options.layout]
    found: dict[tuple[tuple[int, ...], str], list[NDArray[Any]]] = {}
    for image in images:
        if not kind.uniform and not kind.dataset_per_image:
            image = image.reshape(-1)
        shape = image.shape if image.ndim > 1 else ()
        found.setdefault((shape, image.dtype.name), []).append(image)
    chunk_rows = 1 if kind.dataset_per_image else options.chunk_rows
    return [
        Part(np.stack(some), chunk_rows) if shape else Part(np.concatenate(some))
        for (shape, _), some in found.items()
    ]


def _sum_up(kinds: NDArray[np.void], outputs: Sequence[OutputSpec]) -> tuple[int, int, list[int]]:
    """Return of this rank's images: how many, their bytes, and groups that HTJ2K cannot hold."""
    known, wanted = compared(kinds, outputs)
    stored = np.where(wanted, wanted, known).astype(np.int64)
    not_coded = np.unique(kinds["group"][~np.isin(stored[:, 2], CODED_CHANNELS)])
    n_bytes = int((stored.prod(axis=1) * kinds["count"]).sum())
    return int(kinds["count"].sum()), n_bytes, not_coded.tolist()


def _chosen_before(job: Job, manifest: Manifest) -> AutoCodec | None:
    """Return what an unfinished job has chosen that is gone on with. Rank 0 only."""
    if job.options.restart:
        return None
    about, content = about_left(job.paths), job.content()
    options = about.get("options")
    if about.get("manifest") != manifest.sha256 or not isinstance(options, dict):
        return None
    chosen = AutoCodec.from_plain(options.pop("auto", None))
    return chosen if options.items() <= content.items() else None
