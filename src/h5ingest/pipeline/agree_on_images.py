"""What all ranks agree on once headers have been read: what the images become, or why nothing can.

Afterwards every missing, unreadable or oddly shaped file that was looked at is known.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import STORED, censuses, merge, of_group, scaled
from h5ingest.core.errors import Failure, SamplesFailedError, describe_failures, odd_names, where
from h5ingest.core.image_columns import options_of_images
from h5ingest.core.layout import OutputSpec
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import counted
from h5ingest.mpi.comm import Comm, agreeing
from h5ingest.pipeline.probing import LocalProbe
from h5ingest.pipeline.read_manifest import LocalSamples

REMEDY: Final = (
    "Repair these files or take them out of the manifest; or add --on-error blank, which stores "
    "zeros and status 2 in their place."
)
"""What to do about images that cannot be read."""

_MOST_GROUPS: Final = 10
"""Groups that a message shows, of those whose images do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What all ranks know of the images."""

    outputs: tuple[OutputSpec, ...]
    """What the images of each group become."""
    conversions: tuple[str, ...]
    """What that changes without loss, a line for each kind."""
    n_bytes: int
    """Size of all files."""
    palettes: tuple[bytes | None, ...]
    """Of each column of images, the one palette of all that have one, RGB entries; None if none
    has, or there are several."""
    changes: tuple[str, ...] = ()
    """The conversions in three lines at most, for the summary."""


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
    told = comm.gather((probed.kinds, probed.failures, probed.n_bytes, probed.palettes))
    judged = None if told is None else _judge(told, manifest, options)
    wanted = comm.bcast(judged.named if judged else None)
    paths = comm.gather(
        {i: os.fsdecode(local.paths[i - local.indices.start]) for i in wanted if i in local.indices}
    )
    with agreeing(comm):
        if judged is not None and paths is not None:
            named = {i: path for part in paths for i, path in part.items()}
            _refuse(judged, named, manifest, folder, options)
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
    from h5ingest.pipeline.changes import describe_changes, describe_conversions  # on one rank
    from h5ingest.pipeline.output_spec import decide, in_question

    kinds = merge([kinds for kinds, *_ in told])
    every = censuses(scaled(kinds, options.scale), len(manifest.parts))
    of_groups = options_of_images(options) * len(manifest.group_names)
    decided = [decide(each, how) for each, how in zip(every, of_groups, strict=True)]
    outputs = tuple(output for output, _ in decided)
    misfits = [group for group, (_, problems) in enumerate(decided) if problems]
    of_columns = zip(*(palettes for *_, palettes in told), strict=True)
    palettes = [frozenset[bytes]().union(*every) for every in of_columns]
    return _Judged(
        findings=ProbeResult(
            outputs=outputs,
            conversions=() if misfits else describe_conversions(kinds, outputs),
            n_bytes=sum(n_bytes for _, _, n_bytes, _ in told),
            palettes=tuple(next(iter(each)) if len(each) == 1 else None for each in palettes),
            changes=() if misfits else describe_changes(kinds, outputs, options),
        ),
        failures=[failure for _, failures, *_ in told for failure in failures],
        nothing=not len(kinds),
        misfits={
            g: (in_question(of_group(kinds, g), *decided[g], options), decided[g][1])
            for g in misfits[:_MOST_GROUPS]
        },
        n_misfits=len(misfits),
    )


def _refuse(
    judged: _Judged,
    paths: dict[int, str],
    manifest: Manifest,
    folder: bytes,
    options: IngestOptions,
) -> None:
    """Raise what `agree_on_images` raises; `paths` are of the images that are named, by index.

    Rank 0 only.
    """
    from h5ingest.pipeline.output_spec import describe_misfit

    failures = judged.failures
    if len(failures) == manifest.n_images and all(f.kind == "missing" for f in failures):
        first = os.fsdecode(os.path.join(folder, os.fsencode(failures[0].path)))
        raise SamplesFailedError(
            f"{manifest.name}: none of its {counted(manifest.n_images, 'files')} exists; the first "
            f"was looked for as {first}. Paths are relative to the manifest's folder unless --root "
            f"DIR says otherwise." + "".join(f"\n{line}" for line in odd_names(failures)),
            failures,
        )
    problems = []
    if failures and (options.on_error == "fail" or judged.nothing):
        problems.append(
            f"{len(failures):,} of {manifest.n_images:,} files cannot be read: "
            f"{describe_failures(failures, manifest.lines_of)}\n{REMEDY}"
        )
    sample_of = {i: i // len(manifest.images) for i in paths}
    lines = manifest.lines_of(list(sample_of.values()))
    places = {i: f"{where(sample_of[i], lines)}: {path}" for i, path in paths.items()}
    places[STORED] = "in the file already"
    for group, (kinds, lacks) in judged.misfits.items():
        problems.append(describe_misfit(manifest.part_names[group], kinds, places, lacks))
    if (n_more := judged.n_misfits - len(judged.misfits)) > 0:
        problems.append(f"… and {n_more:,} groups more whose images do not fit together")
    if problems:
        raise SamplesFailedError(f"{manifest.name}: " + "\n".join(problems), failures)
