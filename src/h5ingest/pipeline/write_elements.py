"""`ElementLoop`: images of any size, or image files, one after the other in one dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.partition import overlap, unit
from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.write_loop import WriteLoop


class ElementLoop(WriteLoop):
    """Decodes into the writer's array what lies in one batch; else into an array for the image.

    With chunks, an image may begin in one batch and end in the next, or on the next rank, which
    then decodes it again.
    """

    def store(self, shard: Shard) -> None:
        """See `WriteLoop.store`."""
        group, samples = self._layout.groups[shard.group], shard.samples
        spec = group.pixels
        records = SampleRecords.of(samples)
        files = enumerate(self._loader.read(samples))
        keeps_files = KINDS[self._layout.kind].keeps_files
        carried: tuple[int, NDArray[Any]] | None = None
        """Row and image of which a part belongs to the next batch."""
        for span, rows, begun in self._element_batches(shard, spec.row_bytes, unit(spec)):
            values = self._get_buffer(spec.name, span)
            with self._decoding():
                for row in rows:
                    k = row - samples.rows.start
                    start, n = int(samples.starts[k]), int(samples.lengths[k])
                    inside = overlap(span, range(start, start + n))
                    whole = len(inside) == n
                    if carried is not None and carried[0] == row:
                        image = carried[1]
                    else:
                        at = start - span.start
                        image = values[at : at + n] if whole else np.empty(n, spec.dtype)
                        position, data = next(files)
                        assert position == k, "files are asked for in order"
                        self._loader.load(
                            samples,
                            k,
                            data,
                            image if keeps_files else image.reshape(samples.image_shape(k)),
                            records,
                            counts=row in shard.owned,
                        )
                        carried = None if whole else (row, image)
                        self._note_joints(shard, range(start, start + n))
                    if not whole:
                        part = slice(inside.start - start, inside.stop - start)
                        values[inside.start - span.start : inside.stop - span.start] = image[part]
            self._write(spec.name, span, values)
            self._write_records(group, samples, begun, records)
            self._mark(shard, span, rows, records)

    def _note_joints(self, shard: Shard, image: range) -> None:
        """Note where an image crosses an end of the shard.

        Its other part is another rank's, or an earlier run has stored it, or a later one will: of
        the same file, or of one that has been changed.
        """
        for border in (shard.span.start, shard.span.stop):
            if image.start < border < image.stop:
                self._stats.joints.append((shard.group, border))
