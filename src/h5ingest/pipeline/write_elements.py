"""`ElementLoop`: images of any size, or image files, one after the other in one dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.partition import unit
from h5ingest.pipeline.rank_stats import SampleRecords
from h5ingest.pipeline.redistribute import Shard
from h5ingest.pipeline.write_loop import WriteLoop


class ElementLoop(WriteLoop):
    """Decodes into the writer's array what lies in one batch; else into an array for the image.

    With chunks, an image may begin in one batch and end in the next, or on the next rank, which
    then decodes it again.
    """

    def store(self, shard: Shard) -> None:
        group, samples = self._layout.groups[shard.group], shard.samples
        spec = group.pixels
        records = SampleRecords.of(samples)
        given = self._loader.read(samples)
        keeps_files = KINDS[self._layout.kind].keeps_files
        carried: tuple[int, NDArray[Any]] | None = None
        """Row and image of which a part belongs to the next batch."""

        def shaped(image: NDArray[Any], k: int) -> NDArray[Any]:
            return image if keeps_files else image.reshape(samples.image_shape(k))

        for span, rows, begun in self._element_batches(shard, spec.row_bytes, unit(spec)):
            values = self._get_buffer(spec.name, span)
            first, stop = rows.start - samples.rows.start, rows.stop - samples.rows.start
            begins = (samples.starts[first:stop] - span.start).tolist()
            ends = (samples.starts[first:stop] + samples.lengths[first:stop] - span.start).tolist()
            images: list[NDArray[Any]] = []
            """Those that lie whole in this batch and are not loaded yet."""
            with self._decoding():
                for k, begin, end in zip(range(first, stop), begins, ends, strict=True):
                    counts = samples.rows.start + k in shard.owned
                    if counts and begin >= 0 and end <= len(span):
                        images.append(shaped(values[begin:end], k))
                        continue
                    self._loader.load_all(samples, k - len(images), given, images, records)
                    images = []
                    if carried is None or carried[0] != k:
                        carried = k, np.empty(end - begin, spec.dtype)
                        image = shaped(carried[1], k)
                        self._loader.load(samples, k, next(given), image, records, counts=counts)
                        if counts:
                            self._stats.sums.add_images([image], records.status[k : k + 1])
                        self._note_joints(shard, range(span.start + begin, span.start + end))
                    part = slice(max(begin, 0), min(end, len(span)))
                    values[part] = carried[1][part.start - begin : part.stop - begin]
                self._loader.load_all(samples, stop - len(images), given, images, records)
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
