"""Storing before all headers are known: what a few images promise, and whether the others keep it.

Of many small files, each open costs more than decoding. So the images of a stack are opened once,
to be stored, where a first look at some of them says what all become; those of any layout, where
the manifest has an index. Neither decides anything: every image is compared with it when it is
decoded, and all kinds together once more at the end. If one of them does not fit, all headers are
read, as for other layouts.

May not: read files.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import censuses, merge
from h5ingest.core.errors import MisfitError
from h5ingest.core.layout import OutputSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.mpi.comm import Comm
from h5ingest.pipeline.agree_on_images import ProbeResult
from h5ingest.pipeline.probing import LocalProbe
from h5ingest.pipeline.read_manifest import LocalSamples
from h5ingest.pipeline.seen_kinds import SeenKinds

_MOST: Final = 512
"""Images whose headers are read first, over all ranks, besides the first of each group."""
_LEAST_STEP: Final = 8
"""Of so many images at least, one is looked at."""
_FEW: Final = 64
"""Fewer images are all looked at."""
KEPT_BYTES: Final = 2 * MIB
"""Of their files, over all ranks, that are kept until they are stored, whatever the caches may
hold: enough for files that are read with their headers, so that none of these is opened twice."""
_SMALL: Final = 4096
"""So many images, and fewer, if the caches hold their files until they are stored: in the seconds
that this takes nobody misses the first image that is stored, but problems are all known before."""


def may_begin(manifest: Manifest, options: IngestOptions) -> bool:
    """Return whether a job may store images before it knows all headers.

    Not where the largest or commonest size decides, nor where a palette has to be that of all.
    """
    return (
        options.probe == "auto"
        and len(manifest.images) == 1
        and not options.dry_run
        and KINDS[options.layout].uniform
        and (options.fit == "error" or options.size is not None)
        and options.samples != "raw"
        and not options.scale
        and manifest.n_rows >= max(_FEW, _LEAST_STEP * len(manifest.parts))
    )


def looked_at_first(local: LocalSamples, manifest: Manifest, comm: Comm) -> list[int]:
    """Return the positions in `local` of images to look at first, in order. Collective.

    Over all ranks: the first of each group, and of every so many samples one.
    """
    step = max(_LEAST_STEP, -(-manifest.n_rows // _MOST))
    mine, start = local.indices, local.indices.start
    groups, at = np.unique(local.groups, return_index=True)
    firsts = np.full(len(manifest.parts), sys.maxsize)
    firsts[groups] = start + at
    firsts = np.min(comm.allgather(firsts), axis=0)
    spread = range(-start % step, len(mine), step)
    return sorted({*spread, *(i - start for i in firsts.tolist() if i in mine)})


def agree_on_first(
    probed: LocalProbe,
    n_looked: int,
    cache_bytes: int,
    manifest: Manifest,
    options: IngestOptions,
    comm: Comm,
) -> SeenKinds | None:
    """Return what images are compared with from now on: what all ranks have seen. Collective.

    Args:
        probed: what this rank has found.
        n_looked: images that it has looked at.
        cache_bytes: what it may keep of files; 0: they need not be kept.
        manifest: all samples.
        options: what is to become of images that differ.
        comm: all ranks.

    Returns:
        None: look at all headers. The images do not fit together, none can be read, or they are few
        and their files so small that the caches hold them until they are stored.
    """
    told = comm.gather((probed.kinds, probed.n_bytes, n_looked, cache_bytes))
    look: list[tuple[NDArray[np.void], tuple[OutputSpec, ...]]] = []  # one, if it is enough
    if told is not None:
        from h5ingest.pipeline.output_spec import decide  # opened on one rank

        kinds = merge([kinds for kinds, *_ in told])
        decided = [decide(each, options) for each in censuses(kinds, len(manifest.parts))]
        n_bytes, n_files, n_kept = np.sum([numbers for _, *numbers in told], axis=0).tolist()
        small = manifest.n_rows <= _SMALL and n_bytes * manifest.n_rows <= n_kept * n_files
        if len(kinds) and not small and not any(problems for _, problems in decided):
            look.append((kinds, tuple(output for output, _ in decided)))
    look = comm.bcast(look)
    return SeenKinds(*look[0], options) if look else None


def confirm(seen: SeenKinds, n_bytes: int, comm: Comm) -> ProbeResult:
    """Return what all ranks know of the images now that they are stored. Collective.

    Args:
        seen: the kinds that this rank has stored.
        n_bytes: size of the files that it has stored.
        comm: all ranks.

    Raises:
        MisfitError: together they become something else than was expected (on all ranks).
    """
    told = comm.gather((seen.kinds(), n_bytes))
    result: ProbeResult | None = None
    if told is not None:
        from h5ingest.pipeline.changes import describe_changes, describe_conversions
        from h5ingest.pipeline.output_spec import decide

        outputs = seen.outputs
        kinds = merge([kinds for kinds, _ in told])
        every = censuses(merge([seen.known, kinds]), len(outputs))
        if [decide(each, seen.options) for each in every] == [(each, []) for each in outputs]:
            result = ProbeResult(
                outputs=outputs,
                conversions=describe_conversions(kinds, outputs),
                n_bytes=sum(n_bytes for _, n_bytes in told),
                palettes=(None,),
                changes=describe_changes(kinds, outputs, seen.options),
            )
    result = comm.bcast(result)
    if result is None:
        raise MisfitError
    return result
