"""Files that were changed after an earlier run had stored their images.

When a job is continued, images that an earlier run has stored are kept. So of a file that was
changed in between, the output holds the old image or the new one, never parts of both
(`storage.split_images`). How many old ones there may be is counted here, for the report.

May not: know a writer, decode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from h5ingest.core.partition import overlap
from h5ingest.pipeline.redistribute import Shard
from h5ingest.storage.earlier_runs import Earlier

_BEAT_FILES: Final = 64


def count_changed(
    shards: Sequence[Shard],
    earlier: Sequence[Earlier],
    folder: bytes,
    beat: Callable[[], None],
) -> int:
    """Return of how many images the file was changed after the run that stored them began.

    The time of the last status change (ctime) counts: it cannot be set back, and every change of
    content or attributes renews it. A file that is gone counts as changed; one in an archive does
    not: a job goes on only with archives that have not changed. Not collective.

    Args:
        shards: the images that this rank would have stored, had there been no other run.
        earlier: what other runs stored.
        folder: that relative paths are relative to.
        beat: called now and then.
    """
    n_changed = 0
    for shard in shards:
        archives = shard.samples.members["archive"]
        for run in earlier:
            for span in run.done[shard.group]:
                for row in _begun(shard, span):
                    k = row - shard.samples.rows.start
                    if not len(archives) or archives[k] < 0:
                        path = os.path.join(folder, shard.samples.paths[k])
                        n_changed += _changed(path, run.time_ns)
                    if row % _BEAT_FILES == 0:
                        beat()
    return n_changed


def _changed(path: bytes, since_ns: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return True
    return max(status.st_ctime_ns, status.st_mtime_ns) >= since_ns


def _begun(shard: Shard, span: range) -> range:
    """Return the rows of a shard that begin in a span of its group's `pixels`."""
    samples = shard.samples
    if not len(samples.starts):  # a stack: rows are positions
        return overlap(shard.owned, span)
    first, stop = np.searchsorted(samples.starts, (span.start, span.stop)).tolist()
    base = samples.rows.start
    return overlap(shard.owned, range(base + first, base + stop))
