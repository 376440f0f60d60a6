"""The images' headers, read by all ranks, and what all of them agree on.

Afterwards every missing, unreadable or oddly shaped file is known, and nothing has been written
yet.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import censuses, count, merge, of_group
from h5ingest.core.errors import Failure, SampleError, SamplesFailedError, describe_failures, where
from h5ingest.core.layout import ImageSpec, OutputSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.images import source_files
from h5ingest.images.decode import HEAD_BYTES, Prober
from h5ingest.images.png_chunks import END, palette
from h5ingest.images.prefetch import FileCache, Prefetcher
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.heartbeat import Heartbeat
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.read_manifest import LocalSamples

REMEDY: Final = (
    "Mend them or take them out of the manifest, or store zeros and status 2 in their place with "
    "--on-error blank."
)
"""What to do about images that cannot be read."""

_MOST_GROUPS: Final = 10
"""Groups that a message shows, of those whose images do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProbe:
    """What one rank found in the headers of its images."""

    kinds: NDArray[np.void]
    """(k,) `census.KIND`, of the images that can be read."""
    shapes: NDArray[np.int32]
    """(n, 4) height, width, channels, bytes of a value; zeros for what cannot be read. (0, 4) where
    the images of a group become uniform."""
    file_sizes: NDArray[np.int64]
    """(n,) bytes; (0,) where the images of a group become uniform."""
    failures: tuple[Failure, ...]
    """Images that cannot be read."""
    n_bytes: int
    """Size of the files."""
    palettes: frozenset[bytes]
    """Different palettes seen, two at most: RGB entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What all ranks know of the images."""

    outputs: tuple[OutputSpec, ...]
    """What the images of each group become."""
    conversions: tuple[str, ...]
    """What that changes without loss, for the summary."""
    n_bytes: int
    """Size of all files."""
    palette: bytes | None
    """The one palette of all palette images, RGB entries; None if there are none or several."""


def probe_images(
    local: LocalSamples,
    folder: bytes,
    options: IngestOptions,
    cache: FileCache,
    stats: RankStats,
    heartbeat: Heartbeat,
) -> LocalProbe:
    """Read the headers of this rank's images. Not collective.

    Args:
        local: the samples.
        folder: that relative paths are relative to.
        options: how headers are read, and for which layout.
        cache: takes the files that are read whole.
        stats: counts the images probed, and those that cannot be read.
        heartbeat: beats in between.

    Raises:
        StopRequested: some rank was asked to stop.
    """
    palettes: set[bytes] = set()
    n_bytes = 0
    raw = options.samples == "raw"
    probe = Prober(options.max_pixels, raw=raw, any_palette=options.any_palette)
    n = len(local.paths)
    shapes, file_sizes = np.zeros((n, 4), np.int32), np.zeros(n, np.int64)
    first = local.indices.start
    keeps_files = KINDS[options.layout].keeps_files
    known: ImageSpec | None = None
    begin = 0  # of the run of images that have this spec
    files = Prefetcher(
        folder,
        options.readers,
        end=END,
        limit=HEAD_BYTES if cache.full else None,
        waiting=heartbeat.beat,
    )
    with files:
        for i, file in enumerate(files.read(local.paths)):
            stats.n_done = i
            heartbeat.beat_if_due()
            try:
                if isinstance(file, SampleError):
                    raise file
                data, size = file
                spec = probe(data, whole=len(data) == size)
                if spec is None:
                    data, size = source_files.read(os.path.join(folder, local.paths[i]))
                    spec = probe(data)
                    assert spec is not None, "the whole file tells"
            except SampleError as error:
                stats.failures.append(error.at(local.indices[i], local.paths[i]))
                spec, size = None, 0
            if spec is not known:
                shapes[begin:i] = _shape(known)
                known, begin = spec, i
            if spec is None:
                continue
            if keeps_files:
                file_sizes[i] = size
            n_bytes += size
            if raw and len(palettes) < 2 and (colours := palette(data)) is not None:
                palettes.add(colours)
            if len(data) == size:
                cache.keep(first + i, data)
                if cache.full:
                    files.limit = HEAD_BYTES
    shapes[begin:] = _shape(known)
    stats.n_done = n
    kinds = count(local.groups, shapes, first)
    if KINDS[options.layout].uniform:
        shapes, file_sizes = shapes[:0].copy(), file_sizes[:0].copy()
    return LocalProbe(
        kinds=kinds,
        shapes=shapes,
        file_sizes=file_sizes,
        failures=tuple(stats.failures),
        n_bytes=n_bytes,
        palettes=frozenset(palettes),
    )


@functools.lru_cache(maxsize=1024)
def _shape(spec: ImageSpec | None) -> NDArray[np.int32]:
    """Return (4,) height, width, channels, bytes of a value; zeros for what cannot be read."""
    if spec is None:
        return np.zeros(4, np.int32)
    return np.array([*(*spec.shape, 1)[:3], np.dtype(spec.dtype).itemsize], np.int32)


def agree_on_images(
    probed: LocalProbe,
    local: LocalSamples,
    manifest: Manifest,
    folder: bytes,
    options: IngestOptions,
    comm: Comm,
) -> ProbeResult:
    """Return what the images become. Collective.

    Raises:
        SamplesFailedError: images that cannot be read (unless they may be blank), or that do not
            fit together as the options have it.
    """
    told = comm.gather(
        (
            probed.kinds,
            [failure.to_plain() for failure in probed.failures],
            probed.n_bytes,
            probed.palettes,
        )
    )
    judged = None if told is None else _judge(told, manifest, options)
    wanted = comm.bcast(judged.named if judged else None)
    paths = comm.gather(
        {i: os.fsdecode(local.paths[i - local.indices.start]) for i in wanted if i in local.indices}
    )
    with agreeing(comm):
        if judged is not None and paths is not None:
            _refuse(
                judged,
                {i: path for part in paths for i, path in part.items()},
                manifest,
                folder,
                options,
            )
    return comm.bcast(judged.findings if judged else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What follows from what all ranks found."""

    findings: ProbeResult
    failures: list[Failure]
    nothing: bool
    """Whether no image can be read."""
    misfits: dict[int, tuple[NDArray[np.void], list[str]]]
    """group -> (its kinds, the commonest first; what is wrong with them), for the first groups."""
    n_misfits: int
    """Groups whose images do not fit together."""

    @property
    def named(self) -> list[int]:
        """Indices of the images that a message names."""
        from h5ingest.pipeline.output_spec import MOST_KINDS

        return [int(i) for kinds, _ in self.misfits.values() for i in kinds["first"][:MOST_KINDS]]


def _judge(told: list[Any], manifest: Manifest, options: IngestOptions) -> _Judged:
    """Judge what all ranks found. Rank 0 only."""
    from h5ingest.pipeline.output_spec import decide, describe_conversions  # opened on one rank

    kinds = merge([kinds for kinds, *_ in told])
    decided = [decide(census, options) for census in censuses(kinds, len(manifest.group_names))]
    outputs = tuple(output for output, _ in decided)
    misfits = [group for group, (_, problems) in enumerate(decided) if problems]
    palettes = frozenset[bytes]().union(*(palettes for *_, palettes in told))
    return _Judged(
        findings=ProbeResult(
            outputs=outputs,
            conversions=() if misfits else describe_conversions(kinds, outputs),
            n_bytes=sum(n_bytes for _, _, n_bytes, _ in told),
            palette=next(iter(palettes)) if len(palettes) == 1 else None,
        ),
        failures=[Failure.from_plain(plain) for _, plains, *_ in told for plain in plains],
        nothing=not len(kinds),
        misfits={g: (of_group(kinds, g), decided[g][1]) for g in misfits[:_MOST_GROUPS]},
        n_misfits=len(misfits),
    )


def _refuse(
    judged: _Judged,
    paths: dict[int, str],
    manifest: Manifest,
    folder: bytes,
    options: IngestOptions,
) -> None:
    """Raise what `agree_on_images` raises. Rank 0 only.

    Args:
        judged: what comes of the images.
        paths: index -> path of the images that are named.
        manifest: they are in.
        folder: that relative paths are relative to.
        options: whether images may be blank.
    """
    from h5ingest.pipeline.output_spec import describe_misfit

    failures = judged.failures
    if len(failures) == manifest.n_rows and all(f.kind == "missing" for f in failures):
        first = os.fsdecode(os.path.join(folder, os.fsencode(failures[0].path)))
        raise SamplesFailedError(
            f"{manifest.path}: none of its {manifest.n_rows:,} files exists; the first was looked "
            f"for as {first}. Paths are relative to the manifest's folder unless --root DIR says "
            f"otherwise.",
            failures,
        )
    problems = []
    if failures and (options.on_error == "fail" or judged.nothing):
        problems.append(
            f"{len(failures):,} of {manifest.n_rows:,} files cannot be read: "
            f"{describe_failures(failures, manifest.lines_of)}\n{REMEDY}"
        )
    lines = manifest.lines_of(list(paths))
    places = {i: f"{where(i, lines)}: {path}" for i, path in paths.items()}
    for group, (kinds, lacks) in judged.misfits.items():
        name = os.fsdecode(manifest.group_names[group])
        problems.append(describe_misfit(name, kinds, places, lacks))
    if (n_more := judged.n_misfits - len(judged.misfits)) > 0:
        problems.append(f"… and {n_more:,} groups more whose images do not fit together")
    if problems:
        raise SamplesFailedError(f"{manifest.path}: " + "\n".join(problems), failures)
